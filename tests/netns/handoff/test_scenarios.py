"""Every scenario with every Service in the kernel that may be there: packets go where they should."""

from pathlib import Path

import pytest

from tests.manifests import Manifest
from tests.netns.e2e.stage import Way, way
from tests.netns.e2e.test_scenarios import astray, staged
from tests.netns.handoff.test_moves import by
from tests.scenario import NODE, node_object

WAYS = [
    pytest.param("nftables", way("redirect-nft", "native-2"), id="nftables-redirect-nft"),
    pytest.param("nftables", way("bind", "native-2"), id="nftables-bind"),
    pytest.param("iptables", way("redirect-nft", "native-2"), id="iptables-redirect-nft"),
    pytest.param("iptables", way("redirect-iptables", "native-2"), id="iptables-redirect-iptables"),
    pytest.param("iptables", way("bind", "native-2"), id="iptables-bind"),
]


def handed(objects: list[Manifest]) -> list[Manifest]:
    """All Services with the annotation."""
    for thing in objects:
        if thing["kind"] == "Service":
            thing["metadata"].setdefault("annotations", {})["uproxy.dev/handoff"] = "always"
    return objects


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("mechanism", "chosen"), WAYS)
async def test_packets_go_where_they_should(mechanism: str, chosen: Way, tmp_path: Path) -> None:
    async with (
        staged(chosen, tmp_path) as stage,
        stage.proxy([node_object()], "--hostname-override", NODE, *by(mechanism)) as proxy,
    ):
        for number, _ in enumerate(stage.pods, 1):
            # With br_netfilter a bridge gives a Pod what it has sent itself only so; CNI plugins see to it.
            stage.node.run("ip", "link", "set", f"pod{number}", "type", "bridge_slave", "hairpin", "on")
        misses = await astray(stage, proxy, handed)
        rows = await proxy.services()
    assert not misses, "\n".join(misses)
    assert sum(row["path"] == mechanism for row in rows) > len(rows) / 2
