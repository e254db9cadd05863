"""Elements of HTML and SVG as text that cannot be escaped wrongly: plain strings always are.

Owns escaping and the shape of tags; what it writes is well-formed XML too. Knows no report.
"""

from collections.abc import Iterable
from html import escape

_EMPTY = frozenset({"meta", "link", "input", "br", "path", "line", "rect", "circle"})
"""Written as `<path/>`; everything else gets an end tag, since `<td/>` is a start tag in HTML."""


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: str | float | None) -> Markup:
    """One element; `content` is escaped unless it is Markup, attributes that are None are left out.

    Python's keywords take an underscore behind (`class_`), hyphens are underscores (`stroke_width`).
    """
    tag = name + "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY:
        return Markup(f"<{tag}/>")
    return Markup(f"<{tag}>{joined(content)}</{name}>")


def joined(parts: Iterable[str]) -> Markup:
    """Pieces one after the other, escaped unless they are Markup."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part, quote=False) for part in parts))


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return escape(value)
    return f"{value:.1f}".removesuffix(".0")  # a tenth of a pixel is as fine as charts get
