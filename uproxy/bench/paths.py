"""The ways from a client to its pods that can be built here, each as a context manager.

Owns which there are, and why this machine lacks some. Each path offers the same two addresses:
one leads to the first pod alone, for speed (as many servers work as on the direct path), the
other to all pods in turns, for how they are chosen.

    direct              the client calls the pod, routed by the node
    uproxy-bind         uproxy listens on the VIP
    uproxy-redirect     the kernel redirects the VIP to uproxy
    uproxy-*-python     the same with the Python relay, where the native one is the default
    uproxy-nftables     uproxy redirects, and has handed the Service to the kernel
    kernel-dnat         nftables alone, with rules of kube-proxy's kind
    haproxy, haproxy-tuned, nginx    on request, one thread each
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from tempfile import TemporaryDirectory

from uproxy.bench import peers
from uproxy.bench.manifests import NODE_NAME, Manifests
from uproxy.bench.peers import Forward
from uproxy.bench.programs import Program, http_get, running
from uproxy.bench.results import DIRECT
from uproxy.bench.sites import VIP_PORT, Pod, Site, accepts, free_port, program
from uproxy.errors import CommandFailed
from uproxy.kit.commands import find_program

SERVICES = 2
"""Programmed on every path: to one pod, and to all."""
PEERS = ("haproxy", "nginx")
"""What `--peers` may name."""

_READY_TIMEOUT_S = 180.0
_OTHER_PORT = 80


@dataclass(frozen=True, slots=True)
class Address:
    """Where a client finds a server."""

    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Built:
    """A path whose programs have been started."""

    one: Address
    """Leads to the first pod."""
    all: Address | None = None
    """Leads to all pods in turns; None where nothing chooses."""
    proxy: Program | None = None
    carries: bool = True
    """Whether traffic passes through `proxy`, which then has a CPU of its own."""
    wait_ready: Callable[[], None] = lambda: None
    """Returns when connections are taken; raises CommandFailed."""
    set_pods: Callable[[Sequence[Pod]], None] | None = None
    """Gives the Service at `all` other pods; None where an operator would restart something."""


Build = Callable[[Site, int], AbstractContextManager[Built]]
"""The number is how many Services more are programmed, that nobody uses."""


@dataclass(frozen=True, slots=True)
class TrafficPath:
    """One way to the pods. `missing` says in words why this machine has it not."""

    name: str
    build: Build
    program: str | None = None
    """What carries it; None where the kernel alone does."""
    carries_udp: bool = True
    churns: bool = False
    """Whether endpoints can change while it runs."""
    is_second_relay: bool = False
    """uproxy with a relay that is not its default; all but the relay is as on another path."""
    missing: str | None = None


def known_paths(wanted_peers: Sequence[str], no_lab: str | None, relay: str) -> list[TrafficPath]:
    """All paths, in the order of the report.

    `no_lab` is why there are no namespaces, None where there are; `relay` is what uproxy runs
    by default, native or python.
    """
    captures = ("bind", "redirect")
    found = [TrafficPath(DIRECT, _direct)]
    found += [_uproxy_path(capture, "", no_lab, relay) for capture in captures]
    if relay != "python":
        found += [_uproxy_path(capture, "python", no_lab, relay) for capture in captures]
    no_nft = no_lab or _not_installed("nft", "nftables")
    handed = partial(_uproxy, flags=("--capture", "redirect", "--handoff", "nftables"), in_kernel=True)
    found.append(TrafficPath("uproxy-nftables", handed, churns=True, missing=no_nft))
    found.append(TrafficPath("kernel-dnat", _kernel_dnat, churns=True, missing=no_nft))
    if "haproxy" in wanted_peers:
        missing = _not_installed("haproxy", "haproxy")
        for name, tuned in (("haproxy", False), ("haproxy-tuned", True)):
            build = partial(_haproxy, tuned=tuned)
            found.append(TrafficPath(name, build, "haproxy", carries_udp=False, missing=missing))
    if "nginx" in wanted_peers:
        found.append(TrafficPath("nginx", _nginx, "nginx", missing=_nginx_missing()))
    return found


def _uproxy_path(capture: str, relay: str, no_lab: str | None, default_relay: str) -> TrafficPath:
    name = "-".join(filter(None, ("uproxy", capture, relay)))
    flags = ["--capture", capture]
    if relay:
        flags += ["--relay", relay]
    elif default_relay == "native":
        flags += ["--threads", "1"]  # as every other proxy here
    build = partial(_uproxy, flags=flags)
    missing = no_lab if capture == "redirect" else None
    return TrafficPath(name, build, "uproxy", churns=not relay, is_second_relay=bool(relay), missing=missing)


def _not_installed(name: str, package: str) -> str | None:
    return None if find_program(name) else f"{name} is not installed (apt-get install {package})"


def _nginx_missing() -> str | None:
    missing = _not_installed("nginx", "nginx libnginx-mod-stream")
    # Where the module is not a file of its own, nginx may have it built in; it will say so.
    separate = Path("/etc/debian_version").exists()
    if not missing and separate and not peers.NGINX_STREAM_MODULE.exists():
        return "nginx has no stream module (apt-get install libnginx-mod-stream)"
    return missing


@contextmanager
def _direct(site: Site, _others: int) -> Iterator[Built]:
    pod = site.pods[0]
    yield Built(Address(pod.ip, pod.port))


@contextmanager
def _uproxy(site: Site, others: int, *, flags: Sequence[str], in_kernel: bool = False) -> Iterator[Built]:
    forwards = _on_vips(site)
    healthz = free_port("127.0.0.1") if site.lab is None else 10256
    metrics = free_port("127.0.0.1") if site.lab is None else 10249
    with TemporaryDirectory(prefix="uproxy-bench-") as folder:
        manifests = _manifests(Manifests(Path(folder), in_kernel=in_kernel), site, forwards, others)
        argv = [sys.executable, "-m", "uproxy", "run", "-f", folder, "--hostname-override", NODE_NAME, *flags]
        argv += ["--healthz-bind-address", f"127.0.0.1:{healthz}"]
        argv += ["--metrics-bind-address", f"127.0.0.1:{metrics}", "--drain-timeout", "0s"]
        with running("uproxy", site.node, *argv) as proxy:

            def healthy() -> bool:
                return http_get(site.node, healthz, "/healthz")[0] == 200

            def set_pods(pods: Sequence[Pod]) -> None:
                manifests.write_service(1, Forward(forwards[1].ip, forwards[1].port, pods))

            yield Built(
                *_addresses(forwards),
                proxy,
                not in_kernel,
                lambda: proxy.wait_until(healthy, "its healthz", timeout_s=_READY_TIMEOUT_S),
                set_pods,
            )


def _manifests(manifests: Manifests, site: Site, forwards: Sequence[Forward], others: int) -> Manifests:
    for number, forward in enumerate(forwards):
        manifests.write_service(number, forward)
    if others:
        manifests.write_others(_other_services(site, others))
    return manifests


@contextmanager
def _kernel_dnat(site: Site, others: int) -> Iterator[Built]:
    if site.lab is None:
        raise CommandFailed("the kernel's DNAT needs namespaces")
    nft, node = program("nft"), site.lab.node
    forwards = _on_vips(site)
    node.run(nft, "-f", "-", input=peers.dnat_rules(forwards, _other_services(site, others)))
    try:

        def set_pods(pods: Sequence[Pod]) -> None:
            node.run(nft, "-f", "-", input=peers.dnat_change(1, pods))

        yield Built(*_addresses(forwards), set_pods=set_pods)
    finally:
        node.run(nft, "delete", "table", "ip", peers.DNAT_TABLE, check=False)


@contextmanager
def _haproxy(site: Site, _others: int, *, tuned: bool) -> Iterator[Built]:
    forwards = _on_node(site)
    with TemporaryDirectory(prefix="uproxy-bench-") as folder:
        config = Path(folder, "haproxy.cfg")
        config.write_text(peers.haproxy_config(forwards, tuned=tuned))
        argv = (program("haproxy"), "-db", "-f", str(config))
        with _peer("haproxy", site, forwards, argv) as built:
            yield built


@contextmanager
def _nginx(site: Site, _others: int) -> Iterator[Built]:
    forwards = _on_node(site)
    with TemporaryDirectory(prefix="uproxy-bench-") as folder:
        config = Path(folder, "nginx.conf")
        config.write_text(peers.nginx_config(forwards, Path(folder)))
        argv = (program("nginx"), "-e", "stderr", "-c", str(config))
        with _peer("nginx", site, forwards, argv) as built:
            yield built


@contextmanager
def _peer(name: str, site: Site, forwards: Sequence[Forward], argv: Sequence[str]) -> Iterator[Built]:
    one, every = _addresses(forwards)
    with running(name, site.node, *argv) as proxy:

        def wait_ready() -> None:
            proxy.wait_until(lambda: accepts(site.client, one.ip, one.port), "a connection")

        yield Built(one, every, proxy, wait_ready=wait_ready)


def _on_vips(site: Site) -> list[Forward]:
    return [Forward(site.vip(number), VIP_PORT, pods) for number, pods in enumerate(_pods(site))]


def _on_node(site: Site) -> list[Forward]:
    return [
        Forward(site.node_ip, VIP_PORT + number if site.lab else free_port(site.node_ip), pods)
        for number, pods in enumerate(_pods(site))
    ]


def _pods(site: Site) -> tuple[Sequence[Pod], Sequence[Pod]]:
    return site.pods[:1], site.pods


def _addresses(forwards: Sequence[Forward]) -> tuple[Address, Address]:
    one, every = (Address(forward.ip, forward.port) for forward in forwards)
    return one, every


def _other_services(site: Site, count: int) -> list[Forward]:
    first = IPv4Address(f"{site.vip_prefix}.0") + 256
    return [Forward(str(first + number), _OTHER_PORT, site.pods[:1]) for number in range(count)]
