"""How long the kernel takes to be told by the steering, with nftables, and what that takes of memory.

    python -m benchmarks.steering [--vips N] [--changes N]

Programs a table with so many VIPs through `NftRules`, as `run` does, then one VIP more and less, in a network
namespace of its own. Needs root and iproute2.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

from uproxy.kit.lab import Lab, reason_unavailable
from uproxy.model.names import Protocol, Vip
from uproxy.steering.nft import NftRules
from uproxy.steering.rules import RedirectPorts, Rule, RuleDelta, Verdict, alone

_VIPS = {4: IPv4Address("172.16.0.0"), 6: IPv6Address("fd00:172::")}
_RULE = Rule(Verdict.REDIRECT, alone=True)


def vips(count: int) -> dict[Vip, Rule]:
    """Half of them of each family."""
    return {
        Vip(first + number, 80, Protocol.TCP): _RULE
        for first in _VIPS.values()
        for number in range(count // 2)
    }


async def timed_ms(work: Awaitable[object]) -> float:
    """How long it took."""
    begun_s = perf_counter()
    await work
    return (perf_counter() - begun_s) * 1000


def memory_mib() -> float:
    """What this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / (1 << 20)


async def programming(count: int, changes: int) -> None:
    """Print it all."""
    before_mib, rules = memory_mib(), NftRules(RedirectPorts(15001, 15006))
    wanted = vips(count)
    took = [await timed_ms(rules.replace(wanted, ())) for _ in range(3)]
    print(f"{count} VIPs: {median(took):.1f} ms, the first time {took[0]:.1f} ms")
    one = {Vip(IPv4Address("10.9.9.9"), 80, Protocol.TCP): _RULE}
    add, remove = RuleDelta(one, {}, add_alone=alone(one)), RuleDelta({}, one, remove_alone=alone(one))
    took = [await timed_ms(rules.apply(delta)) for _ in range(changes) for delta in (add, remove)]
    print(f"  one more, or less: median {median(took):.2f} ms, 9 of 10 in {quantiles(took, n=10)[-1]:.2f} ms")
    print(f"  memory: {before_mib:.1f} MiB before, {memory_mib():.1f} after")
    await rules.remove()


def main() -> None:
    """Run it in a namespace."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vips", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=100)
    args = parser.parse_args()
    if reason := reason_unavailable():
        sys.exit(reason)
    with Lab(pods=0) as lab:
        lab.node.inside(lambda: asyncio.run(programming(args.vips, args.changes)))


if __name__ == "__main__":
    main()
