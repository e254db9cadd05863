"""From flags and a configuration file to one checked value, or to every mistake at once.

Owns which of them wins: a flag of our own over what the file says, the file over kube-proxy's
flags beside it (as in kube-proxy), and defaults where nothing was said. Looks at nothing but
its arguments, save the CPUs.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from uproxy.kit.durations import parse_duration_s
from uproxy.model.faults import BadInput, Fault
from uproxy.model.names import IPAddress
from uproxy.settings.flags import TIMEOUTS
from uproxy.settings.kube_proxy import APPLIED, IGNORED_FLAGS, Applied, NotHere, parse_switch
from uproxy.settings.kube_proxy_file import read_fields
from uproxy.settings.node_ports import node_port_addresses
from uproxy.settings.readers import (
    parse_address,
    parse_cidr,
    parse_dns_server,
    parse_positive_s,
    parse_threads,
)
from uproxy.settings.values import (
    CLUSTER_DOMAIN,
    DEFAULT_THREADS_MAX,
    HEALTHZ_PORT,
    METRICS_ADDRESS,
    METRICS_PORT,
    Address,
    Settings,
)

T = TypeVar("T")

ONE_SHOT = ("cleanup", "init_only")
"""Flags of `uproxy run` that make it do something else, which needs no Services."""

_ALWAYS_SO = frozenset(("apiVersion", "kind", "bindAddressHardFail"))
"""Fields that ask for what is so anyway."""


class Surroundings(NamedTuple):
    """What the machine says by itself."""

    host_name: str = ""
    in_cluster: bool = False
    """Whether there is a Pod's service account, and the address of an API server."""


NOWHERE = Surroundings()


def parse_settings(
    flags: argparse.Namespace,
    surroundings: Surroundings = NOWHERE,
    config: object = None,
    *,
    needs_sources: bool = True,
) -> Settings:
    """Check the flags of `uproxy run`, and what `--config` names: `config`, as plain values. Without
    `needs_sources` it need not be said where Services come from.

    Raises BadInput with every mistake.
    """
    parsing = _Parsing(flags)
    given = parsing.of_file(config) if flags.config else parsing.of_flags(flags)
    settings = parsing.settings(given, surroundings)
    one_shot = _one_shot(flags, parsing.faults)
    unread = bool(flags.config and parsing.faults)  # what might have named a cluster
    if needs_sources and not (settings.from_cluster or settings.files or one_shot or unread):
        parsing.faults.append(
            _fault(
                "-f",
                "give at least one manifest (a file, a directory, or -), or a cluster: --kubeconfig, "
                "--master, or --config with clientConnection.kubeconfig",
            )
        )
    if parsing.faults:
        raise BadInput(tuple(parsing.faults))
    return settings


def _one_shot(flags: argparse.Namespace, faults: list[Fault]) -> bool:
    found = False
    for name in ONE_SHOT:
        try:
            found |= parse_switch(getattr(flags, name))
        except ValueError as error:
            faults.append(_fault(f"--{name.replace('_', '-')}", str(error)))
    return found


