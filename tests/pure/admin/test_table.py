import re

import msgspec

from uproxy.admin.rows import Bytes, Counts, EndpointRow, ServiceRow
from uproxy.admin.table import table, wide_table

WEB = ServiceRow(
    "default",
    "web",
    "ok",
    80,
    "http",
    "TCP",
    ["172.30.0.1:80", "0.0.0.0:30080"],
    connections=Counts(2, 1234),
    bytes=Bytes(999, 1536),
    endpoints=[
        EndpointRow("10.0.0.1:8080", "ready", Counts(2, 1230)),
        EndpointRow("10.0.0.20:8080", "ejected", Counts(0, 4)),
    ],
)
DNS = ServiceRow(
    "kube-system",
    "dns",
    "no-endpoints",
    53,
    "",
    "UDP",
    [f"172.30.0.{n}:53" for n in range(10, 15)],
    flows=Counts(1, 7),
    bytes=Bytes(0, 12 * 1024**2),
)
BROKEN = ServiceRow("default", "broken", "faulty: while parsing\n  a block mapping")


def cells(line):
    return re.split(r" {3,}", line)


def test_table_has_a_line_for_each_service_port():
    heading, web, dns = map(cells, table([WEB, DNS]).splitlines())
    assert dict(zip(heading, web, strict=True)) == {
        "NAMESPACE": "default",
        "NAME": "web",
        "PORT": "80(http)",
        "PROTOCOL": "TCP",
        "ADDRESSES": "172.30.0.1:80,0.0.0.0:30080",
        "ENDPOINTS": "1/2",
        "ACTIVE": "2",
        "TOTAL": "1234",
        "PATH": "relay",
        "STATUS": "ok",
    }
    assert (
        dict(zip(heading, dns, strict=True)).items()
        >= {
            "PORT": "53",
            "ADDRESSES": "172.30.0.10:53,172.30.0.11:53,172.30.0.12:53 + 2 more...",
            "ENDPOINTS": "0/0",
            "ACTIVE": "1",
            "TOTAL": "7",
            "STATUS": "no-endpoints",
        }.items()
    )


def test_columns_stand_below_their_headings():
    heading, *lines = table([WEB, DNS, BROKEN]).splitlines()
    at = heading.index("STATUS")
    assert [line[at:] for line in lines] == [" ".join(row.status.split()) for row in (WEB, DNS, BROKEN)]


def test_no_line_ends_in_blanks():
    assert all(line == line.rstrip() for line in wide_table([WEB, DNS, BROKEN]).splitlines())


def test_a_status_of_many_lines_stays_on_one():
    assert table([BROKEN]).splitlines()[1].endswith("faulty: while parsing a block mapping")


def test_a_service_without_a_port_has_dashes():
    assert table([BROKEN]).splitlines()[1].split()[2:5] == ["-", "-", "-"]


def test_nothing_programmed_leaves_the_heading():
    assert len(table([]).splitlines()) == 1
    assert len(wide_table([]).splitlines()) == 1


def test_wide_lists_endpoints_below_their_service():
    lines = wide_table([WEB, DNS]).splitlines()
    assert lines[2:4] == [
        "  -   10.0.0.1:8080    ready     2 active   1230 total",
        "  -   10.0.0.20:8080   ejected   0 active   4 total",
    ]
    assert lines[4].startswith("kube-system")


def test_wide_has_every_address_and_the_bytes():
    lines = wide_table([WEB, DNS]).splitlines()
    assert "999B" in lines[1]
    assert "1.5KiB" in lines[1]
    assert "12MiB" in lines[4]
    assert all(address in lines[4] for address in DNS.addresses)


def test_wide_has_the_options_that_are_not_the_defaults():
    asked = msgspec.structs.replace(WEB, options={"balancing": "p2c", "hold": "30s"})
    heading, web, *_, dns = map(cells, wide_table([asked, DNS]).splitlines())
    assert web[heading.index("OPTIONS")] == "balancing=p2c,hold=30s"
    assert dns[heading.index("OPTIONS")] == "-"
