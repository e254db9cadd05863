"""What a table of nf_tables has, read back. Blocks, for tens of microseconds a question.

Owns the questions: the ruleset's generation, which any transaction of anybody's changes; a table's chains
with how many rules they have; the keys of a set. Refuses to know what should be there, and to change
anything.
Sources: linux/netfilter/nf_tables.h; nf_tables_api.c.
"""

import struct
from collections import Counter
from collections.abc import Iterator, Mapping

from uproxy.errors import CommandFailed
from uproxy.kernel.netlink import NETFILTER, Link, attribute, attributes

_NF_TABLES, _INET = 10 << 8, 1
_GET_CHAIN, _GET_RULE, _GET_ELEMENT, _GET_GENERATION = 4, 7, 13, 16
_PREFACE = struct.Struct("!BBH")
_NO_ENTRY = 2


class NftSight:
    """Of the table `inet NAME` in the network namespace of the thread that makes it."""

    def __init__(self, name: str) -> None:
        """Raises CommandFailed where there is no nf_tables to ask."""
        self._table = attribute(1, name.encode() + b"\0")
        try:
            self._link = Link(NETFILTER)
        except OSError as error:
            raise CommandFailed(f"nf_tables: {error.strerror}") from error

    def close(self) -> None:
        """Ask no more."""
        self._link.close()

    def generation(self) -> int:
        """The same as before where nobody has changed anything. Raises CommandFailed."""
        (body,) = self._ask(_GET_GENERATION, b"", dump=False)
        return int.from_bytes(dict(attributes(body))[1], "big")

    def rules(self) -> Mapping[str, int]:
        """Its chains, with how many rules they have. Raises CommandFailed."""
        found = Counter({_text(its[3]): 0 for its in self._dump(_GET_CHAIN)})
        for its in self._dump(_GET_RULE):
            found[_text(its[2])] += 1
        return found

    def keys(self, name: str) -> set[bytes]:
        """Of the elements of a set or map; none where there is no such set. Raises CommandFailed."""
        found = set()
        for body in self._ask(_GET_ELEMENT, self._table + attribute(2, name.encode() + b"\0")):
            for _, element in attributes(dict(attributes(body)).get(3, b"")):
                key = dict(attributes(dict(attributes(element)).get(1, b""))).get(1)
                if key is not None:
                    found.add(key)
        return found

    def _dump(self, kind: int) -> Iterator[dict[int, bytes]]:
        """The kernel tells what is in all tables where it is too old to choose."""
        for body in self._ask(kind, self._table):
            its = dict(attributes(body))
            if attribute(1, its.get(1, b"")) == self._table:
                yield its

    def _ask(self, kind: int, body: bytes, *, dump: bool = True) -> list[bytes]:
        """The answers; none about what is not there."""
        how = self._link.dump if dump else self._link.answers
        try:
            found = how(_NF_TABLES | kind, _PREFACE.pack(_INET, 0, 0) + body)
            return [its[_PREFACE.size :] for its in found]
        except OSError as error:
            if error.errno == _NO_ENTRY:
                return []
            raise CommandFailed(f"nf_tables: {error.strerror}") from error


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode()


def lacking(there: Mapping[str, int], wanted: Mapping[str, int]) -> str | None:
    """Which chain has fewer rules than it should, in words."""
    for chain, count in wanted.items():
        if there.get(chain, -1) < count:
            return f"chain {chain} is not as it was made" if chain in there else f"chain {chain} is gone"
    return None
