"""`--endpoint NAMESPACE/SERVICE[:PORT]=ADDR:PORT` as a source: endpoints that no manifest has.

Owns the flag's syntax and what it means for a Service. No input or output.

A slice needs the names of the Service's ports, which only the Service itself has. So this
source listens to what the manifests say about Services, and answers with slices.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from uproxy.model.endpoint import Endpoint, EndpointSlice, Origin, SlicePort
from uproxy.model.events import Delete, Event, Faulted, Synced, Upsert
from uproxy.model.faults import BadInput, Fault
from uproxy.model.names import IPAddress, NamespacedName
from uproxy.model.service import Service, ServicePort
from uproxy.sources.cursor import Cursor, FieldFault

NAME = "flags"
_FORM = "NAMESPACE/SERVICE[:PORT]=ADDR:PORT"
_SHAPE = re.compile(
    r"(?P<NAMESPACE>[^/=]*)/(?P<SERVICE>[^/:=]*)(:(?P<PORT>[^=]*))?=(?P<ADDR>.*):(?P<target>[^:\]]*)"
)


@dataclass(frozen=True, slots=True)
class EndpointFlag:
    """One `--endpoint`, understood."""

    text: str
    service: NamespacedName
    port: str
    """Name or number of a port of the Service; empty means each of its ports."""
    host: IPAddress | str
    """A host name is resolved while it is in use; one that ends in a dot is absolute."""
    target_port: int


def _fault(text: str, message: str) -> Fault:
    return Fault(f"--endpoint {text}", 0, "", None, "", message)


def parse_endpoints(texts: Iterable[str]) -> tuple[EndpointFlag, ...]:
    """All flags. Raises BadInput with the faults of all of them."""
    flags: list[EndpointFlag] = []
    faults: list[Fault] = []
    for text in texts:
        try:
            flags.append(parse_endpoint(text))
        except BadInput as error:
            faults += error.faults
    if faults:
        raise BadInput(tuple(faults))
    return tuple(flags)


def parse_endpoint(text: str) -> EndpointFlag:
    """One flag. Raises BadInput with everything that is wrong with it."""
    shape = _SHAPE.fullmatch(text)
    if shape is None:
        raise BadInput((_fault(text, f"must look like {_FORM}"),))
    found: list[FieldFault] = []
    parts = Cursor(shape.groupdict() | {"ADDR's PORT": _number(shape["target"])}, found)
    flag = EndpointFlag(
        text,
        NamespacedName(parts.at("NAMESPACE").required().label(), parts.at("SERVICE").required().label()),
        parts.at("PORT").label(),
        _host(parts.at("ADDR").required()),
        parts.at("ADDR's PORT").required().port(),
    )
    if shape["PORT"] == "":
        parts.at("PORT").required()
    if found:
        raise BadInput(tuple(_fault(text, f"{path} {message}") for path, message in found))
    return flag


def _number(text: str) -> int | str:
    return int(text) if re.fullmatch("[0-9]{1,5}", text) else text


def _host(part: Cursor) -> IPAddress | str:
    text = part.text()
    bare = part.replaced(text.removeprefix("[").removesuffix("]"))
    if bare.value != text:
        return bare.endpoint() or ""
    if ":" in text:
        part.fault(f"must stand in brackets when it is an IPv6 address: [{text}]")
        return ""
    if re.fullmatch("[0-9.]+", text):
        return part.endpoint() or ""
    name = part.replaced(text.lower().removesuffix(".")).subdomain()
    return f"{name}." if text.endswith(".") else name


def flag_slice(flag: EndpointFlag, service: Service) -> EndpointSlice | Fault:
    """What a flag adds to its Service; a Fault when the Service has no such port."""
    ports = [port for port in service.ports if flag.port in ("", port.name)]
    if not ports:
        ports = [port for port in service.ports if flag.port == str(port.port)]
    if not ports:
        return _fault(flag.text, f"{service.key} has no port {flag.port}, but {_ports_text(service.ports)}")
    return EndpointSlice(
        key=NamespacedName(flag.service.namespace, flag.text),
        service=flag.service,
        ports=tuple(SlicePort(port.name, port.protocol, flag.target_port) for port in ports),
        endpoints=(Endpoint(flag.host),),
        origin=Origin.FLAG,
    )


def _ports_text(ports: Sequence[ServicePort]) -> str:
    return (
        ", ".join(f"{port.name} ({port.port})" if port.name else str(port.port) for port in ports) or "none"
    )


def check_flags(flags: Iterable[EndpointFlag], services: Iterable[Service]) -> tuple[Fault, ...]:
    """The faults of flags whose Service, or whose port of it, does not exist."""
    by_key = {service.key: service for service in services}
    made = (
        flag_slice(flag, by_key[flag.service]) if flag.service in by_key else _no_service(flag)
        for flag in flags
    )
    return tuple(result for result in made if isinstance(result, Fault))


def _no_service(flag: EndpointFlag) -> Fault:
    return _fault(flag.text, f"there is no Service {flag.service}")


class FlagSource:
    """The flags' slices, kept in step with the Services.

    Give `observe` every event of the source that Services come from; `emit` gets the slices,
    and this source's own Faulted and Synced right after that source's Synced.
    """

    def __init__(self, flags: Sequence[EndpointFlag], emit: Callable[[Event], None]) -> None:
        self._flags = tuple(flags)
        self._emit = emit
        self._services: dict[NamespacedName, Service] = {}
        self._wanted = {flag.service for flag in flags}
        self._sent: dict[NamespacedName, EndpointSlice] = {}
        self._faults: tuple[Fault, ...] = ()
        self._synced = False

    def observe(self, event: Event) -> None:
        """Follow one event."""
        match event:
            case Upsert(Service() as service) if service.key in self._wanted:
                self._services[service.key] = service
                self._send_slices()
            case Delete(Service() as service) if service.key in self._wanted:
                self._services.pop(service.key, None)
                self._send_slices()
            case Synced() if not self._synced:
                self._synced = True
                self._send_faults(first=True)
                self._emit(Synced(NAME))
            case _:
                pass

    def _send_slices(self) -> None:
        before = self._sent
        made = (
            flag_slice(flag, self._services[flag.service])
            for flag in self._flags
            if flag.service in self._services
        )
        self._sent = {piece.key: piece for piece in made if isinstance(piece, EndpointSlice)}
        for key, piece in self._sent.items():
            if before.get(key) != piece:
                self._emit(Upsert(piece))
        for key, piece in before.items():
            if key not in self._sent:
                self._emit(Delete(piece))
        if self._synced:
            self._send_faults(first=False)

    def _send_faults(self, first: bool) -> None:
        faults = check_flags(self._flags, self._services.values())
        if first or faults != self._faults:
            self._emit(Faulted(NAME, faults))
        self._faults = faults
