"""`uproxy bench` as root: it builds paths, measures them, and leaves nothing behind."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

from tests.bench_process import bench, one, report, started

NAMESPACES = Path("/run/netns")
FOR_LONG = ("--workload", "crr-4", "--path", "uproxy-bind", "--rounds", "1000", "--duration", "0.05")


def namespaces_of(pid: int) -> list[str]:
    return [path.name for path in NAMESPACES.glob(f"upx{pid}-*")]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = monotonic() + 20
    while not condition():
        assert monotonic() < deadline, f"not seen in 20 s: {what}"
        sleep(0.02)


def connections_taken(process: subprocess.Popen[str]) -> int:
    """What the server of the first pod of the first path has accepted until now."""
    pods = sorted(name for name in namespaces_of(process.pid) if name.endswith("-pod1"))
    reader = subprocess.Popen(
        ["ip", "netns", "exec", pods[0] if pods else "none", "cat", "/proc/net/snmp"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    rows = [line.split() for line in reader.communicate()[0].splitlines() if line.startswith("Tcp:")]
    return int(rows[1][rows[0].index("PassiveOpens")]) if rows else 0


def test_paths_are_measured_side_by_side_and_everything_is_removed(tmp_path: Path) -> None:
    asked = "rr-4x64B,udp-rr-4x64B,stream-down-1,paced-crr-4,idle-50,spread-4"
    flags = ("--workload", asked, "--path", "uproxy-bind", "--rounds", "2", "--duration", "0.1")
    done = bench(*flags, "--report", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "rr-4x64B: 64 B requests on 4 open connections" in done.stdout
    assert done.stderr == ""  # no progress where nobody watches
    results = report(tmp_path)
    assert results.complete
    for workload in ("rr-4x64B", "udp-rr-4x64B", "stream-down-1", "paced-crr-4"):
        uproxy = one(results, "uproxy-bind", workload)
        assert (uproxy.rounds, uproxy.errors) == (2, 0)
        assert uproxy.ops_per_s > 0
        assert uproxy.ops_ratio_to_direct is not None
        assert [cost.name for cost in uproxy.costs] == ["client", "server", "uproxy"]
    paced = {m.rate_per_s for m in results.measurements if m.workload == "paced-crr-4"}
    assert len(paced) == 1
    assert one(results, "uproxy-bind", "idle-50").kernel_bytes_per_connection > 1000
    assert one(results, "uproxy-bind", "spread-4").spread.max_over_mean < 1.5
    assert not namespaces_of(done.pid)


def test_a_pod_that_dies_or_moves_is_no_error_with_uproxy_and_many_for_the_kernel(tmp_path: Path) -> None:
    flags = ("--quick", "--workload", "churn-1,failover-kill", "--path", "uproxy-redirect,kernel-dnat")
    done = bench(*flags, "--report", str(tmp_path))
    assert done.returncode == 0, done.stderr
    results = report(tmp_path)
    for path in ("uproxy-redirect", "kernel-dnat"):
        assert one(results, path, "churn-1").live_after_ms > 0
    assert one(results, "uproxy-redirect", "churn-1").errors == 0
    # What the pod had accepted when it was killed dies with it, whoever carries it; nothing else may.
    killed = one(results, "uproxy-redirect", "failover-kill")
    assert set(killed.errors_by_kind) <= {"reset", "eof"}
    assert killed.errors < 10
    assert one(results, "kernel-dnat", "failover-kill").errors_by_kind["refused"] > 10


def test_what_a_killed_run_leaves_is_removed_by_the_next() -> None:
    with started(*FOR_LONG) as killed:
        wait_for(lambda: connections_taken(killed) > 0, "traffic")
    assert namespaces_of(killed.pid)
    done = bench("--workload", "rr-1x64B", "--path", "direct", "--rounds", "1", "--duration", "0.05")
    assert done.returncode == 0, done.stderr
    assert not namespaces_of(killed.pid)


def test_an_interrupted_run_keeps_what_was_measured_and_removes_the_rest(tmp_path: Path) -> None:
    with started(*FOR_LONG, "--report", str(tmp_path)) as process:
        wait_for(lambda: connections_taken(process) > 3000, "a few measurements")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "crr-4: Connect, one request, close" in out
    assert "interrupted" in err
    results = report(tmp_path)
    assert not results.complete
    assert one(results, "direct", "crr-4").rounds >= 1
    assert not namespaces_of(process.pid)
