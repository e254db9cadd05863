"""Services over every kind of link: each capture, each handoff, TCP and UDP, IPv4 and IPv6, from Pods, from
the node and from outside. What does not work is in a table, with the reason.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.netns.e2e.servers import Greeter
from tests.netns.e2e.stage import CLUSTER_IPS, Stage, Way, node_ports, way, web
from tests.netns.handoff.test_moves import handed, until_path
from tests.netns.links.kinds import KINDS, Kind, missing
from tests.proxy_process import Address, nonblocking
from uproxy.dataplane.relay.native_relay import engine_or_reason
from uproxy.handoff import ipvs
from uproxy.kit.lab import Host, Lab

EXTERNAL = ("203.0.113.7", "2001:db8::7")
NODE_PORTS = {"TCP": 30080, "UDP": 30053}
PORTS = {"TCP": 80, "UDP": 53}
TIMES = 4
"""Calls of each kind: two for each endpoint."""
STREAM = bytes(range(256)) * 256
DATAGRAM = bytes(range(200)) * 16
"""Both are more than any link carries in one packet."""
PATIENCE_S, SILENCE_S = 10.0, 1.0
RELAY = "relay"
WAYS = [
    ("bind", "iptables"),
    ("redirect-nft", "nftables"),
    ("redirect-iptables", "iptables"),
    ("redirect-iptables", "ipvs"),
    ("tproxy", None),
]


class Call(NamedTuple):
    """Who calls, what, and how."""

    caller: str
    """`pod`, `node` or `outside`."""
    kind: str
    """Of address: `ClusterIP`, `NodePort` or `external`."""
    protocol: str
    family: int


CALLS = [
    Call(*words)
    for words in product(("pod", "node", "outside"), ("ClusterIP", "NodePort", "external"), PORTS, (4, 6))
]


@dataclass(frozen=True)
class Cell:
    """One call in one run: `carrier` is the relay, or who carries the Service in the kernel."""

    call: Call
    capture: str
    carrier: str


def _past_the_node(cell: Cell) -> bool:
    return cell.call.caller == "pod" and cell.call.kind != "NodePort"


def _frame_not_taken(cell: Cell) -> bool:
    """A frame comes off the bridge when a rule changes its destination, or `tproxy` lifts it."""
    translated = cell.carrier in ("nftables", "iptables") or (
        cell.capture != "bind" and cell.call.protocol == "TCP" and cell.carrier == RELAY
    )
    return _past_the_node(cell) and not translated and cell.capture != "tproxy"


DOES_NOT_WORK: dict[str, Callable[[Cell], bool]] = {
    # The Pods' gateway is not the node, and does not know the Services.
    "bridge-with-another-router": _frame_not_taken,
    "macvlan": _past_the_node,
    "ipvlan-l2": _past_the_node,
}


@pytest.fixture
def lab(kind: Kind) -> Iterator[Lab]:
    if reason := missing(kind):
        pytest.skip(reason)
    with Lab(pods=2, node_default_route=True) as lab:
        for host in lab.hosts:
            host.sysctl("net.ipv4.icmp_ratelimit", 0)
        kind.wire(lab)
        yield lab


@pytest.mark.parametrize(("capture", "handoff"), WAYS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
async def test_every_cell_is_as_the_table_says(
    kind: Kind, lab: Lab, capture: str, handoff: str | None, tmp_path: Path
) -> None:
    if handoff == "ipvs" and not await ipvs.is_here():
        pytest.skip("no IPVS in this kernel")
    stage = Stage(lab, _way(capture), tmp_path, Greeter)
    for pod in stage.pods:
        await pod.listen_tcp()
        pod.listen_udp()
    try:
        wrong = await _played(stage, kind, capture, handoff)
    finally:
        for pod in stage.pods:
            pod.kill()
    assert not wrong, "\n".join(wrong)


def _way(capture: str) -> Way:
    return way(capture, "python" if engine_or_reason() else "native-1")


async def _played(stage: Stage, kind: Kind, capture: str, handoff: str | None) -> list[str]:
    """All calls to the relay, and then to the kernel; returns what was not as expected."""
    flags = ("--handoff", handoff) if handoff else ()
    async with stage.proxy(_served(stage, "never"), *flags) as proxy:
        wrong = await _wrong(stage, kind, capture, RELAY)
        if handoff is not None:
            stage.write(_served(stage, "always"))
            await until_path(proxy, handoff)
            wrong += await _wrong(stage, kind, capture, handoff)
    return wrong


def _served(stage: Stage, handed_over: str) -> list[dict]:
    ports = node_ports(tcp=NODE_PORTS["TCP"], udp=NODE_PORTS["UDP"])
    return handed(web(stage.pods, type="NodePort", ports=ports, externalIPs=list(EXTERNAL)), handed_over)


async def _wrong(stage: Stage, kind: Kind, capture: str, carrier: str) -> list[str]:
    cells = [Cell(call, capture, carrier) for call in CALLS]
    fails = DOES_NOT_WORK.get(kind.name, lambda _: False)
    said = await asyncio.gather(*(_outcome(stage, cell.call, fails(cell)) for cell in cells))
    return [f"{cell}: {words}" for cell, words in zip(cells, said, strict=True) if words]


async def _outcome(stage: Stage, call: Call, fails: bool) -> str:
    """What was not as expected; nothing when all was."""
    host, address = _caller(stage, call.caller), _address(stage, call)
    ask = _over_tcp if call.protocol == "TCP" else _over_udp
    patience_s, times = (SILENCE_S, 1) if fails else (PATIENCE_S, TIMES)

    async def once() -> str:
        try:
            async with asyncio.timeout(patience_s):
                return await ask(host, address)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            return f"{type(error).__name__} {error}"

    said = await asyncio.gather(*(once() for _ in range(times)))
    bad = [words for words in said if words]
    if fails:
        return "" if bad else "works, though it should not"
    return f"{len(bad)} of {times}: {bad[0]}" if bad else ""


def _caller(stage: Stage, name: str) -> Host:
    return {"pod": stage.pods[0].host, "node": stage.node, "outside": stage.client}[name]


def _address(stage: Stage, call: Call) -> Address:
    number = 0 if call.family == 4 else 1
    if call.kind == "NodePort":
        return (stage.node.ip4, stage.node.ip6)[number], NODE_PORTS[call.protocol]
    return (CLUSTER_IPS if call.kind == "ClusterIP" else EXTERNAL)[number], PORTS[call.protocol]


async def _over_tcp(host: Host, address: Address) -> str:
    loop = asyncio.get_running_loop()
    with nonblocking(host, address, socket.SOCK_STREAM) as sock:
        await loop.sock_connect(sock, address)
        sending = asyncio.ensure_future(loop.sock_sendall(sock, STREAM))
        name = await _read_line(sock)
        got = b""
        while len(got) < len(STREAM):
            piece = await loop.sock_recv(sock, 1 << 16)
            if not piece:
                return f"ended after {len(got)} bytes"
            got += piece
        await sending
    return "" if got == STREAM and name.startswith(b"pod") else f"other bytes, after {name!r}"


async def _read_line(sock: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = await asyncio.get_running_loop().sock_recv(sock, 1)
        if not byte:
            raise ConnectionError("closed before anybody answered")
        line += byte
    return line


async def _over_udp(host: Host, address: Address) -> str:
    loop = asyncio.get_running_loop()
    with nonblocking(host, address, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        try:
            sock.send(DATAGRAM)
            got = await loop.sock_recv(sock, 1 << 16)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            # A router on the way, which the node is for what the kernel carries, has told what goes through.
            sock.send(DATAGRAM)
            got = await loop.sock_recv(sock, 1 << 16)
    return "" if got == DATAGRAM else f"other bytes: {len(got)}"
