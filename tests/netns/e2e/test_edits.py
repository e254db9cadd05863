"""Mistakes made while the proxy runs: the last good version goes on serving."""

import pytest

from tests.netns.e2e.callers import ask
from tests.netns.e2e.stage import WEB, Stage, addresses, ways, web
from tests.proxy_process import ProxyProcess, eventually

OTHER_IP = "172.30.0.2"
pytestmark = pytest.mark.parametrize("way", ways("redirect-nft"), indirect=True, ids=str)


async def until_faults(proxy: ProxyProcess, count: int) -> None:
    async def are_known() -> bool:
        return await proxy.metric("uproxy_faults") == count

    await eventually(are_known, f"{count} objects with mistakes")


async def test_file_that_is_no_yaml_changes_nothing_until_it_is_mended(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods[:1])) as proxy:
        stage.write("kind: [Service\n")
        await until_faults(proxy, 1)
        assert await ask(stage.client, WEB[0]) == "pod1"
        assert str(stage.manifest) in proxy.log
        assert any(row["status"].startswith("faulty") for row in await proxy.services())
        stage.write(web(stage.pods[1:2]))
        await until_faults(proxy, 0)
        assert await ask(stage.client, WEB[0]) == "pod2"
        assert [row["status"] for row in await proxy.services()] == ["ok", "ok"]


async def test_mistake_in_one_service_keeps_its_last_good_version_and_harms_no_other(stage: Stage) -> None:
    one, two, three = ([pod] for pod in stage.pods)
    other = {"name": "other", "clusterIPs": [OTHER_IP]}
    async with stage.proxy(web(one) + web(one, **other)) as proxy:
        broken = web(two)
        broken[0]["spec"]["ports"][0] = {"name": "web", "port": 123456}
        stage.write(broken + web(two, **other))
        await until_faults(proxy, 1)
        await eventually(lambda: is_answered_by(stage, OTHER_IP, "pod2"), "the other Service's new endpoint")
        row = await proxy.row("web")
        assert row["status"].startswith("faulty: spec.ports[0].port")
        assert addresses(WEB[0]) in row["addresses"]
        assert (await ask(stage.client, WEB[0])).startswith("pod")
        assert (await proxy.row("other"))["status"] == "ok"
        assert "spec.ports[0].port" in proxy.log

        stage.write(web(three) + web(two, **other))
        await until_faults(proxy, 0)
        assert (await proxy.row("web"))["status"] == "ok"
        assert await is_answered_by(stage, WEB[0][0], "pod3")


async def is_answered_by(stage: Stage, ip: str, pod: str) -> bool:
    return await ask(stage.client, (ip, 80)) == pod
