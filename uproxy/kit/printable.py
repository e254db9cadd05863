"""Text from elsewhere on its way to a terminal or a log.

Names of objects, paths and other programs' words may have control characters in them, which a terminal
obeys and a log takes for new lines. Pure.
"""


def printable(text: str) -> str:
    r"""The same with everything that is not to be seen written as Python would: `\x1b`, `\u202e`, `\n`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()
