"""`uproxy cleanup --kube-proxy` takes what kube-proxy has left, and nothing of anybody else."""

import sys
from collections.abc import Iterator

import pytest

from uproxy.kit.lab import Host, Lab

KUBE_PROXYS = """\
*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-ERIFXISQEP7F7OF4 - [0:0]
:KUBE-SEP-GYQQTB6TY565JPRW - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-SERVICES -p tcp -m tcp --dport 80 -j KUBE-SVC-ERIFXISQEP7F7OF4
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-ERIFXISQEP7F7OF4 -j KUBE-MARK-MASQ
-A KUBE-SVC-ERIFXISQEP7F7OF4 -j KUBE-SEP-GYQQTB6TY565JPRW
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
COMMIT
"""
OTHERS = """\
*mangle
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-IPTABLES-HINT - [0:0]
COMMIT
*nat
:CNI-HOSTPORT - [0:0]
-A PREROUTING -j CNI-HOSTPORT
-A CNI-HOSTPORT -j RETURN
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -j RETURN
COMMIT
"""


@pytest.fixture
def node() -> Iterator[Host]:
    with Lab() as lab:
        yield lab.node


def put(node: Host, text: str) -> None:
    for program in ("iptables-restore", "ip6tables-restore"):
        node.run(program, "--noflush", input=text)


def state(node: Host) -> list[str]:
    texts = [node.run(f"{program}-save").stdout for program in ("iptables", "ip6tables")]
    texts += [node.run("nft", "list", "tables").stdout, node.run("ipset", "list", "-name").stdout]
    return sorted(line for text in texts for line in text.splitlines() if not line.startswith("#"))


def clean_up(node: Host, *flags: str) -> list[str]:
    return node.run(sys.executable, "-m", "uproxy", "cleanup", *flags).stdout.splitlines()


def test_all_of_kube_proxys_goes_when_it_is_asked_for_and_nothing_else(node: Host) -> None:
    put(node, "".join(f"*{name}\nCOMMIT\n" for name in ("mangle", "nat", "filter")))
    put(node, OTHERS)
    node.run("ipset", "create", "mine", "hash:ip")
    before = state(node)
    put(node, KUBE_PROXYS)
    for name in ("ip", "ip6"):
        node.run("nft", "add", "table", name, "kube-proxy")
    node.run("ipset", "create", "KUBE-CLUSTER-IP", "hash:ip,port")
    with_it = state(node)
    assert clean_up(node) == ["nothing to remove"]
    assert state(node) == with_it
    removed = clean_up(node, "--kube-proxy")
    assert "removed nftables table ip6 kube-proxy" in removed
    assert "removed ip6tables nat chain KUBE-SERVICES" in removed
    assert "removed ipset KUBE-CLUSTER-IP" in removed
    assert state(node) == before
    assert clean_up(node, "--kube-proxy") == ["nothing to remove"]


def test_what_somebody_else_leads_to_stays_with_what_it_needs(node: Host) -> None:
    put(node, OTHERS + KUBE_PROXYS)
    put(node, "*nat\n-I CNI-HOSTPORT -j KUBE-MARK-MASQ\nCOMMIT\n")
    removed = clean_up(node, "--kube-proxy")
    assert "removed iptables nat chain KUBE-SERVICES" in removed
    kept = [line for line in node.run("iptables-save", "-t", "nat").stdout.splitlines() if "KUBE" in line]
    assert kept == [
        ":KUBE-MARK-MASQ - [0:0]",
        ":KUBE-POSTROUTING - [0:0]",
        '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
        "-A CNI-HOSTPORT -j KUBE-MARK-MASQ",
        "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
    ]
