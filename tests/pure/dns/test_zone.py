"""Which records there are: Kubernetes' DNS specification 1.1.0, table by table, and CoreDNS's additions."""

from ipaddress import ip_network

import dns.rcode
import pytest

from tests.pure.dns.rig import NODE, Server, endpoint, external, headless, lines, piece, service
from uproxy.dns.pods import PodMode
from uproxy.dns.wire import to_text
from uproxy.model.endpoint import Endpoint, Origin, Pod
from uproxy.model.names import Protocol
from uproxy.state.addresses import AddressPlan

SVC = "default.svc.cluster.local."
OK, NX = "NOERROR", "NXDOMAIN"


def check(server: Server, table) -> None:
    """Rows of name, type, rcode and records; `~` is the name itself, `$` the Services' domain."""
    for name, kind, rcode, *expected in table:
        full = name.replace("$", SVC)
        records = sorted(line.replace("~", full).replace("$", SVC) for line in expected)
        assert server.answer(full, kind) == (rcode, records), f"{full} {kind}"


def cases(*rows):
    return [pytest.param(objects, table, id=name) for name, objects, table in rows]


WEB = service("web", "http:80", ips="172.30.0.1")
DUAL = service("dual", "http:80", "dns:53/UDP", ips="172.30.0.2 fd00::2")
DB = headless("db", "pg:5432")
DB_SLICE = piece("db", "db-0@10.0.0.1", "10.0.0.2", ports="pg:5432 stat:9/UDP")


