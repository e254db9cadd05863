"""UDP: datagrams to a VIP, and the answers back from the same address.

Owns the sockets: one on each VIP:port, and one for each flow, connected to its backend so
that the kernel tells us when the backend refuses. Which flow a datagram belongs to, and
for how long, is `flows.py`.
"""

import errno
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any

from uproxy.dataplane.arriving.guard import Guard, set_guard
from uproxy.dataplane.context import Context
from uproxy.dataplane.datagrams.flows import FlowTable
from uproxy.dataplane.dial.hops import limit_hops
from uproxy.dataplane.dial.sockets import bind_udp, datagrams_to, dial_failure, is_bug, share
from uproxy.dataplane.dial.source_ports import SourcePorts
from uproxy.dataplane.reactor import FAILED, READABLE
from uproxy.model.closing import DialFailure
from uproxy.model.names import IPAddress
from uproxy.picking.backends import BackendState
from uproxy.picking.routes import Route

_BATCH = 64
_HELD_BYTES = 4096
"""Largest first datagram that is kept, to be sent again when the backend refuses it."""

_OF_ONE_DATAGRAM = frozenset((errno.EAGAIN, errno.EMSGSIZE, errno.ENOBUFS, errno.ENOMEM))
_IP_PKTINFO = 8
_IP_TTL = 2
_HOP_LIMITS = ((socket.IPPROTO_IP, _IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT))
_ANCILLARY_BYTES = socket.CMSG_SPACE(20) + socket.CMSG_SPACE(4)
_IPV6_LOOPBACK = bytes(15) + b"\x01"
_SCRATCH = bytearray(65536)  # the largest datagram is 65,507 bytes
_VIEW = memoryview(_SCRATCH)

Client = tuple[Any, ...]
"""A socket address as recvfrom returns it."""

FlowKey = tuple["UdpListener", Client, bytes]
"""Listener, client, and the local address when the listener has many."""


@dataclass(eq=False, slots=True)
class UdpFlow:
    """One client's datagrams to one address, and the backend that answers them."""

    listener: "UdpListener"
    client: Client
    local: bytes
    backend: BackendState
    upstream: socket.socket
    used_s: float
    held: bytes | None
    tried: list[BackendState]
    hops: int
    answered: bool = False
    streaming: bool = False

    @property
    def key(self) -> FlowKey:
        """Its key in the table."""
        return self.listener, self.client, self.local

    def on_events(self, events: int) -> None:
        """Answers wait, or the backend has refused."""
        if events & (READABLE | FAILED):
            self.listener.answers(self)

    def pump(self) -> None:
        """More answers wait."""
        self.listener.answers(self)


