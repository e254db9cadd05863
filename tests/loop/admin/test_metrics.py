import asyncio

from prometheus_client.parser import text_string_to_metric_families

from tests.loop.admin.conftest import ABOUT, WEB
from tests.loop.rig import until
from uproxy import __version__
from uproxy.admin.metrics import Metrics
from uproxy.model.events import Delete, Faulted
from uproxy.model.faults import Fault


async def scrape(proxy):
    """Every sample by name and labels; fails on a line that does not parse, or appears twice."""
    metrics = Metrics(proxy.store, proxy.dataplane, proxy.loop, ABOUT, proxy.pages.outcomes)
    found = {}
    for family in text_string_to_metric_families((await metrics.scrape()).decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = (family.type, sample.value)
    return found


def value(samples, name, **labels):
    (found,) = (
        number
        for (its, its_labels), (_, number) in samples.items()
        if its == name and set(labels.items()) <= set(its_labels)
    )
    return found


async def test_the_process_as_a_whole_is_described(proxy, echo):
    await proxy.serve_web(echo)
    samples = await scrape(proxy)
    about = {"version": __version__, "relay": "python", "capture": "bind", "mechanism": "loopback"}
    assert value(samples, "uproxy_info", **about) == 1
    assert value(samples, "uproxy_programming_duration_seconds_count") >= 1
    assert value(samples, "uproxy_programming_problems") == 0
    assert value(samples, "uproxy_faults", source="files") == 0
    assert value(samples, "uproxy_objects", kind="Service") == 1
    assert value(samples, "uproxy_objects", kind="ServicePort") == 1
    assert value(samples, "uproxy_descriptors_used") == 1  # the listener
    assert value(samples, "uproxy_descriptors_limit") == proxy.context.descriptors.limit
    assert value(samples, "uproxy_accept_pauses_total") == 0
    assert value(samples, "uproxy_redirect_strangers_total") == 0
    assert value(samples, "process_resident_memory_bytes") > 0


async def test_events_are_counted_by_what_became_of_them(proxy):
    proxy.pages.outcomes.events.update({"posted": 2, "failed": 1})
    samples = await scrape(proxy)
    assert value(samples, "uproxy_events_total", outcome="posted") == 2
    assert value(samples, "uproxy_events_total", outcome="failed") == 1


async def test_an_object_with_two_mistakes_is_one_object(proxy):
    faults = [Fault("web.yaml", 1, "Service", WEB, field, "is required") for field in ("spec", "kind")]
    await proxy.apply(Faulted("files", (*faults, Fault("b.yaml", 0, "", None, "", "is not UTF-8"))))
    assert value(await scrape(proxy), "uproxy_faults", source="files") == 2


async def test_counters_never_go_backwards_while_connections_come_and_go(proxy, echo):
    address = await proxy.serve_web(echo)
    before = await scrape(proxy)
    writers = []
    for step in range(8):
        reader, writer = await asyncio.open_connection(*address)
        writers.append(writer)
        writer.write(b"x" * 1000)
        await reader.readexactly(1000)
        if step % 3 == 2:
            live = proxy.dataplane.relay.open_connections
            writers.pop(0).close()
            await until(lambda live=live: proxy.dataplane.relay.open_connections < live, "a connection's end")
        now = await scrape(proxy)
        assert value(now, "uproxy_bytes_total", direction="to_backend") == 1000 * (step + 1)
        assert_forward(before, now)
        before = now
    for writer in writers:
        writer.close()
    await until(lambda: not proxy.dataplane.relay.open_connections, "the end of all connections")
    assert_forward(before, await scrape(proxy))


def assert_forward(before, now):
    for key, (kind, number) in before.items():
        if kind in ("counter", "histogram"):
            assert now[key][1] >= number, key


async def test_a_service_that_comes_back_starts_at_zero(proxy, echo):
    reader, writer = await asyncio.open_connection(*await proxy.serve_web(echo))
    writer.write(b"x" * 1000)
    await reader.readexactly(1000)
    await proxy.apply(Delete(proxy.store.services[WEB]))
    await proxy.serve_web(echo)
    assert proxy.dataplane.relay.open_connections  # the connection has outlived its Service
    samples = await scrape(proxy)
    assert value(samples, "uproxy_connections_total") == 0
    assert not [name for name, _ in samples if name == "uproxy_bytes_total"]
    writer.close()
    await until(lambda: not proxy.dataplane.relay.open_connections, "the end of the connection")
