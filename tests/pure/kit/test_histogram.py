"""Durations fall into the bucket whose bound they do not exceed."""

from uproxy.kit.histogram import Histogram


def test_a_bound_belongs_to_its_bucket():
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 1.0, 7.0):
        histogram.record(seconds)
    assert histogram.counts == [2, 2, 1]
    assert histogram.sum_s == 8.65
