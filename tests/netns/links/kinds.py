"""The ways in which network plugins attach Pods to a node, and nodes to their network, made in the lab.

Each is what stays of the lab's own links after `wire` has put others in their place. Hosts keep their
addresses. Sources: the plugins' own documentation, named with each; ip-link(8); the kernel's
Documentation/networking/ipvlan.rst.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from uproxy.errors import CommandFailed
from uproxy.kit.lab import POD_GATEWAY4, POD_GATEWAY6, Host, Lab

GATEWAY4, GATEWAY6 = "169.254.1.1", "fe80::ecee:eeff:feee:eeee"
"""What Calico's Pods have for a gateway: no machine's address, and the address of every host's end."""
_MAC = "ee:ee:ee:ee:ee:ee"
_BRIDGE_SYSCTLS = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
_MTU, _VLAN = 1450, 5
_SAME_LINK4, _SAME_LINK6 = "10.244.0.0/24", "fd00:10:244::/64"
_BESIDE_GATEWAY4, _BESIDE_GATEWAY6 = "10.244.0.2", "fd00:10:244::2"
VIP_NETWORKS = ("172.30.0.0/16", "203.0.113.0/24", "fd00:172:30::/64", "2001:db8::/64")


@dataclass(frozen=True)
class Kind:
    """One way, and the devices that it is made of."""

    name: str
    wire: Callable[[Lab], None]
    devices: tuple[str, ...] = ()
    """What a kernel may lack: words for `ip link add NAME ...` beside a device `up`, or br_netfilter."""

    def __str__(self) -> str:
        return self.name


def missing(kind: Kind) -> str | None:
    """Why this kernel cannot make it."""
    for device in kind.devices:
        if device == BR_NETFILTER:
            if not Path("/proc/sys/net/bridge").is_dir():
                return "no br_netfilter here (modprobe br_netfilter)"
        elif reason := _cannot_make(device):
            return f"no {device.split()[0]} in this kernel: {reason}"
    return None


def _cannot_make(device: str) -> str | None:
    with Lab(pods=0) as lab:
        try:
            ip(lab.node, f"link add link client name trial type {device}")
        except CommandFailed as error:
            return str(error).splitlines()[0].rpartition(": ")[2]
    return None


def ip(host: Host, *lines: str) -> None:
    """Several commands of `ip`, inside."""
    host.run("ip", "-batch", "-", input="".join(f"{line}\n" for line in lines))


# ---- how Pods are attached ----


def bridge(lab: Lab) -> None:
    """The plugin `bridge`, flannel, kubenet: as the lab has it, with hairpin mode, as they set it."""
    _frames_meet_rules(lab, 1)
    for number, _ in enumerate(lab.pods, 1):
        ip(lab.node, f"link set pod{number} type bridge_slave hairpin on")


def bridge_alone(lab: Lab) -> None:
    """The same, without br_netfilter."""
    bridge(lab)
    _frames_meet_rules(lab, 0)


def bridge_with_router(lab: Lab) -> None:
    """The node is on the bridge, and the Pods' gateway is another machine there (`isGateway` false)."""
    bridge(lab)
    _router_knows_no_vips(lab)
    ip(
        lab.node,
        f"link add router type veth peer name pods netns {lab.client.name}",
        "link set router master pods up",
        f"addr del {POD_GATEWAY4}/24 dev pods",
        f"addr del {POD_GATEWAY6}/64 dev pods",
        f"addr add {_BESIDE_GATEWAY4}/24 dev pods",
        f"addr add {_BESIDE_GATEWAY6}/64 dev pods nodad",
    )
    _be_gateway(lab.client, "pods")


def calico(lab: Lab) -> None:
    """No IPv4 address on the host's end, which answers ARP for the gateway as a proxy; its IPv6 address is
    link-local (docs.tigera.io, "IP addresses in Calico": why 169.254.1.1)."""
    _new_links(lab)
    for number, pod in enumerate(lab.pods, 1):
        device = f"pod{number}"
        ip(lab.node, f"link set {device} down", f"link set {device} address {_MAC}", f"link set {device} up")
        for name in ("proxy_arp", "rp_filter"):
            lab.node.sysctl(f"net.ipv4.conf.{device}.{name}", 1)
        lab.node.sysctl(f"net.ipv4.neigh.{device}.proxy_delay", 0)
        _route_to(lab.node, pod, device)
        ip(pod, *_addressed(pod), *_gateway(GATEWAY4, GATEWAY6))