@pytest.mark.parametrize(
    ("objects", "table"),
    cases(
        (
            "ClusterIP",
            [WEB],
            [
                ("web.$", "A", OK, "~ 5 A 172.30.0.1"),
                ("web.$", "AAAA", OK),
                ("web.$", "TXT", OK),
                ("web.$", "ANY", OK, "~ 5 A 172.30.0.1"),
                ("_http._tcp.web.$", "SRV", OK, "~ 5 SRV 0 100 80 web.$"),
                ("_http._tcp.web.$", "A", OK),
                ("_tcp.web.$", "SRV", OK),
                ("_udp.web.$", "SRV", NX),
                ("_http._udp.web.$", "SRV", NX),
                ("_other._tcp.web.$", "SRV", NX),
                ("http._tcp.web.$", "SRV", NX),
                ("web.$", "SRV", OK, "~ 5 SRV 0 100 80 web.$"),
                ("1.0.30.172.in-addr.arpa.", "PTR", OK, "~ 5 PTR web.$"),
                ("1.0.30.172.in-addr.arpa.", "A", OK),
                ("x.web.$", "A", NX),
                ("nobody.$", "A", NX),
            ],
        ),
        (
            "dual stack",
            [DUAL],
            [
                ("dual.$", "A", OK, "~ 5 A 172.30.0.2"),
                ("dual.$", "AAAA", OK, "~ 5 AAAA fd00::2"),
                ("_dns._udp.dual.$", "SRV", OK, "~ 5 SRV 0 100 53 dual.$"),
                ("dual.$", "SRV", OK, "~ 5 SRV 0 50 80 dual.$", "~ 5 SRV 0 50 53 dual.$"),
                (
                    "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
                    "PTR",
                    OK,
                    "~ 5 PTR dual.$",
                ),
            ],
        ),
        (
            "a port without a name has no name of its own",
            [service("plain", ":80", ips="172.30.0.3")],
            [
                ("plain.$", "SRV", OK, "~ 5 SRV 0 100 80 plain.$"),
                ("_tcp.plain.$", "SRV", NX),
            ],
        ),
        (
            "headless: every ready endpoint, by hostname or by address",
            [DB, DB_SLICE],
            [
                ("db.$", "A", OK, "~ 5 A 10.0.0.1", "~ 5 A 10.0.0.2"),
                ("db-0.db.$", "A", OK, "~ 5 A 10.0.0.1"),
                ("10-0-0-2.db.$", "A", OK, "~ 5 A 10.0.0.2"),
                ("10-0-0-1.db.$", "A", NX),
                (
                    "_pg._tcp.db.$",
                    "SRV",
                    OK,
                    "~ 5 SRV 0 50 5432 db-0.db.$",
                    "~ 5 SRV 0 50 5432 10-0-0-2.db.$",
                ),
                (
                    "db.$",
                    "SRV",
                    OK,
                    "~ 5 SRV 0 25 5432 db-0.db.$",
                    "~ 5 SRV 0 25 5432 10-0-0-2.db.$",
                    "~ 5 SRV 0 25 9 db-0.db.$",
                    "~ 5 SRV 0 25 9 10-0-0-2.db.$",
                ),
                ("_stat._udp.db.$", "AAAA", OK),
                ("_udp.db.$", "A", OK),
                ("1.0.0.10.in-addr.arpa.", "PTR", OK, "~ 5 PTR db-0.db.$"),
                ("2.0.0.10.in-addr.arpa.", "PTR", OK, "~ 5 PTR 10-0-0-2.db.$"),
            ],
        ),
        (
            "headless without a ready endpoint: no such name, of any kind",
            [DB, piece("db", "db-0@10.0.0.1!", ports="pg:5432")],
            [
                ("db.$", "A", NX),
                ("db.$", "SRV", NX),
                ("db-0.db.$", "A", NX),
                ("_pg._tcp.db.$", "SRV", NX),
                ("_tcp.db.$", "SRV", NX),
                ("default.svc.cluster.local.", "A", OK),
            ],
        ),
        (
            "headless without any slice",
            [DB],
            [("db.$", "A", NX), ("_pg._tcp.db.$", "SRV", NX)],
        ),
        (
            "headless, publishNotReadyAddresses",
            [headless("db", publish_not_ready_addresses=True), piece("db", "db-0@10.0.0.1!")],
            [("db.$", "A", OK, "~ 5 A 10.0.0.1"), ("db-0.db.$", "A", OK, "~ 5 A 10.0.0.1")],
        ),
        (
            "headless without ports: addresses, but no SRV",
            [headless("db"), piece("db", "10.0.0.1")],
            [("db.$", "A", OK, "~ 5 A 10.0.0.1"), ("db.$", "SRV", OK)],
        ),
        (
            "headless, IPv6 only: no A is NODATA",
            [DB, piece("db", "fd00::1", "fd00:0:0:1::", ports="pg:5432")],
            [
                ("db.$", "A", OK),
                ("db.$", "AAAA", OK, "~ 5 AAAA fd00::1", "~ 5 AAAA fd00:0:0:1::"),
                ("fd00--1.db.$", "AAAA", OK, "~ 5 AAAA fd00::1"),
                ("fd00-0-0-1--.db.$", "AAAA", OK, "~ 5 AAAA fd00:0:0:1::"),
                (
                    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
                    "PTR",
                    OK,
                    "~ 5 PTR fd00--1.db.$",
                ),
            ],
        ),
        (
            "headless, dual stack: two slices, one name",
            [
                DB,
                piece("db", "db-0@10.0.0.1", ports="pg:1"),
                piece("db", "db-0@fd00::1", ports="pg:1", name="6"),
            ],
            [
                ("db-0.db.$", "A", OK, "~ 5 A 10.0.0.1"),
                ("db-0.db.$", "AAAA", OK, "~ 5 AAAA fd00::1"),
                ("_pg._tcp.db.$", "SRV", OK, "~ 5 SRV 0 100 1 db-0.db.$"),
            ],
        ),
        (
            "two endpoints of one name",
            [DB, piece("db", "dup@10.0.0.4", "dup@10.0.0.5", ports="pg:5432")],
            [
                ("dup.db.$", "A", OK, "~ 5 A 10.0.0.4", "~ 5 A 10.0.0.5"),
                ("_pg._tcp.db.$", "SRV", OK, "~ 5 SRV 0 100 5432 dup.db.$"),
                ("4.0.0.10.in-addr.arpa.", "PTR", OK, "~ 5 PTR dup.db.$"),
            ],
        ),
        (
            "one endpoint in two slices, as while they are rebalanced",
            [DB, DB_SLICE, piece("db", "db-0@10.0.0.1", ports="pg:5432", name="again")],
            [("db.$", "A", OK, "~ 5 A 10.0.0.1", "~ 5 A 10.0.0.2"), ("db-0.db.$", "A", OK, "~ 5 A 10.0.0.1")],
        ),
        (
            "one address in two headless Services",
            [DB, piece("db", "db-0@10.0.0.1"), headless("all"), piece("all", "10.0.0.1")],
            [
                (
                    "1.0.0.10.in-addr.arpa.",
                    "PTR",
                    OK,
                    "~ 5 PTR db-0.db.$",
                    "~ 5 PTR 10-0-0-1.all.$",
                )
            ],
        ),
        (
            "endpoints of a Service with a cluster IP have no names",
            [WEB, piece("web", "web-0@10.0.0.1", ports="http:80")],
            [("web-0.web.$", "A", NX), ("web.$", "A", OK, "~ 5 A 172.30.0.1")],
        ),
        (
            "a host name among the endpoints is left out",
            [
                DB,
                DB_SLICE.__class__(
                    DB_SLICE.key, DB.key, (), (Endpoint("db.example.com"), endpoint("10.0.0.2"))
                ),
            ],
            [("db.$", "A", OK, "~ 5 A 10.0.0.2")],
        ),
        (
            "the most authoritative slices count",
            [DB, piece("db", "10.0.0.1"), piece("db", "10.0.0.7", origin=Origin.ENDPOINTS)],
            [("db.$", "A", OK, "~ 5 A 10.0.0.1")],
        ),
        (
            "ExternalName",
            [external("ext", "www.Example.com."), external("ip", "192.0.2.1"), external("bad", "a..b")],
            [
                ("ext.$", "CNAME", OK, "~ 5 CNAME www.Example.com."),
                ("ext.$", "ANY", OK, "~ 5 CNAME www.Example.com."),
                ("ext.$", "A", OK, "~ 5 CNAME www.Example.com."),
                ("x.ext.$", "CNAME", NX),
                ("ip.$", "A", NX),
                ("bad.$", "A", NX),
            ],
        ),
        (
            "ExternalName chains inside the cluster",
            [
                WEB,
                DB,
                external("one", "web.default.svc.cluster.local"),
                external("two", "ONE.default.svc.cluster.local."),
                external("gone", "nobody.default.svc.cluster.local"),
                external("empty", "db.default.svc.cluster.local"),
            ],
            [
                (
                    "two.$",
                    "A",
                    OK,
                    "~ 5 CNAME ONE.$",
                    "one.$ 5 CNAME web.$",
                    "web.$ 5 A 172.30.0.1",
                ),
                ("two.$", "AAAA", OK, "~ 5 CNAME ONE.$", "one.$ 5 CNAME web.$"),
                ("two.$", "CNAME", OK, "~ 5 CNAME ONE.$"),
                ("gone.$", "A", NX, "~ 5 CNAME nobody.$"),
                ("empty.$", "A", NX, "~ 5 CNAME db.$"),
            ],
        ),
        (
            "ExternalName circles",
            [
                external("me", "me.default.svc.cluster.local"),
                external("ping", "pong.default.svc.cluster.local"),
                external("pong", "ping.default.svc.cluster.local"),
                *(external(f"c{n}", f"c{n + 1}.default.svc.cluster.local") for n in range(20)),
            ],
            [
                ("me.$", "A", "SERVFAIL"),
                ("me.$", "CNAME", OK, "~ 5 CNAME me.$"),
                ("ping.$", "AAAA", "SERVFAIL"),
                ("c0.$", "A", "SERVFAIL"),
            ],
        ),
        (
            "the zone itself",
            [WEB],
            [
                ("cluster.local.", "NS", OK, "~ 5 NS ns.dns.cluster.local."),
                (
                    "cluster.local.",
                    "SOA",
                    OK,
                    "~ 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 2 7200 1800 86400 5",
                ),
                ("cluster.local.", "A", OK),
                ("cluster.local.", "ANY", OK, "~ 5 NS ns.dns.cluster.local."),
                ("dns-version.cluster.local.", "TXT", OK, '~ 28800 TXT "1.1.0"'),
                ("dns-version.cluster.local.", "A", OK),
                ("svc.cluster.local.", "A", OK),
                ("pod.cluster.local.", "NS", OK),
                ("dns.cluster.local.", "A", OK),
                ("default.svc.cluster.local.", "SOA", OK),
                ("nowhere.svc.cluster.local.", "NS", NX),
                ("web.nowhere.svc.cluster.local.", "A", NX),
                ("default.cluster.local.", "A", NX),
                ("foo.cluster.local.", "A", NX),
                ("a.b.c.d.e.cluster.local.", "A", NX),
            ],
        ),
        (
            "names that start with digits",
            [service("1ns/9web", "80x:80", ips="172.30.0.5")],
            [
                ("9web.1ns.svc.cluster.local.", "A", OK, "~ 5 A 172.30.0.5"),
                (
                    "_80x._tcp.9web.1ns.svc.cluster.local.",
                    "SRV",
                    OK,
                    "~ 5 SRV 0 100 80 9web.1ns.svc.cluster.local.",
                ),
            ],
        ),
        (
            "labels of 63 octets",
            [service(f"{'n' * 63}/{'s' * 63}", "http:80", ips="172.30.0.6")],
            [(f"{'s' * 63}.{'n' * 63}.svc.cluster.local.", "A", OK, "~ 5 A 172.30.0.6")],
        ),
        (
            "a Service that another proxy serves has the addresses of its manifest",
            [service("theirs", "http:80", ips="172.30.0.7", proxy_name="other")],
            [
                ("theirs.$", "A", OK, "~ 5 A 172.30.0.7"),
                ("_http._tcp.theirs.$", "SRV", OK, "~ 5 SRV 0 100 80 theirs.$"),
            ],
        ),
        (
            "a Service of which no port can be relayed",
            [service("sctp", "s:9/SCTP", ips="172.30.0.8")],
            [
                ("sctp.$", "A", OK, "~ 5 A 172.30.0.8"),
                ("_s._sctp.sctp.$", "SRV", OK, "~ 5 SRV 0 100 9 sctp.$"),
            ],
        ),
        (
            "malformed reverse names are nobody's",
            [WEB],
            [
                (f"{name}.in-addr.arpa.", "PTR", "REFUSED")
                for name in (
                    "01.0.30.172",
                    "300.0.30.172",
                    "0.30.172",
                    "1.1.0.30.172",
                    "x.0.30.172",
                    "-1.0.30.172",
                )
            ]
            + [("1.0.30.172.ip6.arpa.", "PTR", "REFUSED"), ("in-addr.arpa.", "PTR", "REFUSED")],
        ),
    ),
)
def test_records(objects, table):
    check(Server(*objects), table)


