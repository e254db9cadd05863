"""Every rule for Services: what a good one becomes, and what is said of a bad one."""

from ipaddress import ip_address

import pytest

from tests.pure.sources.objects import PORT, service
from uproxy.model.names import NamespacedName, Protocol
from uproxy.model.service import Service, ServicePort, ServiceType
from uproxy.sources.convert import convert

VIP, VIP6 = ip_address("10.96.0.1"), ip_address("fd00:10:96::1")
HTTP = ServicePort("http", Protocol.TCP, 80, 80)


def converted(document) -> Service:
    result = convert(document)
    assert [str(fault) for fault in result.faults] == []
    (made,) = result.objects
    return made


def test_the_least_service_there_can_be():
    assert converted(service({"ports": [{"port": 80}]})) == Service(
        key=NamespacedName("default", "web"), ports=(ServicePort("", Protocol.TCP, 80, 80),)
    )


def test_a_service_with_everything():
    document = service(
        {
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1", "fd00:10:96::1"],
            "ipFamilies": ["IPv4", "IPv6"],
            "externalIPs": ["203.0.113.7", "203.0.113.7"],
            "selector": {"app": "web"},
            "publishNotReadyAddresses": True,
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns-udp", "nodePort": 30053},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 5353, "nodePort": 30053},
            ],
        },
        status={"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}},
    )

    assert converted(document) == Service(
        key=NamespacedName("default", "web"),
        ports=(
            ServicePort("dns", Protocol.UDP, 53, "dns-udp", 30053),
            ServicePort("dns-tcp", Protocol.TCP, 53, 5353, 30053),
        ),
        type=ServiceType.LOAD_BALANCER,
        cluster_ips=(VIP, VIP6),
        external_ips=(ip_address("203.0.113.7"),),
        load_balancer_ips=(ip_address("203.0.113.9"),),
        ip_families=(4, 6),
        affinity_timeout_s=60,
        selector={"app": "web"},
        publish_not_ready_addresses=True,
    )


@pytest.mark.parametrize(
    ("spec", "cluster_ips", "headless"),
    [
        pytest.param({}, (), False, id="absent"),
        pytest.param({"clusterIP": "", "clusterIPs": [""]}, (), False, id="empty is not given"),
        pytest.param({"clusterIP": None, "clusterIPs": None}, (), False, id="null is not given"),
        pytest.param({"clusterIP": "10.96.0.1"}, (VIP,), False, id="clusterIP alone"),
        pytest.param({"clusterIPs": ["10.96.0.1"]}, (VIP,), False, id="clusterIPs alone"),
        pytest.param({"clusterIP": "None"}, (), True, id="headless"),
        pytest.param({"clusterIPs": ["None"]}, (), True, id="headless by clusterIPs"),
        pytest.param({"clusterIP": "None", "ports": None}, (), True, id="headless without ports"),
        pytest.param(
            {"clusterIP": "fd00:10:96::1", "clusterIPs": ["fd00:10:96::1", "10.96.0.1"]},
            (VIP6, VIP),
            False,
            id="IPv6 first",
        ),
    ],
)
def test_cluster_ips(spec, cluster_ips, headless):
    made = converted(service(spec))

    assert (made.cluster_ips, made.headless) == (cluster_ips, headless)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        pytest.param({}, 80, id="absent means the port itself"),
        pytest.param({"targetPort": None}, 80, id="null too"),
        pytest.param({"targetPort": 0}, 80, id="0 too"),
        pytest.param({"targetPort": ""}, 80, id="empty too"),
        pytest.param({"targetPort": 8080}, 8080, id="a number"),
        pytest.param({"targetPort": "http-web"}, "http-web", id="a name"),
    ],
)
def test_target_port(target, expected):
    assert converted(service({"ports": [PORT | target]})).ports[0].target_port == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({}, None, id="absent"),
        pytest.param({"sessionAffinity": "None"}, None, id="None"),
        pytest.param({"sessionAffinity": "ClientIP"}, 10800, id="three hours by default"),
        pytest.param(
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86400}}},
            86400,
            id="a day at most",
        ),
    ],
)
def test_session_affinity(spec, expected):
    assert converted(service(spec)).affinity_timeout_s == expected


@pytest.mark.parametrize(
    ("ingress", "expected"),
    [
        pytest.param({"ip": "203.0.113.9"}, ["203.0.113.9"], id="no ipMode"),
        pytest.param({"ip": "203.0.113.9", "ipMode": "VIP"}, ["203.0.113.9"], id="ipMode VIP"),
        pytest.param({"ip": "203.0.113.9", "ipMode": "Proxy"}, [], id="ipMode Proxy"),
        pytest.param({"hostname": "lb.example.com"}, [], id="hostname only"),
    ],
)
def test_load_balancer_ingress(ingress, expected):
    document = service({"type": "LoadBalancer"}, status={"loadBalancer": {"ingress": [ingress]}})

    assert [str(ip) for ip in converted(document).load_balancer_ips] == expected