def no_address_at_all(lab: Lab) -> None:
    """The host's end has not even a link-local address: neighbours are written down (AWS' plugin)."""
    _new_links(lab)
    for number, pod in enumerate(lab.pods, 1):
        device = f"pod{number}"
        ip(
            lab.node,
            f"link set {device} down",
            f"link set {device} addrgenmode none address {_MAC}",
            f"link set {device} up",
        )
        _route_to(lab.node, pod, device)
        mac = pod.run("cat", "/sys/class/net/eth0/address").stdout.strip()
        ip(lab.node, *(f"neigh add {its} lladdr {mac} dev {device}" for its in (pod.ip4, pod.ip6)))
        ip(
            pod,
            *_addressed(pod),
            *(f"neigh add {its} lladdr {_MAC} dev eth0" for its in (GATEWAY4, GATEWAY6)),
        )
        ip(pod, *_gateway(GATEWAY4, GATEWAY6))


def point_to_point(lab: Lab) -> None:
    """The plugin `ptp`: the gateway's address on every host's end."""
    _new_links(lab)
    for number, pod in enumerate(lab.pods, 1):
        device = f"pod{number}"
        ip(
            lab.node,
            f"addr add {POD_GATEWAY4}/32 dev {device}",
            f"addr add {POD_GATEWAY6}/128 dev {device} nodad",
        )
        _route_to(lab.node, pod, device)
        ip(pod, *_addressed(pod), *_gateway(POD_GATEWAY4, POD_GATEWAY6))


def macvlan(lab: Lab) -> None:
    """The plugin `macvlan`: Pods are on the node's own wire, beside it; the router there is their gateway."""
    ip(lab.node, "link del pods")
    _router_knows_no_vips(lab)
    for pod in lab.pods:
        _beside_uplink(lab, pod, "macvlan mode bridge")
    _be_gateway(lab.client, "eth0")
    _reach_by_router(lab)


def macvlan_with_node(lab: Lab) -> None:
    """The same, with a device of the node's own among them, which is the gateway."""
    ip(lab.node, "link del pods")
    for pod in lab.pods:
        _beside_uplink(lab, pod, "macvlan mode bridge")
    ip(lab.node, "link add link client name shim type macvlan mode bridge")
    _be_gateway(lab.node, "shim")


def ipvlan_l3(lab: Lab) -> None:
    """The plugin `ipvlan`, mode l3: what Pods send is routed by the node, what comes for them is not."""
    ip(lab.node, "link del pods")
    for pod in lab.pods:
        _beside_uplink(lab, pod, "ipvlan mode l3", gateways=("", ""))
    _reach_by_router(lab)


def ipvlan_l2(lab: Lab) -> None:
    """Mode l2: as macvlan."""
    ip(lab.node, "link del pods")
    _router_knows_no_vips(lab)
    for pod in lab.pods:
        _beside_uplink(lab, pod, "ipvlan mode l2")
    _be_gateway(lab.client, "eth0")
    _reach_by_router(lab)


# ---- how the node is attached ----


def address_on_lo(lab: Lab) -> None:
    """The uplink has no address: the node's is on lo, as with BGP on the host."""
    calico(lab)
    node, client = lab.node, lab.client
    link_local = node.run("ip", "-br", "-6", "addr", "show", "dev", "client", "scope", "link").stdout.split()[
        2
    ]
    ip(
        node,
        f"addr del {node.ip4}/24 dev client",
        f"addr del {node.ip6}/64 dev client",
        f"addr add {node.ip4}/32 dev lo",
        f"addr add {node.ip6}/128 dev lo nodad",
        *(f"route add {its} dev client" for its in (client.ip4, client.ip6)),
        f"route add default via {client.ip4} dev client src {node.ip4} onlink",
        f"route replace ::/0 via {client.ip6} dev client src {node.ip6} onlink",
    )
    via = f"via {link_local.partition('/')[0]} dev eth0"
    ip(client, f"route add {node.ip6}/128 {via}", f"route replace ::/0 {via}")


def vlan(lab: Lab) -> None:
    """The uplink is a VLAN, and Pods are on a bridge."""
    bridge_alone(lab)
    for host, device, peer in ((lab.node, "client", lab.client), (lab.client, "eth0", lab.node)):
        ip(
            host,
            f"addr flush dev {device} scope global",
            f"link add link {device} name uplink type vlan id {_VLAN}",
            "link set uplink up",
            f"addr add {host.ip4}/24 dev uplink",
            f"addr add {host.ip6}/64 dev uplink nodad",
            f"route replace default via {peer.ip4}",
            f"route replace ::/0 via {peer.ip6}",
        )


def small_mtu(lab: Lab) -> None:
    """An overlay's: Pods' packets are smaller than the uplink's."""
    calico(lab)
    for number, pod in enumerate(lab.pods, 1):
        ip(lab.node, f"link set pod{number} mtu {_MTU}")
        ip(pod, f"link set eth0 mtu {_MTU}")