def test_the_order_of_objects_does_not_matter():
    objects = [DB, WEB, DB_SLICE, external("ext", "web.default.svc.cluster.local")]
    one, other = Server(*objects), Server(*reversed(objects))
    assert {name: [s.records for s in sets] for name, sets in one.zone.names.items()} == {
        name: [s.records for s in sets] for name, sets in other.zone.names.items()
    }


def test_everything_deleted_leaves_what_was_there_at_first():
    server = Server()
    before = dict(server.zone.names)
    objects = [DB, WEB, DB_SLICE, external("ext", "web.default.svc.cluster.local"), DUAL]
    server.upsert(*objects)
    assert len(server.zone.names) > len(before) + 10
    server.delete(*objects)
    assert server.zone.names == before
    assert not server.zone.objects.namespaces
    assert not server.zone.objects.pods._namespaces


def test_a_change_makes_only_the_touched_service_anew():
    server = Server(WEB, DB, DB_SLICE)
    kept = server.zone.names[b"\3web\7default\3svc\7cluster\5local\0"]
    serial = server.zone.serial
    server.upsert(piece("db", "10.0.0.9"))
    assert server.answer(f"db.{SVC}") == (OK, [f"db.{SVC} 5 A 10.0.0.9"])
    assert server.answer(f"db-0.db.{SVC}") == (NX, [])
    assert server.zone.names[b"\3web\7default\3svc\7cluster\5local\0"] is kept
    assert server.zone.serial == serial + 1


