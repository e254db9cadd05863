"""The checked value that all settings end in, and how single values are read from text.

Owns units and meanings. Every reader takes text and raises ValueError with words for a
person, so that flags and files are read by the same ones.
"""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address, ip_network

from uproxy.kit.durations import parse_duration_s
from uproxy.model.names import IPAddress, IPNetwork
from uproxy.model.node import NodePortKeyword

SERVICE_CIDR = "10.96.0.0/16"
LOOPBACK_SERVICE_CIDR = "127.96.0.0/16"
METRICS_ADDRESS = "127.0.0.1:10249"
METRICS_PORT = 10249
HEALTHZ_ADDRESS = "0.0.0.0:10256"
HEALTHZ_PORT = 10256
DEFAULT_THREADS_MAX = 4
THREADS_MAX = 64
OOM_SCORE_ADJ_MAX = 1000

Address = tuple[str, int]
"""Host, as an IP address, and port."""


class LocalMode(StrEnum):
    """How a Pod of this node, or of the cluster, is told from somebody outside."""

    CLUSTER_CIDR = "ClusterCIDR"
    NODE_CIDR = "NodeCIDR"


@dataclass(frozen=True, slots=True)
class Settings:
    """How one proxy runs. Durations are in seconds."""

    files: tuple[str, ...]
    """Files, directories, and `-` for standard input."""
    endpoints: tuple[str, ...]
    """`--endpoint` flags as written; `sources/flags.py` reads them."""
    capture: str
    """auto, bind or redirect."""
    redirect_mechanism: str
    """auto, nft or iptables."""
    relay: str
    """auto, native or python."""
    threads: int
    """Of the native relay."""
    service_cidr: IPNetwork | None
    """Where cluster IPs come from that manifests do not name; None leaves it to the capture."""
    metrics_address: Address
    healthz_address: Address
    connect_timeout_s: float
    idle_timeout_s: float
    half_closed_timeout_s: float
    udp_idle_timeout_s: float
    drain_timeout_s: float
    log_format: str
    """text or json."""
    access_log: bool
    from_cluster: bool = False
    """Services come from an API server, and not from `files`."""
    kubeconfig: str = ""
    """Path of a kubeconfig file; empty with `from_cluster` means the Pod's service account,
    unless `master` is given."""
    master: str = ""
    """URL of the API server; overrides the kubeconfig's."""
    node_name: str = ""
    """Name of the Node that this proxy runs on, in lower case."""
    is_one_of_many: bool = False
    """Whether there are other nodes: with a cluster, or where `--hostname-override` says which this is.
    Else everything is local."""
    proxy_name: str | None = None
    """Serve the Services whose label service.kubernetes.io/service-proxy-name is this; None
    serves those that have no such label, as kube-proxy does."""
    cluster_cidrs: tuple[IPNetwork, ...] = ()
    """Where the cluster's Pods are."""
    detect_local_mode: LocalMode = LocalMode.CLUSTER_CIDR
    node_port_addresses: tuple[IPNetwork | NodePortKeyword, ...] = ()
    """Which local addresses serve NodePorts and health check ports; empty means all."""
    bind_address: IPAddress | None = None
    """Overrides what the Node says of its primary address. Nothing is bound to it, in
    kube-proxy neither."""
    oom_score_adj: int | None = None
    """For /proc/self/oom_score_adj; None leaves it alone."""
    verbosity: int = 0
    """kube-proxy's `-v`: from 4 on, debug lines too."""
    config_file: str = ""
    """The KubeProxyConfiguration file that was read; empty when there was none."""
    notes: tuple[str, ...] = ()
    """What was given and has no effect, in lines for the log."""


def parse_cidr(text: str) -> IPNetwork | None:
    """A network with room for at least one Service.

    Raises ValueError, with words for a person.
    """
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a network such as {SERVICE_CIDR}: {error}") from error


def parse_cidrs(text: str) -> tuple[IPNetwork, ...]:
    """One network, or one of each family with a comma between them.

    Bits of hosts are forgiven, as Go's ParseCIDR does. Raises ValueError, with words for a person.
    """
    networks = tuple(_network(part) for part in text.split(",") if text)
    if len({network.version for network in networks}) != len(networks):
        raise ValueError(f"{text!r} must be one network, or one of each IP family: 10.244.0.0/16,fd00::/56")
    return networks


def _network(text: str) -> IPNetwork:
    try:
        if "/" not in text:
            raise ValueError("it has no prefix length")
        return ip_network(text.strip(), strict=False)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a network such as 10.244.0.0/16: {error}") from error


def parse_node_port_addresses(text: str) -> tuple[IPNetwork | NodePortKeyword, ...]:
    """Networks and keywords, with commas between them.

    Raises ValueError, with words for a person.
    """
    return tuple(_node_port_address(part.strip()) for part in text.split(",") if text)


def _node_port_address(text: str) -> IPNetwork | NodePortKeyword:
    if text in list(NodePortKeyword):
        return NodePortKeyword(text)
    try:
        return _network(text)
    except ValueError as error:
        raise ValueError(f"{error}, nor one of {', '.join(NodePortKeyword)}") from error


def parse_address(text: str, default_port: int | None = None) -> Address:
    """`IP:PORT` or `[IPv6]:PORT`; with a default port also an IP address alone.

    Raises ValueError, with words for a person.
    """
    if default_port is not None and (alone := _ip_alone(text)):
        return alone, default_port
    host, colon, port = text.rpartition(":")
    try:
        ip = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        raise ValueError(f"{text!r} is not an address such as {METRICS_ADDRESS}") from error
    if not colon or not port.isdigit() or int(port) > 65535 or (ip.version == 6 and host[:1] != "["):
        raise ValueError(f"{text!r} is not an address such as {METRICS_ADDRESS} or [::1]:10249")
    return str(ip), int(port)


def _ip_alone(text: str) -> str:
    try:
        return str(ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        return ""


def parse_ip(text: str) -> IPAddress:
    """Raises ValueError, with words for a person."""
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None


def parse_node_name(text: str) -> str:
    """A Node's name: as in kube-proxy without spaces around it and in lower case. Raises ValueError."""
    name = text.strip().lower()
    if not name:
        raise ValueError("must not be blank")
    return name


def parse_oom_score_adj(text: str) -> int:
    """Raises ValueError, with words for a person."""
    number = _integer(text)
    if not -OOM_SCORE_ADJ_MAX <= number <= OOM_SCORE_ADJ_MAX:
        raise ValueError(f"must be from {-OOM_SCORE_ADJ_MAX} to {OOM_SCORE_ADJ_MAX}, not {number}")
    return number


def parse_verbosity(text: str) -> int:
    """Raises ValueError, with words for a person."""
    number = _integer(text)
    if number < 0:
        raise ValueError(f"must be 0 or more, not {number}")
    return number


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"must be a number, not {text!r}") from None


def parse_log_format(text: str) -> str:
    """Raises ValueError, with words for a person."""
    if text not in ("text", "json"):
        raise ValueError(f"must be text or json, not {text!r}")
    return text


def parse_threads(text: str) -> int:
    """Raises ValueError, with words for a person."""
    if not text.isdigit() or not 1 <= int(text) <= THREADS_MAX:
        raise ValueError(f"must be a number from 1 to {THREADS_MAX}")
    return int(text)


def parse_positive_s(text: str) -> float:
    """A duration that is not nothing. Raises ValueError, with words for a person."""
    seconds = parse_duration_s(text)
    if seconds <= 0:
        raise ValueError("must be more than 0")
    return seconds
