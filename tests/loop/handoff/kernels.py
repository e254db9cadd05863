"""Kernels that keep what they are told, and refuse what a kernel would: nf_tables by its messages, iptables
by its text, IPVS by its commands. Each tells what becomes of a new connection, whatever things are called."""

import re
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from tests.fake_nf_tables import MAP, NfTables, chain_of, jump
from uproxy.errors import CommandFailed
from uproxy.handoff.ipvs_rules import Kind
from uproxy.handoff.nft_chains import TABLE
from uproxy.kernel.ipvs import Command, Destination, Server, Traffic
from uproxy.kernel.netlink import Refused, attributes
from uproxy.kernel.nft import Counted
from uproxy.kernel.nft_commands import Command as NftCommand
from uproxy.kernel.nft_commands import DeleteElements, DeleteTable
from uproxy.kernel.nft_messages import FAMILIES, Table
from uproxy.model.frontend import Backend
from uproxy.model.names import Family, IPAddress, Protocol, Vip


def _its(body: bytes) -> dict[int, bytes]:
    return dict(attributes(body))


def _name(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode()


class Nftables:
    """Our table in nf_tables, with what its elements have counted. Stands where `NftNetlink` does."""

    def __init__(self) -> None:
        self.fake = NfTables()
        self.packets: dict[tuple[str, bytes], int] = {}

    def commit(self, commands: Iterable[NftCommand]) -> None:
        some = list(commands)
        self.fake.commit(some)
        for one in some:
            if isinstance(one, DeleteTable):
                self.packets.clear()
            elif isinstance(one, DeleteElements):
                for its in one.elements:
                    self.packets.pop((one.set.name, its.key), None)

    @property
    def _table(self) -> Any:
        return self.fake.tables[FAMILIES[TABLE.family], TABLE.name]

    def generation(self) -> int:
        return self.fake.transactions

    def rules(self, _table: Table) -> dict[str, int]:
        return {name: len(chain.rules) for name, chain in self._table.chains.items()}

    def keys(self, _table: Table, name: str) -> set[bytes]:
        its = self._table.sets.get(name)
        return {key for key, _ in its.elements} if its is not None else set()

    def comments(self, _table: Table, _chain: str) -> list[str]:
        return []

    def counters(self, _table: Table, name: str, _size: int) -> list[Counted]:
        return [Counted(key, self.packets.get((name, key), 0)) for key in self.keys(TABLE, name)]

    def clients(self, _table: Table, _name: str) -> list[tuple[bytes, int]]:
        return []

    # ---- what becomes of packets ----

    def led(self) -> dict[Any, Any]:
        """By base chain, the rules that a connection meets; and all that they ask."""
        chains, sets = self._table.chains, self._table.sets
        inner = {name for name, chain in chains.items() if chain.hook is None}
        assert inner <= set(self._table.leading_to()), "chains that nothing leads to"
        assert sets.keys() <= self._table.sets_in_use(), "sets that nothing asks"
        walks: dict[Any, Any] = {name: self._walk(name) for name in chains.keys() - inner}
        plain = (its for its in sets.values() if not its.flags & MAP and not its.is_filled_by_rules)
        return walks | {("set", its.name): set(its.elements) for its in plain}

    def _walk(self, chain: str) -> Any:
        rules = self._table.chains[chain].rules
        return tuple(tuple(self._step(*one) for one in rule.expressions) for rule in rules)

    def _step(self, kind: str, its: dict[int, bytes]) -> Any:
        """Names that are made up as Services come are nothing to compare."""
        if kind in ("lookup", "dynset"):
            used = self._table.sets[_name(its[1])]
            return kind, frozenset((key, self._leads(used, data)) for key, data in used.elements.items())
        if kind == "immediate" and (chain := jump(its)):
            return kind, self._walk(chain)
        return kind, tuple(sorted(its.items()))

    def _leads(self, its: Any, data: bytes) -> Any:
        chain = chain_of(its, data)
        return self._walk(chain) if chain else data


class Iptables:
    """The tables of both families, by the input of `iptables-restore --noflush`."""

    def __init__(self) -> None:
        self.rules: dict[tuple[int, str, str], list[str]] = {}

    async def execute(self, *_words: str, stdin: str = "") -> str:
        return stdin

    async def restore(self, family: int, text: str) -> None:
        table = ""
        for line in text.splitlines():
            verb, _, rest = line.partition(" ")
            chain, _, rule = rest.partition(" ")
            at = family, table, chain
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith(":"):
                self.rules[family, table, verb[1:]] = []
            elif verb == "-A":
                self.rules.setdefault(at, []).append(rule)
            elif verb == "-I":
                self.rules.setdefault(at, []).insert(0, rule)
            elif verb == "-D":
                if rule not in self.rules[at]:
                    raise CommandFailed(f"no such rule: {line}")
                self.rules[at].remove(rule)
            elif verb == "-F":
                self.rules[at].clear()
            elif verb == "-X":
                users = [one for rules in self.rules.values() for one in rules if f"-j {chain}" in f"{one} "]
                if [one for one in users if one.endswith(f"-j {chain}")] or self.rules.pop(at):
                    raise CommandFailed(f"in use: {line}")

    def led(self) -> dict[Any, Any]:
        """By address, who answers; and what is marked."""
        found: dict[Any, Any] = {}
        for family, table, chain in self.rules:
            if chain != "UPROXY_HANDOFF":
                continue
            for rule in self.rules[family, table, chain]:
                match, _, target = rule.partition(" -j ")
                inside = self.rules.get((family, table, target), [target])
                found.setdefault((family, table, match), [re.sub(r"UPROXY_H\d+", "", one) for one in inside])
        return found


class VirtualServers:
    """IPVS, and its sets and routes. Stands where `Ipvs` does."""

    def __init__(self) -> None:
        self.there: dict[Vip, tuple[Server, dict[Backend, int]]] = {}
        self.sets: dict[Kind, set[Vip]] = {kind: set() for kind in Kind}
        self.on_node: set[IPAddress] = set()
        self.routed: set[IPAddress] = set()
        self.traffic: dict[tuple[Vip, Backend], int] = {}

    def servers(self) -> Mapping[Vip, Server]:
        return {vip: server for vip, (server, _) in self.there.items()}

    def existing(self, vips: Sequence[Vip]) -> list[Vip]:
        return [vip for vip in vips if vip in self.there]

    def destinations(self, vip: Vip) -> dict[Backend, Destination]:
        if vip not in self.there:
            raise Refused(3, "no such virtual server")
        return {
            one: Destination(weight, 0, 0, Traffic(self.traffic.get((vip, one), 0), 0, 0, 0, 0))
            for one, weight in self.there[vip][1].items()
        }

    def change(self, commands: Sequence[Command]) -> None:
        for command in commands:
            its = _its(command.body)
            self._do(command, _vip(_its(its[1])), _its(its[1]), _its(its.get(2, b"")))

    def _do(self, command: Command, vip: Vip, server: dict[int, bytes], dest: dict[int, bytes]) -> None:
        if (vip in self.there) == (command.number == 1):
            raise Refused(17, command.words)
        if command.number == 3:
            del self.there[vip]
        elif command.number in (1, 2):
            flags, timeout_s = struct.unpack_from("=I", server[7])[0], struct.unpack("=I", server[8])[0]
            made = Server(_name(server[6]), timeout_s if flags & 1 else None)
            self.there[vip] = made, self.there[vip][1] if vip in self.there else {}
        else:
            raw = dest[1][:4] if vip.family == 4 else dest[1]
            backend, its = Backend(ip_address(raw), int.from_bytes(dest[2], "big")), self.there[vip][1]
            if (backend in its) == (command.number == 5):
                raise Refused(17, command.words)
            if command.number == 7:
                del its[backend]
            else:
                its[backend] = struct.unpack("=I", dest[4])[0]

    def close(self) -> None:
        pass

    # ---- what is around them: stands where `ipvs_rules` does ----

    async def program(self, _inside: object) -> Mapping[Family, str]:
        for its in (*self.sets.values(), self.on_node):
            its.clear()
        return {}

    async def move(self, *steps: tuple[str, Kind, Collection[Vip]]) -> None:
        for verb, kind, vips in steps:
            (self.sets[kind].update if verb == "add" else self.sets[kind].difference_update)(vips)

    async def here(self, verb: str, ips: Collection[IPAddress]) -> None:
        (self.on_node.update if verb == "add" else self.on_node.difference_update)(ips)

    async def route(self, verb: str, ips: Collection[IPAddress]) -> None:
        (self.routed.difference_update if verb == "del" else self.routed.update)(ips)

    async def routes(self) -> set[IPAddress]:
        return set(self.routed)

    def led(self) -> dict[Any, Any]:
        """By address, who answers; and the sets."""
        leading = {vip: self.there[vip] for vip in self.sets[Kind.LEADS]}
        return {**leading, "here": self.on_node, "routes": self.routed, "servers": self.there.keys()}


def _vip(its: dict[int, bytes]) -> Vip:
    family, number = struct.unpack("=H", its[1])[0], struct.unpack("=H", its[2])[0]
    ip = ip_address(its[3][:4] if family == 2 else its[3])
    return Vip(ip, int.from_bytes(its[4], "big"), Protocol.TCP if number == 6 else Protocol.UDP)
