import pytest
from prometheus_client.parser import text_string_to_metric_families

from uproxy.admin.exposition import Family, HistogramFamily, label_text
from uproxy.kit.histogram import Histogram


def parse(text):
    (family,) = text_string_to_metric_families(text)
    return family


@pytest.mark.parametrize("value", ["web", 'a "quoted" one', "back\\slash", "two\nlines", "100%d", "\\n", "é"])
def test_label_values_survive(value):
    counts = Family("x_total", "counter", "X.")
    counts.add(label_text({"name": value, "port": "80"}), 3)
    (sample,) = parse(counts.text()).samples
    assert (sample.labels, sample.value) == ({"name": value, "port": "80"}, 3)
    times = HistogramFamily("t_seconds", (1.0,), "T.")
    times.add(label_text({"name": value}), Histogram((1.0,)))
    assert {sample.labels["name"] for sample in parse(times.text()).samples} == {value}


def test_a_family_is_one_group_under_its_heading():
    family = Family("x_total", "counter", "Counts X.", "reason")
    family.add_by(label_text({"name": "a"}), "refused", 1)
    family.add_by(label_text({"name": "b"}), "timeout", 2**63)
    assert family.text() == (
        "# HELP x_total Counts X.\n"
        "# TYPE x_total counter\n"
        'x_total{name="a",reason="refused"} 1\n'
        'x_total{name="b",reason="timeout"} 9223372036854775808\n'
    )


def test_a_family_without_series_is_left_out():
    assert Family("x_total", "counter", "X.").text() == ""
    assert HistogramFamily("t_seconds", (1.0,), "T.").text() == ""


def test_a_histogram_counts_up_to_infinity():
    histogram = Histogram((0.005, 1.0))
    for seconds in (0.005, 0.25, 0.5, 7.0):
        histogram.record(seconds)
    family = HistogramFamily("t_seconds", histogram.bounds_s, "T.")
    family.add('name="a"', histogram)
    parsed = parse(family.text())
    assert parsed.type == "histogram"
    assert [(sample.name, sample.labels.get("le"), sample.value) for sample in parsed.samples] == [
        ("t_seconds_bucket", "0.005", 1),
        ("t_seconds_bucket", "1.0", 3),
        ("t_seconds_bucket", "+Inf", 4),
        ("t_seconds_sum", None, 7.755),
        ("t_seconds_count", None, 4),
    ]
