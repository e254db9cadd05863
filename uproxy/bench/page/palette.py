"""One look for each path, the same in every chart and every report: a colour and a dash.

Hue tells the program (uproxy blue, HAProxy orange, nginx green, the kernel purple, what uproxy hands to it
violet, nothing at all grey), lightness and dash tell its variants. The colours are in page.css, once for
light and once for dark; neighbours stay apart for red-green blindness, and lines have names at their ends.
"""

from collections.abc import Iterable
from typing import NamedTuple

_KNOWN = {
    "direct": 0,
    "uproxy-bind": 1,
    "uproxy-redirect": 2,
    "haproxy": 3,
    "haproxy-tuned": 4,
    "nginx": 5,
    "kernel-dnat": 6,
    "uproxy-bind-python": 7,
    "uproxy-redirect-python": 8,
    "uproxy-nftables": 9,
}
_DASHES = ("", "", "7 3", "", "7 3", "9 2 2 2", "2 2.5", "4 3", "1 3", "12 2 3 2")
_FOR_OTHERS = (1, 3, 5, 6, 4, 2, 9, 7, 8)
"""For paths that only the user knows: what is easiest to tell apart comes first."""


class Look(NamedTuple):
    """How a path is drawn."""

    css_class: str
    """`c0` to `c9`."""
    dash: str
    """An SVG stroke-dasharray; empty for a solid line."""


def looks(paths: Iterable[str]) -> dict[str, Look]:
    """Choose for every path. When colours run out they are used again, with another dash."""
    names = list(dict.fromkeys(paths))
    free = [slot for slot in _FOR_OTHERS if slot not in {_KNOWN.get(name) for name in names}] or [8]
    chosen = {name: Look(f"c{_KNOWN[name]}", _DASHES[_KNOWN[name]]) for name in names if name in _KNOWN}
    for number, name in enumerate(name for name in names if name not in _KNOWN):
        slot, again = free[number % len(free)], number // len(free)
        chosen[name] = Look(f"c{slot}", _DASHES[(slot + again) % len(_DASHES)])
    return chosen
