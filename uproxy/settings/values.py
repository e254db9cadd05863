"""The checked value that all settings end in. Owns units and meanings."""

from dataclasses import dataclass
from enum import StrEnum

from uproxy.model.names import IPAddress, IPNetwork
from uproxy.model.node import NodePortKeyword

SERVICE_CIDR = "10.96.0.0/16"
LOOPBACK_SERVICE_CIDR = "127.96.0.0/16"
CLUSTER_DOMAIN = "cluster.local"
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
    """auto, bind, redirect or tproxy."""
    redirect_mechanism: str
    """auto, nft or iptables."""
    handoff: str
    """off, auto, or the mechanism by which hot Services go to the kernel."""
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
    dns_addresses: tuple[Address, ...] = ()
    """Where names are answered; nowhere when empty."""
    cluster_domain: str = CLUSTER_DOMAIN
    dns_upstream: tuple[Address, ...] = ()
    """Servers for other names; empty takes those of resolv.conf."""
    dns_pods: str = "insecure"
    """insecure, verified or disabled."""
    take_over: bool = False
    """Wait for a uproxy that serves this machine to be told to stop, and go on in its place."""
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
