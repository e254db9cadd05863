"""Search paths, and resolv.conf."""

import pytest

from tests.pure.dns.rig import Server, headless, piece, service
from uproxy.dns.resolv_conf import parse_resolv_conf, without_own
from uproxy.dns.responder import Deferred
from uproxy.dns.search import search_names
from uproxy.dns.wire import from_text, to_text

DOMAIN = from_text("cluster.local")


def names(name: str, namespace: str = "default", tail=()) -> list[str]:
    found = search_names(from_text(name), namespace, DOMAIN, tuple(from_text(each) for each in tail))
    return [to_text(each) for each in found]


def test_what_a_resolver_would_ask_next():
    assert names("example.com.default.svc.cluster.local", tail=["corp.example"]) == [
        "example.com.svc.cluster.local.",
        "example.com.cluster.local.",
        "example.com.corp.example.",
        "example.com.",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "example.com.other.svc.cluster.local",
        "default.svc.cluster.local",
        "example.com.svc.cluster.local",
        "a.b",
    ],
)
def test_only_the_first_try_of_the_namespace_is_helped(name):
    assert names(name) == []


def test_names_that_would_be_too_long_are_left_out():
    base = ".".join(["a" * 63] * 3)
    long = search_names(
        from_text(base)[:-1] + from_text("d.svc.cluster.local"), "d", DOMAIN, (from_text("x" * 63),)
    )
    assert [to_text(each)[192:] for each in long] == ["svc.cluster.local.", "cluster.local.", ""]


def deferred(server: Server, name: str, client: str):
    from dns.message import make_query

    return server.send(make_query(name, "A").to_wire(), client=client)


def test_clients_whose_namespace_is_known_are_helped_and_no_others():
    server = Server(
        headless("db"),
        piece("db", "10.0.0.1", "10.0.0.3"),
        piece("other/x", "10.0.0.3"),
        service("web", "http:80", ips="172.30.0.1"),
    ).with_upstream()
    name = "example.com.default.svc.cluster.local."
    asked = deferred(server, name, "10.0.0.1")
    assert isinstance(asked, Deferred)
    assert to_text(asked.search[-1]) == "example.com."
    assert isinstance(deferred(server, name, "10.0.0.2"), bytes)  # unknown
    assert isinstance(deferred(server, name, "10.0.0.3"), bytes)  # in two namespaces: a node
    assert isinstance(deferred(server, "web.default.svc.cluster.local.", "10.0.0.1"), bytes)  # exists


CONF = """
# comment
domain old.example
search Corp.example lab.example  a..b
nameserver 10.0.0.1
nameserver fe80::1%eth0
nameserver fd00::1
nameserver nonsense
nameserver
options ndots:5
"""


def test_resolv_conf_is_read_as_resolvers_do():
    conf = parse_resolv_conf(CONF)
    assert conf.servers == (("10.0.0.1", 53), ("fe80::1%eth0", 53), ("fd00::1", 53))
    assert conf.search == (from_text("corp.example"), from_text("lab.example"))
    assert parse_resolv_conf("") == ((), ())


def test_a_server_does_not_ask_itself():
    servers = [("127.0.0.1", 53), ("127.0.0.1", 54), ("10.0.0.1", 53), ("0:0::1", 53)]
    assert without_own(servers, [("127.0.0.1", 53), ("::1", 53)]) == servers[1:3]
    assert without_own(servers, [("0.0.0.0", 53)]) == [servers[1], servers[2], servers[3]]
    assert without_own(servers, [("::", 5353)]) == servers
