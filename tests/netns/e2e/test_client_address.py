"""Whom a pod sees under capture `tproxy`: the client itself, wherever its answers pass the node."""

import asyncio
import re
import socket
from collections.abc import Iterator

import pytest

from tests.netns.e2e.callers import answer, ask, datagrams
from tests.netns.e2e.servers import TCP_PORT, WHO, Greeter, Witness
from tests.netns.e2e.stage import CLUSTER_IPS, DNS, WEB, Stage, Way, node_ports, way, ways, web
from tests.proxy_process import PATIENCE_S, Address, connected, eventually, nonblocking
from uproxy.kit.lab import POD_GATEWAY4, POD_GATEWAY6, Host, Lab

EXTERNAL = ("203.0.113.7", "2001:db8::7")
GATEWAYS = (POD_GATEWAY4, POD_GATEWAY6)
FAR = ("10.250.0.11", "fd00:10:250::11")
"""A pod of another machine, which is the client's here."""
MASQUERADE = """\
add table inet cni
add chain inet cni outgoing { type nat hook postrouting priority srcnat; }
add rule inet cni outgoing ip saddr 10.244.0.0/24 ip daddr != 10.244.0.0/24 masquerade
add rule inet cni outgoing ip6 saddr fd00:10:244::/64 ip6 daddr != fd00:10:244::/64 masquerade
"""
IP_TRANSPARENT = 19
MANY = 4
"""Questions after which every pod was asked."""

pytestmark = pytest.mark.parametrize("way", ways("tproxy"), indirect=True, ids=str)
bridged = pytest.mark.parametrize("lab", ["bridged"], indirect=True)
routed = pytest.mark.parametrize("lab", ["routed"], indirect=True)
bridged_and_routed = pytest.mark.parametrize("lab", ["bridged", "routed"], indirect=True)


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(pods=2, routed_pods=request.param == "routed", node_default_route=True) as lab:
        yield lab


@pytest.fixture
def greeter() -> type[Greeter]:
    return Witness


def everywhere(stage: Stage) -> tuple[list[Address], list[Address]]:
    """All addresses of `served`, for TCP and for UDP: IPv4 and IPv6 by turns."""
    nodes = (stage.node.ip4, stage.node.ip6)
    vips = (*CLUSTER_IPS, *EXTERNAL)
    tcp = [(ip, 80) for ip in vips] + [(ip, 30080) for ip in nodes]
    return tcp, [(ip, 53) for ip in vips] + [(ip, 30053) for ip in nodes]


def served(stage: Stage) -> list[dict]:
    return web(
        stage.pods, type="NodePort", ports=node_ports(tcp=30080, udp=30053), externalIPs=list(EXTERNAL)
    )


async def told(host: Host, tcp: Address, udp: Address) -> set[str]:
    """What a host is told at two addresses."""
    answers = {await ask(host, tcp) for _ in range(MANY)}
    for _ in range(MANY):
        with datagrams(host, udp) as sock:
            answers.add((await answer(sock, WHO)).decode())
    return answers


async def told_everywhere(stage: Stage, host: Host) -> list[set[str]]:
    """The same for all addresses: by IPv4, and by IPv6."""
    tcp, udp = everywhere(stage)
    found: list[set[str]] = [set(), set()]
    for number in range(len(tcp)):
        found[number % 2] |= await told(host, tcp[number], udp[number])
    return found


def seen(one: str, other: str) -> set[str]:
    """What both pods say when they see these."""
    return {f"pod1 sees {one}", f"pod2 sees {other}"}


@bridged_and_routed
async def test_clients_from_outside_are_seen_as_they_are(stage: Stage) -> None:
    async with stage.proxy(served(stage)):
        client = stage.client
        assert await told_everywhere(stage, client) == [
            seen(client.ip4, client.ip4),
            seen(client.ip6, client.ip6),
        ]


@routed
async def test_a_pod_is_seen_by_others_as_it_is_and_by_itself_as_the_node(stage: Stage) -> None:
    async with stage.proxy(served(stage)):
        pod = stage.pods[0].host
        assert await told_everywhere(stage, pod) == [
            seen(POD_GATEWAY4, pod.ip4),
            seen(POD_GATEWAY6, pod.ip6),
        ]


@bridged
async def test_pods_of_one_bridge_see_each_other(stage: Stage) -> None:
    async with stage.proxy(served(stage)):
        pod = stage.pods[0].host
        assert await told_everywhere(stage, pod) == [
            seen(POD_GATEWAY4, pod.ip4),
            seen(POD_GATEWAY6, pod.ip6),
        ]


@bridged
async def test_pods_of_one_bridge_see_the_node_where_they_would_answer_past_it(stage: Stage) -> None:
    for switch in ("iptables", "ip6tables"):
        stage.node.sysctl(f"net.bridge.bridge-nf-call-{switch}", 0)
    async with stage.proxy(served(stage)):
        assert await told_everywhere(stage, stage.pods[0].host) == [seen(ip, ip) for ip in GATEWAYS]


