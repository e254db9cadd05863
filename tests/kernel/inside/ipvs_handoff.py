"""Services carried by IPVS, with real packets: a client, a node and three Pods.

The test itself is on the node. What takes the place of the relay is one more server, which says that it is:
who gets to it has been captured, as ever.
"""

import asyncio
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.netns.e2e.callers import answer, ask, ask_often, datagrams, echoes, name_from, who_answers
from tests.netns.e2e.servers import TCP_PORT, UDP_PORT, Greeter, Witness
from tests.proxy_process import connected, eventually
from uproxy.errors import CommandFailed
from uproxy.handoff import ipvs
from uproxy.handoff.ipvs import SCHEDULERS, IpvsHandoff
from uproxy.handoff.ipvs_netlink import OURS
from uproxy.handoff.plan import KernelPort, KernelVip
from uproxy.kit.lab import Host, Lab, _set_namespace
from uproxy.model.frontend import Backend
from uproxy.model.names import Protocol, ServicePortName, Vip
from uproxy.steering.iptables import IptablesRules
from uproxy.steering.rules import RedirectPorts, Rule, Verdict

VIPS = "10.96.0.1", "fd00:10:96::1"
ANY = "0.0.0.0", "::"
EXTERNAL = "203.0.113.7"
PORTS = {Protocol.TCP: (80, TCP_PORT), Protocol.UDP: (53, UDP_PORT)}
NODE_PORT = 30080
IPV6_FREEBIND = 78
TCP, UDP = Protocol.TCP, Protocol.UDP
_STATE = (
    "ipvsadm -S -n",
    "iptables-save",
    "ip6tables-save",
    "ipset save",
    "ip -4 route show table local",
    "ip -6 route show table local",
    "ip address",
    "sysctl -a --pattern ^net.ipv[46].(vs.(conntrack|expire|conn_reuse)|ip_forward|conf.all.forwarding)",
)


class Relay(Greeter):
    """On the node, for TCP that is redirected to it; for UDP bound to the VIP itself, as the proxy is."""

    def _bound(self, kind, port):
        made = []
        for family, any_ip, vip in zip((socket.AF_INET, socket.AF_INET6), ANY, VIPS, strict=True):
            sock = self.host.socket(family, kind)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            sock.bind((vip, 53) if port == UDP_PORT else (any_ip, port))
            made.append(sock)
        return made


