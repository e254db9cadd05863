"""The generator and the server in Python alone, where the C extension was not compiled.

    worker     a loop over epoll, and connections: opened, failed, opened again
    exchange   a request and its reply            http    replies of web servers
    schedule   which operation starts when (rr, crr, connect, udp-rr)
    stream     bytes as fast as they go           idle    connections held
    server     the other end

The same parts and the same rules as native/, about a tenth of its speed. On epoll itself rather
than on an event loop: asyncio and uvloop keep time in milliseconds, schedules need better.
"""

from uproxy.bench.load.plan import LoadOutcome, LoadPlan
from uproxy.bench.load.python.idle import IdleWorker
from uproxy.bench.load.python.schedule import ScheduleWorker
from uproxy.bench.load.python.stream import StreamWorker
from uproxy.bench.load.target import Target


def run(plan: LoadPlan, target: Target) -> LoadOutcome:
    """Carry out a plan in this thread. Raises OSError when it cannot begin."""
    match plan.workload:
        case "stream-up" | "stream-down" | "stream-both":
            return StreamWorker(plan, target).outcome()
        case "idle":
            return IdleWorker(plan, target).outcome()
        case _:
            return ScheduleWorker(plan, target).outcome()
