"""One uproxy after another: clients that connect all the time notice nothing."""

import asyncio
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from tests.netns.e2e.callers import Load, answer, ask, connected, datagrams, echoes, name_from
from tests.netns.e2e.stage import DNS, WEB, Stage, way, web
from tests.proxy_process import ProxyProcess, eventually

WAITING = "serving as soon as the other uproxy is told to stop"
SUCCEEDED = "another uproxy goes on here"


@pytest.fixture(
    params=[
        way("redirect-nft", "native-2"),
        way("redirect-nft", "python"),
        way("redirect-iptables", "native-2"),
        way("tproxy", "native-2"),
        way("bind", "native-2"),
        way("bind", "python"),
    ],
    ids=str,
)
def way(request):
    return request.param


async def is_waiting(proxy: ProxyProcess) -> bool:
    return WAITING in proxy.log


@asynccontextmanager
async def successor(stage: Stage):
    """Another proxy, which waits for the first one to be told to stop."""
    # It is the first one that says it is healthy.
    async with stage.proxy(web(stage.pods), "--take-over") as later:
        await eventually(lambda: is_waiting(later), "the wait")
        yield later


async def test_no_connection_and_no_datagram_is_lost(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods), "--drain-timeout", "0s") as first:
        before = stage.kernel_state()
        async with (
            connected(stage.client, WEB[0]) as (reader, writer),
            Load(stage.client, WEB[0]) as four,
            Load(stage.node, WEB[1]) as six,
            Questions(stage.client, DNS[0]) as questions,
            Questions(stage.client, DNS[1], keeps_port=True) as stream,
            successor(stage) as later,
        ):
            await name_from(reader)
            told_s = monotonic()
            first.terminate()
            await eventually(lambda: says(first, SUCCEEDED), "the succession")
            assert await echoes(reader, writer, b"still with the first" * 1000)
            await later_serves(later)
            await eventually(lambda: says(first, "stopping: "), "the drain")
            assert await echoes(reader, writer, b"still with the first" * 1000)
            writer.close()
            assert await first.status() == 0
            ended_s = monotonic()
            await four.answered_since(ended_s, 100)
            await six.answered_since(ended_s, 100)
            assert four.errors_since() == six.errors_since() == []
            for each in (questions, stream):
                await each.answered_since(ended_s)
                assert each.errors == []
                assert len(each.moments) > 20
            assert len(four.since(told_s)) > 100
            assert await later.health() == 200
            assert len(stage.kernel_state()) == len(before)  # but for the port that is redirected to
            assert await ask(stage.client, WEB[0]) in {pod.name for pod in stage.pods}
            later.terminate()
            assert await later.status() == 0
    assert stage.cleanup() == "nothing to remove\n"


async def test_one_that_is_told_twice_does_not_wait_for_its_connections(stage: Stage) -> None:
    async with (
        stage.proxy(web(stage.pods)) as first,
        connected(stage.client, WEB[0]) as (reader, _),
        successor(stage) as later,
    ):
        await name_from(reader)
        first.terminate()
        await eventually(lambda: says(first, "stopping: "), "the drain")
        first.terminate()
        assert await first.status() == 0
        assert await ask(stage.client, WEB[0]) in {pod.name for pod in stage.pods}
        later.terminate()
        assert await later.status() == 0
    assert stage.cleanup() == "nothing to remove\n"


async def test_one_that_is_told_to_stop_while_it_waits_leaves_the_other_alone(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods)) as first:
        before = stage.kernel_state()
        async with successor(stage) as later, Load(stage.client, WEB[0]) as load:
            assert "127.0.0.1:10256" in listening(stage, first)
            assert not listening(stage, first) & listening(stage, later)
            assert stage.kernel_state() == before
            later.terminate()
            assert await later.status() == 0
            assert stage.kernel_state() == before
            await load.answered_since(monotonic(), 20)
            assert load.errors_since() == []
        first.terminate()
        assert await first.status() == 0
    assert stage.cleanup() == "nothing to remove\n"


async def test_one_that_is_killed_while_it_waits_is_not_waited_for(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods)) as first:
        async with successor(stage) as later:
            later.kill9()
        first.terminate()
        assert await first.status() == 0
        assert SUCCEEDED not in first.log
    assert stage.cleanup() == "nothing to remove\n"


async def test_one_that_is_killed_is_followed_at_once(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods)) as first, successor(stage) as later:
        first.kill9()
        await later_serves(later)
        assert await later.health() == 200
        assert await ask(stage.client, WEB[0]) in {pod.name for pod in stage.pods}
        later.terminate()
        assert await later.status() == 0
    assert stage.cleanup() == "nothing to remove\n"


async def test_alone_it_just_serves(stage: Stage) -> None:
    async with stage.proxy(web(stage.pods), "--take-over") as only:
        assert await ask(stage.client, WEB[0]) in {pod.name for pod in stage.pods}
        assert WAITING not in only.log


def listening(stage: Stage, proxy: ProxyProcess) -> set[str]:
    """Where a proxy listens: its VIPs, names, health, metrics, and ports that are redirected to."""
    lines = stage.node.run("ss", "-Hltunp").stdout.splitlines()
    return {line.split()[4] for line in lines if f"pid={proxy.pid}," in line}


async def says(proxy: ProxyProcess, words: str) -> bool:
    return words in proxy.log


async def later_serves(later: ProxyProcess) -> None:
    await eventually(lambda: says(later, "ready: "), "readiness")


class Questions:
    """A client that asks by UDP, each time from another port, or always from the same."""

    def __init__(self, host, address, *, keeps_port: bool = False) -> None:
        self._host, self._address, self._keeps_port = host, address, keeps_port
        self.errors: list[Exception] = []
        self.moments: list[float] = []

    async def __aenter__(self):
        self._task = asyncio.ensure_future(self._ask())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def answered_since(self, begin_s: float) -> None:
        """Wait for an answer after this moment."""

        async def is_answered() -> bool:
            return self.moments[-1] > begin_s

        await eventually(is_answered, "an answer")

    async def _ask(self) -> None:
        with datagrams(self._host, self._address) as kept:
            while True:
                try:
                    if self._keeps_port:
                        await self._one(kept)
                    else:
                        with datagrams(self._host, self._address) as sock:
                            await self._one(sock)
                except (OSError, TimeoutError) as error:
                    self.errors.append(error)
                await asyncio.sleep(0.005)

    async def _one(self, sock) -> None:
        async with asyncio.timeout(1):
            await answer(sock)
        self.moments.append(monotonic())
