"""Running `uproxy` as an ordinary user, whoever runs pytest."""

import os
import shutil

import pytest
import pytest_asyncio

from uproxy.kit.commands import run

POWERLESS = ("setpriv", "--securebits=+noroot", "--inh-caps=-all", "--bounding-set=-all")
"""Runs a program without a single capability. Another user might not reach root's files."""


@pytest_asyncio.fixture
async def prefix() -> tuple[str, ...]:
    """What makes a program run without privileges; nothing when pytest already does."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed (apt-get install util-linux)")
    done = await run(*POWERLESS, "true")
    if done.status:
        pytest.skip(f"privileges cannot be given up here: {done.stderr.strip()}")
    return POWERLESS
