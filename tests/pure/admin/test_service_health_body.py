from uproxy.admin.local_addresses import parse_addresses
from uproxy.admin.service_health import health_body
from uproxy.model.names import NamespacedName


def test_the_body_is_kube_proxys_to_the_letter():
    assert health_body(NamespacedName("default", "web"), 2, True) == (
        '{\n\t"service": {\n\t\t"namespace": "default",\n\t\t"name": "web"\n\t},\n'
        '\t"localEndpoints": 2,\n\t"serviceProxyHealthy": true\n}'
    )


def test_addresses_of_the_machine():
    text = """[{"ifname": "lo", "addr_info": [{"local": "127.0.0.1"}, {"local": "::1"}]},
               {"ifname": "eth0", "addr_info": [{"local": "10.0.0.7"}, {"local": "fe80::1"}, {}]},
               {}]"""
    assert list(map(str, parse_addresses(text))) == ["127.0.0.1", "::1", "10.0.0.7"]
