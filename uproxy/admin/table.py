"""Rows as text, in columns as kubectl prints them; nothing in it is for a terminal to obey. Pure."""

from collections.abc import Iterable, Sequence
from itertools import chain

from uproxy.admin.rows import Counts, EndpointRow, ServiceRow
from uproxy.kit.printable import printable
from uproxy.model.frontend import EndpointState

_COLUMNS = (
    "NAMESPACE",
    "NAME",
    "PORT",
    "PROTOCOL",
    "ADDRESSES",
    "ENDPOINTS",
    "ACTIVE",
    "TOTAL",
    "PATH",
    "STATUS",
)
_WIDE_COLUMNS = (*_COLUMNS[:-1], "PATH-REASON", "TO-BACKEND", "TO-CLIENT", "OPTIONS", "STATUS")
_GAP = "   "
_ADDRESSES_SHOWN = 3
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def table(rows: Sequence[ServiceRow]) -> str:
    """One line for each Service port."""
    return "\n".join(_aligned([_COLUMNS, *(_cells(row) for row in rows)]))


def wide_table(rows: Sequence[ServiceRow]) -> str:
    """All addresses, bytes, and a line for each endpoint below its Service port."""
    lines = _aligned([_WIDE_COLUMNS, *(_wide_cells(row) for row in rows)])
    below = [[], *(_endpoint_lines(row.endpoints) for row in rows)]
    return "\n".join(chain.from_iterable((line, *more) for line, more in zip(lines, below, strict=True)))


def _cells(row: ServiceRow) -> list[str]:
    counts = _counts(row)
    return [
        row.namespace,
        row.name,
        _port(row),
        row.protocol or "-",
        _some(row.addresses),
        _ready(row.endpoints),
        str(counts.active),
        str(counts.total),
        f"{row.path}({row.in_kernel} in kernel)" if row.in_kernel and row.path == "relay" else row.path,
        " ".join(row.status.split()),  # a YAML parser's message may have several lines
    ]


def _wide_cells(row: ServiceRow) -> list[str]:
    *cells, status = _cells(row)
    cells[_COLUMNS.index("ADDRESSES")] = ",".join(row.addresses) or "-"
    options = ",".join(f"{name}={value}" for name, value in row.options.items()) or "-"
    return [
        *cells,
        row.path_reason or "-",
        _size(row.bytes.to_backend),
        _size(row.bytes.to_client),
        options,
        status,
    ]


def _counts(row: ServiceRow) -> Counts:
    return row.flows if row.protocol == "UDP" else row.connections


def _port(row: ServiceRow) -> str:
    if row.port is None:
        return "-"
    return f"{row.port}({row.port_name})" if row.port_name else str(row.port)


def _some(addresses: Sequence[str]) -> str:
    shown = ",".join(addresses[:_ADDRESSES_SHOWN]) or "-"
    more = len(addresses) - _ADDRESSES_SHOWN
    return f"{shown} + {more} more..." if more > 0 else shown  # as `kubectl get endpoints` does


def _ready(endpoints: Sequence[EndpointRow]) -> str:
    ready = sum(endpoint.state == EndpointState.READY for endpoint in endpoints)
    return f"{ready}/{len(endpoints)}"


def _size(count: int) -> str:
    """`0B`, `1.5KiB`, `12MiB`: at most three digits and a unit."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    digits = 1 if unit and value < 10 else 0
    return f"{value:.{digits}f}{_UNITS[unit]}"


def _endpoint_lines(endpoints: Iterable[EndpointRow]) -> list[str]:
    return _aligned(
        ["  -", its.address, its.state, f"{its.connections.active} active", f"{its.connections.total} total"]
        for its in endpoints
    )


def _aligned(lines: Iterable[Sequence[str]]) -> list[str]:
    lines = [[printable(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [_GAP.join(map(str.ljust, line, widths)).rstrip() for line in lines]
