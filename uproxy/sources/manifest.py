"""One manifest file's text into the objects found in it, at little cost the second time.

Owns the memory of what each document's text became, so that a file in which one document
changed costs the conversion of one. Reads no file.
"""

from dataclasses import dataclass
from typing import NamedTuple

from uproxy.model.faults import Fault
from uproxy.sources.convert import Converted, convert
from uproxy.sources.documents import Document, Misprint, parse, split


class Found(NamedTuple):
    """An object, and the number of the document that it stands in."""

    document: int
    converted: Converted


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one file says."""

    file: str
    found: tuple[Found, ...]
    fault: Fault | None = None
    """Why the file could not be read at all."""


class Reader:
    """Reads one file's successive versions."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._known: dict[str, tuple[Converted, ...] | Misprint] = {}

    def read(self, text: str) -> Manifest:
        """The manifest of the file's present text."""
        known, self._known = self._known, {}
        found: list[Found] = []
        for document in split(text):
            result = known.get(document.text) or _converted(document.text)
            self._known[document.text] = result
            found += _placed(self._file, document, result)
        return Manifest(self._file, tuple(found))


def _converted(text: str) -> tuple[Converted, ...] | Misprint:
    parsed = parse(text)
    return parsed if isinstance(parsed, Misprint) else tuple(map(convert, parsed))


def _placed(file: str, document: Document, result: tuple[Converted, ...] | Misprint) -> list[Found]:
    number = document.number
    if isinstance(result, Misprint):
        return [Found(number, _misprinted(file, document, result))]
    if len(result) == 1:
        return [Found(number, result[0].placed(file, number, document.item))]
    return [Found(number, converted.placed(file, number, item)) for item, converted in enumerate(result)]


def _misprinted(file: str, document: Document, misprint: Misprint) -> Converted:
    where = f"line {document.line + misprint.line - 1}"
    if misprint.column:
        where += f", column {misprint.column}"
    fault = Fault(file, document.number, "", None, "", f"{where}: {misprint.problem}")
    return Converted("", None, faults=(fault,))
