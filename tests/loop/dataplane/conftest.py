import pytest_asyncio

from tests.loop import rig


@pytest_asyncio.fixture(autouse=True)
async def close_what_a_failed_test_left():
    """Else the event loop would wait for it when it is closed, and the test run with it."""
    yield
    for left in list(rig.OPEN):
        await left.close()
