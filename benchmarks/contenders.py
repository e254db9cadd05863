"""The ways from the client to the pod that relay.py compares, each as a context manager.

Owns which configurations are fair to compare; how they are started is proxies.py's business.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import manifests, proxies
from benchmarks.load import DISCARD_PORT, ECHO_PORT
from benchmarks.proxies import Forward
from uproxy.kit.lab import Lab

VIP = "10.96.0.10"
VIP_PORT = 80


@dataclass(frozen=True, slots=True)
class Address:
    """Where the client finds the echo port; the discard port is right above it."""

    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to the pod. `missing` is the Debian package that this machine lacks for it."""

    name: str
    up: Callable[[Lab], AbstractContextManager[Address]]
    missing: str | None = None


def contenders() -> list[Contender]:
    """Everything that can be compared, in the order of the report."""
    return [
        Contender("direct", _direct),
        Contender("haproxy", lambda lab: _haproxy(lab, tuned=False), _package("haproxy")),
        Contender("haproxy-tuned", lambda lab: _haproxy(lab, tuned=True), _package("haproxy")),
        Contender("nginx", _nginx, _package("nginx") or _stream_module_package()),
        Contender("dnat", _dnat, _package("nft", "nftables")),
        Contender("uproxy-bind", lambda lab: _uproxy(lab, "bind")),
        Contender("uproxy-redirect", lambda lab: _uproxy(lab, "redirect")),
    ]


def _package(program: str, package: str = "") -> str | None:
    return None if shutil.which(program) else package or program


def _stream_module_package() -> str | None:
    return None if proxies.NGINX_STREAM_MODULE.exists() else "libnginx-mod-stream"


def _forwards(lab: Lab, listen: int) -> list[Forward]:
    pod = lab.pods[0].ip4
    return [Forward(listen, pod, ECHO_PORT), Forward(listen + 1, pod, DISCARD_PORT)]


@contextmanager
def _direct(lab: Lab) -> Iterator[Address]:
    yield Address(lab.pods[0].ip4, ECHO_PORT)


@contextmanager
def _haproxy(lab: Lab, *, tuned: bool) -> Iterator[Address]:
    with proxies.haproxy(lab.node, _forwards(lab, ECHO_PORT), tuned=tuned):
        yield Address(lab.node.ip4, ECHO_PORT)


@contextmanager
def _nginx(lab: Lab) -> Iterator[Address]:
    with proxies.nginx(lab.node, _forwards(lab, ECHO_PORT)):
        yield Address(lab.node.ip4, ECHO_PORT)


@contextmanager
def _dnat(lab: Lab) -> Iterator[Address]:
    with proxies.dnat(lab.node, VIP, _forwards(lab, VIP_PORT)):
        yield Address(VIP, VIP_PORT)


@contextmanager
def _uproxy(lab: Lab, capture: str) -> Iterator[Address]:
    objects = [
        manifests.service("load", VIP, {"echo": VIP_PORT, "discard": VIP_PORT + 1}),
        manifests.endpoint_slice("load", [lab.pods[0].ip4], {"echo": ECHO_PORT, "discard": DISCARD_PORT}),
    ]
    with TemporaryDirectory() as directory:
        manifest = Path(directory, "load.json")
        manifest.write_text(json.dumps(manifests.as_list(objects)))
        with proxies.uproxy(lab.node, manifest, capture):
            yield Address(VIP, VIP_PORT)
