"""What kube-proxy's flags and its configuration file have in common with this proxy.

Owns the table of what applies here, each with its flag, its field and its reader, and the
flags of kube-proxy that say nothing here. Those are accepted all the same, so that the
argument list of its DaemonSet works unchanged.
Source: kube-proxy 1.36, cmd/kube-proxy/app/options.go.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from uproxy.kit.durations import parse_duration_s
from uproxy.settings.node_ports import parse_mode
from uproxy.settings.readers import (
    parse_address,
    parse_cidrs,
    parse_ip,
    parse_log_format,
    parse_node_name,
    parse_node_port_addresses,
    parse_oom_score_adj,
    parse_verbosity,
)
from uproxy.settings.values import HEALTHZ_PORT, METRICS_PORT, LocalMode

_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


def parse_switch(text: str) -> bool:
    """A flag's truth value, as Go's strconv.ParseBool has it. Raises ValueError."""
    if text in _TRUE + _FALSE:
        return text in _TRUE
    raise ValueError(f"must be true or false, not {text!r}")


class NotHere(Exception):
    """A value that kube-proxy knows, and that means nothing here."""


class Applied(NamedTuple):
    """One thing that can be said in kube-proxy's words and has a meaning here."""

    setting: str
    """Name in `Settings`."""
    flag: str
    field: str
    """Path in the configuration file."""
    read: Callable[[str], object]
    """From text. Raises ValueError, or NotHere."""
    beside_config: bool = False
    """Whether the flag counts beside `--config`."""


def _local_mode(text: str) -> LocalMode:
    if text in ("BridgeInterface", "InterfaceNamePrefix"):
        raise NotHere
    try:
        return LocalMode(text)
    except ValueError:
        known = ", ".join((*LocalMode, "BridgeInterface", "InterfaceNamePrefix"))
        raise ValueError(f"must be one of {known}, not {text!r}") from None


APPLIED = (
    Applied("kubeconfig", "kubeconfig", "clientConnection.kubeconfig", str),
    Applied("node_name", "hostname-override", "hostnameOverride", parse_node_name, beside_config=True),
    Applied("bind_address", "bind-address", "bindAddress", parse_ip),
    Applied(
        "healthz_address",
        "healthz-bind-address",
        "healthzBindAddress",
        lambda text: parse_address(text, HEALTHZ_PORT),
    ),
    Applied(
        "metrics_address",
        "metrics-bind-address",
        "metricsBindAddress",
        lambda text: parse_address(text, METRICS_PORT),
    ),
    Applied("detect_local_mode", "detect-local-mode", "detectLocalMode", _local_mode),
    Applied("cluster_cidrs", "cluster-cidr", "clusterCIDR", parse_cidrs),
    Applied("node_port_addresses", "nodeport-addresses", "nodePortAddresses", parse_node_port_addresses),
    Applied("proxy_mode", "proxy-mode", "mode", parse_mode),
    Applied(
        "localhost_node_ports", "iptables-localhost-nodeports", "iptables.localhostNodePorts", parse_switch
    ),
    Applied("oom_score_adj", "oom-score-adj", "oomScoreAdj", parse_oom_score_adj),
    Applied(
        "idle_timeout_s",
        "conntrack-tcp-timeout-established",
        "conntrack.tcpEstablishedTimeout",
        parse_duration_s,
    ),
    Applied(
        "half_closed_timeout_s",
        "conntrack-tcp-timeout-close-wait",
        "conntrack.tcpCloseWaitTimeout",
        parse_duration_s,
    ),
    Applied(
        "udp_idle_timeout_s",
        "conntrack-udp-timeout-stream",
        "conntrack.udpStreamTimeout",
        parse_duration_s,
    ),
    Applied("log_format", "log-format", "logging.format", parse_log_format, beside_config=True),
    Applied("verbosity", "v", "logging.verbosity", parse_verbosity, beside_config=True),
)

_IGNORED = (
    "boot-id-file",
    "machine-id-file",
    "feature-gates",
    "kube-api-content-type",
    "kube-api-burst",
    "kube-api-qps",
    "show-hidden-metrics-for-version",
    "iptables-masquerade-bit",
    "iptables-sync-period",
    "iptables-min-sync-period",
    "ipvs-sync-period",
    "ipvs-min-sync-period",
    "ipvs-scheduler",
    "ipvs-exclude-cidrs",
    "ipvs-tcp-timeout",
    "ipvs-tcpfin-timeout",
    "ipvs-udp-timeout",
    "pod-bridge-interface",
    "pod-interface-name-prefix",
    "conntrack-max-per-core",
    "conntrack-min",
    "conntrack-udp-timeout",
    "config-sync-period",
    "healthz-port",
    "metrics-port",
    "log-flush-frequency",
    "log-json-info-buffer-size",
    "log-text-info-buffer-size",
    "vmodule",
)
_IGNORED_SWITCHES = (
    "bind-address-hard-fail",
    "profiling",
    "masquerade-all",
    "ipvs-strict-arp",
    "conntrack-tcp-be-liberal",
    "log-json-split-stream",
    "log-text-split-stream",
)
IGNORED_FLAGS = (*_IGNORED, *_IGNORED_SWITCHES)


def add_kube_proxy_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that only kube-proxy's users know; those of no meaning are not in the help."""
    ours = parser.add_argument_group("kube-proxy", "its other flags are accepted, and named in the log")
    for flag, meaning in (
        ("init-only", "do what needs full privileges, and end"),
        ("cleanup", "remove every rule, set and route that any run has left, and end"),
    ):
        ours.add_argument(f"--{flag}", nargs="?", const="true", default="false", metavar="BOOL", help=meaning)
    for applied in APPLIED:
        if applied.flag.startswith(("conntrack-", "detect-", "bind-")):
            ours.add_argument(f"--{applied.flag}", metavar="VALUE", help=f"sets {_words(applied.setting)}")
    ours.add_argument(
        "--proxy-mode", metavar="MODE", help="with nftables NodePorts are on primary addresses only"
    )
    ours.add_argument(
        "--iptables-localhost-nodeports",
        nargs="?",
        const="true",
        metavar="BOOL",
        help="NodePorts are on 127.0.0.1 too; so they are with --proxy-mode iptables",
    )
    parser.add_argument("--write-config-to", help=argparse.SUPPRESS)
    for flag in _IGNORED:
        parser.add_argument(f"--{flag}", help=argparse.SUPPRESS)
    for flag in _IGNORED_SWITCHES:
        parser.add_argument(f"--{flag}", nargs="?", const="true", help=argparse.SUPPRESS)


def _words(setting: str) -> str:
    same = {
        "idle_timeout_s": "--idle-timeout",
        "half_closed_timeout_s": "--half-closed-timeout",
        "udp_idle_timeout_s": "--udp-idle-timeout",
        "detect_local_mode": "how Pods are told from others: ClusterCIDR or NodeCIDR",
        "bind_address": "the node's primary address, in place of what its Node says",
    }
    return same[setting]
