"""What the kernel has in hand: questions to conntrack, and how it forgets a flow.

Owns the socket; what messages say is `conntrack_messages.py`'s. Of its table only translated connections come
up from the kernel (CTA_STATUS with a mask, Linux 5.18; older ones tell everything). TCP is left alone: its
ends find out for themselves. Where a kernel has no ctnetlink, there is nothing, and nothing is forgotten.
"""

import asyncio
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from itertools import chain

from uproxy.kernel.conntrack_looks import Alike, Flow, Looks
from uproxy.kernel.conntrack_messages import (
    DST_NAT,
    PREFACE,
    STATUS,
    STATUS_MASK,
    Translated,
    flows,
    translated,
    tuple_of,
)
from uproxy.kernel.netlink import NETFILTER, Link, attribute
from uproxy.model.names import ADDRESS_FAMILY, Family, Protocol, Vip

_GET = 1 << 8 | 1
"""IPCTNL_MSG_CT_GET of NFNL_SUBSYS_CTNETLINK."""
_DELETE = 1 << 8 | 2
_ANY_STATUS = 0xFFFFFFFF
_FAMILIES: tuple[Family, ...] = (4, 6)


class Conntrack:
    """Asks in a thread at each call."""

    def __init__(self) -> None:
        self._looks = Looks()

    async def look(self) -> Mapping[Translated, Alike]:
        """All connections that DNAT leads elsewhere, those that are redirected to the relay among them. TCP
        is open up to its end, UDP while the kernel remembers it."""
        return await asyncio.to_thread(self._look)

    def _look(self) -> Mapping[Translated, Alike]:
        seen: Mapping[bytes, Alike] = {}
        with suppress(OSError), closing(Link(NETFILTER)) as link:
            every = chain.from_iterable(_translated(link, family) for family in _FAMILIES)
            seen = self._looks.look(flow for _, flow in every)
        pairs = ((translated(alike), its) for alike, its in seen.items())
        return {found: its for found, its in pairs if found is not None}

    async def forget(self, is_gone: Callable[[Translated], bool]) -> None:
        """Forget the UDP flows that `is_gone` says are: their next datagrams are led anew. They would
        go to an endpoint that is no more for as long as they keep coming (kubernetes/kubernetes#19029)."""
        await asyncio.to_thread(_forget, is_gone)

    async def forget_untranslated(self, vips: Collection[Vip]) -> None:
        """Forget the UDP flows to these that are not translated: conntrack remembers of each whether it is to
        be, and those that the relay has had are not."""
        await asyncio.to_thread(_forget_untranslated, vips)


def _forget(is_gone: Callable[[Translated], bool]) -> None:
    with suppress(OSError), closing(Link(NETFILTER)) as link:
        for family in _FAMILIES:
            gone = [its for its, flow in _translated(link, family) if _is_udp(translated(flow[0]), is_gone)]
            _delete(link, family, gone)


def _is_udp(flow: Translated | None, is_gone: Callable[[Translated], bool]) -> bool:
    return flow is not None and flow.protocol is Protocol.UDP and is_gone(flow)


def _forget_untranslated(vips: Collection[Vip]) -> None:
    with suppress(OSError), closing(Link(NETFILTER)) as link:
        for family in {vip.family for vip in vips}:
            every = flows(link.dump(_GET, _preface(family)), family, _ANY_STATUS)
            found = [its for its, flow in every if _leads_to(translated(flow[0]), vips)]
            _delete(link, family, found)


def _leads_to(flow: Translated | None, vips: Collection[Vip]) -> bool:
    return flow is not None and flow.vips[0] in vips


def _delete(link: Link, family: Family, gone: Iterable[bytes]) -> None:
    """Some may be over by now."""
    link.ask(_DELETE, [_preface(family) + tuple_of(its, family) for its in gone])


def _translated(link: Link, family: Family) -> Iterator[tuple[bytes, Flow]]:
    wanted = struct.pack("!I", DST_NAT)
    body = _preface(family) + attribute(STATUS, wanted) + attribute(STATUS_MASK, wanted)
    return flows(link.dump(_GET, body), family)


def _preface(family: Family) -> bytes:
    return PREFACE.pack(ADDRESS_FAMILY[family], 0, 0)
