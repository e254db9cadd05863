"""Transactions of nftables, in this process where libnftables is there (libnftables(3)).

Owns how a text reaches the kernel. Refuses to know what it says.
"""

import asyncio
import ctypes
import threading
import weakref

from uproxy.errors import CommandFailed
from uproxy.kit.programs import complaint, execute


class Nft:
    """Runs transactions in this process where libnftables is installed, else with `nft`.

    A change takes 0.1 ms in the library; starting `nft` takes 6 to 20.
    """

    def __init__(self) -> None:
        self._library: _Library | None
        try:
            self._library = _Library(ctypes.CDLL("libnftables.so.1"))
        except OSError:
            self._library = None

    async def execute(self, text: str) -> str:
        """Run one transaction; returns what it prints. Raises CommandFailed."""
        if self._library is None:
            return await execute("nft", "-f", "-", stdin=text)
        return await asyncio.to_thread(self._library.execute, text)


class _Library:
    """A context of libnftables(3)."""

    def __init__(self, library: ctypes.CDLL) -> None:
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        self._library = library
        self._context = ctypes.c_void_p(library.nft_ctx_new(0))
        weakref.finalize(self, library.nft_ctx_free, self._context)
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)
        # A context is not for two threads, and a cancelled caller leaves its thread at work.
        self._lock = threading.Lock()

    def execute(self, text: str) -> str:
        """Run one transaction; returns what it prints. Raises CommandFailed. Blocks."""
        with self._lock:
            status = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
            # Reading a buffer also empties it, so both are read every time.
            output = self._library.nft_ctx_get_output_buffer(self._context).decode()
            error = self._library.nft_ctx_get_error_buffer(self._context).decode()
        if status:
            raise CommandFailed(f"nft: {complaint(error)}")
        return str(output)