# ---- parts ----

BR_NETFILTER = "br_netfilter"


def _frames_meet_rules(lab: Lab, value: int) -> None:
    for name in _BRIDGE_SYSCTLS:
        if Path("/proc/sys", name.replace(".", "/")).exists():
            lab.node.sysctl(name, value)


def _new_links(lab: Lab) -> None:
    ip(lab.node, "link del pods")
    for number, pod in enumerate(lab.pods, 1):
        ip(pod, "link del eth0")
        ip(
            lab.node,
            f"link add pod{number} type veth peer name eth0 netns {pod.name}",
            f"link set pod{number} up",
        )
        ip(pod, "link set eth0 up")


def _addressed(pod: Host) -> list[str]:
    return [f"addr add {pod.ip4}/32 dev eth0", f"addr add {pod.ip6}/128 dev eth0 nodad"]


def _gateway(ip4: str, ip6: str) -> list[str]:
    return [
        f"route add {ip4}/32 dev eth0",
        f"route add {ip6}/128 dev eth0",
        f"route add default via {ip4} dev eth0",
        f"route add ::/0 via {ip6} dev eth0",
    ]


def _route_to(node: Host, pod: Host, device: str) -> None:
    ip(node, f"route add {pod.ip4}/32 dev {device}", f"route add {pod.ip6}/128 dev {device}")


def _beside_uplink(
    lab: Lab, pod: Host, device: str, gateways: tuple[str, str] = (POD_GATEWAY4, POD_GATEWAY6)
) -> None:
    if pod.run("ip", "link", "show", "eth0", check=False).returncode == 0:
        ip(pod, "link del eth0")
    via4, via6 = (f"via {its}" if its else "" for its in gateways)
    ip(lab.node, f"link add link client name eth0 netns {pod.name} type {device}")
    # The router would tell them that the node is beside them, where they cannot reach it.
    pod.sysctl("net.ipv6.conf.eth0.accept_redirects", 0)
    ip(
        pod,
        "link set eth0 up",
        f"addr add {pod.ip4}/24 dev eth0",
        f"addr add {pod.ip6}/64 dev eth0 nodad",
        f"route add default {via4} dev eth0",
        f"route add ::/0 {via6} dev eth0",
    )


def _be_gateway(host: Host, device: str) -> None:
    """Of the Pods."""
    _forward(host)
    ip(
        host,
        f"link set {device} up",
        f"addr add {POD_GATEWAY4}/24 dev {device}",
        f"addr add {POD_GATEWAY6}/64 dev {device} nodad",
    )


def _forward(host: Host) -> None:
    """Without telling anybody of shorter ways."""
    host.sysctl("net.ipv4.ip_forward", 1)
    host.sysctl("net.ipv6.conf.all.forwarding", 1)
    for settings in ("all", "default", *host.run("ls", "/sys/class/net").stdout.split()):
        host.sysctl(f"net.ipv4.conf.{settings}.send_redirects", 0)


def _reach_by_router(lab: Lab) -> None:
    """The node's way to Pods on its own wire: it is not let to them directly."""
    _forward(lab.client)
    for name in ("all", "client"):
        lab.node.sysctl(f"net.ipv4.conf.{name}.accept_redirects", 0)
    ip(
        lab.node,
        f"route add {_SAME_LINK4} via {lab.client.ip4}",
        f"route add {_SAME_LINK6} via {lab.client.ip6}",
    )


def _router_knows_no_vips(lab: Lab) -> None:
    """The client, which leads what it sends itself to the node, is no router that would do so for others."""
    for network in VIP_NETWORKS:
        family, pods = ("-6", _SAME_LINK6) if ":" in network else ("-4", _SAME_LINK4)
        lab.client.run("ip", family, "rule", "add", "from", pods, "to", network, "blackhole")


KINDS = {
    kind.name: kind
    for kind in (
        Kind("bridge", bridge, (BR_NETFILTER,)),
        Kind("bridge-without-br-netfilter", bridge_alone),
        Kind("bridge-with-another-router", bridge_with_router, (BR_NETFILTER,)),
        Kind("calico", calico),
        Kind("no-address-at-all", no_address_at_all),
        Kind("point-to-point", point_to_point),
        Kind("address-on-lo", address_on_lo),
        Kind("vlan", vlan, ("vlan id 5",)),
        Kind("mtu-1450", small_mtu),
        Kind("macvlan", macvlan, ("macvlan mode bridge",)),
        Kind("macvlan-with-node", macvlan_with_node, ("macvlan mode bridge",)),
        Kind("ipvlan-l2", ipvlan_l2, ("ipvlan mode l2",)),
        Kind("ipvlan-l3", ipvlan_l3, ("ipvlan mode l3",)),
    )
}
