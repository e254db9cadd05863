"""Beginnings: what a person has to mend ends the proxy with one line, an API server is waited for.

As kube-proxy does: it exits when its kubeconfig cannot be used, and waits for ever for its first lists.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.certificates import Authority
from tests.netns.cluster.world import Web, World
from tests.netns.e2e.callers import ask
from tests.netns.e2e.stage import way
from tests.proxy_process import UPROXY, ProxyProcess, eventually

WEB = Web("web", 1)

pytestmark = pytest.mark.parametrize("captured", [way("redirect-nft", "native-2")], indirect=True, ids=str)


def kubeconfig(world: World) -> dict[str, Any]:
    path = world.api.server.token_kubeconfig(world.kubeconfig, world.folder / "token", world.client.ip4)
    return dict(json.loads(path.read_text()))


def no_cluster(config: dict[str, Any]) -> None:
    config["contexts"][0]["context"]["cluster"] = "elsewhere"


def no_server(config: dict[str, Any]) -> None:
    del config["clusters"][0]["cluster"]["server"]


def no_token_file(config: dict[str, Any]) -> None:
    config["users"][0]["user"] = {"tokenFile": "/nonexistent"}


def no_authority(config: dict[str, Any]) -> None:
    config["clusters"][0]["cluster"]["certificate-authority"] = "/nonexistent"


def authority_is_no_certificate(config: dict[str, Any]) -> None:
    config["clusters"][0]["cluster"]["certificate-authority"] = "/dev/null"


MISTAKES = [no_cluster, no_server, no_token_file, no_authority, authority_is_no_certificate]


def _mistake_name(mistake: Any) -> str:
    return getattr(mistake, "__name__", mistake)


@pytest.mark.parametrize("mistake", [*MISTAKES, "there is none", "it is no YAML"], ids=_mistake_name)
async def test_a_kubeconfig_that_cannot_be_used_ends_it_with_one_line(one_node: World, mistake: Any) -> None:
    (node,) = one_node.nodes
    before = one_node.kernel_state(node)
    config = kubeconfig(one_node)
    if callable(mistake):
        mistake(config)
    one_node.kubeconfig.write_text("{" if mistake == "it is no YAML" else json.dumps(config))
    if mistake == "there is none":
        one_node.kubeconfig.unlink()
    ended = node.host.run(*UPROXY, "run", "--kubeconfig", str(one_node.kubeconfig), check=False)
    assert ended.returncode == 1
    (complaint,) = (line for line in ended.stderr.splitlines() if line.startswith("uproxy: "))
    assert complaint.startswith(f"uproxy: kubeconfig {one_node.kubeconfig}: ")
    assert "Traceback" not in ended.stderr
    assert one_node.kernel_state(node) == before


async def until_healthy(proxy: ProxyProcess) -> None:
    async def is_healthy() -> bool:
        return await proxy.health() == 200

    await eventually(is_healthy, "health")


def complaints(proxy: ProxyProcess) -> list[str]:
    """What the log says of the API server, without times."""
    lines = (line.split(maxsplit=1)[1] for line in proxy.log.splitlines())
    return [line.removeprefix("warning ").strip() for line in lines if "API server" in line]


async def first_complaint(proxy: ProxyProcess) -> str:
    async def is_there() -> bool:
        return bool(complaints(proxy))

    await eventually(is_there, "a complaint")
    return complaints(proxy)[0]


async def test_an_api_server_that_is_away_is_waited_for(one_node: World) -> None:
    (node,) = one_node.nodes
    one_node.put(WEB, one_node.pods)
    one_node.api.stop()
    async with one_node.proxy(node, wait_for=503) as proxy:
        where = f"{one_node.client.ip4}:{one_node.api.server.port}"
        assert await first_complaint(proxy) == (
            f"API server: {where}: Connection refused; trying again, nothing is served until then"
        )
        assert await proxy.livez() == 503  # as /healthz, before the first programming
        one_node.return_api_server()
        await until_healthy(proxy)
        assert await ask(one_node.client, WEB.addresses()[0])
        assert len(complaints(proxy)) == 2


async def test_what_is_forbidden_is_said_and_asked_for_again(one_node: World) -> None:
    (node,) = one_node.nodes
    one_node.put(WEB, one_node.pods)
    one_node.api.server.forbidden = {"endpointslices"}
    async with one_node.proxy(node, wait_for=503) as proxy:
        assert (await first_complaint(proxy)).startswith(
            "API server: 403 Forbidden: endpointslices is forbidden: User"
        )
        assert await proxy.metric("uproxy_kubernetes_denied_total", resource="endpointslices") >= 1
        assert await proxy.metric("uproxy_kubernetes_connected", resource="services") == 1
        one_node.api.server.forbidden = set()
        await until_healthy(proxy)
        assert await ask(one_node.client, WEB.addresses()[0])


async def test_a_token_that_is_not_accepted_is_said(one_node: World) -> None:
    (node,) = one_node.nodes
    proxy = one_node.proxy(node, wait_for=503)
    one_node.api.server.tokens = {"another"}
    async with proxy:
        assert (await first_complaint(proxy)).startswith("API server: 401 Unauthorized: Unauthorized;")
        (one_node.folder / "token").write_text("another")
        await until_healthy(proxy)


async def test_an_authority_that_is_not_the_servers_is_said(one_node: World, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    authority = Authority(other)
    await authority.make()
    (node,) = one_node.nodes
    proxy = one_node.proxy(node, wait_for=503)
    config = json.loads(one_node.kubeconfig.read_text())
    right = config["clusters"][0]["cluster"]["certificate-authority"]
    copy = tmp_path / "ca.crt"
    copy.write_bytes(authority.certificate.read_bytes())
    config["clusters"][0]["cluster"]["certificate-authority"] = str(copy)
    one_node.kubeconfig.write_text(json.dumps(config))
    async with proxy:
        assert "the server's certificate is not accepted: " in await first_complaint(proxy)
        shutil.copy(right, copy)
        await until_healthy(proxy)


async def test_events_are_posted(one_node: World) -> None:
    (node,) = one_node.nodes
    one_node.put(
        WEB, one_node.pods, type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=31999
    )
    with node.host.socket() as taken:
        taken.bind(("0.0.0.0", 31999))
        taken.listen()
        async with one_node.proxy(node) as proxy:

            async def are_posted() -> bool:
                return await proxy.metric("uproxy_events_total", outcome="posted") == 2

            await eventually(are_posted, "two Events")
    assert [(event["regarding"]["name"], event["reason"]) for event in one_node.api.server.events] == [
        ("node-1", "Starting"),
        ("web", "FailedToStartServiceHealthcheck"),
    ]


async def test_the_event_of_an_address_that_is_taken_is_posted_before_the_end(one_node: World) -> None:
    (node,) = one_node.nodes
    kubeconfig(one_node)
    with node.host.socket() as taken:
        taken.bind(("127.0.0.1", 10249))
        taken.listen()
        flags = ("--kubeconfig", str(one_node.kubeconfig), "--hostname-override", "node-1")
        ended = node.host.run(*UPROXY, "run", *flags, check=False)
    assert ended.returncode == 1
    (complaint,) = (line for line in ended.stderr.splitlines() if "10249" in line)
    assert complaint.startswith("uproxy: cannot serve metrics on 127.0.0.1:10249")
    assert [event["reason"] for event in one_node.api.server.events] == ["FailedToStartMetricServer"]
