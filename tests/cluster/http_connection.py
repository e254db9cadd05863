"""HTTP/1.1 of a stand-in API server, by hand: so that a test can cut it off or freeze it at any point."""

import asyncio
import gzip
import ssl
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

REASONS = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    410: "Gone",
}
REASONS |= {422: "Unprocessable Entity", 429: "Too Many Requests", 500: "Internal Server Error"}


class Request(NamedTuple):
    """What was asked, and who asked."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    certificate_name: str
    """Of the client's certificate; empty without one."""
    method: str = "GET"
    body: bytes = b""


class Connection:
    """One client. Its methods raise ConnectionError once it is cut."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.task = asyncio.current_task()
        """Who serves it."""
        self.cut_after: int | None = None
        """After how many more lines it is cut, in the middle of the next, or of a whole answer."""
        self._thawed = asyncio.Event()
        self._thawed.set()

    @property
    def frozen(self) -> bool:
        return not self._thawed.is_set()

    def cut(self) -> None:
        """End it as a broken machine would: the client sees a reset, or the end of the stream."""
        self._writer.transport.abort()
        self.task.cancel()

    def freeze(self) -> None:
        """Say nothing more, and keep it open."""
        self._thawed.clear()

    async def request(self) -> Request | None:
        """The next request; None when the client has gone."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            return None
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        split = urlsplit(target)
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return Request(
            split.path,
            dict(parse_qsl(split.query, keep_blank_values=True)),
            headers,
            self._certificate_name(),
            method,
            await self._reader.readexactly(int(headers.get("content-length", "0"))),
        )

    async def answer(self, code: int, body: Any, *, compress: bool = False, **headers: str) -> None:
        """A whole answer."""
        content = msgspec.json.encode(body)
        if compress:
            content = gzip.compress(content)
            headers["Content_Encoding"] = "gzip"
        await self._head(code, {"Content-Length": str(len(content))} | headers)
        if self.cut_after is not None:
            await self._cut_within(content)
        await self._write(content)

    async def begin(self) -> None:
        """An answer whose lines are yet to come."""
        await self._head(200, {"Transfer-Encoding": "chunked"})

    async def lines(self, lines: list[bytes]) -> None:
        """Some of them, in one chunk."""
        rest = b""
        if self.cut_after is not None:
            lines, rest = lines[: self.cut_after], b"".join(lines[self.cut_after : self.cut_after + 1])
            self.cut_after -= len(lines)
        content = b"".join(line + b"\n" for line in lines)
        if content:
            await self._write(b"%x\r\n%s\r\n" % (len(content), content))
        if rest:
            await self._cut_within(b"%x\r\n%s\r\n" % (len(rest), rest))

    async def closed(self) -> None:
        """Close it, and wait until that is done."""
        self._writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await self._writer.wait_closed()

    async def _cut_within(self, content: bytes) -> None:
        await self._write(content[: len(content) // 2])
        self._writer.close()  # what was written still goes out
        raise ConnectionResetError

    async def end(self) -> None:
        """The end of the lines."""
        await self._write(b"0\r\n\r\n")

    async def _head(self, code: int, headers: dict[str, str]) -> None:
        always = {"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
        lines = [f"HTTP/1.1 {code} {REASONS.get(code, 'Other')}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in (always | headers).items()]
        await self._write("\r\n".join([*lines, "", ""]).encode())

    async def _write(self, content: bytes) -> None:
        await self._thawed.wait()
        if self._writer.transport.is_closing():
            raise ConnectionResetError
        self._writer.write(content)
        await self._writer.drain()

    def _certificate_name(self) -> str:
        given = self._writer.get_extra_info("peercert") or {}
        subject = {key: value for part in given.get("subject", ()) for key, value in part}
        return subject.get("commonName", "")
