"""`uproxy bench` without privileges, and with targets that exist already; all on loopback."""

import os
import select
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.bench_process import bench, one, report
from tests.loop.conftest import free_port
from tests.proxy_process import UPROXY

POWERLESS = ("setpriv", "--securebits=+noroot", "--inh-caps=-all", "--bounding-set=-all")
BRIEFLY = ("--rounds", "2", "--duration", "0.2")


@pytest.fixture
def prefix() -> tuple[str, ...]:
    """What makes a program run without privileges; nothing when pytest already does."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed (apt-get install util-linux)")
    tried = subprocess.Popen([*POWERLESS, "true"], stderr=subprocess.PIPE, text=True)
    words = tried.communicate()[1]
    if tried.returncode:
        pytest.skip(f"privileges cannot be given up here: {words.strip()}")
    return POWERLESS


@pytest.fixture
def echo() -> Iterator[str]:
    """The address of `uproxy bench --echo`."""
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen([*UPROXY, "bench", "--echo", address], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == f"serving {address}\n"
        yield address
    finally:
        process.terminate()
        process.communicate()


def test_without_root_the_paths_that_loopback_allows_are_measured(
    prefix: tuple[str, ...], tmp_path: Path
) -> None:
    flags = ("--workload", "rr-2x64B,spread-2,failover-blackhole", *BRIEFLY, "--report", str(tmp_path))
    done = bench(*flags, prefix=prefix)
    assert done.returncode == 0, done.stderr
    results = report(tmp_path)
    assert one(results, "uproxy-bind", "rr-2x64B").ops_ratio_to_direct is not None
    assert one(results, "uproxy-bind", "rr-2x64B").errors == 0
    assert set(one(results, "uproxy-bind", "spread-2").spread.by_endpoint) == {"pod1", "pod2", "pod3"}
    assert "network namespaces" in results.left_out["uproxy-redirect"]
    assert "network namespaces" in results.left_out["failover-blackhole"]
    assert "left out: kernel-dnat: network namespaces" in done.stdout


def test_targets_are_compared_with_the_first(echo: str, tmp_path: Path) -> None:
    named = [flag for name in ("pod", "vip") for flag in ("--target", f"{name}={echo}")]
    done = bench(*named, "--workload", "rr-2x64B,udp-rr-2x64B", *BRIEFLY, "--report", str(tmp_path))
    assert done.returncode == 0, done.stderr
    results = report(tmp_path)
    assert one(results, "vip", "udp-rr-2x64B").ops_ratio_to_direct is not None
    assert one(results, "pod", "udp-rr-2x64B").ops_ratio_to_direct is None
    assert "! ratios and differences are to pod, the first target" in done.stdout


@pytest.fixture
def tcp_only(echo: str) -> Iterator[str]:
    """An address that leads to `echo`, but not for datagrams."""
    host, _, port = echo.rpartition(":")

    class Join(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), socket.create_connection((host, int(port))) as server:
                ways = {self.request: server, server: self.request}
                while True:
                    for source in select.select(list(ways), [], [])[0]:
                        data = source.recv(65536)
                        if not data:
                            return
                        ways[source].sendall(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Join) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield "{}:{}".format(*server.server_address)
        server.shutdown()
        thread.join()


def test_a_target_without_datagrams_is_left_out_of_those_alone(echo: str, tcp_only: str, tmp_path) -> None:
    targets = ("--target", f"pod={echo}", "--target", f"vip={tcp_only}")
    workloads = ("--workload", "rr-2x64B,udp-rr-2x64B,stream-down-1,paced-udp-rr-2x64B", *BRIEFLY)
    done = bench(*targets, *workloads, "--report", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    results = report(tmp_path)
    measured = {(m.path, m.workload) for m in results.measurements}
    assert ("vip", "stream-down-1") in measured
    assert ("pod", "udp-rr-2x64B") in measured
    assert ("vip", "udp-rr-2x64B") not in measured
    assert set(results.left_out) == {"vip: udp-rr-2x64B", "vip: paced-udp-rr-2x64B"}
    assert "left out: vip: udp-rr-2x64B: the load generator: " in done.stdout


def test_a_run_is_compared_with_an_older_one(echo: str, tmp_path: Path) -> None:
    flags = ("--target", f"direct={echo}", "--workload", "rr-1x64B", *BRIEFLY)
    assert bench(*flags, "--report", str(tmp_path)).returncode == 0
    done = bench(*flags, "--compare", str(tmp_path / "results.json"), "--tolerance", "99")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rate_that_no_machine_reaches_is_measured_and_told_with_status_1(echo: str) -> None:
    done = bench("--target", f"pod={echo}", "--workload", "rr-1x64B", *BRIEFLY, "--rate", "5000000")
    assert done.returncode == 1
    assert "not reached: pod: rr-1x64B: 5,000,000 per second asked" in done.stderr
    assert "latency is of an overloaded path" in done.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--target", "127.0.0.1:1"), "--target: 127.0.0.1:1 cannot be reached: Connection refused"),
        (("--workload", "rr-0x64B"), "--workload: rr-0x64B: the number of connections must be 1 to 20,000"),
        (("--path", "nonsense"), "--path: no path is called nonsense; there are direct, uproxy-bind"),
        (("--report", "/dev/null/report"), "--report: /dev/null/report cannot be made: Not a directory"),
        (("--compare", "/dev/null"), "/dev/null: is no results.json of uproxy bench"),
        (("--rounds", "none"), "--rounds: 'none' is not a whole number from 1 to 1000"),
    ],
)
def test_bad_input_is_one_clear_line(flags: tuple[str, ...], words: str) -> None:
    done = bench(*flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"uproxy: {words}")
    assert done.stderr.count("\n") == 1


def test_a_target_that_speaks_something_else_is_told(tmp_path: Path) -> None:
    port = free_port()
    argv = [
        sys.executable,
        "-u",  # its first line is waited for
        "-m",
        "http.server",
        str(port),
        "--bind",
        "127.0.0.1",
        "--directory",
        str(tmp_path),
    ]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as server:
        try:
            assert server.stdout is not None
            assert "Serving HTTP" in server.stdout.readline()
            done = bench("--target", f"web=127.0.0.1:{port}", "--workload", "rr-1x64B", *BRIEFLY)
        finally:
            server.terminate()
    assert done.returncode == 1
    assert f"web: the load generator: 127.0.0.1:{port}" in done.stderr
