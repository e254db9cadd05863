"""uproxy with thousands of Services: time to ready, memory, and an edit's way to its effect.

    python -m benchmarks.scale [--services N,...] [--edits N] [--format yaml,json] [--capture redirect,bind]

All Services and EndpointSlices are in one file; as root, in network namespaces. An edit points
one Service's slice to the other of two servers, and replaces the whole file by an atomic
rename; its effect is seen by a client that keeps connecting to the VIP and reads who answers.
"""

import argparse
import json
import resource
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

from uproxy.bench.costs import rss_bytes
from uproxy.bench.fingerprint import fingerprint
from uproxy.bench.manifests import KubernetesObject, as_list, endpoint_slice, service
from uproxy.bench.programs import Program, http_get, running
from uproxy.dataplane.relay.native_relay import engine_or_reason
from uproxy.errors import CommandFailed
from uproxy.kit.lab import Host, Lab, reason_unavailable

PORT = 80
BACKEND_PORT = 8080
EDITED = 0
"""Number of the Service that is edited; the others lead to addresses where nobody is."""

_FIRST_VIP = IPv4Address("10.96.1.0")
_FIRST_ENDPOINT = IPv4Address("10.244.16.0")
_HEALTHZ_PORT = 10256
_METRICS_PORT = 10249
_READY_TIMEOUT_S = 900
_EFFECT_TIMEOUT_S = 60
_CONFIRMATIONS = 20
_SCRAPES = 5
_SPARE_DESCRIPTORS = 200


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
    print("Services of one port, each with an EndpointSlice of 2 endpoints")
    print("  ".join(f"{key} {value}" for key, value in _machine().items()))
    print(_HEAD)
    try:
        for services in map(int, arguments.services.split(",")):
            for form in arguments.format.split(","):
                for capture in arguments.capture.split(","):
                    print(_line(services, form, capture, arguments.edits), flush=True)
    except CommandFailed as error:
        print(f"scale: {error}", file=sys.stderr)
        return 1
    return 0


def _machine() -> dict[str, str]:
    found = fingerprint((), "python" if engine_or_reason() else "native", "none")
    return {"cpus": str(found.cores), "cpu": found.cpu, "kernel": found.kernel, **found.versions}


def _line(services: int, form: str, capture: str, edits: int) -> str:
    name = f"{services:>7,} {form}, {capture}"
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if services > descriptors - _SPARE_DESCRIPTORS and capture == "bind":
        return f"{name:<23} left out: a listener each, and {descriptors:,} descriptors at most (ulimit -Hn)"
    return _row(name, _measure(form, capture, services, edits))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--services", default="5000", help="one number or several, such as 100,1000,10000,50000"
    )
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
        with _uproxy(lab.node, file, capture) as process:
            ready_s = time.perf_counter() - started
            rss = rss_bytes([process.pid])
            effects = [_edit(lab, file, versions, number % 2) for number in range(1, edits + 1)]
            scrapes = [_scrape(lab.node) for _ in range(_SCRAPES)]
            return Figures(
                ready_s=ready_s,
                rss_bytes=rss,
                peak_rss_bytes=_peak_rss_bytes(process.pid),
                edits_s=tuple(seconds for seconds, _ in effects),
                wrong=sum(wrong for _, wrong in effects),
                scrape_s=median(seconds for seconds, _ in scrapes),
                scrape_bytes=scrapes[-1][1],
            )


@contextmanager
def _uproxy(node: Host, manifest: Path, capture: str) -> Iterator[Program]:
    argv = [sys.executable, "-m", "uproxy", "run", "-f", str(manifest), "--capture", capture]
    argv += ["--healthz-bind-address", f"127.0.0.1:{_HEALTHZ_PORT}"]
    argv += ["--metrics-bind-address", f"127.0.0.1:{_METRICS_PORT}"]
    with running("uproxy", node, *argv) as program:

        def healthy() -> bool:
            return http_get(node, _HEALTHZ_PORT, "/healthz")[0] == 200

        program.wait_until(healthy, "its healthz", timeout_s=_READY_TIMEOUT_S)
        yield program


def _peak_rss_bytes(pid: int) -> int:
    """Most resident memory that a process ever had (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def _objects(services: int, edited_backend: str) -> list[KubernetesObject]:
    objects: list[KubernetesObject] = []
    for number in range(services):
        name = f"service-{number:05}"
        endpoints = [str(_FIRST_ENDPOINT + 2 * number), str(_FIRST_ENDPOINT + 2 * number + 1)]
        if number == EDITED:
            endpoints = [edited_backend]
        objects.append(service(name, str(_FIRST_VIP + number), PORT))
        objects.append(endpoint_slice(f"{name}-1", name, endpoints, BACKEND_PORT))
    return objects


def _render(objects: list[KubernetesObject], form: str) -> str:
    if form == "json":
        return json.dumps(as_list(objects), indent=1)
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
            raise CommandFailed(f"an edit had no effect within {_EFFECT_TIMEOUT_S} s")
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
    status, body = http_get(node, _METRICS_PORT, "/metrics")
    if status != 200:
        raise CommandFailed(f"/metrics answered {status}")
    return time.perf_counter() - started, len(body)


_HEAD = (
    f"{'Services, file, capture':<24}{'ready s':>9}{'RSS MiB':>9}{'peak':>7}"
    f"{'edit median s':>15}{'max s':>8}{'wrong':>7}{'scrape ms':>11}{'KiB':>8}"
)


def _row(name: str, figures: Figures) -> str:
    return (
        f"{name:<24}{figures.ready_s:>9.2f}{figures.rss_bytes / 2**20:>9.0f}"
        f"{figures.peak_rss_bytes / 2**20:>7.0f}{median(figures.edits_s):>15.3f}"
        f"{max(figures.edits_s):>8.3f}{figures.wrong:>7}{figures.scrape_s * 1e3:>11.1f}"
        f"{figures.scrape_bytes / 1024:>8.0f}"
    )


if __name__ == "__main__":
    sys.exit(main())
