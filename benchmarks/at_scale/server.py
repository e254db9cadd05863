"""The stand-in API server as a program of its own, so that what it costs is not the proxy's.

    python -m benchmarks.at_scale.server DIRECTORY SERVICES ENDPOINTS POD,POD

It prints the kubeconfig's path once it serves; then every line of its input is an order, and is
answered by a line of JSON with times of the monotonic clock, which all processes share:

    set ADDRESS,...      Service 0 has these endpoints now (`-` for none)
    burst COUNT          so many slices change, as fast as they can be sent
    roll COUNT SECONDS   so many endpoints are replaced one by one, spread over the time
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.at_scale.population import Object, Population, endpoint_slice
from tests.cluster.api_server import ApiServer
from tests.cluster.storage import Storage

_AT_ONCE = 64
_HISTORY = 1000
_NEW_PODS = IPv4Address("10.192.0.0")


class Orders:
    """What is done to the cluster."""

    def __init__(self, server: ApiServer, population: Population) -> None:
        self._server = server
        self._population = population
        self._fresh = (str(_NEW_PODS + number) for number in itertools.count())

    async def follow(self, order: str, *words: str) -> dict[str, Any]:
        """Do one, and say when."""
        match order, words:
            case "set", (addresses,):
                given = [] if addresses == "-" else addresses.split(",")
                return await self._set(given)
            case "burst", (count,):
                return await self._burst(int(count))
            case "roll", (count, seconds):
                return await self._roll(int(count), float(seconds))
        raise ValueError(order)

    async def _set(self, addresses: list[str]) -> dict[str, Any]:
        piece = endpoint_slice(0, addresses)
        at_s = time.monotonic()
        self._server.storage.put(piece)
        return {"at_s": at_s}

    async def _burst(self, count: int) -> dict[str, Any]:
        """Each slice changes as often as the others; every version differs from the one before.

        The lines are made before, and told past the storage: it is not the server that is measured.
        """
        lines = [
            self._modified(piece, version)
            for version, piece in enumerate(itertools.islice(self._changed(), count), start=10**6)
        ]
        at_s = time.monotonic()
        for start in range(0, count, _AT_ONCE):
            self._server.tell("endpointslices", lines[start : start + _AT_ONCE])
            await asyncio.sleep(0)
        return {"at_s": at_s, "bytes": sum(map(len, lines))}

    def _modified(self, piece: Object, version: int) -> bytes:
        piece["metadata"]["resourceVersion"] = str(version)
        return msgspec.json.encode({"type": "MODIFIED", "object": piece})

    def _changed(self) -> Iterator[Object]:
        for number in itertools.cycle(range(1, self._population.services)):
            addresses = [*self._population.addresses(number)[1:], next(self._fresh)]
            yield endpoint_slice(number, addresses)

    async def _roll(self, count: int, seconds: float) -> dict[str, Any]:
        """Endpoints are replaced as a Deployment does it: one more, ready, then one less. Services
        of ten endpoints roll one after the other."""
        steps = [*itertools.islice(self._rolled(), count)]
        started_s = time.monotonic()
        for number, piece in enumerate(steps):
            await asyncio.sleep(started_s + seconds * number / count - time.monotonic())
            self._server.storage.put(piece)
        return {"at_s": started_s, "took_s": time.monotonic() - started_s}

    def _rolled(self) -> Iterator[Object]:
        for number in itertools.cycle(range(1, self._population.services)):
            addresses = self._population.addresses(number)
            for turn in range(len(addresses)):
                addresses[turn] = next(self._fresh)
                yield endpoint_slice(number, addresses)


class _Storage(Storage):
    """One with hardly any history: old versions of big objects would be what takes the memory."""

    def put(self, thing: Object) -> int:
        if len(self.history) > _HISTORY:
            self.compact()
        return super().put(thing)


async def _serve(directory: Path, population: Population) -> None:
    server = ApiServer(directory, _Storage())
    for thing in population.objects:
        server.storage.put(thing)
    server.storage.compact()
    await server.start()
    kubeconfig = server.token_kubeconfig(directory / "kubeconfig", directory / "token")
    print(kubeconfig, flush=True)
    orders = Orders(server, population)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        done = await orders.follow(*line.decode().split())
        print(msgspec.json.encode(done).decode(), flush=True)
    await server.stop()


def main() -> None:
    """Serve until the input ends."""
    directory, services, endpoints, pods = sys.argv[1:]
    population = Population(int(services), int(endpoints), tuple(pods.split(",")) if pods else ())
    asyncio.run(_serve(Path(directory), population))


if __name__ == "__main__":
    main()
