import socket

import pytest_asyncio

from tests.loop.rig import Rig


@pytest_asyncio.fixture
async def rig():
    made = Rig()
    yield made
    await made.close()


def free_port(ip: str = "127.0.0.1", kind: int = socket.SOCK_STREAM) -> int:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, kind) as probe:
        probe.bind((ip, 0))
        return probe.getsockname()[1]
