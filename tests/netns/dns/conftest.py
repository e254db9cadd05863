"""A DNS server in the node's namespace, as a program of its own, and hosts whose resolv.conf names it."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from uproxy.kit.lab import Host, Lab

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@contextmanager
def dns_server(host: Host, *listen: str, upstream: str = "127.0.0.1:9") -> Iterator[dict]:
    """Run `tests/netns/dns/serve.py` in a namespace; yields what it says of itself when it is ready."""
    process = host.exec(
        *(sys.executable, "-m", "tests.netns.dns.serve", upstream, *listen),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    assert line, "the server ended"
    try:
        yield json.loads(line)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


@contextmanager
def resolv_conf(host: Host, text: str) -> Iterator[None]:
    """Let programs that `ip netns exec` starts in this namespace see `text` as /etc/resolv.conf."""
    folder = Path("/etc/netns", host.name)
    folder.mkdir(parents=True)
    try:
        Path(folder, "resolv.conf").write_text(text)
        yield
    finally:
        Path(folder, "resolv.conf").unlink()
        folder.rmdir()
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
