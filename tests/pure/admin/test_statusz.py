from datetime import UTC, datetime, timedelta

from uproxy import __version__
from uproxy.admin.statusz import statusz

STARTED = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def test_it_says_since_when_and_what():
    lines = statusz(STARTED, STARTED + timedelta(hours=30, minutes=2, seconds=3), ["/healthz", "/metrics"])
    assert lines.splitlines()[0] == "uproxy statusz"
    assert "Started: Wed Mar 04 05:06:07 UTC 2026\nUp: 30 hr 02 min 03 sec\n" in lines
    assert f"Binary version: {__version__}\nPaths: /healthz /metrics\n" in lines
