import socket

import pytest
import pytest_asyncio

from tests.loop.rig import Rig
from uproxy.dataplane.relay.native_relay import engine_or_reason

RELAYS = ("python", "native-1", "native-2")
"""Every relay, and how many threads it has: each test of the relay runs on all."""


@pytest.fixture(params=RELAYS)
def relay(request) -> str:
    """The name of a relay, for `Rig`."""
    reason = engine_or_reason() if request.param != "python" else None
    if reason is not None:
        pytest.skip(f"no native relay: {reason}")
    return request.param


@pytest_asyncio.fixture
async def rig(relay):
    made = Rig(relay)
    yield made
    await made.close()


def free_port(ip: str = "127.0.0.1", kind: int = socket.SOCK_STREAM) -> int:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, kind) as probe:
        probe.bind((ip, 0))
        return probe.getsockname()[1]
