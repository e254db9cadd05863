"""The records of some objects, written down slowly and plainly, and what a server should say about any name.

Nothing of `uproxy.dns` is used. A Service may be ClusterIP, headless or ExternalName; its
endpoints come in slices.
"""

from collections import defaultdict

from uproxy.model.service import ServiceType

DOMAIN = "cluster.local."
Records = dict[str, dict[str, set[str]]]


def records(services, slices) -> Records:
    """By name, then type, the record data as dnspython prints it."""
    found: Records = defaultdict(lambda: defaultdict(set))
    for service in services:
        own = f"{service.key.name}.{service.key.namespace}.svc.{DOMAIN}"
        if service.type is ServiceType.EXTERNAL_NAME:
            found[own]["CNAME"].add(service.external_name + ".")
        elif service.headless:
            _headless(found, service, own, [s for s in slices if s.service == service.key])
        else:
            _cluster_ip(found, service, own)
    found[DOMAIN]["NS"].add(f"ns.dns.{DOMAIN}")
    found[f"dns-version.{DOMAIN}"]["TXT"].add('"1.1.0"')
    return found


def _cluster_ip(found: Records, service, own: str) -> None:
    for ip in service.cluster_ips:
        found[own][kind(ip)].add(str(ip))
        found[ip.reverse_pointer + "."]["PTR"].add(own)
    targets = [(port.name, port.protocol, port.port, own) for port in service.ports]
    _srv(found, own, targets)


def _headless(found: Records, service, own: str, slices) -> None:
    targets = []
    for piece in slices:
        for endpoint in piece.endpoints:
            if not (endpoint.ready or service.publish_not_ready_addresses):
                continue
            label = endpoint.hostname or str(endpoint.host).replace(".", "-").replace(":", "-")
            target = f"{label}.{own}"
            for name in (own, target):
                found[name][kind(endpoint.host)].add(str(endpoint.host))
            found[endpoint.host.reverse_pointer + "."]["PTR"].add(target)
            targets += [(port.name, port.protocol, port.port, target) for port in piece.ports]
    _srv(found, own, targets)


def _srv(found: Records, own: str, targets) -> None:
    sets = defaultdict(set)
    for name, protocol, number, target in targets:
        sets[own].add((number, target))
        if name:
            sets[f"_{name}._{protocol.lower()}.{own}"].add((number, target))
    for owner, members in sets.items():
        weight = max(1, 100 // len(members))
        found[owner]["SRV"] |= {f"0 {weight} {number} {target}" for number, target in members}


def kind(ip) -> str:
    return "A" if ip.version == 4 else "AAAA"


def expected(known: Records, namespaces, name: str, asked: str) -> tuple[str, set[tuple[str, str, str]]]:
    """The rcode, and the answer as owner, type and data. Names elsewhere are refused."""
    name, answer, passed = name.lower(), set(), []
    while True:
        if name in passed or len(passed) > 8:
            return "SERVFAIL", set()
        here = known.get(name, {})
        if asked in here:
            return "NOERROR", answer | {(name, asked, data) for data in here[asked]}
        if "CNAME" not in here:
            break
        (target,) = here["CNAME"]
        answer.add((name, "CNAME", target))
        passed.append(name)
        name = target.lower()
    if not _inside(known, name):
        return ("NOERROR", answer) if answer else ("REFUSED", set())
    return ("NOERROR" if _exists(known, namespaces, name) else "NXDOMAIN"), answer


def _inside(known: Records, name: str) -> bool:
    return name == DOMAIN or name.endswith(f".{DOMAIN}") or name in known


def _exists(known: Records, namespaces, name: str) -> bool:
    """A name exists when it has a record, or a name below it has one, or its namespace is known."""
    fixed = [f"svc.{DOMAIN}", f"pod.{DOMAIN}", f"ns.dns.{DOMAIN}"]
    fixed += [f"{namespace}.{kind}.{DOMAIN}" for namespace in namespaces for kind in ("svc", "pod")]
    owners = [owner for owner, sets in known.items() if any(sets.values())]
    return any(owner == name or owner.endswith(f".{name}") for owner in (*owners, *fixed))
