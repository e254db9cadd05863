"""Tiers: a test's directory is its tier, and a tier that cannot run says why.

`pure` needs nothing; `loop` needs loopback sockets; `netns` needs root and network namespaces; `kernel`
needs a kernel of its own: in QEMU, or user-mode-linux.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from hypothesis import settings

from tests.gvisor.sandbox import reason_unavailable as no_gvisor
from tests.missing_packages import missing_packages, no_uml, no_vm
from uproxy.kit.lab import reason_unavailable

HERE = Path(__file__).parent

# No test is about time: a machine that is busy is no fault of ours.
settings.register_profile("uproxy", deadline=None)
settings.load_profile("uproxy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--inside", metavar="EXPRESSION", help="as -k, of the tests that the tier kernel runs inside"
    )


def pytest_asyncio_loop_factories(config, item) -> Mapping[str, Callable]:
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tiers = {_tier(item) for item in items}
    reasons = {tier: _left_out[tier]() for tier in tiers & _left_out.keys()}
    for item in items:
        tier = _tier(item)
        item.add_marker(tier)
        if reason := reasons.get(tier):
            item.add_marker(pytest.mark.skip(reason=f"tier {tier} left out: {reason}"))


def _no_netns() -> str | None:
    """Why there are no real packets here; None where there are."""
    missing = missing_packages()
    return f"apt-get install -y {' '.join(missing)}" if missing else reason_unavailable()


def _no_kernel() -> str | None:
    """Why no kernel can be booted here; None where one may be, as a test that boots it finds out."""
    return no_vm() if no_uml() else None


_left_out: dict[str, Callable[[], str | None]] = {
    "netns": _no_netns,
    "kernel": _no_kernel,
    "gvisor": no_gvisor,
}


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Have a line printed at the end of the run, whatever becomes of the test."""
    return lambda line: request.node.user_properties.append(("told", line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for kind, line in report.user_properties:
                if kind == "told" and report.when == "call":
                    terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {line}")


def _tier(item: pytest.Item) -> str:
    return item.path.relative_to(HERE).parts[0]
