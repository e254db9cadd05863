"""What `handoff_cost` compares: a Service that uproxy has handed over, and the same by hand.

Owns the rules of the node, which are exchanged as a whole. One Service with one Pod; the proxy that has
handed it over is killed, so that its rules stay. Refuses to measure anything.
"""

import re
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from uproxy.bench import peers
from uproxy.bench.manifests import NODE_NAME, Manifests
from uproxy.bench.peers import Forward
from uproxy.bench.programs import running
from uproxy.bench.sites import VIP_PORT, Site
from uproxy.kit.lab import Host

BY_HAND = "by hand"
_PATIENCE_S = 300
"""A kernel that is a program is slow."""
_PODS = "10.244.0.0/16,fd00:10:244::/64"
_IPVS = "-A -t {vip}:{port} -s rr\n-a -t {vip}:{port} -r {pod}:{pod_port} -m\n"
_NO_RULES = "*mangle\nCOMMIT\n*nat\nCOMMIT\n*filter\nCOMMIT\n"
_MASQUERADE = "*mangle\nCOMMIT\n*nat\n-A POSTROUTING -m ipvs --ipvs -j MASQUERADE\nCOMMIT\n*filter\nCOMMIT\n"


class Rules(Protocol):
    """Ways to one Service that can be loaded, each in the place of another."""

    names: Collection[str]
    """First what the others are compared with."""

    def load(self, name: str) -> None:
        """From now on the Service is led by these."""
        ...


class Nftables:
    """Whole rulesets."""

    def __init__(self, site: Site) -> None:
        self._node = _node(site)
        _hand_over(site, "nft", "nftables")
        rules = self._node.run("nft", "-s", "list", "ruleset").stdout
        self._rules = _nft_variants(rules, _forward(site))
        self.names = self._rules.keys()

    def load(self, name: str) -> None:
        """By nft."""
        self._node.sysctl("net.netfilter.nf_conntrack_acct", int(name != BY_HAND))
        self._node.run("nft", "flush", "ruleset")
        self._node.run("nft", "-f", "-", input=self._rules[name])


def _nft_variants(rules: str, forward: Forward) -> Mapping[str, str]:
    tables = re.split(r"(?m)^(?=table )", rules)
    handoff = next(its for its in tables if its.startswith("table inet uproxy-handoff"))
    elsewhere = re.sub(r"(set here4 \{\n\s*type [^\n]*\n)[^}]*\}\s*\}", r"\1}", rules)
    return {
        BY_HAND: peers.dnat_rules([forward], []),
        "handed over": rules,
        "without the capture's rules": handoff,
        "the pod elsewhere: masquerade": elsewhere,
    }


class Ipvs:
    """Virtual servers, with what leads to them. Sets stay: nobody pays for one that no rule asks."""

    def __init__(self, site: Site) -> None:
        self._node = _node(site)
        _hand_over(site, "iptables", "ipvs", "--cluster-cidr", _PODS)
        ours = self._node.run("iptables-save").stdout
        servers = self._node.run("ipvsadm", "-S", "-n").stdout
        forward = _forward(site)
        (pod,) = forward.pods
        by_hand = _IPVS.format(vip=forward.ip, port=forward.port, pod=pod.ip, pod_port=pod.port)
        elsewhere = re.sub(r"(?m)^-A UPROXY_IPVS .* -j RETURN\n", "", ours)
        self._variants = {
            BY_HAND: (0, _NO_RULES, by_hand),
            "by hand, with conntrack and masquerade": (1, _MASQUERADE, by_hand),
            "handed over": (1, ours, servers),
            "the pod elsewhere: masquerade": (1, elsewhere, servers),
        }
        self.names = self._variants.keys()

    def load(self, name: str) -> None:
        """By ipvsadm and iptables."""
        conntrack, rules, servers = self._variants[name]
        self._node.sysctl("net.ipv4.vs.conntrack", conntrack)
        self._node.run("iptables-restore", input=rules)
        self._node.run("ipvsadm", "-C")
        self._node.run("ipvsadm", "-R", input=servers)


def _hand_over(site: Site, redirect: str, mechanism: str, *flags: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Manifests(Path(folder), in_kernel=True).write_service(0, _forward(site))
        argv = [sys.executable, "-m", "uproxy", "run", "-f", folder, "--hostname-override", NODE_NAME]
        argv += ["--capture", "redirect", "--redirect-mechanism", redirect, "--handoff", mechanism]
        with running("uproxy", site.node, *argv, *flags) as program:
            program.wait_until(
                lambda: f"go by {mechanism}" in program.log, "to hand over", timeout_s=_PATIENCE_S
            )
            program.kill()


def _node(site: Site) -> Host:
    assert site.lab is not None
    return site.lab.node


def _forward(site: Site) -> Forward:
    return Forward(site.vip(0), VIP_PORT, site.pods[:1])
