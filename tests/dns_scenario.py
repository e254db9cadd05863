"""Scenarios of cluster DNS: one kind of record or behaviour each, from tests/scenarios/dns/*.yaml.

A scenario is some objects, and what is answered. Each is run twice: against the zone and responder
without sockets (pure/dns/test_scenarios.py), and by UDP and TCP (loop/dns/test_scenarios.py).

    behaviour: a sentence
    source: where that is said
    domain: cluster.local          and other settings: pods: verified
    complete: false                before the first complete list
    upstream:                      records of other servers; without any, there is no upstream
    - example.com. 60 A 192.0.2.1
    objects:
    - {apiVersion: v1, kind: Service, ...}
    queries:
      web.$ A: [NOERROR, ~ 5 A 172.30.0.1]

`$` stands for default.svc.cluster.local. and `~` for the name asked. Records are in no order.
An answer without records that is not an error has the SOA beside it, if the name is in the domain.
"""

from dataclasses import dataclass
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import yaml

from tests.pure.dns.rig import lines
from uproxy.dns.pods import PodMode
from uproxy.model.events import KubernetesObject
from uproxy.sources.convert import convert

FOLDER = Path(__file__).parent / "scenarios" / "dns"
_SERVICES = "default.svc.cluster.local."


@dataclass(frozen=True)
class Expected:
    """A question and its answer."""

    name: str
    kind: str
    rcode: str
    records: list[str]
    with_soa: bool

    def check(self, read: dns.message.Message) -> None:
        """Compare with what came."""
        told = (dns.rcode.to_text(read.rcode()), lines(read.answer))
        assert told == (self.rcode, self.records), f"{self.name} {self.kind}"
        assert str(read.question[0].name) == self.name, "the case is kept"
        if self.with_soa:
            kinds = [dns.rdatatype.to_text(rrset.rdtype) for rrset in read.authority]
            assert kinds == ["SOA"], f"{self.name} {self.kind}"


@dataclass(frozen=True)
class DnsScenario:
    """One file."""

    name: str
    objects: tuple[KubernetesObject, ...]
    queries: tuple[Expected, ...]
    upstream: tuple[str, ...]
    domain: str
    pods: PodMode
    complete: bool


def load_all() -> list[DnsScenario]:
    """Every scenario, in the order of their names."""
    return [_load(path) for path in sorted(FOLDER.glob("*.yaml"))]


def _load(path: Path) -> DnsScenario:
    content = yaml.safe_load(path.read_text())
    converted = [convert(manifest) for manifest in content["objects"]]
    assert not [fault for one in converted for fault in one.faults], path.name
    domain = content.get("domain", "cluster.local")
    return DnsScenario(
        path.stem,
        tuple(thing for one in converted for thing in one.objects),
        tuple(_expected(asked, answer, domain) for asked, answer in content["queries"].items()),
        tuple(content.get("upstream", ())),
        domain,
        PodMode(content.get("pods", "insecure")),
        content.get("complete", True),
    )


def _expected(asked: str, answer: list[str], domain: str) -> Expected:
    name, kind = asked.replace("$", _SERVICES).split()
    rcode, *records = (text.replace("$", _SERVICES).replace("~", name) for text in answer)
    absent = not records and rcode in ("NOERROR", "NXDOMAIN")
    with_soa = absent and f".{name}".lower().endswith(f".{domain}.")
    return Expected(name, kind, rcode, sorted(records), with_soa)
