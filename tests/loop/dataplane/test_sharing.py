"""Two that listen on one address, while the later one takes over: it gets all that is new."""

import socket
from ipaddress import ip_address

import pytest

from uproxy.dataplane.dial.sockets import bind_udp, listen_tcp, share

CLIENTS = 64


def accepted(listener) -> int:
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def received(server) -> int:
    count = 0
    while True:
        try:
            server.recv(10)
        except BlockingIOError:
            return count
        count += 1


class Streams:
    @staticmethod
    def server(ip, port, **how):
        return listen_tcp(ip_address(ip), port, **how)

    @staticmethod
    def arrive(address) -> None:
        for _ in range(CLIENTS):
            socket.create_connection(address).close()

    count = staticmethod(accepted)


class Datagrams:
    @staticmethod
    def server(ip, port, **how):
        return bind_udp(ip_address(ip), port, **how)

    @staticmethod
    def arrive(address) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        for _ in range(CLIENTS):
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.sendto(b"x", address)

    count = staticmethod(received)


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", [Streams, Datagrams])
def test_what_is_new_goes_to_the_later_one_again_and_again(kind, ip):
    serving = kind.server(ip, 0)
    address = serving.getsockname()[:2]
    for _ in range(3):
        with pytest.raises(OSError, match="in use"):
            kind.server(*address)
        share(serving, on=True)
        later = kind.server(*address, beside_another=True)
        kind.arrive(address)
        assert (kind.count(serving), kind.count(later)) == (0, CLIENTS)
        serving.close()
        kind.arrive(address)
        assert kind.count(later) == CLIENTS
        share(later, on=False)
        serving = later
    serving.close()


@pytest.mark.parametrize("kind", [Streams, Datagrams])
def test_what_had_come_before_stays_with_the_earlier_one(kind):
    earlier = kind.server("127.0.0.1", 0)
    address = earlier.getsockname()[:2]
    kind.arrive(address)
    share(earlier, on=True)
    with kind.server(*address, beside_another=True) as later:
        assert (kind.count(earlier), kind.count(later)) == (CLIENTS, 0)
    earlier.close()
