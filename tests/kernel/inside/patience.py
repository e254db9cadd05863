"""A plugin for pytest, inside: to start a program takes seconds there, and a proxy starts a dozen."""

import sys
from collections.abc import Iterator

import pytest

PATIENCE_S = 300.0


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Whoever of the tests waits for something waits so long."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("tests.") and hasattr(module, "PATIENCE_S"):
                patch.setattr(module, "PATIENCE_S", PATIENCE_S)
        yield
