"""kube-proxy's file and flags, read as they are."""

import argparse
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.pure import kube_proxy_files
from tests.pure.kube_proxy_files import HEAD, KUBEADM
from uproxy.model.faults import BadInput
from uproxy.model.node import NodePortKeyword
from uproxy.settings import (
    LocalMode,
    Settings,
    Surroundings,
    add_run_flags,
    parse_settings,
)

CLUSTER = ("--kubeconfig", "/kubeconfig")
HOST = Surroundings("Host-1")


def parse(*argv: str, config: object = None, surroundings: Surroundings = HOST) -> Settings:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_run_flags(parser)
    return parse_settings(parser.parse_args(argv), surroundings, config)


def read(fields: dict[str, Any], *argv: str) -> Settings:
    """What a file with these fields amounts to."""
    return parse("--config", "config.conf", "-f", "web.yaml", *argv, config=HEAD | fields)


def mistakes(fields: object, *argv: str) -> list[str]:
    with pytest.raises(BadInput) as caught:
        parse("--config", "config.conf", "-f", "web.yaml", *argv, config=fields)
    return str(caught.value).splitlines()


class TestFile:
    def test_kubeadms_file_is_read_as_it_is_and_says_nothing_needless(self):
        argv = ("--config=/var/lib/kube-proxy/config.conf", "--hostname-override=Node-7")
        settings = parse(*argv, config=KUBEADM)
        assert settings.from_cluster
        assert settings.kubeconfig == "/var/lib/kube-proxy/kubeconfig.conf"
        assert settings.node_name == "node-7"
        assert settings.cluster_cidrs == (ip_network("10.244.0.0/16"),)
        assert settings.metrics_address == ("127.0.0.1", 10249)
        assert settings.healthz_address == ("0.0.0.0", 10256)
        assert (settings.idle_timeout_s, settings.half_closed_timeout_s) == (86400.0, 3600.0)
        assert settings.notes == ()

    def test_fields_that_apply_set_the_matching_settings(self):
        settings = read(
            {
                "bindAddress": "192.168.0.7",
                "clusterCIDR": "10.244.0.0/16,fd00::/56",
                "conntrack": {
                    "tcpEstablishedTimeout": "2h",
                    "tcpCloseWaitTimeout": "10m0s",
                    "udpStreamTimeout": "1m30s",
                },
                "detectLocalMode": "NodeCIDR",
                "healthzBindAddress": "0.0.0.0:20256",
                "hostnameOverride": " Node-A ",
                "logging": {"format": "json", "verbosity": 4},
                "metricsBindAddress": "[::1]",
                "nodePortAddresses": ["192.168.0.0/24", "localhost"],
                "oomScoreAdj": -998,
            }
        )
        assert settings.bind_address == ip_address("192.168.0.7")
        assert settings.cluster_cidrs == (ip_network("10.244.0.0/16"), ip_network("fd00::/56"))
        assert settings.idle_timeout_s == 7200.0
        assert settings.half_closed_timeout_s == 600.0
        assert settings.udp_idle_timeout_s == 90.0
        assert settings.detect_local_mode is LocalMode.NODE_CIDR
        assert settings.healthz_address == ("0.0.0.0", 20256)
        assert settings.metrics_address == ("::1", 10249)
        assert settings.node_name == "node-a"
        assert (settings.log_format, settings.verbosity) == ("json", 4)
        assert settings.node_port_addresses == (ip_network("192.168.0.0/24"), NodePortKeyword.LOCALHOST)
        assert settings.oom_score_adj == -998
        assert settings.config_file == "config.conf"
        assert settings.notes == ()

    def test_an_ipv6_bind_address_moves_the_default_addresses(self):
        settings = read({"bindAddress": "::"})
        assert settings.metrics_address == ("::1", 10249)
        assert settings.healthz_address == ("::", 10256)
        assert settings.bind_address is None

    def test_fields_of_no_meaning_are_named_in_one_line(self):
        settings = read(
            {
                "mode": "nftables",
                "iptables": {"masqueradeAll": True, "syncPeriod": "30s"},
                "ipvs": {"excludeCIDRs": ["10.0.0.0/8"]},
                "featureGates": {"SomeGate": True},
                "detectLocalMode": "BridgeInterface",
                "detectLocal": {"bridgeInterface": "cbr0"},
                "portRange": "1000-2000",
                "bindAddressHardFail": True,
            }
        )
        (note,) = settings.notes
        assert note == (
            "of no meaning here, and ignored: iptables.masqueradeAll, iptables.syncPeriod, "
            "ipvs.excludeCIDRs, featureGates, detectLocalMode=BridgeInterface, detectLocal.bridgeInterface, "
            "portRange"
        )

    def test_fields_that_there_are_not_or_not_any_more_are_named_in_one_line(self):
        settings = read(
            {
                "udpIdleTimeout": "250ms",
                "resourceContainer": "/kube-proxy",
                "conntrack": {"max": 0, "maxPerCore": 32768, "udpStreamTimeout": "40s"},
                "clusterCidr": "10.0.0.0/8",
                "ClusterCIDR": "10.0.0.0/8",
                "iptables": {"masqueradeall": True},
                "logging": {"options": {"json": {"size": 1}}},
            }
        )
        assert settings.udp_idle_timeout_s == 40.0
        assert settings.notes == (
            "not known, and ignored: udpIdleTimeout, resourceContainer, conntrack.max, clusterCidr, "
            "ClusterCIDR, iptables.masqueradeall, logging.options.json.size",
            "of no meaning here, and ignored: conntrack.maxPerCore",
        )

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"bindAddressHardFail": "true"}, "bindAddressHardFail must be true or false, not 'true'"),
            (
                {"configSyncPeriod": 30},
                'configSyncPeriod must be a duration such as "30s" or "1h30m", not 30',
            ),
            ({"featureGates": {"A": "true"}}, "featureGates must be a mapping of names to true or false"),
            ({"winkernel": []}, "winkernel must be a mapping, not a list"),
        ],
    )
    def test_wrong_values_of_what_means_nothing_here_end_nothing(self, fields, words):
        (note,) = read(fields).notes
        assert note.startswith(f"wrong, though of no meaning here: {words}")

    @pytest.mark.parametrize("name", ["EKS", "KUBEADM_1_25"])
    def test_files_of_the_field_are_read(self, name):
        settings = parse("--config", "c", config=getattr(kube_proxy_files, name))
        assert settings.from_cluster
        assert "udpIdleTimeout" in settings.notes[0]

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({}, ""),
            ({"mode": "iptables"}, "all 127.0.0.0/8"),
            ({"mode": "iptables", "iptables": {"localhostNodePorts": False}}, ""),
            ({"iptables": {"localhostNodePorts": True}}, "all 127.0.0.0/8"),
            ({"mode": "nftables", "iptables": {"localhostNodePorts": True}}, "primary"),
            ({"mode": "nftables", "nodePortAddresses": ["10.0.0.0/8"]}, "10.0.0.0/8"),
            ({"mode": "ipvs"}, ""),
            ({"mode": "iptables", "nodePortAddresses": ["10.0.0.0/8"]}, "10.0.0.0/8"),
            ({"mode": "iptables", "nodePortAddresses": ["0.0.0.0/0"]}, "0.0.0.0/0 127.0.0.0/8"),
            (
                {"iptables": {"localhostNodePorts": False}, "nodePortAddresses": ["localhost", "10.0.0.0/8"]},
                "10.0.0.0/8",
            ),
        ],
    )
    def test_node_ports_are_where_kube_proxys_mode_has_them(self, fields, expected):
        assert " ".join(map(str, read(fields).node_port_addresses)) == expected

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"oomScoreAdj": "7"}, "oomScoreAdj: must be a whole number of 32 bits, not '7'"),
            ({"oomScoreAdj": True}, "oomScoreAdj: must be a whole number of 32 bits, not true"),
            ({"oomScoreAdj": 1.0}, "oomScoreAdj: must be a whole number of 32 bits, not 1.0"),
            ({"clusterCIDR": 10}, "clusterCIDR: must be a string, not 10"),
            ({"nodePortAddresses": "primary"}, "nodePortAddresses: must be a list of strings, not 'primary'"),
            ({"nodePortAddresses": [1]}, "nodePortAddresses: must be a list of strings, not a list"),
            ({"conntrack": []}, "conntrack: must be a mapping, not a list"),
            ({"mode": "ebpf"}, "mode: must be one of iptables, ipvs, nftables, userspace, not 'ebpf'"),
        ],
    )
    def test_types_are_strict(self, fields, words):
        (line,) = mistakes(HEAD | fields)
        assert line.startswith(f"config.conf: KubeProxyConfiguration: {words}")

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"clusterCIDR": "10.0.0.0"}, "clusterCIDR: '10.0.0.0' is not a network such as"),
            ({"clusterCIDR": "10.0.0.0/8,10.1.0.0/16"}, "clusterCIDR: '10.0.0.0/8,10.1.0.0/16' must be one"),
            ({"nodePortAddresses": ["first"]}, "nodePortAddresses: 'first' is not a network"),
            ({"oomScoreAdj": 1001}, "oomScoreAdj: must be from -1000 to 1000, not 1001"),
            ({"bindAddress": "node"}, "bindAddress: 'node' is not an IP address"),
            ({"metricsBindAddress": "x:1"}, "metricsBindAddress: 'x:1' is not an address"),
            ({"detectLocalMode": "clusterCIDR"}, "detectLocalMode: must be one of ClusterCIDR, NodeCIDR,"),
            (
                {"conntrack": {"tcpEstablishedTimeout": "-1s"}},
                "conntrack.tcpEstablishedTimeout: '-1s'",
            ),
            ({"logging": {"format": "xml"}}, "logging.format: must be text or json, not 'xml'"),
        ],
    )
    def test_values_are_checked(self, fields, words):
        (line,) = mistakes(HEAD | fields)
        assert line.startswith(f"config.conf: {words}")

    @pytest.mark.parametrize("value", [None, [], "text", 7])
    def test_what_is_no_mapping_is_a_mistake(self, value):
        assert mistakes(value) == ["config.conf: KubeProxyConfiguration: must be a mapping"]

    def test_another_kind_is_a_mistake(self):
        lines = mistakes({"apiVersion": "kubeproxy.config.k8s.io/v1alpha2", "kind": "KubeletConfiguration"})
        assert [line.split(": ")[2] for line in lines] == ["apiVersion", "kind"]

    def test_a_mistake_is_not_followed_by_another_that_comes_of_it(self):
        with pytest.raises(BadInput) as caught:
            parse("--config", "config.conf", config=HEAD | {"clientConnection": {"kubeconfig": 7}})
        assert len(str(caught.value).splitlines()) == 1


