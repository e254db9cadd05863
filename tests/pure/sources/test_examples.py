"""Manifests that people wrote, as they are, and our own example."""

from collections import Counter
from pathlib import Path

import pytest

from uproxy.model.service import Service, ServiceType
from uproxy.sources.catalog import Catalog, merged
from uproxy.sources.manifest import Reader

EXAMPLES = Path(__file__).parents[3] / "examples"


def load(name: str) -> Catalog:
    made = merged([Reader(name).read((EXAMPLES / name).read_text())], {})
    assert made.faults == ()
    return made


def services(made: Catalog) -> dict[str, Service]:
    return {known.key.name: known for known in made.objects().values() if isinstance(known, Service)}


def test_online_boutique():
    made = load("online-boutique.yaml")

    found = services(made)
    assert len(found) == 12
    assert made.skipped == Counter(Deployment=12, ServiceAccount=11)
    assert found["frontend-external"].type is ServiceType.LOAD_BALANCER
    assert found["frontend"].ports[0].target_port == 8080
    assert all(service.captured and not service.cluster_ips for service in found.values())


def test_guestbook():
    made = load("guestbook.yaml")

    assert set(services(made)) == {"redis-master", "redis-replica", "frontend"}
    assert services(made)["frontend"].type is ServiceType.NODE_PORT
    assert made.skipped == Counter(Deployment=3)


def test_cassandra_is_headless():
    (cassandra,) = services(load("cassandra-headless.yaml")).values()

    assert cassandra.headless
    assert not cassandra.captured


def test_echo_has_three_endpoints():
    service, piece = load("echo.yaml").objects().values()

    assert [str(endpoint.host) for endpoint in piece.endpoints] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert piece.service == service.key
    assert piece.ports[0].name == service.ports[0].name


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_the_readme_says_where_every_example_is_from(name):
    assert f"| {name} |" in (EXAMPLES / "README.md").read_text()
