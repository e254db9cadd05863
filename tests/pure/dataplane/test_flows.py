"""Which flow a datagram belongs to, and when flows end."""

from dataclasses import dataclass

from uproxy.dataplane.datagrams.flows import EXCHANGE_IDLE_S, FlowTable


@dataclass(eq=False)
class FakeFlow:
    used_s: float = 0.0
    streaming: bool = False


def table(limit: int = 10, idle_s: float = 120.0) -> FlowTable[str, FakeFlow]:
    return FlowTable(limit, idle_s)


def test_a_flow_is_found_by_its_key_and_is_used_by_that():
    flows = table()
    flow = FakeFlow()
    flows.add("a", flow)
    assert flows.use("a", 7.0) is flow
    assert flow.used_s == 7.0
    assert flows.use("b", 7.0) is None


def test_the_idlest_makes_room():
    flows = table(limit=3)
    for key in "abc":
        flows.add(key, FakeFlow())
    idlest = flows.use("b", 1.0)
    flows.use("a", 2.0)
    flows.use("c", 3.0)
    assert flows.add("d", FakeFlow(4.0)) is idlest
    assert len(flows) == 3


def test_a_single_exchange_ends_sooner_than_a_stream():
    flows = table()
    exchange, stream = FakeFlow(), FakeFlow(streaming=True)
    flows.add("dns", exchange)
    flows.add("quic", stream)
    assert flows.expired(EXCHANGE_IDLE_S) == []
    assert flows.expired(EXCHANGE_IDLE_S + 1) == [exchange]
    assert flows.expired(120.0) == []
    assert flows.expired(121.0) == [stream]
    assert len(flows) == 0


def test_a_short_idle_timeout_holds_for_single_exchanges_too():
    flows = table(idle_s=5.0)
    flows.add("dns", FakeFlow())
    assert len(flows.expired(6.0)) == 1


def test_removing_twice_is_harmless():
    flows = table()
    flows.add("a", FakeFlow())
    assert flows.remove("a") is not None
    assert flows.remove("a") is None
