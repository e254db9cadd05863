"""With as little as a DaemonSet's container has: two capabilities, and a root that is read-only."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.e2e.callers import answer, ask, datagrams
from tests.netns.e2e.stage import DNS, WEB, Stage, ways, web
from tests.netns.e2e.stage import way as way_of
from tests.proxy_process import UPROXY, ProxyProcess
from uproxy.kit.lab import Lab

TWO = (1 << 10) | (1 << 12)
"""CAP_NET_BIND_SERVICE and CAP_NET_ADMIN."""
READ_SEARCH = 1 << 2
"""CAP_DAC_READ_SEARCH, kept for manifests."""
RAW = 1 << 13
"""CAP_NET_RAW, which iptables needs to match ipsets."""


def contained(*more: str) -> tuple[str, ...]:
    """What a program is run with, to have the two capabilities and perhaps more, and to write nowhere.

    /tmp has the manifests, which somebody else writes; here it cannot be written to either.
    """
    granted = ",".join(("-all", "+net_admin", "+net_bind_service", *more))
    script = f'mount -o remount,bind,ro / && exec setpriv --bounding-set={granted} -- "$@"'
    return ("unshare", "--mount", "sh", "-ec", script, "contained")


def by_iptables(stage: Stage) -> bool:
    return "iptables" in stage.way.flags


@pytest.fixture(params=ways("bind", "redirect-nft", "redirect-iptables", "tproxy"), ids=str)
def way(request):
    return request.param


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        tried = lab.node.run(*contained(), "sh", "-c", "! touch /etc/x 2>/dev/null", check=False)
        if tried.returncode:
            pytest.skip(f"a container cannot be imitated here: {tried.stderr.strip()}")
        yield lab


def capabilities(proxy: ProxyProcess, which: str) -> set[int]:
    """The masks that the proxy's threads have."""
    found = set()
    for status in Path(f"/proc/{proxy.pid}/task").glob("*/status"):
        (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{which}:"))
        found.add(int(line.split()[1], 16))
    return found


async def serves(stage: Stage) -> bool:
    with datagrams(stage.client, DNS[0]) as sock:
        names = {await ask(stage.client, WEB[0]), (await answer(sock)).decode()}
    return names <= {pod.name for pod in stage.pods}


async def test_two_capabilities_and_a_read_only_root_are_enough(stage: Stage) -> None:
    """For iptables it takes a third one."""
    prefix = contained("+net_raw") if by_iptables(stage) else contained()
    async with stage.proxy(web(stage.pods), prefix=prefix) as proxy:
        assert await serves(stage)
        for which in ("CapPrm", "CapEff", "CapBnd"):
            assert capabilities(proxy, which) == {TWO | (RAW if by_iptables(stage) else 0)}
        assert "not all privileges" not in proxy.log
        proxy.terminate()
        assert await proxy.status() == 0
        assert "stays" not in proxy.log
    assert all(ip not in stage.kernel_state() for ip, _ in WEB)


async def test_all_that_is_not_needed_is_given_up_by_every_thread(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods)) as proxy:
        assert await serves(stage)
        for which in ("CapPrm", "CapEff", "CapBnd"):
            assert capabilities(proxy, which) == {TWO | READ_SEARCH | (RAW if by_iptables(stage) else 0)}
        assert capabilities(proxy, "CapInh") == {0}


@pytest.mark.parametrize("way", [way_of("redirect-iptables", "python")], ids=str)
async def test_without_a_raw_socket_iptables_is_known_to_be_of_no_use(stage: Stage) -> None:
    stage.write(web(stage.pods))
    arguments = (*UPROXY, "run", "-f", str(stage.manifest), *stage.way.flags)
    done = stage.node.run(*contained(), *arguments, check=False)
    assert done.returncode == 1
    assert "redirect is not possible here: iptables: CAP_NET_RAW is not granted" in done.stderr
