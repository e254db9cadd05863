"""Which endpoints are on this node, however many Service ports lead there."""

from ipaddress import ip_address

from uproxy.handoff.here import Here
from uproxy.model.names import Protocol, ServicePortName

ONE, TWO = ip_address("10.244.0.11"), ip_address("10.244.0.12")
WEB = ServicePortName("default", "web", "", Protocol.TCP)
DNS = ServicePortName("default", "dns", "", Protocol.UDP)


def changed(here: Here, wanted: dict) -> tuple[list, list]:
    found = here.difference(wanted)
    here.settle(wanted)
    return found


def test_an_address_comes_with_the_first_and_goes_with_the_last():
    here = Here()
    come, gone = changed(here, {WEB: {ONE, TWO}})
    assert (set(come), gone) == ({ONE, TWO}, [])
    assert changed(here, {DNS: {ONE}}) == ([], [])
    assert changed(here, {WEB: ()}) == ([], [TWO])
    assert changed(here, {DNS: ()}) == ([], [ONE])
    assert changed(here, {DNS: {ONE}}) == ([ONE], [])


def test_several_at_once_count_together():
    here = Here()
    come, gone = changed(here, {WEB: {ONE}, DNS: {ONE}})
    assert (come, gone) == ([ONE], [])
    assert changed(here, {WEB: (), DNS: {TWO}}) == ([TWO], [ONE])
    assert changed(here, {WEB: {TWO}, DNS: {ONE}}) == ([ONE], [])


def test_what_was_not_settled_is_a_difference_still():
    here = Here()
    assert here.difference({WEB: {ONE}}) == here.difference({WEB: {ONE}}) == ([ONE], [])
    changed(here, {WEB: {ONE}})
    here.clear()
    assert here.difference({WEB: {ONE}}) == ([ONE], [])
