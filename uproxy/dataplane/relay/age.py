"""How old a connection may get, and how it ends then.

A Service asks for it so that clients who keep one connection for ever (gRPC above all) come again, and
are balanced anew. Each connection has a limit of its own, up to 10 % below or above what was asked
for, or all that began together would come again together; gRPC's servers do the same with their
MAX_CONNECTION_AGE.

A relay does not know where a request ends. Envoy cuts at the limit, whatever is under way
(`max_downstream_connection_duration`). Here the connection is ended with an orderly FIN to both sides in the
first quiet moment after its limit: nothing waits to be passed on, and the endpoint was the last to
speak, a second ago or more. For a request and its answer that is between two of them, and a client takes
it for the end of an idle connection, as any server may end it. One FIN alone would not do: what the
other side still says would have nowhere to go. Whoever finds no quiet moment in another tenth of
the age is reset; a FIN in the middle of an answer would make half of it look like the whole.

All it costs other Services is that relays note who spoke last. The native relay follows the same
rules (engine/age.c).
"""

_QUIET_S = 1.0
_LOTS = 1 << 20
_SPREAD = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: neighbouring times make distant numbers


def limit_s(age_s: float, begun_s: float) -> float:
    """How old a connection that began at `begun_s` may get: the same each time it is asked for."""
    lot = (int(begun_s * 1e9) * _SPREAD % (1 << 64)) >> 44
    return age_s * (0.9 + 0.2 * lot / _LOTS)


def grace_s(age_s: float) -> float:
    """How long after its limit a connection may take to find a quiet moment."""
    return age_s / 10


def quiet_s(age_s: float) -> float:
    """How long nobody has to have spoken for a moment to be quiet."""
    return min(_QUIET_S, age_s / 20)


def sweep_every_s(age_s: float) -> float:
    """How often to look, so that the limits of connections stay apart."""
    return max(age_s / 20, 0.05)