def test_an_endpoint_that_changes_leaves_the_others_of_its_service_as_they_are():
    hosts = [f"10.0.{number // 250}.{1 + number % 250}" for number in range(1000)]
    server = Server(headless("db", "pg:5432"), piece("db", *hosts, ports="pg:5432"))
    before = dict(server.zone.names)
    server.upsert(piece("db", *(host + "!" * (host == "10.0.1.7") for host in hosts), ports="pg:5432"))
    after = server.zone.names
    assert {to_text(name) for name in before if after.get(name) is not before[name]} == {
        "db.default.svc.cluster.local.",
        "_pg._tcp.db.default.svc.cluster.local.",
        "10-0-1-7.db.default.svc.cluster.local.",
        "7.1.0.10.in-addr.arpa.",
    }
    assert len(server.ask("db.default.svc.cluster.local").answer[0]) == 999


def test_endpoints_behind_a_cluster_ip_touch_no_name():
    server = Server(WEB)
    serial = server.zone.serial
    server.upsert(piece("web", "10.0.0.1", ports="http:80"))
    assert server.zone.serial == serial


def test_a_service_that_changes_its_kind():
    server = Server(WEB)
    check(server, [("web.$", "A", OK, "~ 5 A 172.30.0.1")])
    server.upsert(headless("web", "http:80"), piece("web", "a@10.0.0.1", ports="http:8080"))
    check(
        server,
        [
            ("web.$", "A", OK, "~ 5 A 10.0.0.1"),
            ("_http._tcp.web.$", "SRV", OK, "~ 5 SRV 0 100 8080 a.web.$"),
            ("1.0.30.172.in-addr.arpa.", "PTR", "REFUSED"),
        ],
    )
    server.upsert(external("web", "example.com"))
    check(server, [("web.$", "CNAME", OK, "~ 5 CNAME example.com."), ("a.web.$", "A", NX)])
    server.upsert(WEB)
    check(server, [("web.$", "A", OK, "~ 5 A 172.30.0.1"), ("web.$", "CNAME", OK)])


