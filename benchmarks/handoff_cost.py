"""What each part of the nftables handoff's rules costs: all there, and some of them taken away, in turns.

    python -m benchmarks.handoff_cost [--workload rr|crr] [--rounds N]

One Service in a lab, handed over. Between measurements chains of the live tables are emptied and filled
again: those that count, the masquerade, and the capture's filters. Rates are compared within a round with
the rules that do nothing but translate. Needs root, iproute2 and nftables.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from uproxy.bench.generator import generator, serving, wait_serving
from uproxy.bench.load.plan import LoadPlan
from uproxy.bench.manifests import NODE_NAME, Manifests
from uproxy.bench.peers import Forward
from uproxy.bench.placement import place
from uproxy.bench.programs import running
from uproxy.bench.sites import VIP_PORT, Site, lab_site
from uproxy.kit.lab import Host, reason_unavailable

_CHAINS = {
    "counting": (("uproxy-handoff", "count_prerouting"), ("uproxy-handoff", "count_output")),
    "masquerade": (("uproxy-handoff", "leave_postrouting"),),
    "filters": tuple(
        ("uproxy", chain)
        for chain in ("guard_prerouting", "refuse_forward", "guard_output", "refuse_output", "refuse_input")
    ),
}
_BARE = frozenset(_CHAINS)
_WITHOUT = {
    "all of it": frozenset(),
    "no counting": frozenset({"counting"}),
    "no counting, no filters": frozenset({"counting", "filters"}),
    "no counting, no masquerade": frozenset({"counting", "masquerade"}),
    "translation alone": _BARE,
}


class Parts:
    """The rules of the chains, which come and go."""

    def __init__(self, node: Host) -> None:
        self._node = node
        self._rules = {where: self._read(*where) for some in _CHAINS.values() for where in some}
        self._gone: frozenset[str] = frozenset()

    def _read(self, table: str, chain: str) -> list[str]:
        text = self._node.run("nft", "-s", "list", "chain", "inet", table, chain).stdout
        lines = (line.strip() for line in text.splitlines() if line.startswith("\t\t"))
        return [line for line in lines if not line.startswith("type ")]

    def take_away(self, gone: frozenset[str]) -> None:
        """These, and no others."""
        text = ""
        for part in gone ^ self._gone:
            for table, chain in _CHAINS[part]:
                rules = [] if part in gone else self._rules[table, chain]
                text += f"flush chain inet {table} {chain}\n"
                text += "".join(f"add rule inet {table} {chain} {rule}\n" for rule in rules)
        self._node.run("nft", "-f", "-", input=text)
        self._gone = gone


@contextmanager
def handed_over(site: Site, folder: Path) -> Iterator[None]:
    """A proxy that has handed its one Service over."""
    Manifests(folder, in_kernel=True).write_service(0, Forward(site.vip(0), VIP_PORT, site.pods))
    argv = (sys.executable, "-m", "uproxy", "run", "-f", str(folder), "--capture", "redirect")
    flags = ("--redirect-mechanism", "nft", "--handoff", "nftables", "--hostname-override", NODE_NAME)
    with running("uproxy", site.node, *argv, *flags) as program:
        program.wait_until(lambda: "go by nftables" in program.log, "to hand over")
        yield


def main() -> int:
    """Print a line for each."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--workload", choices=("rr", "crr"), default="rr")
    parser.add_argument("--rounds", type=int, default=15)
    words = parser.parse_args()
    if reason := reason_unavailable():
        print(f"handoff_cost: {reason}", file=sys.stderr)
        return 1
    for name, ratio, rate in measured(words.workload, words.rounds):
        print(f"{name:28} {ratio:5.2f} x translation alone   {rate:8,.0f}/s")
    return 0


def measured(workload: str, rounds: int) -> Iterator[tuple[str, float, float]]:
    """Of each, the median of its ratios and of its rates."""
    rates: dict[str, list[float]] = {name: [] for name in _WITHOUT}
    with (
        lab_site() as site,
        serving(site.pods[0]) as one,
        serving(site.pods[1]) as two,
        serving(site.pods[2]) as three,
        generator(site.client) as load,
        tempfile.TemporaryDirectory() as folder,
        handed_over(site, Path(folder)),
    ):
        servers = (one, two, three)
        for server in servers:
            wait_serving(server)
        assert site.lab is not None
        parts = Parts(site.lab.node)
        place(load.pid, [], [server.pid for server in servers], apart=True)
        plan = LoadPlan(
            workload=workload,  # type: ignore[arg-type]  # argparse has looked at it
            host=site.vip(0),
            port=VIP_PORT,
            connections=64 if workload == "rr" else 32,
            duration_s=0.4,
            warmup_s=0.1,
            timeout_s=2.0,
        )
        for turn in range(rounds):
            names = list(_WITHOUT)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                parts.take_away(_WITHOUT[name])
                outcome = load.run(plan)
                rates[name].append(outcome.operations / outcome.elapsed_s)
        parts.take_away(frozenset())
    bare = rates["translation alone"]
    for name, some in rates.items():
        yield name, median(a / b for a, b in zip(some, bare, strict=True)), median(some)


if __name__ == "__main__":
    sys.exit(main())
