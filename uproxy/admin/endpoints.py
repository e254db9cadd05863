"""The standing of endpoints: what Kubernetes says of them, and what dialling them showed. Pure."""

from collections import Counter
from collections.abc import Iterator

from uproxy.model.frontend import EndpointState
from uproxy.picking.backends import BackendState
from uproxy.picking.routes import ProgrammedPort

EJECTED = "ejected"
"""Would take connections, but sits out after failed dials."""


def standings(programmed: ProgrammedPort, now_s: float) -> Iterator[tuple[BackendState, str]]:
    """Every endpoint of a Service port with its state."""
    # Both were filled in the same order; looking each address up costs five times as much.
    states = programmed.states.values()
    for state, given in zip(states, programmed.desired.endpoints.values(), strict=True):
        ejected = state.sits_out_until_s > now_s and given is not EndpointState.NOT_READY
        yield state, EJECTED if ejected else given.value


def any_ejected(programmed: ProgrammedPort, now_s: float) -> bool:
    """Whether an endpoint sits out."""
    for state in programmed.states.values():  # noqa: SIM110 - any() of a generator takes twice as long
        if state.sits_out_until_s > now_s:
            return True
    return False


def count_by_state(programmed: ProgrammedPort, now_s: float) -> Counter[str]:
    """How many endpoints are in each state; `ready` is there even when none is."""
    counts = Counter({EndpointState.READY.value: 0})
    for _, state in standings(programmed, now_s):
        counts[state] += 1
    return counts
