from prometheus_client.parser import text_string_to_metric_families

from tests.pure.admin.build import NOT_READY, READY, backend, desired, programmed
from uproxy.admin.port_series import PortSeries
from uproxy.model.closing import CloseReason, DialFailure
from uproxy.model.names import Protocol
from uproxy.model.options import Options
from uproxy.picking.waiting import Wait

NOW_S = 100.0
WEB = {"namespace": "default", "service": "web", "port": "http", "protocol": "TCP"}


def collect(*ports, known=None, now_s=NOW_S):
    series = PortSeries(now_s, known or {})
    for port in ports:
        series.add(port)
    return series


def samples(series):
    """Values by name and by the labels that are not the Service port's."""
    found = {}
    for family in text_string_to_metric_families("".join(series.families())):
        for sample in family.samples:
            more = tuple(value for label, value in sample.labels.items() if label not in WEB)
            found[sample.name, *more] = sample.value
    return found


def test_a_service_nobody_called_has_totals_and_endpoints_only():
    assert samples(collect(programmed())) == {
        ("uproxy_connections_total",): 0,
        ("uproxy_connections_active",): 0,
        ("uproxy_endpoints", "ready"): 1,
    }


def test_every_count_of_a_tcp_port_is_there():
    port = programmed()
    stats = port.stats
    stats.connections, stats.active = 5, 2
    stats.bytes_to_backend, stats.bytes_to_client = 10, 20
    stats.dial_failed(DialFailure.REFUSED)
    stats.closed(CloseReason.CLIENT_EOF)
    stats.closed(CloseReason.CLIENT_EOF)
    stats.closed(CloseReason.DIAL_FAILED)
    stats.connect_time.record(0.3)
    found = samples(collect(port))
    assert (
        found.items()
        >= {
            ("uproxy_connections_total",): 5,
            ("uproxy_connections_active",): 2,
            ("uproxy_bytes_total", "to_backend"): 10,
            ("uproxy_bytes_total", "to_client"): 20,
            ("uproxy_dial_failures_total", "refused"): 1,
            ("uproxy_connections_closed_total", "client-eof"): 2,
            ("uproxy_connections_closed_total", "dial-failed"): 1,
            ("uproxy_connect_duration_seconds_bucket", "0.1"): 0,
            ("uproxy_connect_duration_seconds_bucket", "0.5"): 1,
            ("uproxy_connect_duration_seconds_count",): 1,
            ("uproxy_connect_duration_seconds_sum",): 0.3,
        }.items()
    )


def test_every_count_of_a_udp_port_is_there():
    port = programmed(protocol=Protocol.UDP)
    stats = port.stats
    stats.flows, stats.flows_active, stats.flows_evicted = 4, 3, 1
    stats.datagrams_to_backend, stats.datagrams_to_client, stats.datagrams_dropped = 7, 8, 9
    stats.bytes_to_client = 100
    assert samples(collect(port)) == {
        ("uproxy_udp_flows_total",): 4,
        ("uproxy_udp_flows_active",): 3,
        ("uproxy_udp_flows_evicted_total",): 1,
        ("uproxy_udp_datagrams_total", "to_backend"): 7,
        ("uproxy_udp_datagrams_total", "to_client"): 8,
        ("uproxy_udp_datagrams_dropped_total",): 9,
        ("uproxy_bytes_total", "to_client"): 100,
        ("uproxy_endpoints", "ready"): 1,
    }


def test_endpoints_that_somebody_was_sent_to_have_their_own_series():
    port = programmed({"10.0.0.1:80": READY, "10.0.0.2:80": READY, "[fd00::1]:80": READY})
    port.stats.connections = 3
    one, two, _ = port.states.values()
    one.connections, one.active = 3, 1
    two.dial_failures = 2
    found = samples(collect(port))
    assert {key: value for key, value in found.items() if "endpoint_" in key[0]} == {
        ("uproxy_endpoint_connections_active", "10.0.0.1:80"): 1,
        ("uproxy_endpoint_connections_total", "10.0.0.1:80"): 3,
        ("uproxy_endpoint_connections_active", "10.0.0.2:80"): 0,
        ("uproxy_endpoint_connections_total", "10.0.0.2:80"): 0,
        ("uproxy_endpoint_dial_failures_total", "10.0.0.2:80"): 2,
    }


def test_who_waits_is_told_where_somebody_may():
    queue = Options(max_connections_per_endpoint=1, queue_max=5)
    port = programmed(options=queue)
    assert waiting(port) == {"place": 0}
    port.room.numbers[Wait.PLACE] = 3
    port.room.numbers[Wait.ENDPOINT] = 1  # from before a change of the Service
    assert waiting(port) == {"place": 3, "endpoint": 1}
    assert waiting(programmed(options=Options(hold_s=1.0))) == {"endpoint": 0}


def waiting(port):
    found = samples(collect(port))
    return {key[1]: value for key, value in found.items() if key[0] == "uproxy_connections_waiting"}


def labels_of(port):
    (family, *_) = text_string_to_metric_families("".join(collect(port).families()))
    return family.samples[0].labels


def test_a_port_is_known_by_its_name_or_else_its_number():
    assert labels_of(programmed()) == WEB
    assert labels_of(programmed(port_name="", port=8443)) == WEB | {"port": "8443"}


def test_endpoints_are_counted_by_state():
    port = programmed({"10.0.0.1:80": READY, "10.0.0.2:80": READY, "10.0.0.3:80": NOT_READY})
    port.states[backend("10.0.0.2:80")].failed(NOW_S)
    assert (
        samples(collect(port)).items()
        >= {
            ("uproxy_endpoints", "ready"): 1,
            ("uproxy_endpoints", "ejected"): 1,
            ("uproxy_endpoints", "not-ready"): 1,
        }.items()
    )


def test_no_ready_endpoint_is_a_zero_not_a_gap():
    assert samples(collect(programmed({})))["uproxy_endpoints", "ready"] == 0


def test_what_is_kept_between_scrapes_follows_every_change():
    port = programmed()
    first = collect(port)
    port.states[backend("10.0.0.1:8080")].failed(NOW_S)
    ejected = collect(port, known=first.texts)
    assert samples(ejected)["uproxy_endpoints", "ejected"] == 1
    later = collect(port, known=ejected.texts, now_s=NOW_S + 60)
    assert samples(later)["uproxy_endpoints", "ready"] == 1
    assert later.texts[port] is first.texts[port]
    port.update(desired({"10.0.0.1:8080": READY, "10.0.0.2:8080": READY}), NOW_S)
    assert samples(collect(port, known=later.texts, now_s=NOW_S + 60))["uproxy_endpoints", "ready"] == 2


def test_a_removed_port_is_forgotten():
    port, other = programmed(), programmed(name="other")
    first = collect(port, other)
    assert set(collect(other, known=first.texts).texts) == {other}


def test_families_are_single_groups():
    text = "".join(collect(programmed(), programmed(name="other")).families())
    headings = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(headings) == len(set(headings))
    names = [line.partition("{")[0] for line in text.splitlines() if not line.startswith("#")]
    assert names == sorted(names, key=headings.index)
