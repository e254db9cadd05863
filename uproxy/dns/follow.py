"""Where a name leads inside the cluster domain: over ExternalNames to a record, or out of it.

Pure. Owns that a chain of ExternalNames ends: one that is too long is refused, and one that comes
back to a name is as long as can be.
"""

from enum import Enum, auto
from typing import NamedTuple

from uproxy.dns.answers import RecordSet
from uproxy.dns.wire import Record
from uproxy.dns.zone import Absent, Alias, Outside, Zone

_LONGEST_CHAIN = 8


class End(Enum):
    """How a walk ended."""

    RECORDS = auto()
    NODATA = auto()
    NXDOMAIN = auto()
    OUTSIDE = auto()
    """At a name that is not the cluster's: `Walk.name`."""
    LOOP = auto()


class Walk(NamedTuple):
    """The aliases passed, and what was at the end."""

    end: End
    name: bytes
    """The last name, in lower case."""
    chain: tuple[Record, ...] = ()
    found: RecordSet | None = None
    """With RECORDS, what is at `name`."""


def follow(zone: Zone, name: bytes, kind: int) -> Walk:
    """Look `name`, in lower case, up, and go on where ExternalNames lead."""
    chain: tuple[Record, ...] = ()
    while True:
        match zone.find(name, kind):
            case RecordSet() as found:
                return Walk(End.RECORDS, name, chain, found)
            case Absent(name_exists):
                return Walk(End.NODATA if name_exists else End.NXDOMAIN, name, chain)
            case Outside():
                return Walk(End.OUTSIDE, name, chain)
            case Alias(record):
                chain = (*chain, record)
                name = record.data.lower()
                if len(chain) > _LONGEST_CHAIN:
                    return Walk(End.LOOP, name, chain)
