"""Text into documents: where each begins, and what it says.

Owns YAML streams, JSON streams and `List` kinds. Knows no Kubernetes field but `kind`,
`apiVersion` and `items`; reads no file.

A stream is cut at its `---` lines before anything is parsed. YAML forbids such a line inside
a document, block scalars included (YAML 1.2.2, 9.1.2), so the cut is exact; and it means that
a document with a mistake harms no other, and that one whose text is unchanged need not be
parsed again.
"""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import yaml

from uproxy.sources.yaml_values import load_yaml

_SEPARATOR = re.compile(r"\n---(?=\s|\Z)")
_PLAIN = re.compile(r"---\n\w")
"""How nearly every document begins, which then needs no closer look."""
_KUBECTL_LIST = re.compile(r"(?:---\n)?apiVersion: v1\nitems:\n(?=- )")
"""How `kubectl get -o yaml` begins: every item at column 0, and nothing else there but keys."""
_LIST_END = re.compile(r"^kind: List$", re.MULTILINE)
_ITEM = re.compile(r"^- ", re.MULTILINE)
_ANCHOR = re.compile(r"(?:^|[\s:-])[&*]\w", re.MULTILINE)
_NOT_SPACE = re.compile(r"\S")
_NO_TEXT = re.compile("[\udc80-\udcff]")
"""An octet that was no UTF-8."""
_BYTE = re.compile(r" \(byte (\d+)\)")


class Document(NamedTuple):
    """The text of one document, or of one item of a `List`."""

    number: int
    """Counted from 1 through the file; empty documents count."""
    line: int
    """Line of the file on which `text` begins, counted from 1."""
    text: str
    item: int | None = None
    """Index in the `items` of its List."""


class Misprint(NamedTuple):
    """Why a text is neither YAML nor JSON. Lines count from 1 at the text's own start."""

    problem: str
    line: int = 1
    column: int = 0
    """Counted from 1; 0 when it is not known."""


def split(text: str) -> Iterator[Document]:
    """The documents of a file, empty ones left out.

    Comments and directives before the first `---` are no document, as in YAML itself.
    """
    starts = [0, *(match.start() + 1 for match in _SEPARATOR.finditer(text))]
    number, line = 0, 1
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        chunk = text[start:end]
        if _PLAIN.match(chunk):
            number += 1
            yield from _yaml_items(Document(number, line + 1, chunk[4:]))
        elif _has_content(chunk):
            for document in _values(chunk, number + 1, line):
                number = document.number
                yield document
        elif chunk.startswith("---"):
            number += 1
        line += chunk.count("\n")


def _has_content(chunk: str) -> bool:
    lines = map(str.strip, chunk.removeprefix("---").splitlines())
    return any(line and line[0] not in "#%" and line != "..." for line in lines)


def _values(chunk: str, number: int, line: int) -> Iterator[Document]:
    """A chunk is one YAML document, or some JSON values: `kubectl get -o json` twice gives two."""
    body = chunk.removeprefix("---").lstrip()
    if not body.startswith(("{", "[")):
        yield from _yaml_items(Document(number, line, chunk))
        return
    line += chunk.count("\n", 0, len(chunk) - len(body))
    for offset, value in enumerate(_json_values(body)):
        yield from _json_items(Document(number + offset, line, value))
        line += value.count("\n")


def _yaml_items(document: Document) -> Iterator[Document]:
    """The items of a `List` as kubectl prints it, each with its own text; else the document.

    Cut by text, so that one item's mistake harms no other and only a changed item is parsed
    again. Anchors could reach from item to item: a list that may have some is left whole.
    """
    head = _KUBECTL_LIST.match(document.text)
    end = _LIST_END.search(document.text, head.end()) if head else None
    if not head or not end or _ANCHOR.search(document.text):
        yield document
        return
    starts = [match.start() for match in _ITEM.finditer(document.text, head.end(), end.start())]
    line = document.line + document.text.count("\n", 0, head.end())
    for index, (start, stop) in enumerate(zip(starts, [*starts[1:], end.start()], strict=True)):
        text = document.text[start:stop]
        yield Document(document.number, line, f"  {text[2:]}", index)
        line += text.count("\n")


def _json_values(text: str) -> Iterator[str]:
    """The values that stand one after another in `text`; from a mistake on, the rest as one."""
    if _is_json(text):
        yield text
        return
    start = 0
    while start < len(text):
        try:
            _, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            end = len(text)
        after = _NOT_SPACE.search(text, end)
        end = after.start() if after else len(text)
        yield text[start:end]
        start = end


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return False
    return True


class _JsonList(msgspec.Struct):
    kind: str
    items: list[msgspec.Raw]


def _json_items(document: Document) -> Iterator[Document]:
    """The items of a `List`, each with its own text, so that each can be remembered by it."""
    try:
        whole = msgspec.json.decode(document.text, type=_JsonList)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        whole = _JsonList("", [])
    if whole.kind != "List":
        yield document
        return
    for index, item in enumerate(whole.items):
        yield document._replace(text=bytes(item).decode(), item=index)


def parse(text: str) -> list[object] | Misprint:
    """The objects of one document: itself, or the items of a `List` kind."""
    if not text.isascii() and (octet := _NO_TEXT.search(text)):
        return Misprint("is not UTF-8 text", text.count("\n", 0, octet.start()) + 1)
    try:
        is_json = text.startswith(("{", "["))
        return _flattened(msgspec.json.decode(text) if is_json else load_yaml(text))
    except msgspec.DecodeError as error:
        return _json_misprint(text, str(error))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or str(error)
        return Misprint(problem, mark.line + 1, mark.column + 1) if mark else Misprint(problem)
    except yaml.YAMLError as error:
        return Misprint(str(error).splitlines()[0])
    except UnicodeError as error:
        return Misprint(f"is no text: {error}")
    except RecursionError:
        return Misprint("is nested too deeply")


def _json_misprint(text: str, message: str) -> Misprint:
    at = _BYTE.search(message)
    before = text.encode()[: int(at[1]) if at else 0]
    return Misprint(_BYTE.sub("", message), before.count(b"\n") + 1)


def _flattened(value: object) -> list[object]:
    """Items of typed lists (`ServiceList`) come without a kind of their own; it is the list's."""
    if not (isinstance(value, dict) and "items" in value and str(value.get("kind")).endswith("List")):
        return [value]
    items = value["items"] or []
    if not isinstance(items, list):
        return [value]
    kind = str(value["kind"]).removesuffix("List")
    defaults = {"apiVersion": value.get("apiVersion"), "kind": kind} if kind else {}
    return [{**defaults, **item} if isinstance(item, dict) else item for item in items]
