"""The handoff's table without any Service, whole, as golden text."""

from ipaddress import ip_network
from pathlib import Path

from uproxy.handoff import accounting, nft_chains

INSIDE = [ip_network("10.244.1.0/24"), ip_network("fd00:10:244:1::/64")]


def test_the_table_is_as_the_golden_file() -> None:
    golden = Path(__file__).parent / "golden" / "table.nft"
    assert nft_chains.table(INSIDE, accounting.note(before=False)).text == golden.read_text()


def test_what_accounting_was_is_found_again() -> None:
    for before in (True, False):
        assert accounting.before(accounting.note(before)) is before
    assert accounting.before("") is None
