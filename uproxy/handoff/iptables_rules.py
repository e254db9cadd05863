"""The iptables rules that carry Services: DNAT, with `statistic` for whose turn it is. Pure.

Owns chains whose names begin with `UPROXY_H`, in `mangle` and `nat`, and the jumps to them; capture removes
whatever begins with `UPROXY-`. Refuses to run anything (`iptables.py`).

`mangle` marks first packets for a VIP like the proxy's own dials, which capture leaves alone, whatever it is
made of and whoever comes first. `nat` translates what is marked. An address is a rule in each of them, and a
chain with a rule for each endpoint: of n the first takes every nth connection, the next every (n-1)th of the
rest, and so on, which is exact round robin. Sources: iptables-extensions(8), xt_statistic.c, xt_recent.c;
kube-proxy's iptables/proxier.go for `recent`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from uproxy.handoff import accounting
from uproxy.kit.netfilter import PROXY_MARK, leftovers_gone, table
from uproxy.model.frontend import Backend
from uproxy.model.names import Protocol, Vip

PREFIX = "UPROXY_H"
_MAIN, _BACK = f"{PREFIX}ANDOFF", f"{PREFIX}ANDOFF_BACK"
_MARKED = f"-m mark --mark {PROXY_MARK:#x}"
_LOOPBACK = {4: "127.0.0.0/8", 6: "::1/128"}

# - In `mangle` capture's guard comes first, and lets marks pass: so these jumps are the last.
# - Masquerade, always: endpoints see the node's address, as they do with the relay. The proxy's own dials are
#   marked, too, but not translated.
_JUMPS = {
    "mangle": (
        ("-A", "PREROUTING", f"-m conntrack --ctstate NEW -j {_MAIN}"),
        ("-A", "OUTPUT", f"-m conntrack --ctstate NEW -j {_MAIN}"),
    ),
    "nat": (
        ("-I", "PREROUTING", f"{_MARKED} -j {_MAIN}"),
        ("-I", "OUTPUT", f"{_MARKED} -j {_MAIN}"),
        ("-I", "POSTROUTING", f"{_MARKED} -m conntrack --ctstate DNAT -j {_BACK}"),
    ),
}
TABLES = tuple(_JUMPS)
_CHAINS = {"mangle": (_MAIN,), "nat": (_MAIN, _BACK)}


@dataclass(frozen=True, slots=True)
class Way:
    """One address, and who answers there."""

    vip: Vip
    backends: tuple[Backend, ...]
    affinity_timeout_s: int | None = None


@dataclass(slots=True)
class Change:
    """The lines of one `iptables-restore --noflush`, of one family. Additions are translated before they are
    marked, and the other way round when they go: what is marked and not translated would get nowhere."""

    _unmark: list[str] = field(default_factory=list)
    _chains: list[str] = field(default_factory=list)
    _rules: list[str] = field(default_factory=list)
    _gone: list[str] = field(default_factory=list)
    _mark: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Empty when there is nothing to do."""
        tables = (
            ("mangle", self._unmark),
            ("nat", [*self._chains, *self._rules, *self._gone]),
            ("mangle", self._mark),
        )
        return "".join(table(name, lines) for name, lines in tables if lines)

    def add(self, chain: str, way: Way) -> None:
        """An address comes."""
        self.replace(chain, way)
        self._rules.append(f"-A {_MAIN} {_match(way.vip)} -j {chain}")
        self._mark.append(f"-A {_MAIN} {_marking(way.vip)}")

    def replace(self, chain: str, way: Way) -> None:
        """It has other endpoints."""
        self._chains.append(f":{chain} - [0:0]")
        self._rules += [f"-A {chain} {rule}" for rule in _turns(chain, way)]

    def remove(self, chain: str, vip: Vip) -> None:
        """An address goes."""
        self._unmark.append(f"-D {_MAIN} {_marking(vip)}")
        self._gone += [f"-D {_MAIN} {_match(vip)} -j {chain}", f"-F {chain}", f"-X {chain}"]


def chain_name(number: int) -> str:
    """Of an address: names have 28 letters at most."""
    return f"{PREFIX}{number}"


def render_begin(saved: str, accounting_before: bool) -> str:
    """Input for `iptables-restore --noflush`: the constant part, in the place of what any run has left.

    `saved` is what `iptables-save` prints now; what `net.netfilter.nf_conntrack_acct` was is the comment of a
    rule: so it is there after `kill -9`, and goes with the network namespace that it is about.
    """
    before = f'-m comment --comment "{accounting.note(accounting_before)}" -j MASQUERADE'
    text = ""
    for name, jumps in _JUMPS.items():
        lines = [*leftovers_gone(saved, name, PREFIX), *(f":{chain} - [0:0]" for chain in _CHAINS[name])]
        lines += [f"{verb} {hook} {rule}" for verb, hook, rule in jumps]
        lines += [f"-A {_BACK} {before}"] if name == "nat" else []
        text += table(name, lines)
    return text


def _match(vip: Vip) -> str:
    protocol = vip.protocol.lower()
    port = f"-p {protocol} -m {protocol} --dport {vip.port}"
    if vip.is_node_port:
        return f"! -d {_LOOPBACK[vip.family]} {port} -m addrtype --dst-type LOCAL"
    return f"-d {vip.ip}/{vip.ip.max_prefixlen} {port}"


def _marking(vip: Vip) -> str:
    """Only a first segment: what the relay has in hand, and conntrack did not see begin, stays there."""
    syn = " --tcp-flags FIN,SYN,RST,ACK SYN" if vip.protocol is Protocol.TCP else ""
    port = f"--dport {vip.port}"
    return f"{_match(vip).replace(port, port + syn)} -j MARK --set-xmark {PROXY_MARK:#x}/0xffffffff"


def _turns(chain: str, way: Way) -> Sequence[str]:
    """Who is remembered goes there, and is remembered anew; then everybody in turn."""
    protocol, sticky, turns = way.vip.protocol.lower(), [], []
    for index, backend in enumerate(way.backends):
        target = f"-j DNAT --to-destination {backend}"
        left = len(way.backends) - index
        turn = f"-p {protocol}"
        turn += f" -m statistic --mode nth --every {left} --packet 0" if left > 1 else ""
        if way.affinity_timeout_s is not None:
            name = _recent_name(chain, backend)
            known = f"-m recent --name {name} --update --seconds {way.affinity_timeout_s} --reap --rsource"
            sticky.append(f"-p {protocol} {known} {target}")
            turn += f" -m recent --name {name} --set --rsource"
        turns.append(f"{turn} {target}")
    return [*sticky, *turns]


def _recent_name(chain: str, backend: Backend) -> str:
    """A file below /proc/net/xt_recent."""
    return f"{chain}-{str(backend.ip).replace(':', '.')}-{backend.port}"
