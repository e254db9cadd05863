"""glibc's resolver with a real resolv.conf: what programs in pods use."""

import shutil
from collections.abc import Iterator

import pytest

from tests.netns.dns.conftest import dns_server, resolv_conf
from uproxy.kit.lab import Lab

SVC = "default.svc.cluster.local"
SEARCH = f"search {SVC} svc.cluster.local cluster.local\noptions ndots:5 timeout:10 attempts:1\n"

pytestmark = pytest.mark.skipif(shutil.which("getent") is None, reason="getent is not installed (libc-bin)")


@pytest.fixture(scope="module")
def served(lab: Lab) -> Iterator[Lab]:
    with (
        dns_server(lab.node, "0.0.0.0:53", "[::]:53"),
        resolv_conf(lab.pods[0], f"nameserver 10.244.0.1\n{SEARCH}"),
        resolv_conf(lab.pods[1], f"nameserver fd00:10:244::1\n{SEARCH}"),
        resolv_conf(lab.client, f"nameserver {lab.node.ip4}\n{SEARCH}"),
    ):
        yield lab


def getent(host, *words: str) -> list[list[str]]:
    """The lines that getent prints, in words; empty when it found nothing."""
    done = host.run("getent", *words, check=False)
    assert done.returncode in (0, 2), done
    return [line.split() for line in done.stdout.splitlines()]


@pytest.fixture(params=["a pod", "a pod by IPv6", "a client"])
def host(request, served):
    return {"a pod": served.pods[0], "a pod by IPv6": served.pods[1], "a client": served.client}[
        request.param
    ]


@pytest.mark.parametrize("name", ["web", "web.default", "web.default.svc", f"web.{SVC}", f"web.{SVC}."])
def test_a_service_by_every_form_of_its_name(host, name):
    found = getent(host, "ahosts", name)
    assert {line[0] for line in found} == {"172.30.0.1", "fd00:30::1"}


def test_a_service_of_another_namespace(host):
    assert getent(host, "ahostsv4", "api.other")[0][0] == "172.30.0.2"
    assert getent(host, "ahostsv4", "api") == []


def test_an_alias(host):
    found = getent(host, "ahostsv4", "alias")
    assert (found[0][0], found[0][-1]) == ("172.30.0.1", f"web.{SVC}")


def test_headless_endpoints_and_one_of_them(host):
    assert {line[0] for line in getent(host, "ahostsv4", "few")} == {"10.0.1.1", "10.0.1.2"}
    assert getent(host, "ahostsv4", "a.few")[0][0] == "10.0.1.1"


def test_more_endpoints_than_a_datagram_holds(host):
    assert len({line[0] for line in getent(host, "ahostsv4", "db")}) == 100


def test_an_address_backwards(host):
    assert getent(host, "hosts", "172.30.0.1")[0][1] == f"web.{SVC}"
    assert getent(host, "hosts", "fd00:30::1")[0][1] == f"web.{SVC}"
    assert getent(host, "hosts", "10.0.1.2")[0][1] == f"b.few.{SVC}"


def test_what_is_nowhere(host):
    assert getent(host, "ahosts", f"nobody.{SVC}.") == []
