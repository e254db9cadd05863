from array import array

import pytest
from hdrh.histogram import HdrHistogram

from uproxy.bench.latency import DIGITS, HIGHEST_NS, LOWEST_NS, Latencies


def latencies(*waits_ns: int) -> Latencies:
    made = Latencies()
    for wait_ns in waits_ns:
        made.record(wait_ns)
    return made


def test_percentiles_are_true_to_a_thousandth():
    found = latencies(*range(1_000, 1_001_000, 1_000))
    assert found.percentile_ns(50) == pytest.approx(500_000, rel=1e-3)
    assert found.percentile_ns(99) == pytest.approx(990_000, rel=1e-3)
    assert found.percentile_ns(100) == found.max_ns == 1_000_000


def test_no_percentile_is_above_the_longest_wait():
    assert latencies(1_000_001).percentile_ns(50) == 1_000_001


def test_percentiles_of_a_report_are_in_microseconds():
    found = latencies(*[50_000] * 98, 7_000_000, 9_000_000).percentiles()
    assert found is not None
    assert (found.p50_us, found.p99_us) == pytest.approx((50, 7_000), rel=1e-3)
    assert found.max_us == 9_000


def test_nothing_recorded_has_no_percentiles():
    empty = Latencies()
    assert empty.percentiles() is None
    assert (empty.count, empty.max_ns, empty.percentile_ns(99)) == (0, 0, 0)


def test_waits_beyond_an_hour_count_as_an_hour():
    assert latencies(HIGHEST_NS * 5).max_ns == HIGHEST_NS


def test_merging_adds_everything():
    merged = latencies(10_000, 20_000)
    merged.merge(latencies(30_000))
    assert (merged.count, merged.max_ns) == (3, 30_000)
    assert merged.percentile_ns(50) == pytest.approx(20_000, rel=1e-3)


def test_text_form_comes_back_the_same():
    before = latencies(*range(100, 10_000_000, 7_777))
    after = Latencies.decode(before.encode())
    assert after.count == before.count
    for percentile in (50, 90, 99, 99.9):
        assert after.percentile_ns(percentile) == before.percentile_ns(percentile)


def test_an_empty_one_has_a_text_form_too():
    assert Latencies.decode(Latencies().encode()).count == 0


@pytest.mark.parametrize("text", ["", "no histogram", "AAAA", latencies(5).encode()[:-9]])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match="not an HdrHistogram"):
        Latencies.decode(text)


def test_native_counts_are_taken_over_bucket_by_bucket():
    layout = HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS)
    counts = array("Q", bytes(8 * layout.counts_len))
    for wait_ns, count in ((700, 3), (60_000, 5), (123_456_789, 1)):
        counts[layout.get_counts_array_index(wait_ns)] = count
    taken = Latencies.from_counts(counts.tobytes(), 123_456_789)
    assert (taken.count, taken.max_ns) == (9, 123_456_789)
    assert taken.percentile_ns(30) == 700
    assert taken.percentile_ns(80) == pytest.approx(60_000, rel=1e-3)


def test_curve_rises_in_both_axes():
    curve = latencies(*range(1_000, 2_000_000, 1_000)).curve()
    levels, waits = zip(*curve, strict=True)
    assert list(levels) == sorted(levels)
    assert list(waits) == sorted(waits)
    assert levels[-1] < 100


def test_hgrm_is_in_microseconds():
    text = latencies(250_000).hgrm()
    assert "Percentile" in text.splitlines()[0]
    assert "#[Max     =      249" in text or "#[Max     =      250" in text