def test_external_name_needs_no_ports():
    made = converted(service({"type": "ExternalName", "externalName": "db.example.com", "ports": None}))

    assert made.type is ServiceType.EXTERNAL_NAME
    assert not made.captured


def test_another_proxys_service_is_not_captured():
    made = converted(service(labels={"service.kubernetes.io/service-proxy-name": "other"}))

    assert made.proxy_name == "other"
    assert not made.captured


def test_the_headless_label_means_nothing_on_a_service():
    assert converted(service(labels={"service.kubernetes.io/headless": ""})).captured


def test_an_empty_status_as_kubectl_prints_it_is_fine():
    assert converted(service(status={"loadBalancer": {}})).load_balancer_ips == ()


def two(first: dict, second: dict) -> dict:
    return {"ports": [first, second]}


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        pytest.param({"ports": None}, "ports", "is required", id="no ports"),
        pytest.param({"ports": []}, "ports", "is required", id="an empty list of ports"),
        pytest.param({"ports": 80}, "ports", "must be a list, not 80", id="ports is a number"),
        pytest.param({"ports": [80]}, "ports[0]", "must be a mapping, not 80", id="a port is a number"),
        pytest.param({"ports": [{"name": "a"}]}, "ports[0].port", "is required", id="port absent"),
        pytest.param({"ports": [{"port": 0}]}, "ports[0].port", "must be 1 to 65535, not 0", id="port 0"),
        pytest.param(
            {"ports": [{"port": 70000}]}, "ports[0].port", "must be 1 to 65535, not 70000", id="port 70000"
        ),
        pytest.param(
            {"ports": [{"port": "80"}]}, "ports[0].port", "must be 1 to 65535, not '80'", id="port is text"
        ),
        pytest.param(
            {"ports": [{"port": True}]}, "ports[0].port", "must be 1 to 65535, not true", id="port is true"
        ),
        pytest.param(
            {"ports": [PORT | {"name": "My_Port"}]},
            "ports[0].name",
            "must be a DNS label (a-z, 0-9 and '-', at most 63 characters), not 'My_Port'",
            id="port name",
        ),
        pytest.param(
            two({"port": 80}, PORT | {"port": 81}), "ports[0].name", "is required", id="name needed"
        ),
        pytest.param(
            two(PORT, PORT | {"port": 81}), "ports[1].name", "'http' is given twice", id="name twice"
        ),
        pytest.param(
            two(PORT, PORT | {"name": "b"}),
            "ports[1].port",
            "80 is given twice",
            id="port and protocol twice",
        ),
        pytest.param(
            {"ports": [PORT | {"protocol": "QUIC"}]},
            "ports[0].protocol",
            "must be one of TCP, UDP, SCTP, not 'QUIC'",
            id="protocol",
        ),
        pytest.param(
            {"ports": [PORT | {"targetPort": 65536}]},
            "ports[0].targetPort",
            "must be 1 to 65535, not 65536",
            id="targetPort out of range",
        ),
        pytest.param(
            {"ports": [PORT | {"targetPort": "8080"}]},
            "ports[0].targetPort",
            "must be a port's name (a-z, 0-9 and '-', with a letter, at most 15 characters), not '8080'",
            id="targetPort is a number in quotes",
        ),
        pytest.param(
            {"ports": [PORT | {"targetPort": "a-name-too-long1"}]},
            "ports[0].targetPort",
            "must be a port's name (a-z, 0-9 and '-', with a letter, at most 15 characters), "
            "not 'a-name-too-long1'",
            id="targetPort name too long",
        ),
        pytest.param(
            {"ports": [PORT | {"targetPort": False}]},
            "ports[0].targetPort",
            "must be 1 to 65535, not false",
            id="targetPort is false",
        ),
        pytest.param(
            {"ports": [PORT | {"nodePort": 30080}]},
            "ports[0].nodePort",
            "may only be set for types NodePort and LoadBalancer, not ClusterIP",
            id="nodePort of a ClusterIP Service",
        ),
        pytest.param(
            {"type": "NodePort", "ports": [PORT | {"nodePort": -1}]},
            "ports[0].nodePort",
            "must be 1 to 65535, not -1",
            id="nodePort out of range",
        ),
        pytest.param(
            {"type": "NodePort"}
            | two(PORT | {"nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30080}),
            "ports[1].nodePort",
            "30080 is given twice",
            id="nodePort twice",
        ),
        pytest.param(
            {"type": "clusterip"},
            "type",
            "must be one of ClusterIP, NodePort, LoadBalancer, ExternalName, not 'clusterip'",
            id="type",
        ),
        pytest.param({"clusterIP": "foo"}, "clusterIP", "must be an IP address, not 'foo'", id="clusterIP"),
        pytest.param(
            {"clusterIP": "none"}, "clusterIP", "must be an IP address, not 'none'", id="None in lower case"
        ),
        pytest.param(
            {"clusterIP": "0.0.0.0"},
            "clusterIP",
            "must be the address of one host, not '0.0.0.0'",
            id="unspecified clusterIP",
        ),
        pytest.param(
            {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.2"]},
            "clusterIPs[0]",
            "must be '10.96.0.1' as clusterIP, not '10.96.0.2'",
            id="clusterIP and clusterIPs differ",
        ),
        pytest.param(
            {"clusterIP": "None", "clusterIPs": ["None", "10.96.0.1"]},
            "clusterIPs[1]",
            "may not stand beside None",
            id="headless and not",
        ),
        pytest.param(
            {"clusterIPs": ["10.96.0.1", "10.96.0.2"]},
            "clusterIPs",
            "may have one IPv4 and one IPv6 address at most",
            id="two of a family",
        ),
        pytest.param(
            {"type": "NodePort", "clusterIP": "None"},
            "clusterIP",
            "may not be None for type NodePort",
            id="headless NodePort",
        ),
        pytest.param(
            {"type": "ExternalName", "externalName": "x.example", "clusterIP": "10.96.0.1"},
            "clusterIP",
            "may not be set for type ExternalName",
            id="ExternalName with an address",
        ),
        pytest.param({"type": "ExternalName"}, "externalName", "is required", id="ExternalName without one"),
        pytest.param(
            {"externalIPs": "10.0.0.1"},
            "externalIPs",
            "must be a list, not '10.0.0.1'",
            id="externalIPs text",
        ),
        pytest.param({"externalIPs": [""]}, "externalIPs[0]", "is required", id="empty externalIP"),
        pytest.param(
            {"externalIPs": [7]}, "externalIPs[0]", "must be a string, not 7", id="externalIP is a number"
        ),
        pytest.param(
            {"externalIPs": ["224.0.0.1"]},
            "externalIPs[0]",
            "must be the address of one host, not '224.0.0.1'",
            id="multicast",
        ),
        pytest.param(
            {"externalIPs": ["fe80::1%eth0"]},
            "externalIPs[0]",
            "must be an address without zone or embedded IPv4 address, not 'fe80::1%eth0'",
            id="zone",
        ),
        pytest.param(
            {"ipFamilies": ["IPv5"]}, "ipFamilies[0]", "must be one of IPv4, IPv6, not 'IPv5'", id="family"
        ),
        pytest.param(
            {"ipFamilies": ["IPv4", "IPv4"]}, "ipFamilies[1]", "'IPv4' is given twice", id="family twice"
        ),
        pytest.param(
            {"ipFamilies": ["IPv6"], "clusterIP": "10.96.0.1"},
            "ipFamilies[0]",
            "must be the family of 10.96.0.1, not 'IPv6'",
            id="family of another address",
        ),
        pytest.param(
            {"sessionAffinity": "Cookie"},
            "sessionAffinity",
            "must be one of None, ClientIP, not 'Cookie'",
            id="affinity",
        ),
        pytest.param(
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}},
            "sessionAffinityConfig.clientIP.timeoutSeconds",
            "must be 1 to 86400, not 86401",
            id="affinity timeout",
        ),
        pytest.param(
            {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}},
            "sessionAffinityConfig",
            "may only be set when sessionAffinity is ClientIP",
            id="affinity timeout without affinity",
        ),
        pytest.param(
            {"selector": ["web"]}, "selector", "must be a mapping, not a list", id="selector is a list"
        ),
        pytest.param(
            {"selector": {"version": 2}}, "selector.version", "must be a string, not 2", id="selector value"
        ),
        pytest.param(
            {"selector": {2: "a"}}, "selector", "must have strings as keys, not 2", id="selector key"
        ),
        pytest.param(
            {"selector": {"app": None}}, "selector.app", "must be a string, not null", id="null in selector"
        ),
        pytest.param(
            {"publishNotReadyAddresses": "yes"},
            "publishNotReadyAddresses",
            "must be true or false, not 'yes'",
            id="publishNotReadyAddresses",
        ),
    ],
)
def test_a_bad_field_is_named_in_plain_words(spec, field, message):
    faults = [(fault.field, fault.message) for fault in convert(service(spec)).faults]

    assert (f"spec.{field}", message) in faults
    assert len({where for where, _ in faults}) <= 2  # one mistake is not reported all over the place


@pytest.mark.parametrize(
    ("kind", "ingress", "field", "message"),
    [
        pytest.param("LoadBalancer", {"ip": "x"}, "[0].ip", "must be an IP address, not 'x'", id="ip"),
        pytest.param(
            "LoadBalancer",
            {"ip": "203.0.113.9", "ipMode": "Nat"},
            "[0].ipMode",
            "must be one of VIP, Proxy, not 'Nat'",
            id="ipMode",
        ),
        pytest.param(
            "ClusterIP",
            {"ip": "203.0.113.9"},
            "",
            "may only be set for type LoadBalancer, not ClusterIP",
            id="type",
        ),
    ],
)
def test_bad_ingress(kind, ingress, field, message):
    (fault,) = convert(service({"type": kind}, status={"loadBalancer": {"ingress": [ingress]}})).faults

    assert (fault.field, fault.message) == (f"status.loadBalancer.ingress{field}", message)
