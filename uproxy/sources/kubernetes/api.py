"""Requests to an API server: the only door to the network here.

Owns the HTTP session, the 401 that a rotated token cures, and the translation of everything that can
go wrong into a `Trouble`. Refuses to know resources.
"""

import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ssl import SSLCertVerificationError, SSLError
from typing import Any

import aiohttp
import msgspec

from uproxy import __version__
from uproxy.sources.kubernetes.access import Access, Credentials
from uproxy.sources.kubernetes.errors import Dropped, Refused, Silent, Trouble, Unreachable
from uproxy.sources.kubernetes.wire import Status

_CONNECT_TIMEOUT_S = 10.0
_CREATE_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
_LONGEST_STATUS = 1 << 20
_DONE = (200, 201, 202)
_HEADERS = {
    "Accept": "application/json",
    # Lists are compressed otherwise, and nodes are near their API server.
    "Accept-Encoding": "identity",
    "User-Agent": f"uproxy/{__version__}",
}
# A peer that is gone without a word is noticed after 45 s, as by client-go's HTTP/2 pings.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class Api:
    """One API server, as one client sees it."""

    def __init__(self, access: Access, silence_max_s: float) -> None:
        self._access = access
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=silence_max_s
        )
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def get(self, path: str, query: Mapping[str, str]) -> AsyncIterator[aiohttp.StreamReader]:
        """The body of a 200 answer, to be read inside of the `with`.

        Raises Trouble for every other answer, and for what happens to the connection, also while
        the body is read; AccessError when there have never been credentials.
        """
        try:
            response = await self._answer("GET", path, {"params": query})
            _keep_alive(response)
        except aiohttp.SocketTimeoutError as error:
            raise Silent(f"no answer within {self._timeout.sock_read:g} s") from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unreachable(_words(error)) from error
        try:
            yield response.content
        except aiohttp.SocketTimeoutError as error:
            raise Silent(f"nothing came for {self._timeout.sock_read:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Dropped("the connection ended in the middle of an answer") from error
        finally:
            response.close()

    async def create(self, path: str, thing: Mapping[str, Any]) -> None:
        """Create an object in the collection at `path`.

        Raises Trouble when it is not, or nobody says so within 10 s; AccessError as `get` does.
        """
        try:
            response = await self._answer("POST", path, {"json": thing, "timeout": _CREATE_TIMEOUT})
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unreachable(_words(error)) from error
        response.release()

    async def _answer(self, method: str, path: str, request: Mapping[str, Any]) -> aiohttp.ClientResponse:
        """The answer, if it is a good one. `request` is what aiohttp calls its parts."""
        credentials = await self._access.credentials()
        response = await self._request(credentials, method, path, request)
        if response.status == 401:
            others = await self._access.credentials(rejected=credentials)
            if others is not credentials:
                response.close()
                response = await self._request(others, method, path, request)
        if response.status not in _DONE:
            raise await _refusal(response)
        return response

    async def _request(
        self, credentials: Credentials, method: str, path: str, request: Mapping[str, Any]
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, headers=_HEADERS)
        return await self._session.request(
            method,
            credentials.server + path,
            headers=credentials.headers,
            ssl=credentials.tls,
            server_hostname=credentials.server_name,
            proxy=credentials.proxy,
            allow_redirects=False,  # tokens are for this server alone
            **request,
        )


async def _refusal(response: aiohttp.ClientResponse) -> Trouble:
    """The Status that came instead of what was asked for. Proxies in between may say something else."""
    body = await response.content.read(_LONGEST_STATUS)
    response.close()
    try:
        status = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        status = Status(message=body.decode(errors="replace")[:200].strip())
    return Refused(
        response.status,
        status.reason or response.reason or "",
        status.message,
        _retry_after_s(response, status),
    )


def _retry_after_s(response: aiohttp.ClientResponse, status: Status) -> float | None:
    header = response.headers.get("Retry-After", "")
    if header.isdigit():
        return float(header)
    seconds = status.details.retry_after_seconds if status.details is not None else 0
    return float(seconds) or None


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    connection = response.connection
    transport = connection.transport if connection is not None else None
    if transport is None:
        return  # a short answer has come whole already
    its_socket = transport.get_extra_info("socket")
    for level, option, value in _KEEPALIVE:
        its_socket.setsockopt(level, option, value)


def _words(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{error.host}:{error.port}: {_reason(error.os_error)}"
    if isinstance(error, SSLCertVerificationError):
        return f"the server's certificate is not accepted: {error.verify_message}"
    if isinstance(error, aiohttp.ServerTimeoutError):
        # Its own words have the whole request in them, which is never twice the same.
        return "no connection in time"
    return str(error) or type(error).__name__


def _reason(error: OSError) -> str:
    """The kernel's own words: asyncio's say "Connect call failed", and not why."""
    if error.errno is not None and error.errno > 0 and not isinstance(error, SSLError):
        return os.strerror(error.errno)
    return error.strerror or str(error)
