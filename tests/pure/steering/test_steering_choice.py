"""Which capture is taken, from what the probe found."""

from dataclasses import replace

import pytest

from uproxy.errors import UproxyError
from uproxy.kit.privileges import parse_capabilities
from uproxy.kit.programs import complaint
from uproxy.steering.probe import OK, Capture, Choice, Mechanism, Probe, choose

ABLE = Probe(net_admin=OK, nft=OK, iptables=OK, ip6tables=OK, tproxy=OK, ip=OK)
NO_NFT = replace(ABLE, nft="nft is not installed: apt-get install nftables")
NO_RULES = replace(NO_NFT, iptables="ipset is not installed: apt-get install ipset")
NO_IP = replace(NO_RULES, ip="ip is not installed: apt-get install iproute2")
IN_GVISOR = replace(NO_RULES, lo_addresses="not in this kernel")
# Without the capability a probe in a user namespace may still find nft in order.
UNPRIVILEGED = replace(ABLE, net_admin="not granted: run as root, or grant CAP_NET_ADMIN")


def _taken(choice: Choice) -> tuple[Capture, Mechanism]:
    return choice.capture, choice.mechanism


@pytest.mark.parametrize(
    ("requested", "probe", "forced", "expected"),
    [
        pytest.param("auto", ABLE, "auto", (Capture.REDIRECT, Mechanism.NFT), id="nft-first"),
        pytest.param("auto", NO_NFT, "auto", (Capture.REDIRECT, Mechanism.IPTABLES), id="then-iptables"),
        pytest.param("auto", NO_RULES, "auto", (Capture.BIND, Mechanism.LOCAL_ROUTES), id="then-routes"),
        pytest.param("auto", IN_GVISOR, "auto", (Capture.BIND, Mechanism.LO_ADDRESSES), id="no-local-routes"),
        pytest.param("bind", IN_GVISOR, "auto", (Capture.BIND, Mechanism.LO_ADDRESSES), id="bind-there"),
        pytest.param("auto", NO_IP, "auto", (Capture.BIND, Mechanism.LOOPBACK), id="then-loopback"),
        pytest.param("auto", UNPRIVILEGED, "auto", (Capture.BIND, Mechanism.LOOPBACK), id="no-capability"),
        pytest.param("auto", NO_NFT, "nft", (Capture.BIND, Mechanism.LOCAL_ROUTES), id="auto-with-forced"),
        pytest.param("bind", ABLE, "auto", (Capture.BIND, Mechanism.LOCAL_ROUTES), id="bind"),
        pytest.param("bind", UNPRIVILEGED, "auto", (Capture.BIND, Mechanism.LOOPBACK), id="bind-rootless"),
        pytest.param("redirect", ABLE, "iptables", (Capture.REDIRECT, Mechanism.IPTABLES), id="forced"),
        pytest.param("tproxy", ABLE, "auto", (Capture.TPROXY, Mechanism.NFT), id="tproxy"),
        pytest.param("redirect", NO_NFT, "auto", (Capture.REDIRECT, Mechanism.IPTABLES), id="redirect"),
    ],
)
def test_choice(requested: str, probe: Probe, forced: str, expected: tuple[Capture, Mechanism]) -> None:
    choice = choose(requested, probe, forced)
    assert _taken(choice) == expected
    assert "\n" not in choice.reason


@pytest.mark.parametrize(
    ("probe", "forced", "words"),
    [
        pytest.param(NO_RULES, "auto", ["nftables", "apt-get install ipset"], id="every-reason"),
        pytest.param(NO_NFT, "nft", ["apt-get install nftables"], id="forced"),
        pytest.param(UNPRIVILEGED, "auto", ["CAP_NET_ADMIN"], id="no-capability"),
    ],
)
def test_redirect_that_cannot_be_had_says_why_in_one_line(
    probe: Probe, forced: str, words: list[str]
) -> None:
    with pytest.raises(UproxyError) as caught:
        choose("redirect", probe, forced)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("probe", "forced", "words"),
    [
        pytest.param(replace(ABLE, tproxy="no such expression"), "auto", "no such expression", id="kernel"),
        pytest.param(ABLE, "iptables", "only nftables", id="iptables"),
        pytest.param(UNPRIVILEGED, "auto", "CAP_NET_ADMIN", id="no-capability"),
    ],
)
def test_tproxy_that_cannot_be_had_says_why_in_one_line(probe: Probe, forced: str, words: str) -> None:
    with pytest.raises(UproxyError, match=words) as caught:
        choose("tproxy", probe, forced)
    assert str(caught.value).startswith("--capture tproxy is not possible here: ")
    assert "\n" not in str(caught.value)


def test_choice_for_less_than_asked_says_why() -> None:
    assert "apt-get install nftables" in choose("auto", NO_RULES).reason
    assert "IPv4 only" in choose("auto", replace(NO_NFT, ip6tables="no such module")).reason


def test_findings_are_printed_one_a_line() -> None:
    assert ABLE.lines()[1] == "nftables: ok"
    assert len(ABLE.lines()) == 8


def test_capability_is_read_from_the_effective_set() -> None:
    status = "Name:\tuproxy\nCapInh:\t{0}\nCapPrm:\t{1}\nCapEff:\t{0}\n"
    none, net_admin = "0000000000000000", "0000000000001000"
    assert parse_capabilities(status.format(net_admin, none)) == 1 << 12
    assert parse_capabilities(status.format(none, net_admin)) == 0


def test_complaint_is_the_line_that_says_what_is_wrong() -> None:
    assert (
        complaint("# Warning: legacy tables present\n\nline 3: no such set\n  ^^^^\n")
        == "line 3: no such set"
    )
    assert complaint("") == "no reason given"
