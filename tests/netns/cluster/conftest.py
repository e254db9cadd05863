import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster.certificates import MISSING, Authority
from tests.netns.cluster.nodes import TwoNodes
from tests.netns.cluster.world import World, world
from tests.netns.e2e.stage import Way, way
from uproxy.dataplane.relay.native_relay import engine_or_reason
from uproxy.kit.lab import Lab

WAYS = [
    way("redirect-nft", "native-2"),
    way("bind", "native-2"),
    way("tproxy", "native-2"),
    way("tproxy", "python"),
]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the API server's certificate."""
    if MISSING:
        pytest.skip(MISSING)
    directory = tmp_path_factory.mktemp("authority")
    asyncio.run(Authority(directory).make())
    return directory


@pytest.fixture(params=WAYS, ids=str)
def captured(request: pytest.FixtureRequest) -> Way:
    """How the proxies of a test capture and relay."""
    found: Way = request.param
    if not found.by_python and (reason := engine_or_reason()):
        pytest.skip(f"no native relay: {reason}")
    return found


@pytest_asyncio.fixture
async def two_nodes(captured: Way, tmp_path: Path, authority: Path) -> AsyncIterator[World]:
    """A world of two nodes whose pods answer."""
    with TwoNodes() as lab, world(_quick(lab), captured, tmp_path, authority) as made:
        await made.listen()
        yield made


@pytest_asyncio.fixture
async def one_node(captured: Way, tmp_path: Path, authority: Path) -> AsyncIterator[World]:
    """A world of one node with three pods, which answer."""
    with Lab(node_default_route=True) as lab, world(_quick(lab), captured, tmp_path, authority) as made:
        await made.listen()
        yield made


def _quick(lab: Lab) -> Lab:
    """Have a "port unreachable" sent for every datagram, and not once a second."""
    for host in lab.hosts:
        host.sysctl("net.ipv4.icmp_ratelimit", 0)
        host.sysctl("net.ipv6.icmp.ratelimit", 0)
    return lab
