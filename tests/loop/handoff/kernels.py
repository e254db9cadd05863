"""Kernels that keep what they are told, and refuse what a kernel would: nf_tables by its messages, iptables
by its text, IPVS by its commands. Each tells what becomes of a new connection, whatever things are called."""

import re
import struct
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from uproxy.errors import CommandFailed
from uproxy.handoff.ipvs_rules import Kind
from uproxy.kernel.ipvs import Command, Destination, Server, Traffic
from uproxy.kernel.netlink import Refused, attributes
from uproxy.kernel.nft import Counted
from uproxy.kernel.nft_messages import Message
from uproxy.model.frontend import Backend
from uproxy.model.names import Family, IPAddress, Protocol, Vip

_CONSTANT = re.compile(r"(ahead|services|inside|new_|here|pods)")


def _its(body: bytes) -> dict[int, bytes]:
    return dict(attributes(body))


def _name(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode()


class NfTables:
    """Our table. Stands where `NftNetlink` does."""

    def __init__(self) -> None:
        self.chains: dict[str, list[list[tuple[str, dict[str, Any]]]]] = {}
        self.sets: dict[str, dict[bytes, Any]] = defaultdict(dict)
        self.packets: dict[tuple[str, bytes], int] = {}
        self._anonymous = 0

    def commit(self, messages: Sequence[Message]) -> None:
        chains = {name: list(rules) for name, rules in self.chains.items()}
        sets = {name: dict(its) for name, its in self.sets.items()}
        ids: dict[bytes, str] = {}
        try:
            for message in messages:
                self._do(message, _its(message.body), ids)
            self._verify()
        except CommandFailed:
            self.chains, self.sets = chains, defaultdict(dict, sets)
            raise
        self.packets = {at: count for at, count in self.packets.items() if at[1] in self.sets[at[0]]}

    def _do(self, message: Message, its: dict[int, bytes], ids: dict[bytes, str]) -> None:
        match message.kind:
            case 3:
                self.chains.setdefault(_name(its[3]), [])
            case 5:
                if self.chains.pop(_name(its[3])):
                    raise CommandFailed("a chain that has rules")
            case 6:
                rule = [self._expression(one, ids) for _, one in attributes(its[4])]
                self.chains[_name(its[2])].append(rule)
            case 8:
                self.chains[_name(its[2])].clear()
            case 9:
                name = _name(its[2])
                if "%d" in name:
                    self._anonymous += 1
                    name = f"anonymous{self._anonymous}"
                ids[its[10]] = name
                self.sets.setdefault(name, {})
            case 11:
                if self.sets.pop(_name(its[2]), None) is None:
                    raise CommandFailed(f"no such set: {message.words}")
            case 12 | 14:
                name = ids[its[4]] if 4 in its else _name(its[2])
                for _, one in attributes(its[3]):
                    self._element(name, _its(one), added=message.kind == 12)

    def _element(self, name: str, its: dict[int, bytes], *, added: bool) -> None:
        if name not in self.sets and not _CONSTANT.match(name):
            raise CommandFailed(f"no such set: {name}")
        elements, key = self.sets[name], _its(its[1])[1]
        if not added:
            if elements.pop(key, None) is None:
                raise CommandFailed(f"no such element of {name}: {key.hex()}")
            self.packets.pop((name, key), None)
            return
        data = self._data(_its(its[2])) if 2 in its else True
        if elements.setdefault(key, data) != data:
            raise CommandFailed(f"another element of {name}: {key.hex()}")

    def _data(self, its: dict[int, bytes]) -> Any:
        return its[1] if 1 in its else ("chain", _name(_its(its[2])[2]))

    def _expression(self, raw: bytes, ids: dict[bytes, str]) -> tuple[str, dict[str, Any]]:
        its = _its(raw)
        kind, data = _name(its[1]), _its(its[2])
        match kind:
            case "lookup":
                name = ids[data[4]] if 4 in data else _name(data[1])
                return kind, {"set": name, "maps": 3 in data}
            case "dynset":
                return kind, {"set": _name(data[1])}
            case "immediate":
                return kind, {"data": self._data(_its(data[2]))}
        return kind, {"raw": its[2]}

    def _verify(self) -> None:
        """No reference to what is not there."""
        used = set()
        for rules in self.chains.values():
            for kind, its in (expression for rule in rules for expression in rule):
                if kind in ("lookup", "dynset"):
                    used.add(its["set"])
                    if its["set"] not in self.sets:
                        raise CommandFailed(f"{its['set']} is used")
                elif kind == "immediate" and isinstance(its["data"], tuple):
                    self._chain(its["data"][1])
        for name in [name for name in self.sets if name.startswith("anonymous") and name not in used]:
            del self.sets[name]
        for elements in self.sets.values():
            for data in elements.values():
                if isinstance(data, tuple):
                    self._chain(data[1])

    def _chain(self, name: str) -> list[Any]:
        if name not in self.chains:
            raise CommandFailed(f"{name} is led to")
        return self.chains[name]

    def counters(self, name: str, _size: int) -> list[Counted]:
        return [Counted(key, self.packets.get((name, key), 0)) for key in self.sets[name]]

    def clients(self, _name: str) -> list[tuple[bytes, int]]:
        return []

    def close(self) -> None:
        self.__init__()  # type: ignore[misc]

    # ---- what becomes of packets ----

    def led(self) -> dict[Any, Any]:
        """By map and key, the rules that a connection meets."""
        found: dict[Any, Any] = {
            (name, key): self._walk(data[1])
            for name, elements in self.sets.items()
            if name.startswith(("ahead", "services", "inside"))
            for key, data in elements.items()
        }
        for name in self.sets:
            if name.startswith(("here", "new_")):
                found |= {(name, key): True for key in self.sets[name]}
        reached = 2 * sum(len(its) for its in self.sets.values())
        assert len(self.chains) <= reached, "chains that nothing leads to"
        return found

    def _walk(self, chain: str) -> Any:
        return tuple(tuple(self._step(*one) for one in rule) for rule in self.chains[chain])

    def _step(self, kind: str, its: dict[str, Any]) -> Any:
        if kind == "lookup" and its["maps"]:
            return kind, tuple(
                sorted((key, self._leads(data)) for key, data in self.sets[its["set"]].items())
            )
        if kind == "immediate":
            return kind, self._leads(its["data"])
        return kind, its.get("raw")

    def _leads(self, data: Any) -> Any:
        return self._walk(data[1]) if isinstance(data, tuple) else data


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
