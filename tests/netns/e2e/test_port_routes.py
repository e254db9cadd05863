"""With capture redirect, of an external address a UDP Service takes its port, and nothing else."""

import socket

import pytest

from tests.manifests import Manifest
from tests.netns.e2e.callers import answer, datagrams, gets_no_answer
from tests.netns.e2e.stage import Stage, way, web
from tests.proxy_process import eventually

pytestmark = pytest.mark.parametrize(
    "way", [way("redirect-nft", "python"), way("redirect-iptables", "python")], indirect=True, ids=str
)
ABROAD = "203.0.113.77", "2001:db8:77::1"
OWN_PORT = 16100
"""Of a program of the node that listens everywhere."""


def external(stage: Stage, *ips: str) -> list[Manifest]:
    objects = web(stage.pods)
    objects[0]["spec"]["externalIPs"] = list(ips)
    return objects


async def test_the_service_answers_there_and_the_nodes_programs_do_not(stage: Stage) -> None:
    async with stage.proxy(external(stage, *ABROAD)):
        for ip in ABROAD:
            family = socket.AF_INET6 if ":" in ip else socket.AF_INET
            with stage.node.socket(family, socket.SOCK_DGRAM) as own:
                own.bind(("::" if ":" in ip else "0.0.0.0", OWN_PORT))
                for caller in (stage.client, stage.node):
                    with datagrams(caller, (ip, 53)) as sock:
                        assert (await answer(sock)).startswith(b"pod")
                assert await gets_no_answer(stage.client, (ip, OWN_PORT), "UDP")
                own.setblocking(False)
                with pytest.raises(BlockingIOError):
                    own.recv(1)


async def test_the_machine_that_has_the_address_is_reached_and_the_node_does_not_speak_for_it(
    stage: Stage,
) -> None:
    """A Service may name the API server's address."""
    with stage.client.socket(socket.AF_INET) as server:
        server.bind((stage.client.ip4, 6443))
        server.listen()
        async with stage.proxy(external(stage, stage.client.ip4, "10.200.0.99")):
            with datagrams(stage.node, (stage.client.ip4, 53)) as sock:
                assert (await answer(sock)).startswith(b"pod")
            for host in (stage.node, stage.lab.pods[0]):
                with host.socket(socket.AF_INET) as sock:
                    sock.settimeout(5)
                    sock.connect((stage.client.ip4, 6443))
            stage.client.run("ping", "-c1", "-W1", "10.200.0.99", check=False)
            assert "lladdr" not in stage.client.run("ip", "neigh", "show", "10.200.0.99").stdout


def rules_and_routes(stage: Stage) -> str:
    return "".join(
        stage.node.run("ip", f"-{family}", *words).stdout
        for family in (4, 6)
        for words in (("rule",), ("route", "show", "table", "all", "protocol", "119"))
    )


async def test_nothing_is_left(stage: Stage) -> None:
    before = rules_and_routes(stage)
    async with stage.proxy(external(stage, *ABROAD)) as proxy:
        assert "to 203.0.113.77 ipproto udp dport 53 lookup 30065" in rules_and_routes(stage)
        stage.write(web(stage.pods))

        async def is_there(wanted: bool) -> bool:
            return ("203.0.113.77" in rules_and_routes(stage)) == wanted

        await eventually(lambda: is_there(wanted=False), "the rule's end")
        stage.write(external(stage, *ABROAD))
        await eventually(lambda: is_there(wanted=True), "the rule again")
        proxy.terminate()
        assert await proxy.status() == 0
    assert rules_and_routes(stage) == before
