"""How one Service port is doing, in one line. Pure.

Owns the words of the `status` column. The worst news goes first: a mistake in the manifest,
then addresses that are not served, then missing endpoints.
"""

from collections.abc import Iterable, Mapping, Sequence

from uproxy.model.faults import Fault
from uproxy.model.frontend import DesiredServicePort
from uproxy.model.names import NamespacedName, Vip
from uproxy.state.store import Store

OK = "ok"
NO_ENDPOINTS = "no-endpoints"
PENDING = "pending"
"""Wanted, and not programmed yet."""

_NAMED_AFTER_SERVICE = frozenset(("Service", "Endpoints"))


def status_of(desired: DesiredServicePort, problems: Mapping[Vip, str], faults: Sequence[Fault]) -> str:
    """The status of a programmed port, given its addresses in trouble and its object's mistakes."""
    if faults:
        return faulty(faults)
    reasons = [*desired.notes, *_by_reason(problems)]
    if all(frontend.vip in problems for frontend in desired.frontends):
        return "error: " + "; ".join(reasons or ["it has no address"])
    if not any(desired.usable.values()):
        return _partial([*reasons, "no endpoints"]) if reasons else NO_ENDPOINTS
    return _partial(reasons + _families_without_endpoints(desired))


def faulty(faults: Sequence[Fault]) -> str:
    """The status of an object with mistakes: the first of them, and how many more there are."""
    first = faults[0]
    mine = first.kind == "Service"
    what = ": ".join(part for part in (first.field, first.message) if part) if mine else str(first)
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"faulty: {what}{more}"


def faults_by_service(faults: Iterable[Fault], store: Store) -> dict[NamespacedName, list[Fault]]:
    """The mistakes in Services, and in the endpoints that a Service goes on using."""
    found: dict[NamespacedName, list[Fault]] = {}
    for fault in faults:
        service = _service_of(fault, store)
        for key in (service,) if service is not None else fault.stale:
            found.setdefault(key, []).append(fault)
    return found


def _service_of(fault: Fault, store: Store) -> NamespacedName | None:
    if fault.key is None:
        return None
    if fault.kind == "EndpointSlice":
        return store.service_of_slice(fault.key)
    return fault.key if fault.kind in _NAMED_AFTER_SERVICE else None


def _partial(reasons: Sequence[str]) -> str:
    return "partial: " + "; ".join(reasons) if reasons else OK


def _by_reason(problems: Mapping[Vip, str]) -> list[str]:
    return [f"{vip}: {reason}" for vip, reason in problems.items()]


def _families_without_endpoints(desired: DesiredServicePort) -> list[str]:
    families = {frontend.family for frontend in desired.frontends if not desired.backends(frontend)}
    return [f"no IPv{family} endpoints" for family in sorted(families)]
