"""Where documents begin and end, and what their text says."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from uproxy.sources.documents import Document, Misprint, parse, split


def places(text: str) -> list[tuple[int, int]]:
    return [(document.number, document.line) for document in split(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", [], id="nothing"),
        pytest.param("a: 1\n", [(1, 1)], id="one without a separator"),
        pytest.param("---\na: 1\n", [(1, 2)], id="one with a separator"),
        pytest.param("a: 1\n---\nb: 2\n", [(1, 1), (2, 3)], id="two"),
        pytest.param("# licence\n\n---\na: 1\n", [(1, 4)], id="comments before the first are no document"),
        pytest.param("%YAML 1.2\n---\na: 1\n", [(1, 3)], id="nor are directives"),
        pytest.param("---\n---\n# note\n---\na: 1\n", [(3, 5)], id="empty ones count"),
        pytest.param("a: 1\n--- # note\nb: 2\n", [(1, 1), (2, 2)], id="a comment behind a separator"),
        pytest.param("--- {a: 1}\n--- b\n", [(1, 1), (2, 2)], id="content behind a separator"),
        pytest.param("a: 1\n...\n---\nb: 2\n...\n", [(1, 1), (2, 4)], id="document end markers"),
        pytest.param("a: |\n  x\n  ---\n  y\n---\nb: 2\n", [(1, 1), (2, 6)], id="dashes in a block of text"),
        pytest.param("a: ---b\n---c: 1\n", [(1, 1)], id="dashes that separate nothing"),
        pytest.param("a: 1\r\n---\r\nb: 2\r\n", [(1, 1), (2, 2)], id="carriage returns"),
        pytest.param('{"a": 1}\n---\n\n{"b": 2}\n', [(1, 1), (2, 4)], id="JSON between separators"),
        pytest.param('{"a":\n1}\n{"b": 2}{"c": 3}', [(1, 1), (2, 3), (3, 3)], id="JSON one after another"),
        pytest.param('{"a": 1}\n{"b": \n', [(1, 1), (2, 2)], id="JSON with a broken end"),
    ],
)
def test_split_numbers_documents_and_lines(text, expected):
    assert places(text) == expected


LINES = st.sampled_from(
    ["a: 1", "---", "--- # x", "# x", "", "- b", "  c: 2", "...", "--- d", "text: |", "  ---"]
)


@given(st.lists(LINES, max_size=12).map("\n".join))
def test_split_finds_the_documents_that_yaml_itself_finds(text):
    try:
        expected = [value for value in yaml.safe_load_all(text) if value is not None]
    except yaml.YAMLError:
        return
    parsed = [parse(document.text) for document in split(text)]
    if any(isinstance(result, Misprint) for result in parsed):
        return  # `...` may begin a second document without a separator; that is refused
    assert [value for result in parsed for value in result if value is not None] == expected


def test_items_of_a_json_list_have_texts_of_their_own():
    text = '{"kind": "List", "apiVersion": "v1", "items": [{"a": 1}, {"b": [2]}]}'

    assert list(split(text)) == [Document(1, 1, '{"a": 1}', 0), Document(1, 1, '{"b": [2]}', 1)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a: 1", [{"a": 1}], id="a mapping"),
        pytest.param(
            "a: [yes, null, 1.5, '1', 0x10, 010]", [{"a": [True, None, 1.5, "1", 16, 8]}], id="scalars"
        ),
        pytest.param("when: 2026-01-01", [{"when": "2026-01-01"}], id="dates stay text"),
        pytest.param("when: &x 2026-01-01", [{"when": "2026-01-01"}], id="beside an anchor too"),
        pytest.param("80: a", [{"80": "a"}], id="keys are text"),
        pytest.param("a: &x {b: 1}\nc: *x", [{"a": {"b": 1}, "c": {"b": 1}}], id="anchors"),
        pytest.param(
            "a: &x {b: 1}\nc: {<<: *x, d: 2}", [{"a": {"b": 1}, "c": {"b": 1, "d": 2}}], id="merges"
        ),
        pytest.param("a: !!str 1", [{"a": "1"}], id="tags"),
        pytest.param('{"a": [1, null]}', [{"a": [1, None]}], id="JSON"),
        pytest.param("kind: List\nitems: [{a: 1}, {b: 2}]", [{"a": 1}, {"b": 2}], id="a List"),
        pytest.param("kind: List\nitems:", [], id="a List without items"),
        pytest.param(
            "kind: ServiceList\napiVersion: v1\nitems: [{a: 1}]",
            [{"apiVersion": "v1", "kind": "Service", "a": 1}],
            id="items of a typed list take its kind",
        ),
        pytest.param("kind: List\nitems: 5", [{"kind": "List", "items": 5}], id="items that are no list"),
    ],
)
def test_parse(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "misprint"),
    [
        pytest.param("a: [1\nb: 2", Misprint("did not find expected ',' or ']'", 2, 2), id="an open bracket"),
        pytest.param(
            "a: 1\n b: 2", Misprint("mapping values are not allowed in this context", 2, 3), id="indent"
        ),
        pytest.param("a: 1\nb: 2\na: 3", Misprint("the key 'a' is given twice", 3, 1), id="a key twice"),
        pytest.param("? [a]\n: 1", Misprint("a key must be plain text", 1, 3), id="a key that is a list"),
        pytest.param(
            "a: 0b_", Misprint("invalid literal for int() with base 2: ''"), id="a number that is none"
        ),
        pytest.param(
            "a: \x01",
            Misprint("unacceptable character #x0001: control characters are not allowed"),
            id="a control character",
        ),
        pytest.param("a: !!python/object:os.system {}", None, id="a tag that would run code"),
        pytest.param(
            "a: !!set {b}", Misprint("the tag 'tag:yaml.org,2002:set' is not known", 1, 4), id="a tag"
        ),
        pytest.param(
            "a: *x", Misprint("an alias stands here for an anchor that does not exist", 1, 4), id="alias"
        ),
        pytest.param(
            "a: &x [*x]", Misprint("an alias stands here for an anchor that does not exist", 1, 8), id="loop"
        ),
        pytest.param("a: 1\n---\nb: 2", Misprint("a second document begins here", 2, 1), id="two at once"),
        pytest.param("[" * 100_000, None, id="a bottomless list"),
        pytest.param("- " * 100_000, None, id="a bottomless list of lines"),
        pytest.param("a: " + "{b: " * 5000 + "}" * 5000, None, id="a mapping deeper than our own stack"),
        pytest.param('{"a": 1,\n}', Misprint("JSON is malformed: trailing comma in object", 2), id="JSON"),
        pytest.param('{"a": {{ .Values.x }}}', None, id="a template"),
    ],
)
def test_what_cannot_be_parsed_says_where_and_why(text, misprint):
    result = parse(text)

    assert isinstance(result, Misprint)
    if misprint:
        assert result == misprint


KUBECTL_LIST = """\
apiVersion: v1
items:
- apiVersion: v1
  kind: Service
  metadata:
    name: web