class UdpFlows:
    """All flows of the proxy, and what opens and closes them."""

    def __init__(self, context: Context, limit: int, idle_s: float) -> None:
        self.context = context
        self._source_ports = SourcePorts()
        self.table: FlowTable[FlowKey, UdpFlow] = FlowTable(limit, idle_s)

    def open(self, key: FlowKey, route: Route, data: memoryview, hops: int) -> UdpFlow | None:
        """Begin a flow with its first datagram; None when no backend can take it, or it goes in circles."""
        if hops == 1:
            return None
        now_s = self.context.now()
        tried: list[BackendState] = []
        found = self._upstream(route, key[1], now_s, tried, hops)
        if found is None:
            return None
        backend, upstream = found
        held = bytes(data) if len(data) <= _HELD_BYTES else None
        flow = UdpFlow(*key, backend, upstream, now_s, held, tried, hops)
        if not self._begin(flow):
            return None
        evicted = self.table.add(key, flow)
        if evicted is not None:
            evicted.listener.route.stats.flows_evicted += 1
            self._end(evicted)
        route.stats.flows += 1
        route.stats.flows_active += 1
        return flow

    def move(self, flow: UdpFlow) -> bool:
        """Give a flow another backend, after its own refused; False when there is none."""
        self.release(flow)
        flow.tried.append(flow.backend)
        found = self._upstream(flow.listener.route, flow.client, self.context.now(), flow.tried, flow.hops)
        if found is not None:
            flow.backend, flow.upstream = found
            if self._begin(flow):
                return True
        self.table.remove(flow.key)
        flow.listener.route.stats.flows_active -= 1
        return False

    def _upstream(
        self, route: Route, client: Client, now_s: float, tried: list[BackendState], hops: int
    ) -> tuple[BackendState, socket.socket] | None:
        address = str(client[0])
        if route.inside is not None and self.context.insiders.has(address):
            route = route.inside
        while (backend := route.balancer.pick(address, now_s, tried)) is not None:
            try:
                upstream = self._datagrams_to(backend, client)
                limit_hops(upstream, hops)
                return backend, upstream
            except OSError as error:
                failure = dial_failure(error.errno or 0)
                route.stats.dial_failed(failure)
                if failure is DialFailure.NO_RESOURCES:
                    return None
                backend.failed(now_s)
                tried.append(backend)
        return None

    def _datagrams_to(self, backend: BackendState, client: Client) -> socket.socket:
        context = self.context
        if context.keeps_address(str(client[0]), backend.address[0]):
            return self._source_ports.datagrams_as(client[:2], backend.family, backend.address, context.mark)
        return datagrams_to(backend.family, backend.address, context.mark)

    def _begin(self, flow: UdpFlow) -> bool:
        """False when its answers cannot be watched for: its socket is closed."""
        try:
            self.context.reactor.watch(flow.upstream.fileno(), flow)
        except OSError:
            flow.upstream.close()
            flow.listener.route.stats.dial_failed(DialFailure.NO_RESOURCES)
            return False
        flow.backend.active += 1
        flow.backend.connections += 1
        self.context.descriptors.used += 1
        return True

    def release(self, flow: UdpFlow) -> None:
        """Close a flow's socket."""
        flow.backend.active -= 1
        self.context.reactor.forget(flow.upstream.fileno())
        self.context.descriptors.released(1)
        flow.upstream.close()

    def _end(self, flow: UdpFlow) -> None:
        flow.listener.route.stats.flows_active -= 1
        self.release(flow)

    def sweep(self, now_s: float) -> None:
        """End the flows that have been idle for too long."""
        for flow in self.table.expired(now_s):
            self._end(flow)

    def drop_unusable(self) -> None:
        """End the flows of backends that are gone; their clients' next datagrams go elsewhere."""
        for flow in self.table:
            if not flow.backend.usable:
                self.table.remove(flow.key)
                self._end(flow)

    def drop_listener(self, listener: "UdpListener") -> None:
        """End the flows of a listener that closes."""
        for flow in self.table:
            if flow.listener is listener:
                self.table.remove(flow.key)
                self._end(flow)


