"""JSON that a fast decoder gives up on, made such that it does not.

Owns three troubles that say nothing about the fields a proxy reads: nesting deeper than the decoder's stack
goes, in whichever field, octets that are no UTF-8, and halves of surrogate pairs. Pure. It is slow, and
only for texts that have failed.
"""

import re

_DEEPEST = 100
"""Nothing that is read is deeper than a dozen levels."""
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]', re.DOTALL)

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""The one group is half a pair."""


def mended(text: bytes) -> bytes:
    """The same with null in the place of what is nested too deeply, and with U+FFFD for what is no text.
    Text that is no JSON comes out as some other text that is none."""
    whole = _ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], _shallow(text))
    return whole.decode(errors="replace").encode()


def _shallow(text: bytes) -> bytes:
    pieces: list[bytes] = []
    depth = kept_to = 0
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in b"[{":
            depth += 1
            if depth == _DEEPEST:
                pieces += (text[kept_to : token.start()], b"null")
        elif mark in b"]}":
            if depth == _DEEPEST:
                kept_to = token.end()
            depth -= 1
    return b"".join((*pieces, text[kept_to:])) if depth < _DEEPEST else text[:0]
