"""Each piece of news is told once, and taken back when it is over."""

import logging

import pytest

from uproxy.model.faults import Fault
from uproxy.reconcile.news import News

MISTAKE = Fault("web.yaml", 1, "Service", None, "spec.ports", "is required")
OTHER = Fault("web.yaml", 2, "Service", None, "spec.type", "is odd")


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, "uproxy")

    def lines() -> list[str]:
        found = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
        caplog.clear()
        return found

    return lines


def test_a_mistake_is_told_once_and_its_correction_too(told):
    news = News()
    news.of_faults({"files": (MISTAKE,)})
    assert told() == [f"WARNING {MISTAKE}"]
    news.of_faults({"files": (MISTAKE,)})
    assert told() == []
    news.of_faults({"files": (OTHER,)})
    assert told() == [f"WARNING {OTHER}", f"INFO corrected: {MISTAKE}"]
    news.of_faults({"files": ()})
    assert told() == [f"INFO corrected: {OTHER}"]
