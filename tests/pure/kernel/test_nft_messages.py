"""Bytes that libnftables 1.0.6 sends for the same (`nft --debug=mnl`), but for the order of attributes;
and which messages a change takes."""

import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest

from uproxy.handoff.nft_batch import Batch, Counter, Leg, counter, counters, dispatch, legs
from uproxy.handoff.nft_chains import SETS, TABLE
from uproxy.handoff.plan import KernelPort, KernelVip
from uproxy.kernel.conntrack_messages import Translated
from uproxy.kernel.nft_commands import AddElements, AddRule, AddSet, Command, rendered
from uproxy.kernel.nft_expressions import numgen
from uproxy.kernel.nft_messages import Element, Verdict, encode
from uproxy.kernel.nft_statements import Queue, VerdictTurns
from uproxy.kernel.nft_table import Set, rule
from uproxy.kernel.nft_types import IPV4_ADDR
from uproxy.model.affinity import Pinned
from uproxy.model.frontend import Backend
from uproxy.model.names import Protocol, ServicePortName, Vip

pytestmark = pytest.mark.skipif(struct.pack("=H", 1) != b"\1\0", reason="the golden bytes are little-endian")
VIP4 = Vip(ip_address("172.30.0.1"), 80, Protocol.TCP)
VIP6 = Vip(ip_address("fd00::1"), 80, Protocol.TCP)
NODE = Vip(ip_address("0.0.0.0"), 30080, Protocol.TCP)
PODS = tuple(Backend(ip_address(f"10.244.0.{number}"), 8080) for number in (1, 2))
NAME = ServicePortName("default", "web", "web", Protocol.TCP)
IN_TABLE = "13000100" + b"uproxy-handoff\0".hex() + "00"