class TestFlagsBesideAFile:
    def test_kube_proxys_flags_are_ignored_and_told_but_ours_count(self):
        settings = read(
            {"clusterCIDR": "10.244.0.0/16"},
            *(
                "--cluster-cidr",
                "10.0.0.0/8",
                "--kubeconfig",
                "/other",
                "--metrics-bind-address",
                "0.0.0.0:1",
            ),
            *("--idle-timeout", "1h", "--capture", "bind"),
        )
        assert settings.cluster_cidrs == (ip_network("10.244.0.0/16"),)
        assert settings.kubeconfig == ""
        assert settings.metrics_address == ("127.0.0.1", 10249)
        assert (settings.idle_timeout_s, settings.capture) == (3600.0, "bind")
        assert settings.notes == (
            "ignored beside --config, as by kube-proxy: --kubeconfig, --metrics-bind-address, --cluster-cidr",
        )

    def test_host_name_master_and_logging_count(self):
        settings = read(
            {"hostnameOverride": "from-file", "logging": {"format": "text", "verbosity": 2}},
            *("--hostname-override", "From-Flag", "--v=5", "--logging-format", "json"),
        )
        assert settings.node_name == "from-flag"
        assert (settings.verbosity, settings.log_format) == (5, "json")
        assert settings.notes == ()
        assert parse("--config", "c", "--master", "https://10.0.0.1", config=HEAD).from_cluster

    def test_our_own_timeout_counts_more_than_the_files(self):
        fields = {"conntrack": {"tcpEstablishedTimeout": "2h"}}
        assert read(fields, "--idle-timeout", "1h").idle_timeout_s == 3600.0


