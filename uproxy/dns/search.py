"""Search paths: what a pod's resolver would go on to ask, answered at its first query.

Pure. With `ndots:5` a resolver asks for `example.com.NAMESPACE.svc.DOMAIN` first, and four queries
later for `example.com`. CoreDNS's autopath is the example: only the first element of the search
path is helped, so a client with another path loses nothing.
"""

from uproxy.dns.wire import LONGEST_NAME, ROOT, ends_with, join


def search_path(namespace: str, domain: bytes, tail: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The search path of a pod: the cluster's three domains, and then the node's."""
    svc = join(b"svc", base=domain)
    return (join(namespace.encode(), base=svc), svc, domain, *tail)


def search_names(
    name: bytes, namespace: str, domain: bytes, tail: tuple[bytes, ...] = ()
) -> tuple[bytes, ...]:
    """What a resolver in `namespace` asks after `name`, in order; empty when `name` is not its first try.

    The last is the name as the program gave it.
    """
    path = search_path(namespace, domain, tail)
    if name == path[0] or not ends_with(name, path[0]):
        return ()
    base = name[: len(name) - len(path[0])]
    names = (base + element for element in (*path[1:], ROOT))
    return tuple(name for name in names if len(name) <= LONGEST_NAME)
