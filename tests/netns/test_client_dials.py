"""Sockets that are dialled from a client's own address."""

import socket
from collections.abc import Iterator

import pytest

from uproxy.dataplane import sockets
from uproxy.kit.lab import Host, Lab
from uproxy.steering.rules import PROXY_MARK

CLIENT = ("198.51.100.9", 40_000)


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
            stranger.sendto(b"for the client", CLIENT)

    monkeypatch.setattr(sockets, "_ask_for_room", before_connect)
    family, address = socket.AF_INET, server.getsockname()
    with node.inside(lambda: sockets.datagrams_as(CLIENT, family, address, PROXY_MARK)) as dialled:
        dialled.send(b"question")
        data, (ip, port) = server.recvfrom(100)
        assert (data, ip, port == CLIENT[1]) == (b"question", CLIENT[0], strays == 0)
        server.sendto(b"answer", (ip, port))
        assert dialled.recv(100) == b"answer"
    server.close()
    stranger.close()
