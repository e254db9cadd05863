"""What `uproxy resolve` prints."""

import pytest

from tests.pure.dns.rig import Server, external, headless, piece, service
from uproxy.dns.explain import explain
from uproxy.dns.pods import PodMode
from uproxy.errors import UproxyError

SVC = "default.svc.cluster.local."


@pytest.fixture
def server() -> Server:
    return Server(
        service("web", "http:80", ips="172.30.0.1"),
        service("given", "http:80"),
        headless("db", "pg:5432"),
        piece("db", "db-0@10.0.0.1", ports="pg:5432"),
        headless("empty"),
        external("ext", "example.com"),
        external("alias", f"web.{SVC}"),
        external("dead", f"empty.{SVC}"),
        external("me", f"me.{SVC}"),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "web",
            [
                f"web.{SVC} 5 IN A 172.30.0.1  ; Service default/web, clusterIP",
                f"web.{SVC} 5 IN SRV 0 100 80 web.{SVC}  ; Service default/web, port 80",
            ],
        ),
        (
            "db-0.db.default",
            [f"db-0.db.{SVC} 5 IN A 10.0.0.1  ; Service default/db, EndpointSlice default/db-1"],
        ),
        (
            f"_pg._tcp.db.{SVC}",
            [
                f"_pg._tcp.db.{SVC} 5 IN SRV 0 100 5432 db-0.db.{SVC}  "
                "; Service default/db, EndpointSlice default/db-1"
            ],
        ),
        ("172.30.0.1", [f"1.0.30.172.in-addr.arpa. 5 IN PTR web.{SVC}  ; Service default/web, clusterIP"]),
        (
            "ext",
            [
                f"ext.{SVC} 5 IN CNAME example.com.  ; Service default/ext, externalName",
                "example.com. is no name of the cluster: upstream is asked",
            ],
        ),
        (
            "dead",
            [
                f"dead.{SVC} 5 IN CNAME empty.{SVC}  ; Service default/dead, externalName",
                f"empty.{SVC} NXDOMAIN: headless Service default/empty has no ready endpoint",
            ],
        ),
        ("example.com.", ["example.com. is no name of the cluster: upstream is asked"]),
        (
            "empty",
            [
                f"empty.{SVC} NXDOMAIN: headless Service default/empty has no ready endpoint",
                "empty.svc.cluster.local. NXDOMAIN: no name of this form exists",
                "empty.cluster.local. NXDOMAIN: no name of this form exists",
                "empty. is no name of the cluster: upstream is asked",
            ],
        ),
        (f"empty.{SVC}", [f"empty.{SVC} NXDOMAIN: headless Service default/empty has no ready endpoint"]),
        (f"nobody.{SVC}", [f"nobody.{SVC} NXDOMAIN: there is no Service default/nobody"]),
        (f"x.web.{SVC}", [f"x.web.{SVC} NXDOMAIN: Service default/web has nothing of this name"]),
        (f"_tcp.web.{SVC}", [f"_tcp.web.{SVC} exists, without any record"]),
        ("x.cluster.local", ["x.cluster.local. NXDOMAIN: no name of this form exists"]),
        (
            "1-2-3-4.default.pod",
            [
                "1-2-3-4.default.pod.cluster.local. 5 IN A 1.2.3.4  "
                "; the address in the name, pod records are insecure"
            ],
        ),
        ("dns-version.cluster.local", ['dns-version.cluster.local. 28800 IN TXT "1.1.0"  ; uproxy']),
    ],
)
def test_lines(server, text, expected):
    assert explain(server.zone, text) == expected


def test_a_circle(server):
    assert f"me.{SVC} SERVFAIL: ExternalNames lead in a circle" in explain(server.zone, "me")


def test_the_whole_of_the_zone(server):
    lines = explain(server.zone, "cluster.local.")
    assert lines[0] == "cluster.local. 5 IN NS ns.dns.cluster.local.  ; uproxy"
    assert lines[1].startswith(
        "cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 2 7200"
    )


def test_an_address_that_uproxy_chose(server):
    assert explain(server.zone, "given")[0].endswith("; Service default/given, allocated by uproxy")


def test_another_namespace():
    server = Server(service("prod/web", "http:80", ips="172.30.0.1"), pods=PodMode.DISABLED)
    assert explain(server.zone, "web", "prod")[0].startswith("web.prod.svc.cluster.local. 5 IN A")
    assert explain(server.zone, "1-2-3-4.prod.pod.cluster.local.") == [
        "1-2-3-4.prod.pod.cluster.local. NXDOMAIN: pod records are disabled, and this is none"
    ]


def test_what_is_no_name(server):
    with pytest.raises(UproxyError, match="is no name"):
        explain(server.zone, "a..b")
