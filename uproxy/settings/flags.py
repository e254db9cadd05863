"""The flags of `uproxy run`: the proxy's own ones, and beside them kube-proxy's.

Owns their names, their help and what they are when absent: None, so that whoever puts the
settings together can tell. Reads none of them.
"""

import argparse

from uproxy.settings.kube_proxy import add_kube_proxy_flags
from uproxy.settings.values import (
    CLUSTER_DOMAIN,
    DEFAULT_THREADS_MAX,
    HEALTHZ_ADDRESS,
    LOOPBACK_SERVICE_CIDR,
    METRICS_ADDRESS,
    SERVICE_CIDR,
)

TIMEOUTS = {
    "connect-timeout": ("2s", "for one endpoint to accept, before the next is tried"),
    "idle-timeout": ("24h", "for a connection on which nothing moves (dead peers are found sooner)"),
    "half-closed-timeout": ("1h", "the same, when one side has finished sending"),
    "udp-idle-timeout": ("2m", "for a UDP flow; one that saw a single exchange ends after 30s"),
    "drain-timeout": ("30s", "for open connections to end, after SIGTERM, when no other uproxy takes over"),
}


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `uproxy run`."""
    add_source_flags(parser)
    _add_cluster_flags(parser.add_argument_group("cluster", "as kube-proxy's, where it has them"))
    _add_network_flags(parser.add_argument_group("network"))
    add_dns_flags(parser)
    timeouts = parser.add_argument_group("timeouts", "durations such as 250ms, 30s, 1h")
    for flag, (default, meaning) in TIMEOUTS.items():
        timeouts.add_argument(f"--{flag}", metavar="DURATION", help=f"{meaning} (default: {default})")
    logs = parser.add_argument_group("logs")
    logs.add_argument("--log-format", "--logging-format", metavar="text|json", help="(default: text)")
    logs.add_argument("--access-log", action="store_true", help="one line for every connection that ended")
    logs.add_argument("-v", "--v", metavar="N", help="from 4 on, debug lines too (default: 0)")
    add_kube_proxy_flags(parser)


def _add_network_flags(network: argparse._ArgumentGroup) -> None:
    network.add_argument(
        "--capture",
        choices=("auto", "bind", "redirect", "tproxy"),
        default="auto",
        help="how traffic for a VIP gets here: listen on the VIP itself, or have the kernel redirect it; "
        "tproxy redirects, and endpoints see their clients' own addresses "
        "(default: redirect where this machine can, else bind)",
    )
    network.add_argument(
        "--redirect-mechanism",
        choices=("auto", "nft", "iptables"),
        default="auto",
        help="what redirects (default: nftables where it works, else iptables with ipset)",
    )
    network.add_argument(
        "--relay",
        choices=("auto", "native", "python"),
        default="auto",
        help="what carries TCP: the C extension, in threads of its own, or Python "
        "(default: native where it was built)",
    )
    network.add_argument(
        "--handoff",
        choices=("off", "auto", "nftables", "ipvs", "iptables"),
        default="off",
        help="who carries hot Services, and those that an annotation names: the relay all the same (off), "
        "or the kernel, by the best that this machine has (auto); see docs/handoff.md (default: off)",
    )
    network.add_argument(
        "--take-over",
        action="store_true",
        help="where another uproxy serves this machine, wait until it is told to stop, and go on in its "
        "place without a gap (default: that is a mistake)",
    )
    network.add_argument(
        "--threads",
        metavar="N",
        help="threads of the native relay "
        f"(default: one for each CPU but one, at most {DEFAULT_THREADS_MAX})",
    )
    network.add_argument(
        "--metrics-bind-address",
        metavar="IP:PORT",
        help=f"serves /metrics and what `uproxy services` asks (default: {METRICS_ADDRESS})",
    )
    network.add_argument(
        "--healthz-bind-address",
        metavar="IP:PORT",
        help=f"serves /healthz and /livez (default: {HEALTHZ_ADDRESS})",
    )


def add_dns_flags(parser: argparse.ArgumentParser) -> None:
    """Declare how names are served; `uproxy resolve` has some of these too."""
    names = parser.add_argument_group("names", "cluster DNS; see docs/dns.md")
    names.add_argument(
        "--dns", action="append", metavar="IP:PORT", help="answer DNS here, by UDP and TCP; repeatable"
    )
    names.add_argument("--cluster-domain", metavar="DOMAIN", help=f"(default: {CLUSTER_DOMAIN})")
    names.add_argument(
        "--dns-upstream",
        action="append",
        metavar="IP[:PORT]",
        help="a server for all other names; repeatable (default: those of /etc/resolv.conf)",
    )
    names.add_argument(
        "--dns-pods",
        choices=("insecure", "verified", "disabled"),
        default="insecure",
        help="answer 10-0-0-1.NAMESPACE.pod.DOMAIN for any address, for those of known endpoints, or not "
        "at all (default: insecure)",
    )


def _add_cluster_flags(cluster: argparse._ArgumentGroup) -> None:
    cluster.add_argument(
        "--config",
        metavar="FILE",
        help="a KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1); kube-proxy's flags beside it "
        "are ignored, but --hostname-override, --master and those for logs. When it changes, the proxy "
        "ends with status 1, to be started again",
    )
    cluster.add_argument("--kubeconfig", metavar="FILE", help="how to reach the API server, and as whom")
    cluster.add_argument("--master", metavar="URL", help="the API server, instead of the kubeconfig's")
    cluster.add_argument(
        "--hostname-override",
        metavar="NODE",
        help="name of the Node that this is (default: the host's name)",
    )
    cluster.add_argument(
        "--proxy-name",
        metavar="NAME",
        help="serve the Services with the label service.kubernetes.io/service-proxy-name: NAME "
        "(default: those without that label)",
    )
    cluster.add_argument(
        "--cluster-cidr", metavar="CIDR[,CIDR]", help="where the cluster's Pods are, one for each IP family"
    )
    cluster.add_argument(
        "--nodeport-addresses",
        action="append",
        metavar="CIDR,...",
        help="local addresses that serve NodePorts: networks, primary, localhost or all; repeatable "
        "(default: all)",
    )
    cluster.add_argument(
        "--oom-score-adj", metavar="N", help="-1000 to 1000: for the kernel, when memory runs out"
    )


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Declare where objects come from; `uproxy check` has these too."""
    sources = parser.add_argument_group("sources")
    sources.add_argument(
        "-f",
        "--filename",
        dest="files",
        action="append",
        default=[],
        metavar="FILE",
        help="a manifest, a directory of manifests, or - for standard input; repeatable",
    )
    sources.add_argument(
        "--endpoint",
        dest="endpoints",
        action="append",
        default=[],
        metavar="NAMESPACE/SERVICE[:PORT]=ADDR:PORT",
        help="an endpoint that no manifest has; ADDR may be a host name; repeatable",
    )
    sources.add_argument(
        "--service-cidr",
        metavar="CIDR",
        help="cluster IPs for Services whose manifest has none "
        f"(default: {SERVICE_CIDR}, with bind capture {LOOPBACK_SERVICE_CIDR})",
    )
