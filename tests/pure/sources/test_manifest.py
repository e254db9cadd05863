"""From a file's text to its objects; and what is done only once."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pure.sources.objects import service
from uproxy.sources import manifest
from uproxy.sources.manifest import Reader

SERVICE = "kind: Service\napiVersion: v1\nmetadata: {name: %s}\nspec: {ports: [{port: %s}]}\n"
BAD_YAML = "kind: Service\nmetadata: [\n"


def read(text: str) -> list[tuple[int, str]]:
    """Number and name, or faults, of each object in `text`."""
    return [
        (found.document, "; ".join(map(str, found.converted.faults)) or str(found.converted.key))
        for found in Reader("f.yaml").read(text).found
    ]


def test_a_broken_document_leaves_the_others_alone_and_its_line_is_the_files():
    text = "---\n".join([SERVICE % ("a", 80), BAD_YAML, SERVICE % ("c", 80)])

    assert read(text) == [
        (1, "default/a"),
        (2, "f.yaml, document 2: line 8, column 1: did not find expected node content"),
        (3, "default/c"),
    ]


def test_items_of_lists_keep_their_documents_number():
    text = "a: 1\n---\nkind: List\nitems:\n- {kind: Pod, apiVersion: v1}\n- {kind: Role, apiVersion: v1}\n"

    assert read(text)[1:] == [
        (2, "f.yaml, document 2: Pod: items[0].metadata.name: is required"),
        (2, "None"),
    ]


def test_an_item_of_a_json_list_is_told_by_its_index():
    text = json.dumps(
        {"kind": "List", "items": [{"kind": kind, "apiVersion": "v1"} for kind in ("Role", "Pod")]}
    )

    assert read(text)[1] == (1, "f.yaml, document 1: Pod: items[1].metadata.name: is required")


def test_a_document_that_is_no_object_is_a_fault():
    assert read("just text\n") == [
        (1, "f.yaml, document 1: must be a mapping with apiVersion, kind and metadata, not 'just text'")
    ]


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_only_changed_documents_are_converted_again(kind, monkeypatch):
    converted: list[str] = []
    real = manifest.convert
    monkeypatch.setattr(
        manifest, "convert", lambda item: converted.append(item["metadata"]["name"]) or real(item)
    )
    reader = Reader("f")

    def text(ports: dict[str, int]) -> str:
        if kind == "yaml":
            return "---\n".join(SERVICE % item for item in ports.items())
        return json.dumps(
            {
                "kind": "List",
                "items": [service({"ports": [{"port": port}]}, name=name) for name, port in ports.items()],
            }
        )

    reader.read(text({"a": 1, "b": 2, "c": 3}))
    converted.clear()
    found = reader.read(text({"z": 9, "b": 2, "c": 4, "a": 1})).found

    assert converted == ["z", "c"]
    assert [item.converted.objects[0].ports[0].port for item in found] == [9, 2, 4, 1]


def test_a_remembered_mistake_is_reported_where_it_stands_now():
    reader = Reader("f.yaml")
    reader.read(BAD_YAML)

    (_, broken) = reader.read(SERVICE % ("a", 80) + "---\n" + BAD_YAML).found

    assert str(broken.converted.faults[0]).startswith("f.yaml, document 2: line 8")


def from_bytes(content: bytes) -> str:
    """As `files` reads it."""
    return content.decode("utf-8-sig", "surrogateescape")


def test_octets_that_are_no_text_are_one_documents_fault():
    parts = [
        SERVICE % ("a", 80),
        SERVICE % ("b", 80),
        '{"kind": "Service", "x": "HERE"}\n',
        SERVICE % ("d", 80),
    ]
    content = "---\n".join(parts).encode().replace(b"name: b", b"name: \xff").replace(b"HERE", b"\xfe")
    assert read(from_bytes(content)) == [
        (1, "default/a"),
        (2, "f.yaml, document 2: line 8: is not UTF-8 text"),
        (3, "f.yaml, document 3: line 11: is not UTF-8 text"),
        (4, "default/d"),
    ]


PIECES = st.sampled_from(
    [b"---\n", b"\xff", b"\x00", b"\x1b", b"{", b"[" * 2000, b"]", b"- ", b": ", b"&a ", b"*a", b"!!int ",
     b"\\ud800", b"9" * 5000, b"0x" + b"f" * 5000, b"\n", b"<<: ", b"kind: List\nitems:\n- ", b"\xef\xbb\xbf",
     b'"', b"|\n"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_the_octets_a_file_is_read(data):
    content = data.draw(st.binary(max_size=60))
    base = json.dumps({"kind": "List", "items": [service()]}).encode() if data.draw(st.booleans()) else b""
    base = base or "---\n".join([SERVICE % ("a", 80), SERVICE % ("b", 81)]).encode()
    for piece in [content, *data.draw(st.lists(PIECES, max_size=4))]:
        at = data.draw(st.integers(0, len(base)))
        base = base[:at] + piece + base[at:]
    for found in Reader("f.yaml").read(from_bytes(base)).found:
        str(found.converted)


@pytest.mark.parametrize("value", ["9" * 5000, "0x" + "f" * 5000, "-" + "9" * 30, "1e999", ".inf", ".nan"])
def test_a_number_of_any_length_is_a_fault_and_no_more(value):
    (good, bad) = read(SERVICE % ("a", 80) + "---\n" + SERVICE % ("b", value))
    assert good == (1, "default/a")
    assert bad[1].startswith("f.yaml, document 2: ")
