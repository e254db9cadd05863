from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.netns.e2e.stage import CAPTURES, Capture, Stage
from uproxy.kit.lab import Lab


@pytest.fixture(params=CAPTURES, ids=lambda capture: capture.name)
def capture(request: pytest.FixtureRequest) -> Capture:
    found: Capture = request.param
    return found


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        for host in lab.hosts:
            # Or a test that polls for "port unreachable" is told so once a second.
            host.sysctl("net.ipv4.icmp_ratelimit", 0)
            host.sysctl("net.ipv6.icmp.ratelimit", 0)
        yield lab


@pytest_asyncio.fixture
async def stage(lab: Lab, capture: Capture, tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(lab, capture, tmp_path)
    for pod in stage.pods:
        await pod.listen_tcp()
        pod.listen_udp()
    yield stage
    for pod in stage.pods:
        pod.kill()
