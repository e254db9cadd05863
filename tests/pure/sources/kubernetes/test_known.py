from hypothesis import given
from hypothesis import strategies as st

from uproxy.sources.kubernetes.known import Known


class Told:
    """A `Known` of numbers by letters, and what it has told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.known = Known[str, int](lambda n: self.told.append(f"+{n}"), lambda n: self.told.append(f"-{n}"))

    def list(self, content: dict[str, int]) -> None:
        self.known.begin_list()
        for key, number in content.items():
            self.known.put(key, number)
        for key in self.known.end_list():
            self.known.remove(key)


def test_the_same_again_is_not_told():
    told = Told()
    told.known.put("a", 1)
    told.known.put("a", 1)
    told.known.put("a", 2)
    assert told.told == ["+1", "+2"]


def test_what_goes_is_told_as_it_last_was():
    told = Told()
    told.known.put("a", 1)
    told.known.put("a", 2)
    told.known.remove("a")
    told.known.remove("a")
    assert told.told == ["+1", "+2", "-2"]


def test_a_second_list_tells_differences_only():
    told = Told()
    told.list({"same": 1, "changed": 2, "gone": 3})
    told.told.clear()
    told.list({"same": 1, "changed": 20, "new": 4})
    assert sorted(told.told) == ["+20", "+4", "-3"]


def test_a_list_that_broke_off_takes_nothing_away():
    told = Told()
    told.list({"a": 1, "b": 2})
    told.known.begin_list()
    told.known.put("a", 1)
    told.list({"a": 1, "b": 2})
    assert told.told == ["+1", "+2"]


def test_what_is_kept_is_there_though_nobody_says_how():
    told = Told()
    told.list({"a": 1, "b": 2})
    told.known.begin_list()
    told.known.keep("a")
    assert told.known.end_list() == ("b",)


def test_what_goes_while_a_list_comes_is_told_once():
    told = Told()
    told.list({"a": 1})
    told.known.begin_list()
    told.known.remove("a")
    assert told.known.end_list() == ()
    assert told.told == ["+1", "-1"]


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3))))
def test_what_was_told_is_always_the_last_list(lists):
    now: list[int] = []
    known = Known[str, int](now.append, now.remove)
    for content in lists:
        before = dict(known._objects)
        known.begin_list()
        for key, number in content.items():
            if key in before and before[key] != number:
                now.remove(before[key])
            known.put(key, number)
        for key in known.end_list():
            known.remove(key)
        assert sorted(now) == sorted(content.values())
        assert len(known) == len(content)
