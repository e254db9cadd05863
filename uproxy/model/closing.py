"""How connections end and dials fail. Network life, as values that are counted."""

from enum import StrEnum


class CloseReason(StrEnum):
    """Why a connection ended. Every accepted connection ends with exactly one of these."""

    CLIENT_EOF = "client-eof"
    """Both sides finished in good order; the client was the first."""
    BACKEND_EOF = "backend-eof"
    """Both sides finished in good order; the backend was the first."""
    CLIENT_RESET = "client-reset"
    BACKEND_RESET = "backend-reset"
    NO_ENDPOINTS = "no-endpoints"
    DIAL_FAILED = "dial-failed"
    """Every endpoint refused, timed out or was unreachable, or the dial budget ran out."""
    QUEUE_FULL = "queue-full"
    """Every endpoint had as many connections as it may have, or there was none, and as many clients waited
    already as may wait, or as this machine has descriptors for."""
    QUEUE_TIMEOUT = "queue-timeout"
    """No endpoint had a place for it in time."""
    HOLD_TIMEOUT = "hold-timeout"
    """There was no endpoint in time."""
    IDLE_TIMEOUT = "idle-timeout"
    HALF_CLOSED_TIMEOUT = "half-closed-timeout"
    ENDPOINT_REMOVED = "endpoint-removed"
    """Its endpoint was removed, and the Service asks for a reset then, at once or after a while."""
    MAX_AGE = "max-age"
    """As old as the Service lets connections get."""
    HOP_LIMIT = "hop-limit"
    """It has gone through so many proxies and routers that it goes in circles."""
    NO_RESOURCES = "no-resources"
    """This machine had not what it takes to carry it on: memory, or watches (epoll(7))."""
    SHUTDOWN = "shutdown"
    """Still open when the drain timeout of a stopping proxy ended."""


class DialFailure(StrEnum):
    """Why one dial of one endpoint failed."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    NO_RESOURCES = "no-resources"
    """This machine is out of descriptors, memory, watches or local ports: not the endpoint's fault."""
    OTHER = "other"
