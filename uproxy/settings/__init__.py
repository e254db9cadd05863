"""What the command line and a KubeProxyConfiguration file ask for, as one checked value."""

from uproxy.settings.flags import add_dns_flags, add_run_flags, add_source_flags
from uproxy.settings.kube_proxy import parse_switch
from uproxy.settings.parse import Surroundings, parse_settings
from uproxy.settings.readers import parse_address, parse_cidr
from uproxy.settings.values import (
    CLUSTER_DOMAIN,
    DEFAULT_THREADS_MAX,
    HEALTHZ_ADDRESS,
    LOOPBACK_SERVICE_CIDR,
    METRICS_ADDRESS,
    SERVICE_CIDR,
    THREADS_MAX,
    Address,
    LocalMode,
    Settings,
)

__all__ = [
    "CLUSTER_DOMAIN",
    "DEFAULT_THREADS_MAX",
    "HEALTHZ_ADDRESS",
    "LOOPBACK_SERVICE_CIDR",
    "METRICS_ADDRESS",
    "SERVICE_CIDR",
    "THREADS_MAX",
    "Address",
    "LocalMode",
    "Settings",
    "Surroundings",
    "add_dns_flags",
    "add_run_flags",
    "add_source_flags",
    "parse_address",
    "parse_cidr",
    "parse_settings",
    "parse_switch",
]
