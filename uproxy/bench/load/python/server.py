"""The server where nothing was compiled; native/server.c is its twin, with the reasons.

Owns sessions and replies held back. On uvloop, its delays are true to a millisecond.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import cast

import uvloop

from uproxy.bench.load import wire
from uproxy.bench.load.faulty import Faults, Injection
from uproxy.bench.load.python import http
from uproxy.bench.load.wire import HEADER, LONGEST, Header, Kind

_BODY = b"uproxy bench: 64 bytes, all of them the same for every request.\n"
_TELL_NS = 10_000_000
_LONGEST_HEAD = 2048


def serve(listener: socket.socket, datagrams: socket.socket, name: str, faults: Faults) -> None:
    """Serve two bound sockets for ever."""
    uvloop.run(_serve(listener, datagrams, name.encode(), Injection(faults)))


async def _serve(listener: socket.socket, datagrams: socket.socket, name: bytes, faults: Injection) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Session(loop, name, faults), sock=listener)
    await loop.create_datagram_endpoint(lambda: _Datagrams(loop, name, faults), sock=datagrams)
    await server.serve_forever()


def _later(loop: asyncio.AbstractEventLoop, delay_ns: int, answer: Callable[[], None]) -> None:
    if delay_ns:
        loop.call_later(delay_ns / 1e9, answer)
    else:
        answer()


def _reply(request: Header, name: bytes) -> bytes:
    return wire.message(Header(Kind.REPLY, request.reply_length, request.sequence, name))


class _Session(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop, name: bytes, faults: Injection) -> None:
        self._loop = loop
        self._name = name
        self._faults = faults
        self._incoming = wire.Incoming()
        self._head: bytes | None = None
        self._uploads = self._downloads = self._writable = False
        self._data_length = HEADER
        self._received = self._told_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._writable = True

    def data_received(self, data: bytes) -> None:
        self._faults.stall()
        if self._head is not None or (not self._incoming.got and data.startswith(b"GET ")):
            self._take_http(data)
            return
        try:
            self._take(data)
        except wire.Mismatch:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._download()

    def connection_lost(self, error: Exception | None) -> None:
        self._uploads = self._downloads = False

    def _take(self, data: bytes) -> None:
        at, incoming = 0, self._incoming
        while at < len(data):
            used = incoming.feed(data[at:] if at else data)
            at += used
            if self._uploads or self._downloads:
                self._received += used
            if incoming.whole:
                header = incoming.header
                incoming.clear()
                self._handle(header)
        self._tell_progress()

    def _handle(self, request: Header) -> None:
        streams = self._uploads or self._downloads
        asks = request.kind in (Kind.EXCHANGE, Kind.UPLOAD, Kind.DOWNLOAD, Kind.BOTH)
        if asks == streams or (asks and not HEADER <= request.reply_length <= LONGEST):
            raise wire.Mismatch
        if request.kind == Kind.EXCHANGE:
            self._respond(partial(self._transport.write, _reply(request, self._name)))
        elif asks:
            self._uploads = request.kind != Kind.DOWNLOAD
            self._downloads = request.kind != Kind.UPLOAD
            self._data_length = request.reply_length
            self._received = 0
            self._download()
        elif request.kind == Kind.END:
            self._uploads = self._downloads = False
            self._transport.write(wire.message(Header(Kind.END, HEADER, self._received, self._name)))
        elif request.kind != Kind.DATA:
            raise wire.Mismatch

    def _respond(self, answer: Callable[[], None]) -> None:
        if self._faults.is_error():
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
            return
        _later(self._loop, self._faults.delay_ns(), answer)

    def _take_http(self, data: bytes) -> None:
        head = (self._head or b"") + data
        self._head = head
        if head.endswith(b"\r\n\r\n"):
            self._head = b""
            self._respond(partial(self._answer_http, http.closes(head)))
        elif len(head) > _LONGEST_HEAD:
            self._transport.abort()

    def _answer_http(self, is_last: bool) -> None:
        close = b"Connection: close\r\n" if is_last else b""
        length = b"Content-Length: %d\r\n" % len(_BODY)
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n" + length + close + b"\r\n" + _BODY
        )
        if is_last:
            self._transport.close()

    def _download(self) -> None:
        """Send one message of a download, and the next one in the loop's next turn."""
        if self._downloads and self._writable:
            self._transport.write(
                wire.message(Header(Kind.DATA, self._data_length, self._received, self._name))
            )
            if self._writable:
                self._loop.call_soon(self._download)

    def _tell_progress(self) -> None:
        now = time.monotonic_ns()
        if self._uploads and not self._downloads and now - self._told_ns >= _TELL_NS:
            self._told_ns = now
            self._transport.write(wire.message(Header(Kind.DATA, HEADER, self._received, self._name)))


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, loop: asyncio.AbstractEventLoop, name: bytes, faults: Injection) -> None:
        self._loop = loop
        self._name = name
        self._faults = faults

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's UDP transport is no subclass of it.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        self._faults.stall()
        incoming = wire.Incoming()
        try:
            incoming.feed(data)
        except wire.Mismatch:
            return
        request = incoming.header
        if not incoming.whole or request.kind != Kind.EXCHANGE or self._faults.is_error():
            return  # of no use, or lost on purpose
        if HEADER <= request.reply_length <= LONGEST:
            answer = partial(self._transport.sendto, _reply(request, self._name), peer)
            _later(self._loop, self._faults.delay_ns(), answer)
