"""Events that are created at an API server, as far as it lets us."""

import asyncio
from collections import Counter
from datetime import UTC, datetime

import pytest

from tests.cluster.api_server import Refusal, replace
from uproxy.admin.events import Events, started
from uproxy.errors import UproxyError

AT = datetime(2025, 3, 1, 12, tzinfo=UTC)


async def post(follower, notice=None):
    """Post one notice to its end; what became of it."""
    outcomes = Counter()
    events = Events(follower.source.post_event, "node-1", lambda: AT, outcomes)
    events.tell(notice or started("node-1"))
    running = asyncio.ensure_future(events.run())
    await events.flush()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return dict(outcomes)


async def test_an_event_is_created_as_a_server_wants_it(server, follow):
    follower = follow()
    assert await post(follower) == {"posted": 1}
    (event,) = server.events
    assert (event["metadata"]["namespace"], event["reason"]) == ("default", "Starting")


async def test_a_rotated_token_is_taken_for_events_too(server, follow, tmp_path):
    follower = follow()
    await follower.until(lambda: follower.synced)
    server.tokens = {"second-token"}
    replace(tmp_path / "token", "second-token\n")
    assert await post(follower) == {"posted": 1}


@pytest.mark.parametrize("code", [403, 409, 429, 500])
async def test_what_is_refused_is_counted_and_said(server, follow, code):
    follower = follow()
    await follower.until(lambda: follower.synced)
    server.refusals_of["events"] = [Refusal(code, "Reason", "words")]
    assert await post(follower) == {"failed": 1}
    assert await post(follower) == {"posted": 1}
    server.refusals_of["events"] = [Refusal(code, "Reason", "words")]
    with pytest.raises(UproxyError, match=f"{code} Reason: words"):
        await follower.source.post_event("default", {})


async def test_an_event_for_a_server_that_is_away_is_forgotten(server, follow):
    follower = follow()
    await follower.until(lambda: follower.synced)
    await server.stop()
    assert await post(follower) == {"failed": 1}
