"""What goes to nf_tables by netlink, as `nft` prints it; and what the kernel refuses."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address
from typing import TypeVar

import pytest

from tests.netns.kernel_state import nft_generation
from uproxy.errors import CommandFailed
from uproxy.handoff.nft_chains import SETS, TABLE
from uproxy.handoff.nftables import NftablesHandoff
from uproxy.handoff.plan import KernelPort, KernelVip
from uproxy.kernel.conntrack import Conntrack
from uproxy.kernel.nft import ElementRefused, NftNetlink
from uproxy.kernel.nft_commands import AddChain, AddElements, DeleteElements, FlushChain
from uproxy.kernel.nft_messages import Element
from uproxy.kit.lab import Host, Lab
from uproxy.model.frontend import Backend
from uproxy.model.names import IPAddress, Protocol, ServicePortName, Vip

T = TypeVar("T")
NAME = ServicePortName("default", "web", "web", Protocol.TCP)
VIPS = [Vip(ip_address(ip), 80, Protocol.TCP) for ip in ("172.30.0.1", "fd00::1", "0.0.0.0")]


@pytest.fixture
def node() -> Iterator[Host]:
    with Lab() as lab:
        yield lab.node


def web(count: int, timeout_s: int | None = None) -> KernelPort:
    def pods(ip: IPAddress) -> tuple[Backend, ...]:
        base = ip_address("10.244.0.10" if ip.version == 4 else "fd00:10::10")
        return tuple(Backend(base + number, 8080) for number in range(count))

    return KernelPort(NAME, tuple(KernelVip(vip, its := pods(vip.ip), its) for vip in VIPS), timeout_s)


def printed(node: Host) -> str:
    return node.run("nft", "list", "table", "inet", "uproxy-handoff").stdout


def handed(node: Host, *versions: KernelPort, then: Callable[[], T]) -> T:
    """What `then` returns while these are programmed, one after the other."""

    async def program() -> T:
        mechanism = NftablesHandoff(Conntrack())
        await mechanism.begin([])
        try:
            for version in versions:
                await mechanism.put([version])
            return then()
        finally:
            await mechanism.close()

    return node.inside(lambda: asyncio.run(program()))


def test_nft_prints_what_came_by_netlink(node: Host) -> None:
    text = handed(node, web(1), web(2), then=lambda: printed(node))
    for words in (
        "0 : 10.244.0.10 . 8080",
        "1 : fd00:10::11 . 8080",
        "172.30.0.1 . tcp . 80 : goto s1",
        "tcp . 80 : goto s3",
        "172.30.0.1 . 80 . 10.244.0.11 . 8080 counter packets 0 bytes 0",
        "meta l4proto tcp dnat ip to numgen inc mod 2 map @s1",
        "meta l4proto tcp dnat ip6 to numgen inc mod 2 map @s2",
    ):
        assert words in text, text


@pytest.mark.parametrize("timeout_s", [None, 300])
def test_what_nft_prints_can_be_loaded_again(node: Host, timeout_s: int | None) -> None:
    text = handed(node, web(3, timeout_s), then=lambda: printed(node))
    if timeout_s is None:
        assert "typeof numgen inc mod 65535 : ip6 daddr . tcp dport" in text
    node.run("nft", "-f", "-", input=text)
    assert printed(node) == text


def test_nft_prints_affinity_that_came_by_netlink(node: Host) -> None:
    text = handed(node, web(2), web(2, 300), web(1, 300), then=lambda: printed(node))
    for words in (
        "timeout 5m",
        "ip saddr @s4_10.244.0.10_8080 goto s4_10.244.0.10_8080",
        "update @s4_10.244.0.10_8080 { ip saddr }",
        "meta l4proto tcp dnat ip to 10.244.0.10:8080",
        "meta l4proto tcp dnat ip6 to [fd00:10::10]:8080",
        "numgen inc mod 1 vmap { 0 : goto s4_10.244.0.10_8080 }",
    ):
        assert words in text, text
    assert "10.244.0.11_8080" not in text
    assert "chain s1 " not in text


def test_a_refusal_names_the_message_and_changes_nothing(node: Host) -> None:
    def refused() -> None:
        before = printed(node)
        commands = [AddChain(TABLE, "more"), FlushChain(TABLE, "none"), AddChain(TABLE, "another")]
        with closing(NftNetlink()) as link, pytest.raises(CommandFailed) as caught:
            link.commit(commands)
        assert str(caught.value) == "nf_tables: rules of chain none: No such file or directory"
        assert printed(node) == before

    handed(node, web(1), then=refused)


def test_more_refusals_than_a_socket_holds_are_a_refusal(node: Host) -> None:
    def refused() -> str:
        with closing(NftNetlink()) as link:
            with pytest.raises(CommandFailed):
                link.commit([FlushChain(TABLE, "none")] * 2000)
            link.commit([AddChain(TABLE, "more")])
        return printed(node)

    assert "chain more" in handed(node, web(1), then=refused)


def test_of_thousands_of_elements_the_one_that_is_wrong_is_named(node: Host) -> None:
    its = [Element(number.to_bytes(8, "big")) for number in range(5000)]

    def refused() -> None:
        here = SETS["here4"]
        with closing(NftNetlink()) as link:
            link.commit([AddElements(TABLE, here, its[:4000] + its[4001:])])
            with pytest.raises(ElementRefused) as caught:
                link.commit([DeleteElements(TABLE, here, its)])
        assert (caught.value.set_name, caught.value.key) == ("here4", its[4000].key)
        assert str(caught.value) == (
            "nf_tables: element 0.0.0.0 . 0.0.15.160 of here4: No such file or directory"
        )

    handed(node, then=refused)


def test_what_is_only_checked_is_not_there(node: Host) -> None:
    def check() -> None:
        before, generation = printed(node), nft_generation(node)
        with closing(NftNetlink()) as link:
            link.check([AddChain(TABLE, "more")])
            with pytest.raises(CommandFailed, match="rules of chain none"):
                link.check([FlushChain(TABLE, "none")])
        assert printed(node) == before
        assert nft_generation(node) == generation

    handed(node, then=check)


def test_a_thousand_elements_are_counted(node: Host) -> None:
    keys = [number.to_bytes(16, "big") for number in range(1000)]

    def count() -> list[bytes]:
        with closing(NftNetlink()) as link:
            link.commit([AddElements(TABLE, SETS["new_tcp4"], [Element(key) for key in keys])])
            found = link.counters(TABLE, "new_tcp4", 16)
        assert {its.packets for its in found} == {0}
        # Of a set that grows meanwhile the kernel may tell one twice.
        return sorted({its.key for its in found})

    assert handed(node, then=count) == keys


def test_counts_begin_at_nothing(node: Host) -> None:
    async def count() -> None:
        mechanism = NftablesHandoff(Conntrack())
        await mechanism.begin([])
        await mechanism.put([web(2)])
        found = (await mechanism.look()).counts
        await mechanism.close()
        assert found == {}

    node.inside(lambda: asyncio.run(count()))


def test_what_two_have_stays_when_one_gives_it_up(node: Host) -> None:
    """A port that is renamed: the new name comes, the old one goes, and counts no longer."""

    async def program() -> tuple[str, str]:
        mechanism = NftablesHandoff(Conntrack())
        await mechanism.begin([])
        try:
            await mechanism.put([web(2)])
            renamed = replace(web(2), name=NAME._replace(port="http"))
            await mechanism.take([NAME])
            await mechanism.put([renamed])
            before = printed(node)
            await mechanism.look()
            await mechanism.tend()
            return before, printed(node)
        finally:
            await mechanism.close()

    before, after = node.inside(lambda: asyncio.run(program()))
    assert "172.30.0.1 . 80 . 10.244.0.11 . 8080 counter" in after
    assert after == before
