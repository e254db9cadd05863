"""A configuration file on disk: its content, once, and word when that is another one.

Owns reading, and telling a change from a mere touch: kube-proxy ends at any write, this one
only when the text differs. What the text means is settled elsewhere.
"""

from pathlib import Path

from uproxy.kit.reading import read_regular
from uproxy.kit.threads import in_thread
from uproxy.model.faults import BadInput, Fault
from uproxy.sources import documents
from uproxy.sources.places import directories
from uproxy.sources.watcher import Watcher

_RETRY_S = 5.0
"""What cannot be watched, or not be read for now, is looked at again."""


class ConfigFile:
    """One file, as it was when this was made. Raises BadInput when it cannot be read."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._content = Path(path).read_bytes()
            self._text = self._content.decode("utf-8-sig")
        except OSError as error:
            raise _bad(path, f"cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise _bad(path, f"is not UTF-8 text (byte {error.start})") from error

    def value(self) -> object:
        """The one YAML or JSON document in it, as plain values.

        Raises BadInput when the text is neither, or has several.
        """
        text = self._text.lstrip()
        found = documents.parse(text if text.startswith("{") else self._text)
        if isinstance(found, documents.Misprint):
            place = f"line {found.line}" + (f", column {found.column}" if found.column else "")
            raise _bad(self.path, f"{place}: {found.problem}")
        return found[0]

    async def changed(self) -> None:
        """Wait until the file has another content: written, replaced, or reached by a link that
        leads elsewhere (a ConfigMap volume swaps one).

        A file that is gone, or out of reach, is not yet another one. Raises UproxyError when
        the kernel refuses to watch at all.
        """
        with Watcher() as watcher:
            while not await in_thread(self._watch_and_look, watcher):
                await watcher.changed(_RETRY_S)

    def _watch_and_look(self, watcher: Watcher) -> bool:
        watcher.watch(directories((self.path,)))
        path = Path(self.path)
        try:
            if path.resolve() in watcher.unfinished:
                return False
            return read_regular(path) not in (self._content, b"")
        except OSError:
            return False


def _bad(path: str, message: str) -> BadInput:
    return BadInput((Fault(path, 0, "", None, "", message),))