def test_addresses_and_ports_are_those_that_the_proxy_serves():
    rootless = AddressPlan(ip_network("127.96.0.0/16"), loopback_only=True, first_port=1024)
    server = Server(service("web", "http:80", ips="172.30.0.1"), plan=rootless)
    _, (line,) = server.answer(f"web.{SVC}")
    assert line.startswith(f"web.{SVC} 5 A 127.96.")
    check(server, [("_http._tcp.web.$", "SRV", OK, "~ 5 SRV 0 100 8080 web.$")])
    octets = line.split()[-1].split(".")
    reverse = ".".join(reversed(octets)) + ".in-addr.arpa."
    check(server, [(reverse, "PTR", OK, "~ 5 PTR web.$"), ("1.0.30.172.in-addr.arpa.", "PTR", "REFUSED")])


def test_a_captured_service_has_no_name_before_it_is_programmed():
    server = Server()
    server.zone.apply([], server.store.apply([]))
    from uproxy.model.events import Upsert

    server.zone.apply([Upsert(WEB)])
    check(server, [("web.$", "A", NX), ("default.svc.cluster.local.", "A", OK)])
    server.zone.apply([], server.store.apply([Upsert(WEB)]))
    check(server, [("web.$", "A", OK, "~ 5 A 172.30.0.1")])


