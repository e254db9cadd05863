"""A lab of two nodes on one link with a client, two pods on each:

    client 10.200.0.2 --+-- 10.200.0.1 node-1 10.244.0.1 --+-- pod1 10.244.0.11
                        |                                  +-- pod2 10.244.0.12
                        +-- 10.200.0.3 node-2 10.244.1.1 --+-- pod3 10.244.1.11
                                                           +-- pod4 10.244.1.12

Pods of one node share a bridge, nodes route to each other's pods, and the client is everybody's default
route, and has its own by the node that it is led to.
"""

from uproxy.kit.lab import Host, Lab

LINK = ("10.200.0", "fd00:10:200:")
_GATEWAY = Host("", "10.244.1.1", "fd00:10:244:1::1")
"""node-2, as its pods see it."""
_DEFAULT_ROUTES = ("default", "::/0")


class TwoNodes(Lab):
    """What `Lab` has is node-1 and its pods."""

    def __init__(self) -> None:
        super().__init__(pods=2, node_default_route=True)
        prefix = self.node.name.removesuffix("node")
        self.other_node = Host(f"{prefix}node2", f"{LINK[0]}.3", f"{LINK[1]}:3")
        self.other_pods = tuple(
            Host(f"{prefix}pod{number}", f"10.244.1.{8 + number}", f"fd00:10:244:1::{8 + number}")
            for number in (3, 4)
        )

    @property
    def hosts(self) -> tuple[Host, ...]:
        return (*super().hosts, self.other_node, *self.other_pods)

    def lead_client_by(self, node: Host) -> None:
        """Have the client reach everything that it is not linked to, VIPs above all, by this node."""
        _batch(
            self.client,
            [f"route replace {net} via {ip}" for net, ip in zip(_DEFAULT_ROUTES, _ips(node), strict=True)],
        )

    def _create(self) -> None:
        super()._create()
        _batch(self.client, self._link_commands())
        self.lead_client_by(self.node)
        _batch(self.other_node, self._other_node_commands())
        for pod in self.other_pods:
            _batch(
                pod, ["link set lo up", *_addresses("eth0", pod), *_routes("10.244.1.1", "fd00:10:244:1::1")]
            )
        _batch(self.node, _routes_to("10.244.1.0/24", "fd00:10:244:1::/64", self.other_node))
        self.other_node.sysctl("net.ipv4.ip_forward", 1)
        self.other_node.sysctl("net.ipv6.conf.all.forwarding", 1)

    def _link_commands(self) -> list[str]:
        """A switch at the client, in the place of its cable to node-1."""
        return [
            "link add switch type bridge forward_delay 0 mcast_snooping 0",
            "addr flush dev eth0",
            "link set eth0 master switch",
            *_addresses("switch", self.client),
            f"link add node2 type veth peer name client netns {self.other_node.name}",
            "link set node2 master switch up",
        ]

    def _other_node_commands(self) -> list[str]:
        commands = [
            "link set lo up",
            *_addresses("client", self.other_node),
            "link add pods type bridge forward_delay 0 mcast_snooping 0",
            *_addresses("pods", _GATEWAY),
            *_routes(*_ips(self.client)),
            *_routes_to("10.244.0.0/24", "fd00:10:244::/64", self.node),
        ]
        for number, pod in enumerate(self.other_pods):
            commands.append(f"link add pod{number} type veth peer name eth0 netns {pod.name}")
            commands.append(f"link set pod{number} master pods up")
        return commands


def _ips(host: Host) -> tuple[str, str]:
    return host.ip4, host.ip6


def _addresses(device: str, host: Host) -> list[str]:
    return [
        f"link set {device} up",
        f"addr add {host.ip4}/24 dev {device}",
        f"addr add {host.ip6}/64 dev {device} nodad",
    ]


def _routes(*gateways: str) -> list[str]:
    return [f"route add {net} via {ip}" for net, ip in zip(_DEFAULT_ROUTES, gateways, strict=True)]


def _routes_to(net4: str, net6: str, node: Host) -> list[str]:
    return [f"route add {net} via {ip}" for net, ip in zip((net4, net6), _ips(node), strict=True)]


def _batch(host: Host, commands: list[str]) -> None:
    host.run("ip", "-batch", "-", input="\n".join(commands) + "\n")
