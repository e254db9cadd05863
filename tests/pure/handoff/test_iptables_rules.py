"""The rules of the iptables handoff, as text."""

from ipaddress import ip_address

from uproxy.handoff import accounting
from uproxy.handoff.iptables_rules import PREFIX, TABLES, Change, Way, render_begin
from uproxy.kit.netfilter import render_removal
from uproxy.model.frontend import Backend
from uproxy.model.names import Protocol, Vip

VIP = Vip(ip_address("172.30.0.1"), 80, Protocol.TCP)
VIP6 = Vip(ip_address("fd00::1"), 53, Protocol.UDP)
NODE = Vip(ip_address("0.0.0.0"), 30080, Protocol.TCP)
PODS = tuple(Backend(ip_address(f"10.244.0.{number}"), 8080) for number in (1, 2, 3))
POD6 = Backend(ip_address("fd00:10::1"), 8053)


def test_an_address_is_translated_before_it_is_marked() -> None:
    change = Change()
    change.add("UPROXY_H1", Way(VIP, PODS))
    assert change.text() == (
        "*nat\n"
        ":UPROXY_H1 - [0:0]\n"
        "-A UPROXY_H1 -p tcp -m statistic --mode nth --every 3 --packet 0 "
        "-j DNAT --to-destination 10.244.0.1:8080\n"
        "-A UPROXY_H1 -p tcp -m statistic --mode nth --every 2 --packet 0 "
        "-j DNAT --to-destination 10.244.0.2:8080\n"
        "-A UPROXY_H1 -p tcp -j DNAT --to-destination 10.244.0.3:8080\n"
        "-A UPROXY_HANDOFF -d 172.30.0.1/32 -p tcp -m tcp --dport 80 -j UPROXY_H1\n"
        "COMMIT\n"
        "*mangle\n"
        "-A UPROXY_HANDOFF -d 172.30.0.1/32 -p tcp -m tcp --dport 80 --tcp-flags FIN,SYN,RST,ACK SYN "
        "-j MARK --set-xmark 0x3070/0xffffffff\n"
        "COMMIT\n"
    )


def test_it_is_no_longer_marked_before_its_translation_goes() -> None:
    change = Change()
    change.remove("UPROXY_H1", NODE)
    assert change.text() == (
        "*mangle\n"
        "-D UPROXY_HANDOFF ! -d 127.0.0.0/8 -p tcp -m tcp --dport 30080 --tcp-flags FIN,SYN,RST,ACK SYN "
        "-m addrtype --dst-type LOCAL -j MARK --set-xmark 0x3070/0xffffffff\n"
        "COMMIT\n"
        "*nat\n"
        "-D UPROXY_HANDOFF ! -d 127.0.0.0/8 -p tcp -m tcp --dport 30080 -m addrtype --dst-type LOCAL "
        "-j UPROXY_H1\n"
        "-F UPROXY_H1\n"
        "-X UPROXY_H1\n"
        "COMMIT\n"
    )


def test_other_endpoints_are_one_chain_in_one_commit() -> None:
    change = Change()
    change.replace("UPROXY_H2", Way(VIP6, (POD6,), 60))
    assert change.text() == (
        "*nat\n"
        ":UPROXY_H2 - [0:0]\n"
        "-A UPROXY_H2 -p udp -m recent --name UPROXY_H2-fd00.10..1-8053 --update --seconds 60 --reap "
        "--rsource -j DNAT --to-destination [fd00:10::1]:8053\n"
        "-A UPROXY_H2 -p udp -m recent --name UPROXY_H2-fd00.10..1-8053 --set --rsource "
        "-j DNAT --to-destination [fd00:10::1]:8053\n"
        "COMMIT\n"
    )
    assert Change().text() == ""


SAVED = """\
*mangle
:PREROUTING ACCEPT [0:0]
:UPROXY_HANDOFF - [0:0]
:UPROXY-GUARD - [0:0]
-A PREROUTING -j UPROXY-GUARD
-A PREROUTING -m conntrack --ctstate NEW -j UPROXY_HANDOFF
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:UPROXY_H7 - [0:0]
:UPROXY_HANDOFF - [0:0]
:UPROXY_HANDOFF_BACK - [0:0]
-A PREROUTING -m mark --mark 0x3070 -j UPROXY_HANDOFF
-A UPROXY_HANDOFF -d 172.30.0.1/32 -p tcp -m tcp --dport 80 -j UPROXY_H7
-A UPROXY_HANDOFF_BACK -m comment --comment "accounting before: 0" -j MASQUERADE
COMMIT
"""


def test_what_any_run_has_left_goes_and_nothing_else() -> None:
    assert render_removal(SAVED, TABLES, PREFIX) == (
        "*mangle\n-D PREROUTING -m conntrack --ctstate NEW -j UPROXY_HANDOFF\n"
        "-F UPROXY_HANDOFF\n-X UPROXY_HANDOFF\nCOMMIT\n"
        "*nat\n-D PREROUTING -m mark --mark 0x3070 -j UPROXY_HANDOFF\n"
        "-F UPROXY_H7\n-F UPROXY_HANDOFF\n-F UPROXY_HANDOFF_BACK\n"
        "-X UPROXY_H7\n-X UPROXY_HANDOFF\n-X UPROXY_HANDOFF_BACK\nCOMMIT\n"
    )
    assert render_removal("", TABLES, PREFIX) == ""


def test_the_constant_part_takes_the_place_of_an_older_one() -> None:
    text = render_begin(SAVED, accounting_before=True)
    assert text.startswith(render_removal(SAVED, TABLES, PREFIX).partition("COMMIT")[0])
    assert text.endswith(
        "-I PREROUTING -m mark --mark 0x3070 -j UPROXY_HANDOFF\n"
        "-I OUTPUT -m mark --mark 0x3070 -j UPROXY_HANDOFF\n"
        "-I POSTROUTING -m mark --mark 0x3070 -m conntrack --ctstate DNAT -j UPROXY_HANDOFF_BACK\n"
        '-A UPROXY_HANDOFF_BACK -m comment --comment "accounting before: 1" -j MASQUERADE\n'
        "COMMIT\n"
    )


def test_what_accounting_was_is_read_back() -> None:
    assert accounting.before(SAVED) is False
    assert accounting.before(render_begin("", accounting_before=True)) is True
    assert accounting.before("") is None
