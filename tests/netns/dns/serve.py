"""A DNS server with some Services, until it is told to stop: `serve UPSTREAM IP:PORT...`."""

import asyncio
import json
import signal
import sys
import time

import uvloop

from tests.pure.dns.rig import NODE, external, headless, piece, service
from uproxy.dns.cluster_dns import ClusterDns, DnsSettings
from uproxy.kit.tasks import Tasks
from uproxy.model.events import Upsert
from uproxy.settings import parse_address
from uproxy.state.store import Store

OBJECTS = (
    service("web", "http:80", ips="172.30.0.1 fd00:30::1"),
    service("other/api", "http:80", ips="172.30.0.2"),
    headless("db", "pg:5432"),
    piece("db", *(f"10.0.0.{number}" for number in range(1, 101)), ports="pg:5432"),
    headless("few", "pg:5432"),
    piece("few", "a@10.0.1.1", "b@10.0.1.2", ports="pg:5432"),
    headless("pods"),
    piece("pods", "10.244.0.11", "10.244.0.12"),
    external("alias", "web.default.svc.cluster.local"),
    external("ext", "outside.example"),
)


async def main(upstream: str, *listen: str) -> None:
    addresses = tuple(parse_address(text) for text in listen)
    settings = DnsSettings(listen=addresses, upstream=(parse_address(upstream),))
    dns = ClusterDns(settings, time.monotonic)
    await dns.start(Tasks())
    events = [Upsert(each) for each in OBJECTS]
    for event in events:
        dns.observe(event)
    await dns.make(Store(NODE).apply(events))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(json.dumps({"addresses": dns.addresses}), flush=True)  # noqa: T201  what the test waits for
    await stop.wait()
    await dns.close()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
