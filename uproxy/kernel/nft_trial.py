"""Whether the kernel takes a table: it is committed in a network namespace that is thrown away.

Owns that namespace, which nothing but one thread is ever in. Refuses to touch this process' own: where no
other may be made, as with CAP_NET_ADMIN alone, the kernel is given the whole transaction without its end, and
lets it go (nfnetlink.c, `nfnetlink_rcv_batch`). Sources: unshare(2), network_namespaces(7).
"""

import ctypes
import threading
from contextlib import closing

from uproxy.errors import CommandFailed
from uproxy.kernel.nft import NftNetlink
from uproxy.kernel.nft_commands import Definition

_CLONE_NEWNET = 0x40000000


def refusal(wanted: Definition) -> str | None:
    """Why the kernel does not take a table, in one line; None when it does. Blocks, and loads modules."""
    found: list[str | None] = []
    # A thread of its own, which is never in the namespace of the others again.
    thread = threading.Thread(target=lambda: found.append(_refusal(wanted)), name="nft-trial")
    thread.start()
    thread.join()
    return found[0] if found else "the trial of nf_tables has failed"


def _refusal(wanted: Definition) -> str | None:
    is_apart = ctypes.CDLL(None).unshare(_CLONE_NEWNET) == 0
    with closing(NftNetlink()) as link:
        try:
            (link.commit if is_apart else link.check)(wanted.commands())
        except CommandFailed as error:
            return str(error)
    return None
