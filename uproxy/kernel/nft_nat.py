"""What rules of nf_tables do to addresses and ports.

Owns translation, among statements. Source: nft(8), NAT STATEMENTS.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from uproxy.kernel import nft_messages as nft
from uproxy.kernel.nft_expressions import Field, load_all
from uproxy.kernel.nft_messages import expression, immediate
from uproxy.kernel.nft_statements import Rendering
from uproxy.kernel.nft_types import INET_SERVICE, registers
from uproxy.model.names import Family, IPAddress

_NFPROTO = {4: 2, 6: 10}
_INET = 1
_DNAT = 1
_PORT_IS_GIVEN = 2
"""NF_NAT_RANGE_PROTO_SPECIFIED."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """`redirect to :10401`: to the address of the link that it came by, and to a port."""

    port: int

    def __str__(self) -> str:
        return f"redirect to :{self.port}"

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel (enum nft_redir_attributes)."""
        yield _port(1, self.port)
        yield expression("redir", {1: 1, 3: _PORT_IS_GIVEN})


@dataclass(frozen=True, slots=True)
class Masquerade:
    """`masquerade`: from the address of the link that it leaves by."""

    def __str__(self) -> str:
        return "masquerade"

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel."""
        yield expression("masq", {})


@dataclass(frozen=True, slots=True)
class Dnat:
    """`dnat ip to 10.0.0.1:80`, after a match of the protocol; without an address (`dnat to :80`) that is
    kept."""

    port: int
    ip: IPAddress | None = None
    last: IPAddress | None = None
    """With it to any address from `ip` on up to this, which the kernel draws."""

    def __str__(self) -> str:
        if self.ip is None:
            return f"dnat to :{self.port}"
        header, form = ("ip", "{}") if self.ip.version == 4 else ("ip6", "[{}]")
        some = "-".join(form.format(its) for its in (self.ip, self.last) if its)
        return f"dnat {header} to {some}:{self.port}"

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel (enum nft_nat_attributes)."""
        if self.ip is None:
            yield _port(1, self.port)
            yield expression("nat", {1: _DNAT, 2: _INET, 5: 1, 7: _PORT_IS_GIVEN})
            return
        yield immediate(1, nft.value(self.ip.packed))
        numbers, port = {1: _DNAT, 2: _NFPROTO[self.ip.version], 3: 1}, 2
        if self.last is not None:
            yield immediate(2, nft.value(self.last.packed))
            numbers[4], port = 2, 3
        yield _port(port, self.port)
        yield expression("nat", {**numbers, 5: port, 7: _PORT_IS_GIVEN})


@dataclass(frozen=True, slots=True)
class DnatMap:
    """`dnat ip to meta mark map @endpoints`: to the address and port that a map has for a value."""

    family: Family
    value: Field
    name: str

    def __str__(self) -> str:
        return f"dnat {'ip' if self.family == 4 else 'ip6'} to {self.value.text} map @{self.name}"

    def instructions(self, rendering: Rendering) -> Iterator[bytes]:
        """For the kernel."""
        yield from load_all((self.value,), rendering.known)
        yield expression("lookup", {2: 1, 3: 1}, {1: nft.text(self.name)})
        yield _to_registers(self.family)


@cache
def _to_registers(family: Family) -> bytes:
    address, port = registers((4 if family == 4 else 16, INET_SERVICE.size))
    return expression("nat", {1: _DNAT, 2: _NFPROTO[family], 3: address, 5: port})


@cache
def _port(register: int, port: int) -> bytes:
    return immediate(register, nft.value(INET_SERVICE.pack(port)))