@bridged_and_routed
async def test_connections_of_the_node_come_from_its_own_address(stage: Stage) -> None:
    """Those to external addresses would leave by the default route."""
    async with stage.proxy(served(stage)):
        assert await told_everywhere(stage, stage.node) == [seen(ip, ip) for ip in GATEWAYS]


@bridged
async def test_external_addresses_have_no_local_route(stage: Stage) -> None:
    async with stage.proxy(served(stage)):
        state = stage.kernel_state()
        assert f"local {CLUSTER_IPS[0]} " in state
        assert not any(f"local {ip} " in state for ip in EXTERNAL)


@pytest.fixture
async def far(stage: Stage) -> Stage:
    """A stage whose only pod is on another machine."""
    pod = Witness("pod1", Host(stage.client.name, *FAR))
    stage.client.run("ip", "addr", "add", f"{FAR[0]}/32", "dev", "lo")
    stage.client.run("ip", "addr", "add", f"{FAR[1]}/128", "dev", "lo", "nodad")
    await pod.listen_tcp()
    pod.listen_udp()
    for old in stage.pods:
        old.kill()
    stage.pods = (pod,)
    return stage


@bridged_and_routed
async def test_a_pod_elsewhere_sees_pods_of_this_node_and_of_others_the_node(far: Stage) -> None:
    async with far.proxy(web(far.pods)):
        for number, family in enumerate(("ip4", "ip6")):
            pod = far.lab.pods[0]
            assert await told(pod, WEB[number], DNS[number]) == {f"pod1 sees {getattr(pod, family)}"}
            node = getattr(far.node, family)
            assert await told(far.client, WEB[number], DNS[number]) == {f"pod1 sees {node}"}


@routed
async def test_what_the_cni_masquerades_is_answered_all_the_same(far: Stage) -> None:
    far.node.run("nft", "-f", "-", input=MASQUERADE)
    async with far.proxy(web(far.pods)):
        pod = far.lab.pods[0]
        assert await told(pod, WEB[0], DNS[0]) == {f"pod1 sees {far.node.ip4}"}
        assert await told(pod, WEB[1], DNS[1]) == {f"pod1 sees {far.node.ip6}"}


@routed
@pytest.mark.parametrize(
    ("sysctl", "value"), [("rp_filter", 1), ("rp_filter", 2), ("src_valid_mark", 1)], ids=str
)
async def test_checks_of_the_source_do_not_mind(stage: Stage, sysctl: str, value: int) -> None:
    for device in ("all", "client", "pod1", "pod2", "lo"):
        stage.node.sysctl(f"net.ipv4.conf.{device}.{sysctl}", value)
    async with stage.proxy(web(stage.pods)):
        for host, expected in ((stage.client, stage.client.ip4), (stage.node, POD_GATEWAY4)):
            assert await told(host, WEB[0], DNS[0]) == seen(expected, expected)


@bridged
@pytest.mark.parametrize("first", ["Service", "pod"])
async def test_one_port_may_reach_a_pod_directly_and_through_its_service(stage: Stage, first: str) -> None:
    pod = stage.pods[0]
    places = {"Service": WEB[0], "pod": (pod.host.ip4, TCP_PORT)}
    order = sorted(places, key=lambda name: name != first)
    async with stage.proxy(web([pod])):
        sockets = [nonblocking(stage.client, WEB[0], socket.SOCK_STREAM) for _ in order]
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((stage.client.ip4, 40_000))
        for sock, name in zip(sockets, order, strict=True):
            assert (await greeting(sock, places[name])).endswith(f"sees {stage.client.ip4}\n".encode())
        for sock in sockets:
            sock.close()


async def greeting(sock: socket.socket, address: Address) -> bytes:
    """What a socket hears first, when it is connected."""
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.get_running_loop().sock_connect(sock, address)
        return await asyncio.get_running_loop().sock_recv(sock, 100)


@bridged
async def test_a_client_may_have_the_port_of_the_shared_listener(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods)):
        ports = set(re.findall(r"dnat ip6? to \S+:(\d+)", stage.kernel_state()))
        assert len(ports) == 2
        for port in map(int, ports):
            with nonblocking(stage.client, WEB[0], socket.SOCK_STREAM) as sock:
                sock.bind((stage.client.ip4, port))
                assert (await greeting(sock, WEB[0])).endswith(f"sees {stage.client.ip4}\n".encode())


@bridged
async def test_what_others_forward_past_their_own_transparent_sockets_goes_on(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods)):
        with stage.node.socket() as theirs:
            theirs.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
            theirs.bind(("", TCP_PORT))
            theirs.listen()
            assert (await ask(stage.client, (stage.pods[0].host.ip4, TCP_PORT))).startswith("pod1")


@bridged
async def test_an_endpoint_whose_answers_go_elsewhere_sees_the_node_after_a_first_failure(
    stage: Stage,
) -> None:
    pod = stage.pods[0]
    pod.host.run("ip", "route", "add", "blackhole", stage.client.ip4)
    async with stage.proxy(web([pod]), "--connect-timeout", "200ms"):
        with pytest.raises(ConnectionResetError):
            await ask(stage.client, WEB[0])
        assert await ask(stage.client, WEB[0]) == f"pod1 sees {POD_GATEWAY4}"
        assert await ask(stage.client, WEB[1]) == f"pod1 sees {stage.client.ip6}"


