"""Tier `cluster`: the Kubernetes source against a stand-in API server, over TLS on loopback."""

import asyncio

import pytest
import pytest_asyncio

from tests.cluster.api_server import ApiServer
from tests.cluster.certificates import MISSING, Authority
from tests.cluster.follower import Follower
from uproxy.sources.kubernetes.access import Access


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if MISSING and "/cluster/" in str(item.path):
            item.add_marker(pytest.mark.skip(reason=f"tier cluster left out: {MISSING}"))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A directory with an authority and a server's certificate."""
    directory = tmp_path_factory.mktemp("authority")
    asyncio.run(Authority(directory).make())
    return directory


@pytest_asyncio.fixture
async def server(certificates):
    made = ApiServer(certificates)
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def follow(server, tmp_path):
    """Starts a source with a token; returns the Follower."""
    made = []

    def start(**options) -> Follower:
        kubeconfig = server.token_kubeconfig(tmp_path / "kubeconfig", tmp_path / "token")
        made.append(Follower(Access(str(kubeconfig)), **options))
        made[-1].start()
        return made[-1]

    yield start
    for follower in made:
        await follower.stop()