class Stage:
    """Who plays."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.client, self.node = lab, lab.client, lab.node
        self.pods = [Witness(f"pod{number}", host) for number, host in enumerate(lab.pods, 1)]
        self.relay = Relay("relay", lab.node)

    def port(
        self, vip: str, pods: list[Greeter] | None = None, protocol: Protocol = TCP, **more
    ) -> KernelPort:
        """A Service port with one address."""
        ip, (port, target) = ip_address(vip), PORTS[protocol]
        port = NODE_PORT if ip.is_unspecified else port
        hosts = [pod.host for pod in (self.pods if pods is None else pods)]
        backends = tuple(
            Backend(ip_address(host.ip4 if ip.version == 4 else host.ip6), target) for host in hosts
        )
        name = ServicePortName("default", f"web{ip.version}", "", protocol)
        return KernelPort(name, (KernelVip(Vip(ip, port, protocol), backends, backends),), **more)

    def backend(self, pod: Greeter) -> Backend:
        return Backend(ip_address(pod.host.ip4), TCP_PORT)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """All threads that begin meanwhile, and all programs, are on the node. It captures, by iptables."""
    with Lab() as made:
        _set_namespace(Path("/run/netns", made.node.name))
        for vip in VIPS:
            run(f"ip route replace local {vip} dev lo table local protocol 117")
        vips = [Vip(ip_address(vip), 80, TCP) for vip in (*VIPS, EXTERNAL)]
        node_ports = [Vip(ip_address(ip), NODE_PORT, TCP) for ip in ANY]
        rules = {vip: Rule(Verdict.REDIRECT) for vip in (*vips, *node_ports)}
        asyncio.run(IptablesRules(RedirectPorts(TCP_PORT, TCP_PORT)).replace(rules, ()))
        yield made
        _set_namespace(Path("/proc/1/ns/net"))


def state() -> str:
    return "".join(
        "\n".join(line for line in run(command).splitlines() if not line.startswith("#")) + "\n"
        for command in _STATE
    )


def run(command: str) -> str:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=True)  # noqa: TID251
    return done.stdout


@pytest.fixture
async def stage(lab: Lab) -> AsyncIterator[Stage]:
    """Everybody who answers."""
    made = Stage(lab)
    for one in (*made.pods, made.relay):
        await one.listen_tcp()
        one.listen_udp()
    yield made
    for one in (*made.pods, made.relay):
        one.kill()


@pytest.fixture
async def handoff(stage: Stage) -> AsyncIterator[IpvsHandoff]:
    made = IpvsHandoff()
    await made.begin(())
    yield made
    await made.close()


async def who(host: Host, vip: str, port: int = 80) -> str:
    """The name alone."""
    return (await ask(host, (vip, port))).split()[0]


async def spread(host: Host, vip: str, count: int, port: int = 80) -> Counter[str]:
    answers = await ask_often(host, (vip, port), count)
    return sum((Counter({name.split()[0]: times}) for name, times in answers.items()), Counter())


async def are_counted(handoff: IpvsHandoff, *connections: int) -> None:
    """Wait until the endpoints have had so many, the least first: the kernel adds up every two seconds."""

    async def has_so_many() -> bool:
        return sorted(its.connections for its in (await handoff.counts()).values()) == list(connections)

    await eventually(has_so_many, f"{connections} connections")


def even(stage: Stage, each: int) -> dict[str, int]:
    return {pod.name: each for pod in stage.pods}


@pytest.mark.parametrize("vip", VIPS)
async def test_round_robin_is_exact_for_whoever_calls_and_pods_see_the_node(
    stage: Stage, handoff: IpvsHandoff, vip: str
) -> None:
    assert await who(stage.client, vip) == "relay"
    await handoff.put([stage.port(vip)])
    for caller in (stage.client, stage.node, stage.pods[0].host):
        assert await spread(caller, vip, 12) == even(stage, 4), caller.name
    seen = {(await ask(stage.client, (vip, 80))).split()[-1] for _ in stage.pods}
    assert seen <= {"10.244.0.1", "fd00:10:244::1"}
    await are_counted(handoff, 13, 13, 13)
    async with connected(stage.client, (vip, 80)) as (reader, writer):
        await name_from(reader)
        await are_counted(handoff, 13, 13, 14)
        before = await handoff.counts()
        assert await echoes(reader, writer, bytes(1000))
        assert (await handoff.open_connections())[stage.port(vip).name] == 1

        async def are_counted_too() -> bool:
            after = await handoff.counts()
            grown = [tuple(a - b for a, b in zip(after[key], before[key], strict=True)) for key in after]
            return sorted(grown)[-1] == (0, 1000, 1000)

        await eventually(are_counted_too, "1000 bytes each way")
    await handoff.take([stage.port(vip).name])
    assert await spread(stage.client, vip, 6) == {"relay": 6}
    assert await spread(stage.node, vip, 3) == {"relay": 3}


async def test_external_addresses_and_node_ports(stage: Stage, handoff: IpvsHandoff) -> None:
    await handoff.put([stage.port(EXTERNAL)])
    assert await spread(stage.client, EXTERNAL, 6) == even(stage, 2)
    assert await spread(stage.node, EXTERNAL, 3) == even(stage, 1)
    await handoff.put([stage.port(any_ip) for any_ip in ANY])
    assert await who(stage.client, EXTERNAL) == "relay"  # it is the same Service port, which has lost it
    for ip in (stage.node.ip4, stage.node.ip6):
        assert await spread(stage.client, ip, 6, NODE_PORT) == even(stage, 2)
        assert await spread(stage.node, ip, 3, NODE_PORT) == even(stage, 1)
    run("ip address add 10.200.0.77/24 dev client")
    assert await who(stage.client, "10.200.0.77", NODE_PORT) == "relay"
    await handoff.tend()
    assert await spread(stage.client, "10.200.0.77", 3, NODE_PORT) == even(stage, 1)
    run("ip address del 10.200.0.77/24 dev client")
    await handoff.tend()
    assert "10.200.0.77" not in run("ipset save")


async def test_affinity(stage: Stage, handoff: IpvsHandoff) -> None:
    await handoff.put([stage.port(VIPS[0], affinity_timeout_s=60)])
    (chosen,) = await spread(stage.client, VIPS[0], 9)
    assert "-s rr -p 60" in run("ipvsadm -S -n")
    left = [pod for pod in stage.pods if pod.name != chosen]
    await handoff.put([stage.port(VIPS[0], left, affinity_timeout_s=60)])
    (other,) = await spread(stage.client, VIPS[0], 9)
    assert other != chosen
    await handoff.put([stage.port(VIPS[0])])
    assert len(await spread(stage.client, VIPS[0], 9)) == 3


@pytest.mark.parametrize("scheduler", SCHEDULERS)
async def test_schedulers(stage: Stage, handoff: IpvsHandoff, scheduler: str) -> None:
    await handoff.put([stage.port(VIPS[0], scheduler=scheduler)])
    assert f"-s {scheduler}" in run("ipvsadm -S -n")
    assert await who(stage.client, VIPS[0]) in even(stage, 0)


@pytest.mark.parametrize("vip", VIPS)
async def test_flows_come_and_go(stage: Stage, handoff: IpvsHandoff, vip: str) -> None:
    for caller in (stage.client, stage.node):
        with datagrams(caller, (vip, 53)) as sock:
            assert await answer(sock) == b"relay"
            await handoff.put([stage.port(vip, protocol=UDP)])
            chosen = (await answer(sock)).split()[0].decode()
            assert chosen in even(stage, 0)
            assert (await answer(sock)).split()[0].decode() == chosen
            left = [pod for pod in stage.pods if pod.name != chosen]
            await handoff.put([stage.port(vip, left, UDP)])

            async def moved(sock=sock, chosen=chosen) -> bool:
                try:
                    async with asyncio.timeout(0.2):
                        return (await answer(sock)).split()[0].decode() != chosen
                except TimeoutError:
                    return False  # that datagram told IPVS

            await eventually(moved, "another pod")
            await handoff.put([stage.port(vip, protocol=UDP)])
            seen = {(await who_answers(caller, (vip, 53), "UDP")).split()[0] for _ in stage.pods}
            assert seen == even(stage, 0).keys()
            await handoff.take([stage.port(vip, protocol=UDP).name])
            assert "udp" not in run("ipvsadm -S -n").lower()

            async def came_back(sock=sock) -> bool:
                try:
                    async with asyncio.timeout(0.2):
                        return await answer(sock) == b"relay"
                except TimeoutError:
                    return False

            await eventually(came_back, "the relay")


async def test_an_endpoint_that_goes_keeps_its_connections_and_comes_back(
    stage: Stage, handoff: IpvsHandoff
) -> None:
    vip = VIPS[0], 80
    await handoff.put([stage.port(VIPS[0])])
    async with connected(stage.client, vip) as (reader, writer):
        name = (await name_from(reader)).split()[0]
        gone = next(pod for pod in stage.pods if pod.name == name)
        left = [pod for pod in stage.pods if pod is not gone]
        await handoff.put([stage.port(VIPS[0], left)])
        assert await spread(stage.client, VIPS[0], 6) == {pod.name: 3 for pod in left}
        await handoff.tend()
        assert await echoes(reader, writer)
        await handoff.put([stage.port(VIPS[0])])
        assert await spread(stage.client, VIPS[0], 6) == even(stage, 2)
        assert await echoes(reader, writer)
        await handoff.put([stage.port(VIPS[0], left)])
    counts = await handoff.counts()
    forgotten: list[Backend] = []

    async def is_removed() -> bool:
        now = await handoff.counts()
        assert all(now[key] >= counts[key] for key in counts.keys() & now.keys())
        forgotten.extend(backend for _, backend in await handoff.tend())
        return str(stage.backend(gone)) not in run("ipvsadm -S -n")

    # What other connections left of it in TIME_WAIT takes two minutes.
    assert stage.backend(gone) in {backend for _, backend in counts}
    assert str(stage.backend(gone)) in run("ipvsadm -S -n")
    assert not await is_removed()
    assert forgotten == []


async def test_what_has_drained_is_removed_with_its_counts(stage: Stage, handoff: IpvsHandoff) -> None:
    left, gone = stage.pods[1:], stage.backend(stage.pods[0])
    await handoff.put([stage.port(VIPS[0], stage.pods[:1])])
    async with connected(stage.client, (VIPS[0], 80)) as (reader, writer):
        await name_from(reader)
        await handoff.put([stage.port(VIPS[0], left)])
        await handoff.take([stage.port(VIPS[0]).name])
        assert await who(stage.client, VIPS[0]) == "relay"
        assert await echoes(reader, writer, bytes(5000))
        # A reset: the kernel remembers it for 10 s, other ends for two minutes.
        linger = struct.pack("=II", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert await handoff.open_connections() != {}
    forgotten: list[Backend] = []
    last = {}

    async def is_removed() -> bool:
        last.update({backend: its for (_, backend), its in (await handoff.counts()).items()})
        forgotten.extend(backend for _, backend in await handoff.tend())
        return run("ipvsadm -S -n") == ""

    await eventually(is_removed, "nothing left of it")
    await is_removed()
    await is_removed()
    assert last[gone].connections == 1
    assert last[gone].bytes_to_backend == 5000
    assert gone in forgotten
    assert await handoff.counts() == {}
    assert "118" not in run("ip route show table local protocol 118")


async def test_nothing_is_lost_while_a_service_moves_there_and_back(
    stage: Stage, handoff: IpvsHandoff
) -> None:
    piece, stop, ports = bytes(range(256)) * 8, asyncio.Event(), [stage.port(vip) for vip in VIPS]
    moved: asyncio.Queue[None] = asyncio.Queue()
    names: list[str] = []

    async def stream(number: int) -> None:
        caller = (stage.client, stage.node)[number % 2]
        async with connected(caller, (VIPS[number // 2 % 2], 80)) as (reader, writer):
            names.append((await name_from(reader)).split()[0])
            while not stop.is_set():
                assert await echoes(reader, writer, piece)

    async def call() -> None:
        while not stop.is_set():
            names.append(await who(stage.client, VIPS[0]))
            names.append(await who(stage.node, VIPS[0]))
            moved.put_nowait(None)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(call())
        for number in range(4):
            tasks.create_task(stream(number))
        for _ in range(3):
            for carried in (True, False):
                for number in range(4):
                    tasks.create_task(stream(number))
                await (handoff.put(ports) if carried else handoff.take([port.name for port in ports]))
                asked = len(names)
                for _ in range(moved.qsize() + 3):
                    await moved.get()
                await handoff.tend()
                late = names[asked + 6 :]
                assert ("relay" in late) is not carried or not late
        stop.set()
    assert {"relay", *even(stage, 0)} == set(names)


async def test_after_a_kill_connections_go_on_and_new_ones_are_the_relays(stage: Stage) -> None:
    script = f"""