def hexed(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def bodies(*commands: Command) -> list[bytes]:
    return [message.body for _, message in rendered(commands)]


@pytest.mark.parametrize(
    ("vip", "expected"),
    [
        pytest.param(
            VIP4,
            "30000180 14000180 10000100 ac1e0001 06000000 00500000"
            "18000280 14000280 08000100 fffffffc 07000200 73310000",
            id="IPv4",
        ),
        pytest.param(
            NODE,
            "2c000180 10000180 0c000100 06000000 75800000"
            "18000280 14000280 08000100 fffffffc 07000200 73310000",
            id="NodePort",
        ),
        pytest.param(
            VIP6,
            "3c000180 20000180 1c000100 fd000000 00000000 00000000 00000001 06000000 00500000"
            "18000280 14000280 08000100 fffffffc 07000200 73310000",
            id="IPv6",
        ),
    ],
)
def test_an_address_leads_to_its_chain(vip: Vip, expected: str) -> None:
    _, key = dispatch("services", vip)
    assert encode(Element(key, leads_to=Verdict("goto", "s1"))) == hexed(expected)


def test_elements_that_count() -> None:
    its = [Element(counter(VIP4, pod).key) for pod in PODS]
    (body,) = bodies(AddElements(TABLE, SETS["new_tcp4"], its))
    assert body == hexed(
        IN_TABLE + "0d000200 6e65775f 74637034 00000000 3c000380"
        "1c000180 18000180 14000100 ac1e0001 00500000 0af40001 1f900000"
        "1c000180 18000180 14000100 ac1e0001 00500000 0af40002 1f900000"
    )


def test_a_rule_that_turns_comes_with_a_map_without_a_name() -> None:
    made, filled, turns = bodies(AddRule(TABLE, "s1", rule(VerdictTurns(numgen(2), ("a", "b")))))
    assert made == hexed(
        IN_TABLE + "0c000200 5f5f6d61 70256400 08000a00 00000001 08000300 0000000b 08000400 00000004"
        "08000500 00000004 08000600 ffffff00 08000700 00000000 0a000d00 00040100 00000000"
        "0c000980 08000100 00000002"
    )
    assert filled == hexed(
        IN_TABLE + "0c000200 5f5f6d61 70256400 08000400 00000001 54000380"
        "28000180 0c000180 08000100 00000000 18000280 14000280 08000100 fffffffc 06000200 61000000"
        "28000180 0c000180 08000100 01000000 18000280 14000280 08000100 fffffffc 06000200 62000000"
    )
    assert turns == hexed(
        IN_TABLE + "07000200 73310000 70000480"
        "34000180 0b000100 6e756d67 656e0000 24000280"
        "08000100 00000001 08000200 00000002 08000300 00000000 08000400 00000000"
        "38000180 0b000100 6c6f6f6b 75700000 28000280"
        "08000200 00000001 08000300 00000000 08000400 00000001 0c000100 5f5f6d61 70256400"
    )


def test_clients_are_forgotten_by_a_set() -> None:
    its = Set("c", (IPV4_ADDR,), timeout_s=300, most=65536)
    (body,) = bodies(AddSet(TABLE, its))
    assert body == hexed(
        IN_TABLE + "06000200 63000000 08000a00 00000001 08000300 00000030 08000400 00000007 08000500 00000004"
        "0c000b00 00000000 000493e0 0c000980 08000100 00010000 0a000d00 00040200 00000000"
    )


def test_a_queue() -> None:
    """What nft 1.0.6 sends for `queue flags bypass to 5`."""
    (body,) = bodies(AddRule(TABLE, "s1", rule(Queue(5))))
    assert body.endswith(
        hexed(
            "2c000180 0a000100 71756575 65000000 1c000280"
            "06000100 00050000 06000200 00010000 06000300 00010000"
        )
    )


def test_more_elements_than_an_attribute_holds_are_several_messages() -> None:
    its = [Element(number.to_bytes(16, "big")) for number in range(5000)]
    found = bodies(AddElements(TABLE, SETS["new_tcp4"], its))
    assert len(found) == 3
    assert all(len(body) < 0x10000 + 64 for body in found)
    assert sum(body.count(encode(its[0])[:12]) for body in found) == 5000


def words(batch: Batch) -> list[str]:
    return [command.words for command in batch.commands()]


def port(*backends: Backend, inside: tuple[Backend, ...] | None = None) -> KernelPort:
    return KernelPort(NAME, (KernelVip(VIP4, backends, inside or backends),))


def test_another_endpoint_in_the_place_of_one_changes_no_rule() -> None:
    """A new rule has the kernel look at the whole table."""
    other = Backend(ip_address("10.244.0.9"), 8080)
    (before, _), (now, _) = (*legs(port(*PODS)), *legs(port(PODS[0], other)))
    batch = Batch()
    batch.chain("s1", now, before)
    assert words(batch) == ["deleted elements of s1", "elements of s1"]


def test_one_endpoint_more_changes_its_rule_and_no_other_element() -> None:
    more = Backend(ip_address("10.244.0.9"), 8080)
    (before, _), (now, _) = (*legs(port(*PODS)), *legs(port(*PODS, more)))
    batch = Batch()
    batch.chain("s1", now, before)
    assert words(batch) == [
        "rules of chain s1",
        "rule of chain s1: meta l4proto tcp dnat ip to numgen inc mod 3 map @s1",
        "elements of s1",
    ]


def test_what_goes_is_taken_apart_from_its_references_on() -> None:
    ((its, kind),) = legs(port(*PODS))
    batch = Batch()
    batch.remove("s1", its)
    batch.lead({dispatch(kind, VIP4): ("s1", None)})
    assert words(batch) == [
        "deleted elements of ahead4",
        "rules of chain s1",
        "end of chain s1",
        "end of map s1",
    ]


def test_a_client_is_remembered_by_the_endpoint_that_had_it_last_and_for_what_is_left() -> None:
    ((its, _),) = legs(replace(port(*PODS), affinity_timeout_s=100))
    batch = Batch()
    batch.chain("s1", its, None)
    elsewhere = Backend(ip_address("10.244.0.9"), 8080)
    named = [
        Pinned("192.0.2.1", PODS[0], 40.0),
        Pinned("192.0.2.1", PODS[1], 39.75),
        Pinned("192.0.2.2", PODS[1], 100.0),
        Pinned("192.0.2.3", elsewhere, 0.0),
    ]
    batch.pin("s1", its, named)
    assert words(batch)[-1] == "elements of s1_10.244.0.2_8080"
    assert bodies(*batch.commands())[-1].endswith(
        hexed("20000380 1c000180 0c000180 08000100 c0000201 0c000500 00000000 0000eb5a")
    )


def test_clients_inside_have_a_way_of_their_own_only_where_it_differs() -> None:
    assert [kind for _, kind in legs(port(*PODS))] == ["ahead"]
    found = list(legs(port(PODS[0], inside=PODS)))
    assert found == [
        (Leg(VIP4, False, PODS[:1], None), "services"),
        (Leg(VIP4, True, PODS, None), "inside"),
    ]


def test_who_has_to_be_asked_for_first_is_not_looked_up_ahead() -> None:
    vips = KernelVip(VIP4, PODS, PODS, guarded=True), KernelVip(NODE, PODS, PODS)
    assert [kind for _, kind in legs(KernelPort(NAME, vips))] == ["services", "services"]


def test_a_connection_is_counted_by_its_address_or_as_a_node_ports() -> None:
    flow = Translated(Protocol.TCP, ip_address("192.168.0.1"), 30080, PODS[0])
    by_address, by_port = counters(flow)
    assert by_address.suffix == "tcp4"
    assert by_port == Counter("tcp4_node", hexed("75800000 0af40001 1f900000"))
    assert by_port == counter(NODE, PODS[0])
