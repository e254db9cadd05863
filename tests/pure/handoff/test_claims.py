"""What the kernel has but once stays for as long as anybody wants it."""

from uproxy.handoff.claims import Claims
from uproxy.model.names import Protocol, ServicePortName

WEB = ServicePortName("default", "web", "", Protocol.TCP)
DNS = ServicePortName("default", "dns", "", Protocol.UDP)


def changed(claims: Claims[str, int], wanted: dict[ServicePortName, dict[str, int]]) -> dict:
    found = claims.difference(wanted)
    claims.settle(wanted)
    return found


def test_a_key_comes_with_the_first_and_goes_with_the_last() -> None:
    claims = Claims[str, int]()
    assert changed(claims, {WEB: {"one": 1, "two": 1}}) == {"one": (None, 1), "two": (None, 1)}
    assert changed(claims, {DNS: {"one": 1}}) == {}
    assert changed(claims, {WEB: {}}) == {"two": (1, None)}
    assert changed(claims, {DNS: {}}) == {"one": (1, None)}
    assert changed(claims, {DNS: {"one": 1}}) == {"one": (None, 1)}


def test_who_came_last_counts_and_what_he_gives_up_is_the_other_ones_again() -> None:
    claims = Claims[str, int]()
    changed(claims, {WEB: {"one": 1}})
    assert changed(claims, {DNS: {"one": 2}}) == {"one": (1, 2)}
    assert changed(claims, {WEB: {"one": 3}}) == {}
    assert changed(claims, {DNS: {}}) == {"one": (2, 3)}


def test_rank_goes_before() -> None:
    claims = Claims[str, int](rank=lambda its: its)
    changed(claims, {WEB: {"one": 2}})
    assert changed(claims, {DNS: {"one": 1}}) == {}
    assert list(claims.owners()) == [("one", WEB, 2)]
    assert changed(claims, {WEB: {"one": 0}}) == {"one": (2, 1)}


def test_a_change_of_hands_in_one_is_one_change() -> None:
    claims = Claims[str, int]()
    changed(claims, {WEB: {"one": 1}})
    for order in ({WEB: {}, DNS: {"one": 1}}, {WEB: {"one": 1}, DNS: {}}):
        assert changed(claims, order) == {}


def test_what_was_not_settled_is_a_difference_still() -> None:
    claims = Claims[str, int]()
    assert claims.difference({WEB: {"one": 1}}) == claims.difference({WEB: {"one": 1}}) == {"one": (None, 1)}
    claims.settle({WEB: {"one": 1}})
    claims.clear()
    assert claims.difference({WEB: {"one": 1}}) == {"one": (None, 1)}
