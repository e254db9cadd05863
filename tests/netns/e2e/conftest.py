from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.netns.e2e.servers import Greeter
from tests.netns.e2e.stage import WAYS, Stage, Way
from uproxy.dataplane.relay.native_relay import engine_or_reason
from uproxy.kit.lab import Lab


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    reason = None if found.by_python else engine_or_reason()
    if reason is not None:
        pytest.skip(f"no native relay: {reason}")
    return found


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        for host in lab.hosts:
            # Or a test that polls for "port unreachable" is told so once a second.
            host.sysctl("net.ipv4.icmp_ratelimit", 0)
            host.sysctl("net.ipv6.icmp.ratelimit", 0)
        yield lab


@pytest.fixture
def greeter() -> type[Greeter]:
    return Greeter


@pytest_asyncio.fixture
async def stage(lab: Lab, way: Way, tmp_path: Path, greeter: type[Greeter]) -> AsyncIterator[Stage]:
    stage = Stage(lab, way, tmp_path, greeter)
    for pod in stage.pods:
        await pod.listen_tcp()
        pod.listen_udp()
    yield stage
    for pod in stage.pods:
        pod.kill()