@bridged
async def test_datagrams_from_one_port_to_two_vips_get_their_own_answers(stage: Stage) -> None:
    """The second flow to the same pod cannot have the port too, or their answers would be mixed up."""
    async with stage.proxy(served(stage)[:1] + web(stage.pods[:1])[1:]):
        with nonblocking(stage.client, DNS[0], socket.SOCK_DGRAM) as sock:
            sock.bind(("", 0))
            for data in (b"one", b"two"):
                for vip in (DNS[0], (EXTERNAL[0], 53)):
                    sock.sendto(data, vip)
                    await readable(sock)
                    assert sock.recvfrom(100) == (data, vip)


async def readable(sock: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, ready.set)
    async with asyncio.timeout(PATIENCE_S):
        await ready.wait()
    loop.remove_reader(sock)


@bridged
async def test_two_capabilities_will_do(stage: Stage) -> None:
    granted = ("setpriv", "--bounding-set", "-all,+net_admin,+net_bind_service")
    async with stage.proxy(served(stage), prefix=granted) as proxy:
        client = stage.client
        assert (await told_everywhere(stage, client))[0] == seen(client.ip4, client.ip4)
        proxy.terminate()
        assert await proxy.status() == 0


@bridged
async def test_no_segment_goes_astray_at_the_end_of_a_connection(stage: Stage) -> None:
    """One for a socket that rests in TIME_WAIT would reach the client, which would answer with a reset."""
    async with stage.proxy(web(stage.pods)) as proxy:
        for _ in range(20):
            await ask(stage.client, WEB[0])

        async def are_over() -> bool:
            return await proxy.metric("uproxy_connections_active") == 0

        await eventually(are_over, "the end of every connection")
    assert resets_sent(stage.client) == 0


def resets_sent(host: Host) -> int:
    lines = host.run("cat", "/proc/net/snmp").stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("OutRsts")])


@bridged
async def test_connections_open_at_the_end_do_not_outlive_it(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods), "--drain-timeout", "0s") as proxy:
        async with connected(stage.client, WEB[0]) as (reader, _):
            await reader.readline()
            proxy.terminate()
            with pytest.raises(ConnectionResetError):
                await reader.read()
        assert await proxy.status() == 0


@bridged
@pytest.mark.parametrize("other", ["bind", "redirect-nft", "redirect-iptables"])
async def test_another_capture_afterwards_leaves_nothing_of_this_one(stage: Stage, other: str) -> None:
    await change_of_capture(stage, stage.way, way(other, "python"))


@bridged
@pytest.mark.parametrize("other", ["bind", "redirect-nft"])
async def test_this_capture_afterwards_leaves_nothing_of_another(stage: Stage, other: str) -> None:
    await change_of_capture(stage, way(other, "python"), stage.way)


async def change_of_capture(stage: Stage, first: Way, second: Way) -> None:
    """The first is killed, the second follows it, serves, and ends in good order."""
    before = stage.kernel_state()
    stage.way = first
    async with stage.proxy(served(stage)) as killed:
        killed.kill9()
    stage.way = second
    async with stage.proxy(served(stage)) as proxy:
        assert (await ask(stage.client, WEB[0])).startswith("pod")
        with datagrams(stage.client, DNS[0]) as sock:
            assert (await answer(sock, WHO)).startswith(b"pod")
        assert ("30064" in stage.kernel_state()) == ("tproxy" in second.flags)
        proxy.terminate()
        assert await proxy.status() == 0
    assert _without_empty_tables(stage) == before


def _without_empty_tables(stage: Stage) -> str:
    """What the kernel has, but for the empty chains that iptables-nft leaves of its own."""
    for family in ("ip", "ip6"):
        for table in ("nat", "filter", "mangle"):
            stage.node.run("nft", "delete", "table", family, table, check=False)
    return stage.kernel_state()


@bridged
async def test_cleanup_removes_the_policy_routes(stage: Stage) -> None:
    before = stage.kernel_state()
    async with stage.proxy(served(stage)) as proxy:
        proxy.kill9()
    removed = stage.cleanup()
    assert "removed IPv4 policy route, table 30064\n" in removed
    assert "removed IPv6 policy route, table 30064\n" in removed
    assert stage.kernel_state() == before


@bridged
async def test_an_endpoint_of_the_node_itself_sees_the_node(stage: Stage) -> None:
    host = Witness("pod1", stage.node)
    await host.listen_tcp()
    host.listen_udp()
    async with stage.proxy(web([host])):
        assert await told(stage.client, WEB[0], DNS[0]) == {f"pod1 sees {stage.node.ip4}"}
        assert await told(stage.client, WEB[1], DNS[1]) == {f"pod1 sees {stage.node.ip6}"}
    host.kill()
