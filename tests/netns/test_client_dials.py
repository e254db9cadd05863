"""Sockets that are dialled from a client's own address."""

import errno
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.loop.dataplane.engine_rig import Stage
from uproxy.dataplane.dial import sockets, source_ports
from uproxy.dataplane.dial.source_ports import SourcePorts
from uproxy.dataplane.relay.native_relay import engine_or_reason
from uproxy.kit.lab import Host, Lab
from uproxy.kit.netfilter import PROXY_MARK

CLIENT = ("198.51.100.9", 40_000)
FIRST = 20_000


@pytest.fixture
def node() -> Iterator[Host]:
    """A node that every packet for the client ends at, as the policy route would have it."""
    with Lab(pods=0) as lab:
        lab.node.run("ip", "route", "add", "local", f"{CLIENT[0]}/32", "dev", "lo")
        yield lab.node


@pytest.mark.parametrize("strays", [0, 1])
def test_what_others_sent_before_the_dial_was_made_is_no_answer(
    node: Host, monkeypatch: pytest.MonkeyPatch, strays: int
) -> None:
    server, stranger = (node.socket(type=socket.SOCK_DGRAM) for _ in range(2))
    server.bind(("127.0.0.1", 0))
    server.settimeout(5)

    def before_connect(_dialled: socket.socket) -> None:
        for _ in range(strays):
            stranger.sendto(b"for the client", (CLIENT[0], FIRST))

    monkeypatch.setattr(sockets, "_ask_for_room", before_connect)
    family, address = socket.AF_INET, server.getsockname()
    monkeypatch.setattr(source_ports, "CLIENT_PORTS", (FIRST, FIRST + 1))
    ports = SourcePorts()
    with node.inside(lambda: ports.datagrams_as(CLIENT, family, address, PROXY_MARK)) as dialled:
        dialled.send(b"question")
        data, (ip, port) = server.recvfrom(100)
        assert (data, ip, port) == (b"question", CLIENT[0], FIRST + strays)
        server.sendto(b"answer", (ip, port))
        assert dialled.recv(100) == b"answer"
    server.close()
    stranger.close()


@pytest.fixture
def engine(node: Host) -> Iterator[Stage]:
    if reason := engine_or_reason():
        pytest.skip(f"no native relay: {reason}")
    stage = node.inside(lambda: Stage(mark=PROXY_MARK, client_ports=(20_000, 20_009)))
    yield stage
    stage.close()


def dial_as(node: Host, stage: Stage, prepare: Callable[[socket.socket], None]) -> tuple[str, int]:
    """Whom the backend sees of a client at CLIENT, for which `prepare` has made things hard."""

    def begin() -> tuple[str, int]:
        client = stage.own(socket.socket())
        # It is on the same machine here, and must not bar its own port.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(CLIENT)
        client.connect(stage.front.getsockname())
        descriptor, address = stage.module.accept(stage.front.fileno())
        assert address == CLIENT[0]
        prepare(client)
        assert stage.engine.begin(descriptor, stage.port, stage.backend, address, 0, b"", True, 0) == 0
        server, peer = stage.back.accept()
        stage.own(server)
        return str(peer[0]), int(peer[1])

    return node.inside(begin)


def test_the_engine_dials_from_the_clients_address_and_another_port(node: Host, engine: Stage) -> None:
    assert dial_as(node, engine, lambda _client: None) == (CLIENT[0], 20_000)


def take(stage: Stage, *ports: int) -> None:
    """Listen on them, so that nobody else can have them."""
    for port in ports:
        taken = stage.own(socket.socket())
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("", port))
        taken.listen()


def test_the_engine_takes_the_next_port_when_one_is_taken(node: Host, engine: Stage) -> None:
    assert dial_as(node, engine, lambda _client: take(engine, 20_000, 20_001)) == (CLIENT[0], 20_002)


def test_the_engine_passes_over_the_clients_own_port(node: Host) -> None:
    ports = (CLIENT[1], CLIENT[1] + 1)
    stage = node.inside(lambda: Stage(mark=PROXY_MARK, client_ports=ports))
    assert dial_as(node, stage, lambda _client: None) == (CLIENT[0], CLIENT[1] + 1)
    stage.close()


def test_the_engine_gives_up_when_no_port_is_left(node: Host, engine: Stage) -> None:
    with pytest.raises(AssertionError, match=str(int(errno.EADDRNOTAVAIL))):
        dial_as(node, engine, lambda _client: take(engine, *range(20_000, 20_010)))


def test_the_engine_dials_from_its_own_address_for_a_client_that_has_gone(node: Host, engine: Stage) -> None:
    def go(client: socket.socket) -> None:
        sockets.close_with_reset(client)

    assert dial_as(node, engine, go)[0] == "127.0.0.1"
