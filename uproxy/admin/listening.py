"""HTTP for strangers: aiohttp's server behind a door that counts.

Owns what all our HTTP servers have in common: how many connections there may be, how long a client may
take over a request, over reading its answer, or over nothing at all, and that what it does wrong is
counted and not logged. Paths are the caller's.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from aiohttp import web

from uproxy.kit.guests import Door, Guest, Guests

REQUEST_S = 5.0
"""From a request's first octet to the end of its head, however slowly it comes."""
IDLE_S = 75.0
"""Without a request: Prometheus comes every 15 s to 60 s, on the connection that it has."""
ANSWER_S = 30.0
"""For a client to read what the kernel could not take at once."""
SHUTDOWN_S = 1.0
"""How long an answer under way may still take when a server closes."""

Response = TypeVar("Response", bound=web.StreamResponse)
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class HttpServer:
    """Answers by `handler` on some listening sockets."""

    def __init__(self, listeners: Iterable[socket.socket], handler: Handler, guests: Guests) -> None:
        """Raises OSError when a socket cannot listen; none is left open then."""
        self._guests = guests
        self._handler = handler
        self._http = web.Server(
            self._answer, access_log=None, logger=_Mistakes(guests), keepalive_timeout=IDLE_S
        )
        self._inside: set[_HttpGuest] = set()
        self.doors: list[Door] = []
        listeners = list(listeners)
        try:
            for listener in listeners:
                self.doors.append(Door(listener, guests, self._greet))
        except OSError:
            for door in self.doors:
                door.close()
            for listener in listeners:
                listener.close()
            raise

    def _greet(self, _ip: str, client: str) -> Guest:
        return _HttpGuest(self._guests, client, self._http(), self._inside)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        guest = _guest_of(request)
        if guest is not None:
            guest.answering()
        try:
            return _unsniffed(await self._handler(request))
        except web.HTTPException as answer:
            raise _unsniffed(answer) from None
        except Exception as error:  # noqa: BLE001 - a page that fails is one answer that fails
            self._guests.failed(error)
            return _unsniffed(
                web.Response(status=500, text="500: uproxy has made a mistake; its log says which\n")
            )
        finally:
            if guest is not None:
                guest.answered()

    async def close(self) -> None:
        """Stop listening, and finish the answers under way."""
        for door in self.doors:
            door.close()
        self._http.pre_shutdown()
        await self._http.shutdown(SHUTDOWN_S)
        for guest in list(self._inside):
            guest.end("closing")


def _unsniffed(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _guest_of(request: web.BaseRequest) -> "_HttpGuest | None":
    """None once the client is gone."""
    transport = request.transport
    guest = transport.get_protocol() if transport is not None else None
    return guest if isinstance(guest, _HttpGuest) else None


class _HttpGuest(Guest):
    """One client's connection: either a request comes, or an answer is made, or nothing happens."""

    def __init__(
        self, guests: Guests, client: str, inner: asyncio.Protocol, inside: "set[_HttpGuest]"
    ) -> None:
        super().__init__(guests, client)
        self.inner = inner
        self._inside = inside
        self._asking = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A request is awaited: whoever connects has one."""
        self._inside.add(self)
        self.wait(REQUEST_S)
        self._asking = True
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """A request begins, or goes on."""
        if not self._asking and not self.busy:
            self._asking = True
            self.wait(REQUEST_S)
        super().data_received(data)

    def answering(self) -> None:
        """A whole request is here."""
        self.busy, self._asking = True, False
        self.rest()

    def answered(self) -> None:
        """Its answer is made, and will be written now."""
        self.busy = False
        self.used()
        self.wait(IDLE_S)

    def pause_writing(self) -> None:
        """The answer is not read as fast as it comes."""
        self.wait(ANSWER_S)
        super().pause_writing()

    def resume_writing(self) -> None:
        """It was."""
        self.wait(IDLE_S)
        super().resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """Over."""
        self._inside.discard(self)
        super().connection_lost(error)


class _Mistakes(logging.Logger):
    """What aiohttp would log of requests that are none: counted, and nothing else. Faults of our own
    pages never come here."""

    def __init__(self, guests: Guests) -> None:
        super().__init__("uproxy.http", logging.CRITICAL)
        self._guests = guests

    def exception(self, *_args: object, **_more: object) -> None:
        """A request that could not be read, or was given up."""
        self._guests.ended["malformed"] += 1

    debug = exception
    """How aiohttp tells of a first request that is no HTTP at all."""
