"""What kube-proxy has left in the kernel, removed by its names when somebody asks for that by name.

Owns the list of names, of all its modes: the tables `ip kube-proxy` and `ip6 kube-proxy`; its iptables
chains and the jumps to them; ipsets that begin with KUBE-; virtual servers of IPVS and the link kube-ipvs0.
Refuses to touch kubelet's (KUBE-FIREWALL, KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT, KUBE-MARK-DROP), and
chains that somebody else leads to, as the CNI plugin portmap may to KUBE-MARK-MASQ. What conntrack remembers
ends by itself.
Sources: kube-proxy 1.36, `CleanupLeftovers` of its proxiers; kubelet's kubelet_network_linux.go.
"""

import asyncio

from uproxy.errors import CommandFailed
from uproxy.kernel.ipvs import Ipvs, delete_server
from uproxy.kernel.nft import remove_table
from uproxy.kernel.nft_messages import Table
from uproxy.kit.commands import run
from uproxy.kit.netfilter import PROGRAM, chains, restore, table
from uproxy.kit.programs import execute, peek

LINK = "kube-ipvs0"
_NFT = (Table("ip", "kube-proxy"), Table("ip6", "kube-proxy"))
_TABLES = ("mangle", "nat", "filter")
_NAMES = (
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-LOAD-BALANCER",
    "KUBE-NODE-PORT",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
)
_PREFIXES = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-")
_BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


async def remove_kube_proxy() -> list[str]:
    """Remove all of it; returns what was there, in words. Raises CommandFailed when something refuses to go.

    Where kube-proxy runs still it programs everything anew within half a minute.
    """
    removed = [*await _remove_tables(), *await _remove_chains()]
    sets = [name for name in (await peek("ipset", "list", "-name")).split() if name.startswith("KUBE-")]
    if sets:
        await execute("ipset", "restore", stdin="".join(f"destroy -exist {name}\n" for name in sets))
    return [*removed, *(f"ipset {name}" for name in sets), *await _remove_servers()]


async def _remove_tables() -> list[str]:
    return [words for its in _NFT for words in await asyncio.to_thread(remove_table, its)]


async def _remove_chains() -> list[str]:
    removed = []
    for family, program in PROGRAM.items():
        saved = await peek(f"{program}-save")
        gone = {name: its for name in _TABLES if (its := removable(saved, name))}
        if gone:
            await restore(
                family, "".join(table(name, removal(saved, name, its)) for name, its in gone.items())
            )
        removed += [f"{program} {name} chain {chain}" for name, its in gone.items() for chain in its]
    return removed


def removable(saved: str, name: str) -> list[str]:
    """Its chains in one table of what `iptables-save` prints, but for those that somebody else leads to, and
    what these lead to."""
    found = [
        chain for chain in chains(saved, name, "KUBE-") if chain in _NAMES or chain.startswith(_PREFIXES)
    ]
    rules = [line.split() for line in table_lines(saved, name) if line.startswith("-A ")]
    kept = {chain for chain in found if _is_led_to(chain, rules, found)}
    while (
        more := {
            rule[rule.index("-j") + 1]
            for rule in rules
            if rule[1] in kept and "-j" in rule and rule[rule.index("-j") + 1] in found
        }
        - kept
    ):
        kept |= more
    # What marks for masquerade needs what masquerades.
    if "KUBE-MARK-MASQ" in kept:
        kept.add("KUBE-POSTROUTING")
    return [chain for chain in found if chain not in kept]


def _is_led_to(chain: str, rules: list[list[str]], ours: list[str]) -> bool:
    """By a chain that is neither kube-proxy's nor the kernel's own."""
    return any(
        rule[1] not in ours and rule[1] not in _BUILT_IN
        for rule in rules
        if chain in rule[2:] and rule[rule.index(chain) - 1] in ("-j", "-g")
    )


def removal(saved: str, name: str, gone: list[str]) -> list[str]:
    """What `iptables-restore --noflush` is told: jumps first, then what is in the chains, then they."""
    jumps = [
        f"-D {line.removeprefix('-A ')}"
        for line in table_lines(saved, name)
        if line.startswith("-A ") and line.split()[1] not in gone and line.split()[-1] in gone
    ]
    return [*jumps, *(f"-F {chain}" for chain in gone), *(f"-X {chain}" for chain in gone)]


def table_lines(saved: str, name: str) -> list[str]:
    """Of one table."""
    _, _, rest = f"\n{saved}".partition(f"\n*{name}\n")
    return rest.partition("\nCOMMIT")[0].splitlines()


async def _remove_servers() -> list[str]:
    """All virtual servers but ours, as kube-proxy does, where its link says that it has made some."""
    if (await run("ip", "link", "show", LINK)).status:
        return []
    removed = await asyncio.to_thread(_delete_servers)
    await execute("ip", "link", "delete", LINK)
    return [*removed, f"link {LINK}"]


def _delete_servers() -> list[str]:
    ipvs = Ipvs()
    try:
        vips = [*ipvs.servers(others=True)]
        ipvs.change([delete_server(vip) for vip in vips])
    except OSError as error:
        raise CommandFailed(f"ipvs: {error.strerror}") from error
    finally:
        ipvs.close()
    return [f"virtual server {vip}" for vip in vips]