def test_a_service_for_which_no_address_is_left_exists_without_one():
    full = AddressPlan(ip_network("172.30.0.0/30"), loopback_only=False)
    objects = [service(f"s{number}", "http:80") for number in range(4)]
    server = Server(*objects, plan=full)
    found = [server.answer(f"s{number}.{SVC}") for number in range(4)]
    assert sorted(len(records) for _, records in found) == [0, 0, 1, 1]
    assert {rcode for rcode, _ in found} == {OK}


def test_case_is_kept_as_asked_and_does_not_matter():
    server = Server(WEB, external("ext", "web.default.svc.cluster.local"))
    for asked in ("WEB.Default.SVC.cluster.LOCAL.", "wEb.dEfault.svc.CLUSTER.local."):
        read = server.ask(asked)
        assert str(read.question[0].name) == asked
        assert lines(read.answer) == [f"{asked} 5 A 172.30.0.1"]
    read = server.ask("EXT.default.svc.cluster.local.")
    assert lines(read.answer)[0] == "EXT.default.svc.cluster.local. 5 CNAME web.default.svc.cluster.local."


@pytest.mark.parametrize("domain", ["k8s", "a.b.c.example", "X" * 63 + ".test"])
def test_another_domain(domain):
    server = Server(WEB, domain=domain)
    assert server.answer(f"web.default.svc.{domain}.")[0] == OK
    assert server.answer(f"nobody.default.svc.{domain}.")[0] == NX
    assert server.answer("web.default.svc.cluster.local.")[0] == "REFUSED"


def test_a_domain_so_long_that_some_names_do_not_fit():
    domain = ".".join(["d" * 50] * 3 + ["e" * 40])  # 194 octets
    server = Server(
        WEB,
        DB,
        piece("db", f"{'h' * 50}@10.0.0.1", "ok@10.0.0.2", ports="pg:1"),
        service("default/" + "s" * 63, "http:80", ips="172.30.0.9"),
        domain=domain,
    )
    assert server.answer(f"web.default.svc.{domain}.") == (OK, [f"web.default.svc.{domain}. 5 A 172.30.0.1"])
    assert server.answer(f"db.default.svc.{domain}.")[1] == [f"db.default.svc.{domain}. 5 A 10.0.0.2"]
    assert server.answer("9.0.30.172.in-addr.arpa.")[0] == "REFUSED"


def test_names_of_253_octets_are_found_and_longer_ones_cannot_be_asked():
    domain = "d" * 30
    labels = [63, 63, 63]
    hostname, name, namespace = ("x" * length for length in labels)
    filler = 253 - len(f"{hostname}.{name}.{namespace}.svc.{domain}")
    domain = f"{'e' * (filler - 1)}.{domain}"
    full = f"{hostname}.{name}.{namespace}.svc.{domain}"
    assert len(full) == 253
    server = Server(
        headless(f"{namespace}/{name}"), piece(f"{namespace}/{name}", f"{hostname}@10.0.0.1"), domain=domain
    )
    assert server.answer(f"{full}.") == (OK, [f"{full}. 5 A 10.0.0.1"])


PODS = [piece("db", "10.244.0.1", "fd00::9"), DB, service("other/x", "p:1", ips="172.30.0.11")]


