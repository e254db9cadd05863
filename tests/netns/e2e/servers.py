"""What runs in the pods: a program that says who it is, over TCP and UDP, and echoes."""

import asyncio
import socket

from uproxy.kit.lab import Host

TCP_PORT = 8080
UDP_PORT = 5353
WHO = b"who is there?"


class Greeter:
    """A pod's program, on all its addresses, in pytest's own event loop.

    TCP: a line with its name, then an echo. UDP: an echo; WHO is answered with its name.
    """

    def __init__(self, name: str, host: Host, tcp_port: int = TCP_PORT, udp_port: int = UDP_PORT) -> None:
        self.name = name
        self.host = host
        self._ports = tcp_port, udp_port
        self.sessions: set[asyncio.Transport] = set()
        self._listeners: list[asyncio.Server] = []
        self._datagrams: list[socket.socket] = []

    async def listen_tcp(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._bound(socket.SOCK_STREAM, self._ports[0]):
            self._listeners.append(await loop.create_server(lambda: _Session(self), sock=sock))

    def listen_udp(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._bound(socket.SOCK_DGRAM, self._ports[1]):
            # Not a datagram endpoint: asyncio's sends no empty datagrams.
            loop.add_reader(sock, self._answer, sock)
            self._datagrams.append(sock)

    def _answer(self, sock: socket.socket) -> None:
        try:
            data, peer = sock.recvfrom(65536)
        except BlockingIOError:
            return
        sock.sendto(self.greeting(peer[0]).encode() if data == WHO else data, peer)

    def greeting(self, _client: str) -> str:
        """What a client is told first."""
        return self.name

    def _bound(self, kind: int, port: int) -> list[socket.socket]:
        made = []
        for family, address in ((socket.AF_INET, self.host.ip4), (socket.AF_INET6, self.host.ip6)):
            sock = self.host.socket(family, kind)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            made.append(sock)
        return made

    def refuse_tcp(self) -> None:
        """New connections are refused; those that are open go on."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def refuse_udp(self) -> None:
        """Datagrams are refused with ICMP."""
        for sock in self._datagrams:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._datagrams.clear()

    def kill(self) -> None:
        """As the kernel leaves it when the process is killed."""
        self.refuse_tcp()
        self.refuse_udp()
        for session in list(self.sessions):
            session.abort()


class Witness(Greeter):
    """Tells who it is, and whom it sees."""

    def greeting(self, client: str) -> str:
        return f"{self.name} sees {client}"


class _Session(asyncio.Protocol):
    def __init__(self, greeter: Greeter) -> None:
        self._greeter = greeter

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._greeter.sessions.add(transport)
        client, _ = transport.get_extra_info("peername")[:2]
        transport.write(self._greeter.greeting(client).encode() + b"\n")

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, _error: Exception | None) -> None:
        self._greeter.sessions.discard(self._transport)