class TestFlags:
    def test_every_flag_of_kube_proxy_is_accepted(self):
        settings = parse(*EVERY_FLAG)
        assert settings.notes[0].startswith("of no meaning here, and ignored: --")
        assert "--masquerade-all" in settings.notes[0]
        assert len(settings.notes) == 1

    def test_those_that_apply_set_what_they_say(self):
        settings = parse(
            *CLUSTER,
            *("--conntrack-tcp-timeout-established", "2h", "--conntrack-tcp-timeout-close-wait=0"),
            *("--conntrack-udp-timeout-stream=40s", "--cluster-cidr=10.244.0.0/16"),
            *("--nodeport-addresses=10.0.0.0/8,127.0.0.0/8", "--nodeport-addresses", "fd00::/8"),
            *("--healthz-bind-address=0.0.0.0", "--detect-local-mode=NodeCIDR", "--oom-score-adj=-5"),
            *("--master=https://10.0.0.1:6443", "--proxy-name=mine", "-v=3"),
        )
        assert settings.idle_timeout_s == 7200.0
        assert settings.half_closed_timeout_s == 3600.0  # 0 leaves it as it is
        assert settings.udp_idle_timeout_s == 40.0
        assert len(settings.node_port_addresses) == 3
        assert settings.healthz_address == ("0.0.0.0", 10256)
        assert settings.detect_local_mode is LocalMode.NODE_CIDR
        assert settings.oom_score_adj == -5
        assert (settings.master, settings.proxy_name) == ("https://10.0.0.1:6443", "mine")
        assert settings.verbosity == 3
        assert settings.notes == ()

    def test_values_may_stand_apart_from_their_flags(self):
        settings = parse(*CLUSTER, "--oom-score-adj", "-999", "-v", "4", "--proxy-mode", "ipvs")
        assert (settings.oom_score_adj, settings.verbosity) == (-999, 4)

    def test_flags_that_nobody_has_are_mistakes(self):
        parser = argparse.ArgumentParser(exit_on_error=False)
        add_run_flags(parser)
        assert parser.parse_known_args([*CLUSTER, "--ipvs-turbo"])[1] == ["--ipvs-turbo"]

    def test_writing_a_file_is_not_mistaken_for_running(self):
        with pytest.raises(BadInput, match="--write-config-to: is not supported"):
            parse(*CLUSTER, "--write-config-to=/tmp/x")

    @pytest.mark.parametrize("flag", ["--cleanup", "--init-only", "--cleanup=true"])
    def test_what_is_done_once_needs_no_services(self, flag):
        assert parse(flag).files == ()

    def test_a_switch_is_true_or_false(self):
        with pytest.raises(BadInput, match="--cleanup: must be true or false, not 'maybe'"):
            parse("--cleanup=maybe")