@pytest.mark.parametrize(
    ("mode", "table"),
    [
        pytest.param(
            PodMode.INSECURE,
            [
                ("10-244-0-1.default.pod.cluster.local.", "A", OK, "~ 5 A 10.244.0.1"),
                ("1-2-3-4.default.pod.cluster.local.", "A", OK, "~ 5 A 1.2.3.4"),
                ("1-2-3-4.other.pod.cluster.local.", "A", OK, "~ 5 A 1.2.3.4"),
                ("1-2-3-4.default.pod.cluster.local.", "AAAA", OK),
                ("1-2-3-4.default.pod.cluster.local.", "ANY", OK, "~ 5 A 1.2.3.4"),
                ("fd00--9.default.pod.cluster.local.", "AAAA", OK, "~ 5 AAAA fd00::9"),
                ("1-2-3-4.nowhere.pod.cluster.local.", "A", NX),
                ("1-2-3-456.default.pod.cluster.local.", "A", NX),
                ("blah.default.pod.cluster.local.", "A", NX),
                ("x.1-2-3-4.default.pod.cluster.local.", "A", NX),
                ("fe80--1%eth0.default.pod.cluster.local.", "AAAA", NX),
                ("default.pod.cluster.local.", "A", OK),
                ("nowhere.pod.cluster.local.", "A", NX),
                ("pod.cluster.local.", "A", OK),
            ],
            id="insecure",
        ),
        pytest.param(
            PodMode.VERIFIED,
            [
                ("10-244-0-1.default.pod.cluster.local.", "A", OK, "~ 5 A 10.244.0.1"),
                ("fd00--9.default.pod.cluster.local.", "AAAA", OK, "~ 5 AAAA fd00::9"),
                ("10-244-0-1.other.pod.cluster.local.", "A", NX),
                ("1-2-3-4.default.pod.cluster.local.", "A", NX),
                ("default.pod.cluster.local.", "A", OK),
            ],
            id="verified",
        ),
        pytest.param(
            PodMode.DISABLED,
            [
                ("10-244-0-1.default.pod.cluster.local.", "A", NX),
                ("default.pod.cluster.local.", "A", NX),
                ("pod.cluster.local.", "A", OK),
            ],
            id="disabled",
        ),
    ],
)
def test_pod_records(mode, table):
    check(Server(*PODS, pods=mode), table)


def test_verified_pods_come_and_go_with_the_objects():
    server = Server(*PODS, pods=PodMode.VERIFIED)
    pod = Pod(WEB.key._replace(name="pod"), {}, (endpoint("10.244.0.7").host,), (), ready=True)
    server.upsert(pod)
    check(server, [("10-244-0-7.default.pod.cluster.local.", "A", OK, "~ 5 A 10.244.0.7")])
    server.delete(pod)
    check(server, [("10-244-0-7.default.pod.cluster.local.", "A", NX)])
    server.upsert(piece("db", "10.244.0.2"))
    check(server, [("10-244-0-1.default.pod.cluster.local.", "A", NX)])


def test_pods_that_a_headless_service_selects_are_its_endpoints():
    pod = Pod(WEB.key._replace(name="pod"), {"app": "db"}, (endpoint("10.244.0.7").host,), (), ready=True)
    server = Server(headless("db", "pg:5432", selector={"app": "db"}), pod)
    check(
        server,
        [
            ("db.$", "A", OK, "~ 5 A 10.244.0.7"),
            ("_pg._tcp.db.$", "SRV", OK, "~ 5 SRV 0 100 5432 10-244-0-7.db.$"),
        ],
    )
    server.delete(pod)
    check(server, [("db.$", "A", NX)])


def test_the_name_server_has_the_addresses_that_are_listened_on():
    server = Server(servers=("10.0.0.53", "fd00::53"))
    check(server, [("ns.dns.cluster.local.", "A", OK, "~ 5 A 10.0.0.53")])
    read = server.ask("cluster.local.", "NS")
    assert lines(read.additional) == [
        "ns.dns.cluster.local. 5 A 10.0.0.53",
        "ns.dns.cluster.local. 5 AAAA fd00::53",
    ]