- apiVersion: v1
  kind: Service
  metadata:
    name: text
    annotations:
      note: |
        - not an item
kind: List
metadata:
  resourceVersion: ""
"""


@pytest.mark.parametrize("head", ["", "---\n", "a: 1\n---\n"])
def test_items_of_a_kubectl_list_have_texts_of_their_own(head):
    documents = [document for document in split(head + KUBECTL_LIST) if document.item is not None]
    whole = yaml.safe_load(KUBECTL_LIST)
    assert [parse(document.text) for document in documents] == [[item] for item in whole["items"]]
    first = head.count("\n") + 3
    assert [(document.line, document.item) for document in documents] == [(first, 0), (first + 4, 1)]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(("name: web", "name: &x web"), id="an anchor"),
        pytest.param(("kind: List\n", "kind: ServiceList\n"), id="another kind"),
        pytest.param(
            ("- apiVersion: v1\n  kind: Service", "  - apiVersion: v1\n    kind: Service"), id="indented"
        ),
    ],
)
def test_a_list_that_is_not_as_kubectl_prints_it_is_left_whole(change):
    assert [document.item for document in split(KUBECTL_LIST.replace(*change))] == [None]


def test_a_broken_item_of_a_kubectl_list_harms_no_other():
    [broken, good] = split(KUBECTL_LIST.replace("name: web", "name: [web"))
    assert isinstance(parse(broken.text), Misprint)
    assert isinstance(parse(good.text), list)
