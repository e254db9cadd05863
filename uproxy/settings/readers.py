"""How single values are read from text.

Every reader raises ValueError with words for a person, so that flags and files, which have
different ways to say where, are read by the same ones.
"""

from ipaddress import ip_address, ip_network

from uproxy.kit.durations import parse_duration_s
from uproxy.model.names import IPAddress, IPNetwork
from uproxy.model.node import NodePortKeyword
from uproxy.settings.values import METRICS_ADDRESS, OOM_SCORE_ADJ_MAX, SERVICE_CIDR, THREADS_MAX, Address


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


def parse_dns_server(text: str) -> Address:
    """`IP` or `IP:PORT`; the port is 53 when none is given.

    Raises ValueError, with words for a person.
    """
    try:
        return str(ip_address(text)), 53
    except ValueError:
        return parse_address(text)
