"""Asking a running proxy what it serves: the other end of `/services`.

Synchronous and small, for a command that asks once. http.client rather than urllib.request,
which would take the request to the proxy named in $http_proxy.
"""

import http.client

import msgspec

from uproxy.admin.address import Address, words_of
from uproxy.admin.rows import ServiceRow
from uproxy.errors import UproxyError

TIMEOUT_S = 5.0


def fetch_services(address: tuple[str, int]) -> list[ServiceRow]:
    """The rows of the proxy whose metrics address is `address`.

    Raises UproxyError when nobody answers there within 5 s, or somebody else does.
    """
    place = Address(*address)
    try:
        status, body = _get("/services", address)
    except (OSError, http.client.HTTPException) as error:
        raise UproxyError(f"no uproxy answers on {place}: {_reason(error)}") from error
    if status != http.client.OK:
        raise UproxyError(f"what answers on {place} is no uproxy: /services has HTTP status {status}")
    try:
        return msgspec.json.decode(body, type=list[ServiceRow])
    except msgspec.DecodeError as error:
        raise UproxyError(f"what answers on {place} is no uproxy: {error}") from error


def _get(path: str, address: tuple[str, int]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _reason(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_S:g} s"
    return words_of(error) if isinstance(error, OSError) else str(error)
