"""How fast events are taken in: from a watch's lines to what the store and the loop are told.

In this process, with the proxy's own parts and without a network: what `benchmarks/cluster.py` measures
of the whole has TLS, rebuilding and programming in it.
"""

import itertools
import time
from functools import partial
from ipaddress import IPv4Address

import msgspec

from benchmarks.at_scale.population import Object, Population, endpoint_slice
from uproxy.model.events import Event, Upsert
from uproxy.sources.kubernetes.intake import Intake
from uproxy.sources.kubernetes.known import Known
from uproxy.sources.kubernetes.resources import endpoint_slices
from uproxy.sources.kubernetes.source import like

_NEW_PODS = IPv4Address("10.192.0.0")
_AT_ONCE = 50
"""Lines that come between two batches of the loop: as many as fit into its 2 ms."""


def intake_rate(services: int, endpoints: int) -> float:
    """EndpointSlice events a second, each of another slice than the one before, all different."""
    population = Population(services, endpoints)
    inbox: list[Event] = []

    def emit(thing: object) -> None:
        inbox.append(Upsert(thing))  # type: ignore[arg-type]

    intake = Intake(endpoint_slices(None, headless=False), Known(emit, emit, like))
    for number in range(services):
        intake.line(_line("ADDED", endpoint_slice(number, population.addresses(number))))
    lines = [_line("MODIFIED", piece) for piece in map(partial(_changed, population), range(services))]
    inbox.clear()
    begun_s = time.perf_counter()
    for start in range(0, len(lines), _AT_ONCE):
        for line in itertools.islice(lines, start, start + _AT_ONCE):
            intake.line(line)
        inbox.clear()
    return len(lines) / (time.perf_counter() - begun_s)


def _changed(population: Population, number: int) -> Object:
    return endpoint_slice(number, [*population.addresses(number)[1:], str(_NEW_PODS + number)])


def _line(kind: str, piece: Object) -> bytes:
    piece["metadata"]["resourceVersion"] = "4711"
    return msgspec.json.encode({"type": kind, "object": piece})
