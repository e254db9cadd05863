"""A ClusterDns on loopback, fed as the reconcile loop feeds it, and an upstream that says what is wanted."""

import asyncio
import socket
import time
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.pure.dns.rig import NODE
from uproxy.dns.cluster_dns import ClusterDns, DnsSettings
from uproxy.kit.tasks import Tasks
from uproxy.model.events import Upsert
from uproxy.state.store import Store

PATIENCE_S = 20.0
NOWHERE = ("127.0.0.1", 9)
"""Nobody answers there: a test that asks upstream by mistake is told SERVFAIL."""


class Running:
    """A server, and what a client does with it."""

    def __init__(self, dns_: ClusterDns) -> None:
        self.dns = dns_
        self.tasks = Tasks()
        self.store = Store(NODE)

    @property
    def address(self):
        return self.dns.addresses[0]

    async def upsert(self, *objects) -> None:
        events = [Upsert(each) for each in objects]
        for event in events:
            self.dns.observe(event)
        await self.dns.make(self.store.apply(events))

    async def ask(self, name: str, kind: str = "A", address=None, **options) -> dns.message.Message:
        asked = dns.message.make_query(name, kind, **options)
        packet, _ = await exchange(asked.to_wire(), address or self.address)
        read = dns.message.from_wire(packet)
        assert asked.is_response(read)
        return read


@asynccontextmanager
async def running(*objects, listen=(("127.0.0.1", 0),), upstream=(NOWHERE,), **settings):
    made = Running(
        ClusterDns(DnsSettings(listen=listen, upstream=tuple(upstream), **settings), time.monotonic)
    )
    try:
        await made.dns.start(made.tasks)
        await made.upsert(*objects)
        yield made
    finally:
        await made.dns.close()
        await made.tasks.stop()
        assert not made.tasks.failed.done(), made.tasks.failed.result()


class Client(asyncio.DatagramProtocol):
    """Sends packets and queues what comes back."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue = asyncio.Queue()

    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, data, address) -> None:
        self.answers.put_nowait((data, address))


async def exchange(packet: bytes, address) -> tuple[bytes, tuple]:
    """Send a packet; the answer, and where it came from."""
    local = "::1" if ":" in address[0] else "127.0.0.1"
    transport, client = await asyncio.get_running_loop().create_datagram_endpoint(
        Client, local_addr=(local, 0)
    )
    try:
        transport.sendto(packet, address)
        return await asyncio.wait_for(client.answers.get(), PATIENCE_S)
    finally:
        transport.close()


async def until(reached) -> None:
    """Wait for what nobody announces."""
    async with asyncio.timeout(PATIENCE_S):
        while not reached():  # noqa: ASYNC110  there is no event to wait for
            await asyncio.sleep(0.01)


class FakeUpstream(asyncio.DatagramProtocol):
    """Answers from `records`; holds back what is asked for names in `held` until `release`."""

    def __init__(self) -> None:
        self.records: list[dns.rrset.RRset] = []
        self.rcodes: dict[str, dns.rcode.Rcode] = {}
        self.silent: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.truncate = False
        self.soa = ""
        """Comes with absences."""
        self.extra = ""
        """Comes as the authority of what there is."""
        self.knows_edns = True
        self._held: list = []
        self._waiting: list[tuple[int, asyncio.Event]] = []
        self._tcp = None

    def add(self, *texts: str) -> None:
        """`example.com. 60 A 192.0.2.1`."""
        for text in texts:
            name, ttl, kind, data = text.split(" ", 3)
            self.records.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))

    def connection_made(self, transport) -> None:
        self._transport = transport

    @property
    def address(self):
        return self._transport.get_extra_info("sockname")[:2]

    def close(self) -> None:
        self._transport.close()
        if self._tcp is not None:
            self._tcp.close()

    def outside(self) -> list[tuple[str, str]]:
        """What was asked, but for the probe that looks for circles."""
        return [asked for asked in self.asked if "uproxy-loop-probe" not in asked[0]]

    async def wait_for(self, count: int) -> None:
        """Until so many questions have come."""
        reached = asyncio.Event()
        self._waiting.append((count, reached))
        self._wake()
        await asyncio.wait_for(reached.wait(), PATIENCE_S)

    def release(self) -> None:
        """Answer what was held back."""
        self.silent.clear()
        held, self._held = self._held, []
        for data, client in held:
            self._transport.sendto(self.reply(data, udp=True), client)

    def datagram_received(self, data, client) -> None:
        question = dns.message.from_wire(data).question[0]
        self.asked.append((str(question.name), dns.rdatatype.to_text(question.rdtype)))
        if str(question.name).lower() in self.silent:
            self._held.append((data, client))
        else:
            self._transport.sendto(self.reply(data, udp=True), client)
        self._wake()

    def _wake(self) -> None:
        for count, reached in self._waiting:
            if len(self.outside()) >= count:
                reached.set()

    def reply(self, data: bytes, *, udp: bool) -> bytes:
        asked = dns.message.from_wire(data)
        answer = dns.message.make_response(asked, recursion_available=True)
        if not self.knows_edns and asked.edns >= 0:
            return data[:2] + b"\x81\x81" + bytes(8)  # FORMERR, and nothing of the question
        name, kind = asked.question[0].name, asked.question[0].rdtype
        known = {rrset.name for rrset in self.records}
        answer.set_rcode(self.rcodes.get(str(name).lower(), 0 if name in known else dns.rcode.NXDOMAIN))
        if udp and self.truncate:
            answer.flags |= dns.flags.TC
            return answer.to_wire()
        while True:
            here = {rrset.rdtype: rrset for rrset in self.records if rrset.name == name}
            alias = here.get(dns.rdatatype.CNAME)
            found = here.get(kind) or alias
            answer.answer += [found] if found else []
            signed = here.get(dns.rdatatype.RRSIG) if asked.ednsflags & dns.flags.DO else None
            answer.answer += [signed] if found and signed else []
            if self.soa and not found:
                owner, ttl, _, data = self.soa.split(" ", 3)
                answer.authority = [dns.rrset.from_text(owner, int(ttl), "IN", "SOA", data)]
            if self.extra and found:
                owner, ttl, rdtype, data = self.extra.split(" ", 3)
                answer.authority = [dns.rrset.from_text(owner, int(ttl), "IN", rdtype, data)]
            if not alias or kind == dns.rdatatype.CNAME or alias[0].target not in known:
                return answer.to_wire()
            name = alias[0].target

    async def serve_tcp(self) -> None:
        async def serve(reader, writer) -> None:
            length = int.from_bytes(await reader.readexactly(2))
            answer = self.reply(await reader.readexactly(length), udp=False)
            writer.write(len(answer).to_bytes(2) + answer)
            await writer.drain()
            writer.close()

        self._tcp = await asyncio.start_server(serve, sock=self.tcp_socket)


@asynccontextmanager
async def upstream(*records: str):
    with socket.socket() as tcp_socket:
        server = await _upstream_beside(tcp_socket)
        server.add(*records)
        try:
            yield server
        finally:
            server.close()


async def _upstream_beside(tcp_socket: socket.socket) -> FakeUpstream:
    """On a port that is free for UDP too; the first choice nearly always is."""
    tcp_socket.bind(("127.0.0.1", 0))
    _, server = await asyncio.get_running_loop().create_datagram_endpoint(
        FakeUpstream, local_addr=tcp_socket.getsockname()
    )
    server.tcp_socket = tcp_socket
    return server
