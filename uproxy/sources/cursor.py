"""A place inside an object that is being read, with the faults found so far.

Owns what a value may look like (a port, an address, a DNS label) and how to say that it does
not. Knows no field names.

A reader meets a wrong value by noting a Fault and returning a harmless stand-in of the right
type. That is safe because an object with any fault is never used, and it is what lets all
faults of an object be found in one pass.
"""

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple, TypeVar

from uproxy.model.names import IPAddress
from uproxy.model.special import special

T = TypeVar("T")

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
_SERVICE_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")


class FieldFault(NamedTuple):
    """What is wrong with one field."""

    path: str
    message: str


class Cursor:
    """One value, which may be absent (None), and the way to it."""

    __slots__ = ("_faults", "_parent", "_step", "value")

    def __init__(
        self, value: object, faults: list[FieldFault], parent: "Cursor | None" = None, step: str | int = ""
    ) -> None:
        self.value = value
        self._faults = faults
        self._parent = parent
        self._step = step

    @property
    def path(self) -> str:
        """As kubectl prints it: `spec.ports[0].port`."""
        if self._parent is None:
            return ""
        if isinstance(self._step, int):
            return f"{self._parent.path}[{self._step}]"
        return f"{self._parent.path}.{self._step}".removeprefix(".")

    def fault(self, message: str) -> None:
        """Note that this value is wrong."""
        self._faults.append(FieldFault(self.path, message))

    def at(self, *steps: str) -> "Cursor":
        """The field `steps` lead to, absent where any part of the way is."""
        here = self
        for step in steps:
            value = here.value
            if value is not None and not isinstance(value, dict):
                here.fault(f"must be a mapping, not {shown(value)}")
                value = None
            here = Cursor(value.get(step) if value else None, self._faults, here, step)
        return here

    def replaced(self, value: object) -> "Cursor":
        """The same place with another value, such as one without its brackets."""
        return Cursor(value, self._faults, self._parent, self._step)

    def items(self) -> list["Cursor"]:
        """The items of a list; none when it is absent."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            self.fault(f"must be a list, not {shown(self.value)}")
            return []
        return [Cursor(item, self._faults, self, index) for index, item in enumerate(self.value)]

    def required(self) -> "Cursor":
        """Itself. Absent and empty are faults, and absent from then on."""
        if self.value not in (None, "", [], {}):
            return self
        self.fault("is required")
        return self.replaced(None)

    def text(self) -> str:
        """A string; empty when absent."""
        if isinstance(self.value, str):
            return self.value
        if self.value is not None:
            self.fault(f"must be a string, not {shown(self.value)}")
        return ""

    def texts(self) -> dict[str, str]:
        """A mapping of strings, such as labels."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            self.fault(f"must be a mapping, not {shown(self.value)}")
            return {}
        for key in self.value:
            if not isinstance(key, str):
                self.fault(f"must have strings as keys, not {shown(key)}")
        return {str(key): self.at(key).required_text() for key in self.value}

    def required_text(self) -> str:
        """A string that may be empty, but not absent."""
        if self.value is None:
            self.fault("must be a string, not null")
        return self.text()

    def boolean(self, default: bool) -> bool:
        """True, false, or `default` when absent."""
        if isinstance(self.value, bool):
            return self.value
        if self.value is not None:
            self.fault(f"must be true or false, not {shown(self.value)}")
        return default

    def integer(self, low: int, high: int, default: int) -> int:
        """A whole number from `low` to `high`, or `default` when absent."""
        if self.value is None:
            return default
        if type(self.value) is int and low <= self.value <= high:
            return self.value
        self.fault(f"must be {low} to {high}, not {shown(self.value)}")
        return default

    def choice(self, allowed: Mapping[str, T], default: T) -> T:
        """What the value stands for in `allowed`, or `default` when it is absent or empty."""
        if self.value in (None, ""):
            return default
        if isinstance(self.value, str) and self.value in allowed:
            return allowed[self.value]
        self.fault(f"must be one of {', '.join(allowed)}, not {shown(self.value)}")
        return default

    def port(self) -> int:
        """A port number; 0 when absent."""
        return self.integer(1, 65535, default=0)

    def label(self) -> str:
        """A DNS label (RFC 1123), empty when absent."""
        return self._matching(_LABEL, 63, "a DNS label (a-z, 0-9 and '-', at most 63 characters)")

    def subdomain(self) -> str:
        """A DNS name (RFC 1123), empty when absent."""
        return self._matching(_SUBDOMAIN, 253, "a DNS name (a-z, 0-9, '-' and '.', at most 253 characters)")

    def port_name(self) -> str:
        """The name of a container's port (RFC 6335, 5.1), empty when absent."""
        return self._matching(
            _SERVICE_NAME, 15, "a port's name (a-z, 0-9 and '-', with a letter, at most 15 characters)"
        )

    def _matching(self, pattern: re.Pattern[str], longest: int, words: str) -> str:
        text = self.text()
        if text and (len(text) > longest or not pattern.fullmatch(text)):
            self.fault(f"must be {words}, not {shown(text)}")
        return text

    def address(self) -> IPAddress | None:
        """An address that can be reached by itself; None when faulty or absent."""
        text = self.text()
        if not text:
            return None
        try:
            address = ip_address(text)
        except ValueError:
            self.fault(f"must be an IP address, not {shown(text)}")
            return None
        if isinstance(address, IPv6Address) and (address.scope_id or address.ipv4_mapped):
            self.fault(f"must be an address without zone or embedded IPv4 address, not {shown(text)}")
        if address.is_unspecified or address.is_multicast:
            self.fault(f"must be the address of one host, not {shown(text)}")
        return address

    def endpoint(self) -> IPAddress | None:
        """An address that may be dialled; None when faulty or absent."""
        address = self.address()
        kind = special(address, loopback=True) if address else ""
        if kind == "link-local":  # the others are faults already
            self.fault(f"may not be a link-local address, which leads elsewhere on each node: {address}")
        return address


def fault_repeats(entries: Iterable[tuple[Cursor, object]]) -> None:
    """Fault every value that an earlier entry has; empty values (0, "", None) do not count."""
    seen: set[object] = set()
    for cursor, value in entries:
        if value and value in seen:
            cursor.fault(f"{shown(cursor.value)} is given twice")
        seen.add(value)


def shown(value: object) -> str:
    """A value as a message names it; never long."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case int() if abs(value) >= 1 << 64:
            return "a number of more than 64 bits"
        case _:
            text = repr(value)
            return text if len(text) <= 80 else f"{text[:76]}...{text[-1]}"