import asyncio, os, signal
from ipaddress import ip_address
from uproxy.handoff.ipvs import *
async def main():
    handoff = IpvsHandoff()
    await handoff.begin(())
    for protocol, port, target in ((Protocol.TCP, 80, {TCP_PORT}), (Protocol.UDP, 53, {UDP_PORT})):
        vip = Vip(ip_address("{VIPS[0]}"), port, protocol)
        backends = Backend(ip_address("{stage.pods[0].host.ip4}"), target),
        name = ServicePortName("default", "web4", "", protocol)
        await handoff.put([KernelPort(name, (KernelVip(vip, backends, backends),))])
    os.kill(os.getpid(), signal.SIGKILL)
from uproxy.handoff.plan import KernelVip
asyncio.run(main())
"""
    before = state()
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await killed.wait() == -9
    assert await who(stage.client, VIPS[0]) == "pod1"
    async with connected(stage.client, (VIPS[0], 80)) as (reader, writer):
        await name_from(reader)
        handoff = IpvsHandoff()
        await handoff.begin(())
        assert await echoes(reader, writer)
        assert await who(stage.client, VIPS[0]) == "relay"
        assert await who_answers(stage.client, (VIPS[0], 53), "UDP") == "relay"
        await handoff.put([stage.port(VIPS[0], stage.pods[1:])])
        assert await echoes(reader, writer)
        assert await spread(stage.client, VIPS[0], 4) == {"pod2": 2, "pod3": 2}
        pod1, pod2, pod3 = (stage.backend(pod) for pod in stage.pods)

        async def are_counted_anew() -> bool:
            found = {backend: its.connections for (_, backend), its in (await handoff.counts()).items()}
            # What the kernel had not added up when it began is told once more.
            return found[pod1] <= 2 and found[pod2] == found[pod3] == 2

        await eventually(are_counted_anew, "connections")
    assert await ipvs.remove() != []
    assert state() == before
    assert await ipvs.remove() == []
    assert await who(stage.client, VIPS[0]) == "relay"


async def test_what_is_not_ours_is_left_alone(stage: Stage, handoff: IpvsHandoff) -> None:
    pod = stage.pods[0].host.ip4
    run("ipvsadm -A -t 10.96.0.1:80 -s wlc")
    run(f"ipvsadm -a -t 10.96.0.1:80 -r {pod}:9 -m")
    before = run("ipvsadm -S -n")
    await handoff.put([stage.port(EXTERNAL)])
    name = stage.port(EXTERNAL).name._replace(name="other")
    clash = KernelPort(name, stage.port(VIPS[0]).vips)
    with pytest.raises(CommandFailed, match=r"10\.96\.0\.1:80/TCP: File exists"):
        await handoff.put([stage.port(EXTERNAL, stage.pods[:1]), clash])
    assert await spread(stage.client, EXTERNAL, 6) == even(stage, 2)  # nothing of it was taken
    assert "10.96.0.1" not in run("ipset save") + run("ip route show table local protocol 118")
    await handoff.begin(())
    await handoff.close()
    assert run("ipvsadm -S -n") == before
    run("ipvsadm -C")


async def test_a_flush_is_noticed(stage: Stage, handoff: IpvsHandoff) -> None:
    await handoff.put([stage.port(VIPS[0])])
    run("ipvsadm -C")
    with pytest.raises(CommandFailed):
        await handoff.counts()
    await handoff.begin(())
    await handoff.put([stage.port(VIPS[0])])
    assert await spread(stage.client, VIPS[0], 3) == even(stage, 1)


async def test_it_works_here(stage: Stage) -> None:
    before = state()
    assert await ipvs.refusal_here() is None
    assert state() == before
    assert f"{OURS:#x}" == "0x75700000"
    run("sysctl -w net.ipv4.ip_forward=0")
    try:
        assert "ip_forward" in (await ipvs.refusal_here() or "")
    finally:
        run("sysctl -w net.ipv4.ip_forward=1")
