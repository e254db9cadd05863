"""One plan carried out: which generator, and its tallies as an outcome.

Owns the choice between the native generator and the Python one. Refuses to judge the outcome.
"""

from importlib.util import find_spec
from typing import Literal

from uproxy.bench.latency import Latencies
from uproxy.bench.load.plan import SHORTEST_MESSAGE, LoadOutcome, LoadPlan, Workload
from uproxy.bench.load.target import Target, find_target, raise_descriptor_limit
from uproxy.errors import UproxyError

_WITHOUT_LATENCY: tuple[Workload, ...] = ("stream-up", "stream-down", "stream-both", "idle")


def is_native_built() -> bool:
    """Whether the C extension was compiled for this Python."""
    return find_spec("uproxy.bench.load._native") is not None


def choose(asked: Literal["auto", "native", "python"]) -> Literal["native", "python"]:
    """Return what will run.

    Raises UproxyError when `native` is asked for and was not compiled.
    """
    if asked == "python" or is_native_built():
        return "python" if asked == "python" else "native"
    if asked == "native":
        raise UproxyError("the native generator was not compiled (pip install uproxy, with a C compiler)")
    return "python"


def generate(plan: LoadPlan) -> LoadOutcome:
    """Carry out a plan.

    Raises UproxyError when it cannot begin: an unreachable target, too few descriptors, no memory.
    """
    chosen = choose(plan.generator)
    raise_descriptor_limit(plan.connections)
    target = find_target(plan)
    try:
        return _run_native(plan, target) if chosen == "native" else _run_python(plan, target)
    except OSError as error:
        raise UproxyError(f"the generator cannot begin: {error.strerror}") from error


def _run_python(plan: LoadPlan, target: Target) -> LoadOutcome:
    from uproxy.bench.load.python import run

    return run(plan, target)


def _run_native(plan: LoadPlan, target: Target) -> LoadOutcome:
    from uproxy.bench.load import _native

    shortest = plan.workload in ("connect", "idle")
    done = _native.run(
        workload=plan.workload,
        http=plan.protocol == "http",
        ip=target.ip,
        port=target.port,
        scope_id=target.scope_id,
        connections=plan.connections,
        threads=min(plan.threads, plan.connections),
        message_bytes=SHORTEST_MESSAGE if shortest else plan.message_bytes,
        reply_bytes=SHORTEST_MESSAGE if shortest else plan.answer_bytes,
        rate_per_s=plan.rate_per_s or 0.0,
        warmup_s=plan.warmup_s,
        duration_s=plan.duration_s,
        timeout_s=plan.timeout_s,
    )
    has_latency = plan.workload not in _WITHOUT_LATENCY
    return LoadOutcome(
        workload=plan.workload,
        generator="native",
        operations=done["operations"],
        elapsed_s=done["elapsed_s"],
        bytes_up=done["bytes_up"],
        bytes_down=done["bytes_down"],
        errors_by_kind=done["errors_by_kind"],
        corrected=Latencies.from_counts(*done["corrected"]).encode() if has_latency else None,
        uncorrected=Latencies.from_counts(*done["uncorrected"]).encode() if has_latency else None,
        generator_user_s=done["user_s"],
        generator_system_s=done["system_s"],
        cpu_share=done["cpu_share"],
        behind_schedule=done["behind"] / max(done["sent"], 1),
        by_endpoint={name: count for name, count in done["by_endpoint"].items() if count},
        longest_gap_ms=done["longest_gap_ms"] if has_latency else 0.0,
        stuck=done["stuck"],
        held=done["held"],
    )
