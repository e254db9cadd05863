"""uproxy with thousands of Services: time to ready, memory, and an edit's way to its effect.

    python -m benchmarks.scale [--services N] [--edits N] [--format yaml,json] [--capture redirect,bind]

All Services and EndpointSlices are in one file; as root, in network namespaces. An edit points
one Service's slice to the other of two servers, and replaces the whole file by an atomic
rename; its effect is seen by a client that keeps connecting to the VIP and reads who answers.
"""

import argparse
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import yaml

from benchmarks import machine, manifests, proxies
from benchmarks.manifests import KubernetesObject
from benchmarks.measure import TimedOut, http_get, peak_rss_bytes, rss_bytes
from uproxy.errors import CommandFailed
from uproxy.kit.lab import Host, Lab, reason_unavailable

PORT = 80
BACKEND_PORT = 8080
EDITED = 0
"""Number of the Service that is edited; the others lead to addresses where nobody is."""

_FIRST_VIP = IPv4Address("10.96.1.0")
_FIRST_ENDPOINT = IPv4Address("10.244.16.0")
_READY_TIMEOUT_S = 300
_EFFECT_TIMEOUT_S = 60
_CONFIRMATIONS = 20
_SCRAPES = 5

_REFERENCE = """\
For reference, measured side by side before this project; not re-run: kube-proxy 1.25 in
userspace mode took 73 s from start to all programmed at 2,000 Services, kube-proxy 1.36
in nftables mode 2.4 s."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one configuration did. `wrong` counts failed connects, and old answers after a new one."""

    ready_s: float
    rss_bytes: int
    peak_rss_bytes: int
    edits_s: tuple[float, ...]
    wrong: int
    scrape_s: float
    scrape_bytes: int


def main() -> int:
    """Measure every combination asked for, and print one line for each."""
    arguments = _arguments()
    reason = reason_unavailable()
    if reason:
        print(f"scale: {reason}", file=sys.stderr)
        return 1
    print(f"{arguments.services:,} Services of one port, each with an EndpointSlice of 2 endpoints")
    print("  ".join(f"{key} {value}" for key, value in machine.describe().items()))
    print(_HEAD)
    try:
        for form in arguments.format.split(","):
            for capture in arguments.capture.split(","):
                figures = _measure(form, capture, arguments.services, arguments.edits)
                print(_row(f"{form}, {capture}", figures), flush=True)
    except (CommandFailed, TimedOut) as error:
        print(f"scale: {error}", file=sys.stderr)
        return 1
    print(_REFERENCE)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--services", type=int, default=5000)
    parser.add_argument("--edits", type=int, default=7)
    parser.add_argument("--format", default="yaml,json", help="of the file (default yaml,json)")
    parser.add_argument("--capture", default="redirect,bind", help="(default redirect,bind)")
    return parser.parse_args()


def _measure(form: str, capture: str, services: int, edits: int) -> Figures:
    with Lab(pods=2) as lab, TemporaryDirectory() as directory, _named_servers(lab):
        versions = [_render(_objects(services, pod.ip4), form) for pod in lab.pods]
        file = Path(directory, f"cluster.{form}")
        file.write_text(versions[0])
        started = time.perf_counter()
        with proxies.uproxy(lab.node, file, capture, ready_timeout_s=_READY_TIMEOUT_S) as process:
            ready_s = time.perf_counter() - started
            rss = rss_bytes(process.pid)
            effects = [_edit(lab, file, versions, number % 2) for number in range(1, edits + 1)]
            scrapes = [_scrape(lab.node) for _ in range(_SCRAPES)]
            return Figures(
                ready_s=ready_s,
                rss_bytes=rss,
                peak_rss_bytes=peak_rss_bytes(process.pid),
                edits_s=tuple(seconds for seconds, _ in effects),
                wrong=sum(wrong for _, wrong in effects),
                scrape_s=median(seconds for seconds, _ in scrapes),
                scrape_bytes=scrapes[-1][1],
            )


def _objects(services: int, edited_backend: str) -> list[KubernetesObject]:
    objects: list[KubernetesObject] = []
    for number in range(services):
        name = f"service-{number:05}"
        endpoints = [str(_FIRST_ENDPOINT + 2 * number), str(_FIRST_ENDPOINT + 2 * number + 1)]
        if number == EDITED:
            endpoints = [edited_backend]
        objects.append(manifests.service(name, str(_FIRST_VIP + number), {"http": PORT}))
        objects.append(manifests.endpoint_slice(name, endpoints, {"http": BACKEND_PORT}))
    return objects


def _render(objects: list[KubernetesObject], form: str) -> str:
    if form == "json":
        return json.dumps(manifests.as_list(objects), indent=1)
    return yaml.dump_all(objects, Dumper=yaml.CSafeDumper, sort_keys=False)


@contextmanager
def _named_servers(lab: Lab) -> Iterator[None]:
    """Answer each connection with the address of the pod, and close."""
    listeners = [pod.socket() for pod in lab.pods]
    for pod, listener in zip(lab.pods, listeners, strict=True):
        listener.bind((pod.ip4, BACKEND_PORT))
        listener.listen(64)
        threading.Thread(target=_serve, args=(listener, pod.ip4.encode()), daemon=True).start()
    try:
        yield
    finally:
        for listener in listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def _serve(listener: socket.socket, name: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the listener was shut down
        with connection:
            connection.sendall(name)


def _edit(lab: Lab, file: Path, versions: list[str], version: int) -> tuple[float, int]:
    """Put `version` in place; seconds until it answered, and how many answers were wrong."""
    edited = file.with_suffix(".new")
    edited.write_text(versions[version])
    expected = lab.pods[version].ip4
    edited.rename(file)
    started = time.perf_counter()
    wrong = 0
    while (answer := _ask(lab.client)) != expected:
        wrong += answer == ""
        if time.perf_counter() - started > _EFFECT_TIMEOUT_S:
            raise TimedOut(f"an edit had no effect within {_EFFECT_TIMEOUT_S} s")
    seconds = time.perf_counter() - started
    wrong += sum(_ask(lab.client) != expected for _ in range(_CONFIRMATIONS))
    return seconds, wrong


def _ask(client: Host) -> str:
    """Who answers at the edited Service's VIP; empty when nobody does."""
    with client.socket() as caller:
        caller.settimeout(5)
        try:
            caller.connect((str(_FIRST_VIP + EDITED), PORT))
            return caller.recv(64).decode()
        except OSError:
            return ""


def _scrape(node: Host) -> tuple[float, int]:
    started = time.perf_counter()
    status, body = http_get(node, proxies.METRICS_PORT, "/metrics")
    if status != 200:
        raise CommandFailed(f"/metrics answered {status}")
    return time.perf_counter() - started, len(body)


_HEAD = (
    f"{'file, capture':<16}{'ready s':>9}{'RSS MiB':>9}{'peak':>7}"
    f"{'edit median s':>15}{'max s':>8}{'wrong':>7}{'scrape ms':>11}{'KiB':>8}"
)


def _row(name: str, figures: Figures) -> str:
    return (
        f"{name:<16}{figures.ready_s:>9.2f}{figures.rss_bytes / 2**20:>9.0f}"
        f"{figures.peak_rss_bytes / 2**20:>7.0f}{median(figures.edits_s):>15.3f}"
        f"{max(figures.edits_s):>8.3f}{figures.wrong:>7}{figures.scrape_s * 1e3:>11.1f}"
        f"{figures.scrape_bytes / 1024:>8.0f}"
    )


if __name__ == "__main__":
    sys.exit(main())
