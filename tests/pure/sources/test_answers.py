"""What a reply to a name's question amounts to, and when the next one is asked."""

from ipaddress import ip_address

import pytest

from uproxy.sources.answers import Answer, HostAnswers, Miss, Verdict

A, B, C6 = ip_address("10.0.0.1"), ip_address("10.0.0.20"), ip_address("fd00::1")


@pytest.mark.parametrize(
    ("ttl_s", "wait_s"),
    [(0, 1), (1, 1), (60, 60), (3600, 3600), (86400, 3600)],
)
def test_a_name_is_asked_for_again_when_its_ttl_ends_within_bounds(ttl_s, wait_s):
    assert HostAnswers().note(4, Answer((A,), ttl_s)) == Verdict(failed=False, ask_again_s=wait_s)


def test_addresses_of_both_families_are_used_in_a_steady_order():
    host = HostAnswers()

    host.note(6, Answer((C6,), 60))
    host.note(4, Answer((B, A, B), 60))

    assert host.addresses == (A, B, C6)


def test_failures_are_retried_with_a_back_off_that_success_resets():
    host = HostAnswers()

    waits = [host.note(4, Miss.NO_REPLY).ask_again_s for _ in range(7)]
    host.note(4, Answer((A,), 60))

    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert host.note(4, Miss.NO_REPLY) == Verdict(failed=True, ask_again_s=1)


@pytest.mark.parametrize("miss", [Miss.NO_REPLY, Miss.NO_NAME])
def test_the_last_good_answers_of_both_families_stand_while_lookups_fail(miss):
    host = HostAnswers()
    host.note(4, Answer((A,), 60))
    host.note(6, Answer((C6,), 60))

    assert host.note(4, miss).failed
    assert host.note(6, miss).failed
    assert host.addresses == (A, C6)


def test_one_familys_failures_do_not_slow_the_other():
    host = HostAnswers()
    for _ in range(5):
        host.note(6, Miss.NO_REPLY)

    assert host.note(4, Answer((A,), 5)).ask_again_s == 5


def test_a_family_that_is_no_longer_there_is_dropped_when_the_other_remains():
    host = HostAnswers()
    host.note(4, Answer((A,), 60))
    host.note(6, Answer((C6,), 60))

    assert host.note(6, Answer((), 0)) == Verdict(failed=False, ask_again_s=30)
    assert host.addresses == (A,)


def test_a_names_last_addresses_are_never_dropped():
    host = HostAnswers()
    host.note(4, Answer((A,), 60))

    host.note(4, Answer((), 0))

    assert host.addresses == (A,)


def test_a_name_of_one_family_only_is_no_failure():
    host = HostAnswers()
    host.note(4, Answer((A,), 60))

    assert not host.note(6, Miss.NO_NAME).failed


def test_a_name_that_does_not_exist_is_a_failure():
    assert HostAnswers().note(4, Miss.NO_NAME) == Verdict(failed=True, ask_again_s=1)
