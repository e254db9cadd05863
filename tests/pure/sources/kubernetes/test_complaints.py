import logging

import pytest

from uproxy.sources.kubernetes.complaints import Complaints


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "uproxy.kubernetes")
    return lambda: [record.getMessage() for record in caplog.records]


def test_one_line_for_all_who_see_the_same(lines):
    complaints = Complaints()
    for resource in ("services", "nodes", "services"):
        complaints.trouble(resource, "away", known=True)
    assert lines() == ["API server: away; going on with what is known"]


def test_before_anything_is_known_that_is_said(lines):
    Complaints().trouble("services", "away", known=False)
    assert lines() == ["API server: away; trying again, nothing is served until then"]


def test_another_line_when_it_changes(lines):
    complaints = Complaints()
    complaints.trouble("services", "away", known=True)
    complaints.trouble("services", "403", known=True)
    assert len(lines()) == 2


def test_well_again_when_all_are(lines):
    complaints = Complaints()
    complaints.trouble("services", "away", known=True)
    complaints.trouble("nodes", "away", known=True)
    complaints.well("services")
    assert len(lines()) == 1
    complaints.well("nodes")
    complaints.well("nodes")
    assert lines()[1:] == ["API server: answers again"]


def test_nothing_is_said_while_all_is_well(lines):
    Complaints().well("services")
    assert lines() == []
