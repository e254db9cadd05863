"""Tiers: a test's directory is its tier, and a tier that cannot run says why.

`pure` needs nothing; `loop` needs loopback sockets; `netns` needs root and network namespaces.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from hypothesis import settings

from tests.missing_packages import missing_packages
from uproxy.kit.lab import reason_unavailable

HERE = Path(__file__).parent

# No test is about time: a machine that is busy is no fault of ours.
settings.register_profile("uproxy", deadline=None)
settings.load_profile("uproxy")


def pytest_asyncio_loop_factories(config, item) -> Mapping[str, Callable]:
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    no_netns = _no_netns() if any(_tier(item) == "netns" for item in items) else None
    for item in items:
        tier = _tier(item)
        item.add_marker(tier)
        if tier == "netns" and no_netns:
            item.add_marker(pytest.mark.skip(reason=f"tier netns left out: {no_netns}"))


def _no_netns() -> str | None:
    """Why there are no real packets here; None where there are."""
    missing = missing_packages()
    return f"apt-get install {' '.join(missing)}" if missing else reason_unavailable()


def _tier(item: pytest.Item) -> str:
    return item.path.relative_to(HERE).parts[0]