def test_srv_brings_the_addresses_along():
    server = Server(DUAL, DB, DB_SLICE)
    assert lines(server.ask(f"_http._tcp.dual.{SVC}", "SRV").additional) == [
        f"dual.{SVC} 5 A 172.30.0.2",
        f"dual.{SVC} 5 AAAA fd00::2",
    ]
    assert lines(server.ask(f"_pg._tcp.db.{SVC}", "SRV").additional) == [
        f"10-0-0-2.db.{SVC} 5 A 10.0.0.2",
        f"db-0.db.{SVC} 5 A 10.0.0.1",
    ]


@pytest.mark.parametrize(
    ("name", "apex"),
    [
        (f"web.{SVC}", "cluster.local."),
        ("nobody.cluster.local.", "cluster.local."),
        ("1.0.30.172.in-addr.arpa.", "in-addr.arpa."),
    ],
)
def test_absence_comes_with_the_soa_above(name, apex):
    read = Server(WEB).ask(name, "MX")
    assert lines(read.authority) == [
        f"{apex} 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 2 7200 1800 86400 5"
    ]


def test_absence_at_the_end_of_a_chain_comes_with_the_soa():
    read = Server(WEB, external("ext", "web.default.svc.cluster.local")).ask(f"ext.{SVC}", "AAAA")
    assert read.rcode() == dns.rcode.NOERROR
    assert [str(rrset.name) for rrset in read.authority] == ["cluster.local."]


def test_the_serial_in_every_answer_follows_the_changes():
    server = Server(WEB)
    for serial in (2, 3, 4):
        for name, kind in (("nobody.cluster.local.", "A"), (f"web.{SVC}", "MX")):
            assert f" hostmaster.cluster.local. {serial} 7200" in lines(server.ask(name, kind).authority)[0]
        server.upsert(service("more", f"p:{serial}", ips="172.30.0.20"))


def test_a_terminating_endpoint_has_no_name_though_it_still_serves():
    leaving = Endpoint(endpoint("10.0.0.1").host, ready=False, serving=True, terminating=True)
    slice_ = DB_SLICE.__class__(DB_SLICE.key, DB.key, (), (leaving, endpoint("10.0.0.2")))
    check(Server(DB, slice_), [("db.$", "A", OK, "~ 5 A 10.0.0.2"), ("10-0-0-1.db.$", "A", NX)])


def test_an_address_that_moves_without_a_change_of_its_service():
    server = Server(service("given", "http:80"))
    (before,) = server.answer(f"given.{SVC}")[1]
    ip = before.split()[-1]
    server.upsert(service("claims", "http:80", ips=ip))
    (after,) = server.answer(f"given.{SVC}")[1]
    assert after != before
    reverse = ".".join(reversed(ip.split("."))) + ".in-addr.arpa."
    check(server, [("claims.$", "A", OK, f"~ 5 A {ip}"), (reverse, "PTR", OK, "~ 5 PTR claims.$")])


def test_weights_of_many_targets_are_1_at_least():
    many = [f"10.0.{number // 200}.{number % 200}" for number in range(300)]
    read = Server(DB, piece("db", *many, ports="pg:1")).ask(f"_pg._tcp.db.{SVC}", "SRV")
    answer = read.answer[0]
    assert len(answer) == 300
    assert not read.additional
    assert {record.weight for record in answer} == {1}


def test_answers_are_rotated():
    server = Server(DB, piece("db", "10.0.0.1", "10.0.0.2", "10.0.0.3"))
    first = [str(server.ask(f"db.{SVC}").answer[0][0]) for _ in range(6)]
    assert sorted(first[:3]) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert first[3:] == first[:3]


def test_protocols_are_told_apart():
    both = service("dns", "dns:53/UDP", "dns:54", ips="172.30.0.10")
    assert both.ports[0].protocol is Protocol.UDP
    check(
        Server(both, plan=NODE),
        [
            ("_dns._udp.dns.$", "SRV", OK, "~ 5 SRV 0 100 53 dns.$"),
            ("_dns._tcp.dns.$", "SRV", OK, "~ 5 SRV 0 100 54 dns.$"),
        ],
    )