class TestWhereServicesComeFrom:
    def test_nothing_given_is_a_mistake(self):
        with pytest.raises(BadInput, match=r"-f: give at least one manifest .* or a cluster: --kubeconfig"):
            parse()

    @pytest.mark.parametrize("argv", [CLUSTER, ("--master", "https://10.0.0.1")])
    def test_a_cluster(self, argv):
        assert parse(*argv).from_cluster

    def test_a_pods_service_account(self):
        settings = parse(surroundings=Surroundings("node", in_cluster=True))
        assert (settings.from_cluster, settings.kubeconfig, settings.master) == (True, "", "")

    def test_manifests_come_first(self):
        inside = Surroundings("node", in_cluster=True)
        assert not parse("-f", "web.yaml", surroundings=inside).from_cluster
        assert parse("-f", "web.yaml", surroundings=inside).notes == ()
        assert "not from the cluster" in parse("-f", "web.yaml", *CLUSTER).notes[0]

    def test_the_hosts_name_is_the_nodes_in_lower_case(self):
        assert parse(*CLUSTER).node_name == "host-1"
        assert parse(*CLUSTER, "--hostname-override= Other ").node_name == "other"


EVERY_FLAG = [
    *CLUSTER,
    *("--feature-gates=A=true,B=false", "--kube-api-content-type=x", "--kube-api-burst=1"),
    *("--kube-api-qps", "2.5", "--bind-address=0.0.0.0", "--bind-address-hard-fail", "--profiling=true"),
    *("--show-hidden-metrics-for-version=1.35", "--proxy-mode", "iptables", "--iptables-masquerade-bit=14"),
    *("--masquerade-all", "--iptables-localhost-nodeports=false", "--iptables-sync-period=30s"),
    *("--iptables-min-sync-period=1s", "--ipvs-sync-period=30s", "--ipvs-min-sync-period=0s"),
    *("--ipvs-scheduler=rr", "--ipvs-exclude-cidrs=10.0.0.0/8", "--ipvs-strict-arp", "--ipvs-tcp-timeout=0s"),
    *("--ipvs-tcpfin-timeout=0s", "--ipvs-udp-timeout=0s", "--detect-local-mode=InterfaceNamePrefix"),
    *("--pod-bridge-interface=cbr0", "--pod-interface-name-prefix=veth", "--cluster-cidr=10.244.0.0/16"),
    *("--nodeport-addresses=primary", "--oom-score-adj=-999", "--conntrack-max-per-core=32768"),
    *("--conntrack-min=131072", "--conntrack-tcp-timeout-established=24h", "--conntrack-tcp-be-liberal"),
    *("--conntrack-tcp-timeout-close-wait=1h", "--conntrack-udp-timeout=30s", "--hostname-override=node"),
    *("--conntrack-udp-timeout-stream=2m", "--config-sync-period=15m", "--healthz-port=10256"),
    *("--metrics-port=10249", "--healthz-bind-address=0.0.0.0:10256", "--metrics-bind-address=127.0.0.1"),
    *("--master=https://10.0.0.1", "-v=2", "--vmodule=proxier=4", "--logging-format=text", "--cleanup=false"),
    *("--log-flush-frequency=5s", "--log-json-split-stream", "--log-json-info-buffer-size=0"),
    *("--log-text-split-stream", "--log-text-info-buffer-size=0", "--init-only=false"),
    *("--boot-id-file=/x", "--machine-id-file=/y"),
]
"""Every flag that kube-proxy 1.36 has, but --config, --write-config-to and --version."""