class UdpListener:
    """The socket on one VIP:port, or on a NodePort of every address."""

    def __init__(self, flows: UdpFlows, ip: IPAddress, port: int, route: Route) -> None:
        self.route = route
        self._flows = flows
        self._many_addresses = ip.is_unspecified
        # A wildcard socket would take what goes to anybody's port of this number.
        context = flows.context
        self._socket = bind_udp(
            ip,
            port,
            context.mark if context.ways_back is not None else 0,
            beside_another=context.overlap.lasts,
            foreign=context.foreign and not self._many_addresses,
        )
        self._family = ip.version
        self.guard = Guard()
        try:
            flows.context.reactor.watch(self._socket.fileno(), self)
        except OSError:
            self._socket.close()
            raise
        flows.context.descriptors.used += 1

    def set_guard(self, guard: Guard) -> None:
        """Keep out whom `guard` does not let in. Raises OSError."""
        if guard != self.guard or guard.inside_only:
            set_guard(self._socket, self._family, guard, self._flows.context.insiders.networks)
            self.guard = guard

    def on_events(self, events: int) -> None:
        """Datagrams wait."""
        if events & READABLE:
            self.pump()

    def pump(self) -> None:
        """Pass on what clients sent."""
        for _ in range(_BATCH):
            if self._socket.fileno() < 0:
                return
            try:
                count, client, local, hops = self._receive()
            except BlockingIOError:
                return
            except OSError as error:
                if is_bug(error):
                    raise
                self.route.stats.datagrams_dropped += 1  # one that was lost for want of memory
                continue
            if self._welcome(local):
                self._pass_on(_VIEW[:count], client, local, hops)
        self._flows.context.reactor.later(self)

    def _receive(self) -> tuple[int, Client, bytes, int]:
        count, ancillary, _flags, client = self._socket.recvmsg_into([_SCRATCH], _ANCILLARY_BYTES)
        local = _local_address(ancillary) if self._many_addresses else b""
        return count, client, local, _hops(ancillary)

    def _welcome(self, local: bytes) -> bool:
        """Whether datagrams to this address of the node are ours to answer."""
        return not local or self._flows.context.node_ports_on_loopback or not _is_loopback(local)

    def _pass_on(self, data: memoryview, client: Client, local: bytes, hops: int) -> None:
        key = (self, client, local)
        stats = self.route.stats
        flow = self._flows.table.use(key, self._flows.context.now())
        if flow is None:
            flow = self._flows.open(key, self.route, data, hops)
            if flow is None:
                stats.datagrams_dropped += 1
                return
        elif flow.answered:
            flow.streaming = True
        stats.datagrams_to_backend += 1
        stats.bytes_to_backend += len(data)
        self._send(flow, data)

    def _send(self, flow: UdpFlow, data: memoryview | bytes) -> None:
        """Send to the backend; when an earlier datagram was refused, to the next one."""
        while True:
            try:
                flow.upstream.send(data)
                return
            except OSError as error:
                if not _is_refusal(error) or not self._refused(flow, error):
                    self.route.stats.datagrams_dropped += 1
                    return

    def _refused(self, flow: UdpFlow, error: OSError) -> bool:
        """The backend refused: True when the flow has another one now."""
        self.route.stats.dial_failed(dial_failure(error.errno or 0))
        flow.backend.failed(self._flows.context.now())
        return self._flows.move(flow)

    def answers(self, flow: UdpFlow) -> None:
        """Pass on what the backend sent, or learn that it refused."""
        stats = self.route.stats
        for _ in range(_BATCH):
            if flow.upstream.fileno() < 0:
                return
            try:
                count = flow.upstream.recv_into(_SCRATCH)
            except BlockingIOError:
                return
            except OSError as error:
                if not _is_refusal(error):
                    stats.datagrams_dropped += 1
                    continue
                held = flow.held
                if self._refused(flow, error) and held is not None:
                    self._send(flow, held)
                return
            if not flow.answered:
                flow.answered = True
                flow.held = None
                flow.tried.clear()
                flow.backend.answered()
            flow.used_s = self._flows.context.now()
            stats.datagrams_to_client += 1
            stats.bytes_to_client += count
            self._reply(_VIEW[:count], flow)
        self._flows.context.reactor.later(flow)

    def _reply(self, data: memoryview, flow: UdpFlow) -> None:
        try:
            if flow.local:
                self._socket.sendmsg([data], [self._from_address(flow.local)], 0, flow.client)
            else:
                self._socket.sendto(data, flow.client)
        except OSError:
            self.route.stats.datagrams_dropped += 1  # no room, or the client is out of reach

    def _from_address(self, local: bytes) -> tuple[int, int, bytes]:
        if self._family == 6:
            return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, local + struct.pack("i", 0)
        return socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("i4s4x", 0, local)

    def share(self, *, on: bool) -> None:
        """Let a process that takes over have this address too, or no longer."""
        share(self._socket, on=on)

    def close(self) -> None:
        """Stop; the kernel answers "port unreachable" from now on."""
        self._flows.drop_listener(self)
        self._flows.context.reactor.forget(self._socket.fileno())
        self._flows.context.descriptors.released(1)
        self._socket.close()


def _is_refusal(error: OSError) -> bool:
    """Whether a flow's backend does not take its datagrams. Else the error is of one datagram: too long for
    the path (EMSGSIZE, after an ICMP message), or for this machine's memory."""
    return error.errno not in _OF_ONE_DATAGRAM


def _is_loopback(local: bytes) -> bool:
    return local[0] == 127 if len(local) == 4 else local == _IPV6_LOOPBACK


def _hops(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The hop limit that a datagram came with; 0 when it is not told."""
    for level, kind, data in ancillary:
        if (level, kind) in _HOP_LIMITS:
            return int.from_bytes(data[:4], sys.byteorder)
    return 0


def _local_address(ancillary: list[tuple[int, int, bytes]]) -> bytes:
    """The address that a datagram was sent to, from its control message (ip(7), ipv6(7))."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            return data[4:8]  # ipi_spec_dst: the local address, for a broadcast too
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return data[:16]
    return b""