class _Parsing:
    """One run over everything given; `faults` and `ignored` grow on the way."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self.faults: list[Fault] = []
        self._flags = flags
        self._ignored = [f"--{flag}" for flag in IGNORED_FLAGS if self._given(flag) is not None]
        self._overridden: list[str] = []
        self._warnings: list[str] = []
        if flags.write_config_to:
            self.faults.append(_fault("--write-config-to", "is not supported: nothing is defaulted here"))

    def _given(self, flag: str) -> str | None:
        """A flag's text; what was given several times has commas between."""
        value: str | list[str] | None = getattr(self._flags, flag.replace("-", "_"))
        return ",".join(value) if isinstance(value, list) else value

    def of_file(self, config: object) -> dict[str, Any]:
        """What the file says, and the flags that count beside it."""
        by_field = {applied.field: applied for applied in APPLIED}
        fields, faults, self._warnings = read_fields(self._flags.config, config, by_field)
        self.faults += faults
        given: dict[str, Any] = {}
        for path, text in fields.items():
            applied = by_field.get(path)
            if applied is not None:
                self._read(given, applied, text, Fault(self._flags.config, 0, "", None, path, ""))
            elif path not in _ALWAYS_SO:
                self._ignored.append(path)
        self._overridden = [
            f"--{applied.flag}"
            for applied in APPLIED
            if not applied.beside_config and self._given(applied.flag)
        ]
        return given | self.of_flags(self._flags, beside_config=True)

    def of_flags(self, flags: argparse.Namespace, beside_config: bool = False) -> dict[str, Any]:
        """What kube-proxy's flags say, or only those that count beside a file."""
        given: dict[str, Any] = {}
        for applied in APPLIED:
            text = self._given(applied.flag)
            if text and (applied.beside_config or not beside_config):
                self._read(given, applied, text, _fault(f"--{applied.flag}", ""))
        return given

    def _read(self, given: dict[str, Any], applied: Applied, text: str, where: Fault) -> None:
        try:
            given[applied.setting] = applied.read(text)
        except NotHere:
            self._ignored.append(f"{where.field or where.file}={text}")
        except ValueError as error:
            self.faults.append(Fault(where.file, 0, "", None, where.field, str(error)))

    def _own(self, flag: str, parse: Callable[[str], T], fallback: T) -> T:
        text = self._given(flag)
        try:
            return fallback if text is None else parse(text)
        except ValueError as error:
            self.faults.append(_fault(f"--{flag}", str(error)))
            return fallback

    def _each(self, flag: str, parse: Callable[[str], T]) -> tuple[T, ...]:
        """Of a flag that may be given several times."""
        texts = getattr(self._flags, flag.replace("-", "_")) or ()
        found = []
        for text in texts:
            try:
                found.append(parse(text))
            except ValueError as error:
                self.faults.append(_fault(f"--{flag}", str(error)))
        return tuple(found)

    def _timeout_s(self, flag: str, given: Mapping[str, Any]) -> float:
        """Of our own flag, else of kube-proxy's, where 0 leaves things as they are, else the default."""
        default_s = parse_duration_s(TIMEOUTS[flag][0])
        said_s = given.get(f"{flag.replace('-', '_')}_s") or default_s
        return self._own(flag, parse_duration_s if flag == "drain-timeout" else parse_positive_s, said_s)

    def settings(self, given: dict[str, Any], surroundings: Surroundings) -> Settings:
        """All of it together; meaningless while there are faults."""
        flags, said = self._flags, given.get
        files, kubeconfig, master = tuple(flags.files), said("kubeconfig", ""), flags.master or ""
        metrics, healthz = _default_addresses(said("bind_address"))
        from_cluster = not files and bool(kubeconfig or master or surroundings.in_cluster)
        return Settings(
            files=files,
            endpoints=tuple(flags.endpoints),
            capture=flags.capture,
            redirect_mechanism=flags.redirect_mechanism,
            take_over=flags.take_over,
            handoff=flags.handoff,
            relay=flags.relay,
            threads=self._own("threads", parse_threads, _default_threads()),
            service_cidr=self._own("service-cidr", parse_cidr, None),
            metrics_address=said("metrics_address", metrics),
            healthz_address=said("healthz_address", healthz),
            connect_timeout_s=self._timeout_s("connect-timeout", given),
            idle_timeout_s=self._timeout_s("idle-timeout", given),
            half_closed_timeout_s=self._timeout_s("half-closed-timeout", given),
            udp_idle_timeout_s=self._timeout_s("udp-idle-timeout", given),
            drain_timeout_s=self._timeout_s("drain-timeout", given),
            log_format=said("log_format", "text"),
            access_log=flags.access_log,
            dns_addresses=self._each("dns", parse_address),
            cluster_domain=flags.cluster_domain or CLUSTER_DOMAIN,
            dns_upstream=self._each("dns-upstream", parse_dns_server),
            dns_pods=flags.dns_pods,
            from_cluster=from_cluster,
            kubeconfig=kubeconfig,
            master=master,
            node_name=said("node_name", surroundings.host_name.strip().lower()),
            is_one_of_many=from_cluster or "node_name" in given,
            proxy_name=flags.proxy_name or None,
            bind_address=_specified(said("bind_address")),
            config_file=flags.config or "",
            notes=tuple(self._notes(files, kubeconfig, master)),
            node_port_addresses=node_port_addresses(
                said("node_port_addresses", ()), said("proxy_mode", ""), said("localhost_node_ports")
            ),
            **{name: given[name] for name in _AS_GIVEN if name in given},
        )

    def _notes(self, files: tuple[str, ...], kubeconfig: str, master: str) -> Iterator[str]:
        yield from self._warnings
        if self._ignored:
            yield f"of no meaning here, and ignored: {', '.join(self._ignored)}"
        if self._overridden:
            yield f"ignored beside --config, as by kube-proxy: {', '.join(self._overridden)}"
        if files and (kubeconfig or master):
            yield "Services come from the manifests given, and not from the cluster"


_AS_GIVEN = ("cluster_cidrs", "detect_local_mode", "oom_score_adj", "verbosity")
"""Settings whose defaults are the same whatever else is said."""


def _fault(flag: str, message: str) -> Fault:
    return Fault(flag, 0, "", None, "", message)


def _default_addresses(bind_address: IPAddress | None) -> tuple[Address, Address]:
    """Of metrics and health: as in kube-proxy, of the family that `bindAddress` has."""
    if bind_address is not None and bind_address.version == 6:
        return ("::1", METRICS_PORT), ("::", HEALTHZ_PORT)
    return parse_address(METRICS_ADDRESS), ("0.0.0.0", HEALTHZ_PORT)


def _specified(ip: IPAddress | None) -> IPAddress | None:
    return None if ip is None or ip.is_unspecified else ip


def _default_threads() -> int:
    """Python's own thread takes a CPU too: it accepts and dials, half of a short connection's work."""
    return max(1, min(len(os.sched_getaffinity(0)) - 1, DEFAULT_THREADS_MAX))
