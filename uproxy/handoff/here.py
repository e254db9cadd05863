"""Which endpoints of what the kernel carries run on this node. Pure.

Their answers pass here whatever the client's address is, since the node is their way to everybody else: so
they may see it, and a packet is translated once and not twice. Owns counting who still needs an address:
several Service ports may lead to one Pod. Refuses to know how it is programmed.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from uproxy.model.names import IPAddress, ServicePortName

Wanted = Mapping[ServicePortName, Collection[IPAddress]]
"""Addresses on this node that Service ports lead to from now on; none for one that is taken back."""


class Here:
    """What is programmed."""

    def __init__(self) -> None:
        self._of: dict[ServicePortName, frozenset[IPAddress]] = {}
        self._users: Counter[IPAddress] = Counter()

    def clear(self) -> None:
        """Nothing is programmed any more."""
        self._of.clear()
        self._users.clear()

    def difference(self, wanted: Wanted) -> tuple[list[IPAddress], list[IPAddress]]:
        """What comes and what goes with `wanted`, which is not settled by this."""
        users = self._moved(wanted)
        come = [ip for ip, more in users.items() if more > 0 and not self._users[ip]]
        gone = [ip for ip, more in users.items() if more < 0 and self._users[ip] == -more]
        return come, gone

    def settle(self, wanted: Wanted) -> None:
        """It is programmed."""
        for ip, more in self._moved(wanted).items():
            self._users[ip] += more
            if not self._users[ip]:
                del self._users[ip]
        for name, ips in wanted.items():
            if ips:
                self._of[name] = frozenset(ips)
            else:
                self._of.pop(name, None)

    def _moved(self, wanted: Wanted) -> Counter[IPAddress]:
        users: Counter[IPAddress] = Counter()
        for name, ips in wanted.items():
            before: Iterable[IPAddress] = self._of.get(name, ())
            users.update(set(ips).difference(before))
            users.subtract(set(before).difference(ips))
        return users
