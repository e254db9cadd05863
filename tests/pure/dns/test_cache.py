"""Upstream's answers, kept as long as they may be."""

from uproxy.dns.cache import NEGATIVE_S, Cache, Outcome
from uproxy.dns.wire import Rcode, Record, Type, from_text

NAME = from_text("example.com")


def found(*ttls: int) -> Outcome:
    return Outcome(Rcode.NOERROR, tuple(Record(NAME, 1, ttl_s, bytes(4)) for ttl_s in ttls))


def test_ttls_run_down_and_the_shortest_ends_it():
    cache = Cache()
    cache.put(NAME, 1, found(30, 10), now_s=100.0)
    assert [record.ttl_s for record in cache.get(NAME, 1, 104.9).records] == [26, 6]
    assert cache.get(NAME, 28, 104.9) is None
    assert cache.get(NAME, 1, 109.9) is not None
    assert cache.get(NAME, 1, 110.0) is None
    assert len(cache) == 0


def test_absence_is_kept_for_a_while():
    cache = Cache()
    for kind, rcode in ((1, Rcode.NXDOMAIN), (28, Rcode.NOERROR)):
        cache.put(NAME, kind, Outcome(rcode), now_s=0)
        assert cache.get(NAME, kind, NEGATIVE_S - 0.1) == Outcome(rcode)
        assert cache.get(NAME, kind, NEGATIVE_S) is None


def test_failures_and_ttl_0_are_not_kept():
    cache = Cache()
    cache.put(NAME, 1, Outcome(Rcode.SERVFAIL), 0)
    cache.put(NAME, 28, found(0), 0)
    assert len(cache) == 0


def test_a_ttl_of_years_is_an_hour_here():
    cache = Cache()
    cache.put(NAME, 1, found(10**8), 0)
    assert cache.get(NAME, 1, 3599) is not None
    assert cache.get(NAME, 1, 3600) is None


def test_the_longest_unused_goes_first():
    cache = Cache(most=2)
    for kind in (1, 2):
        cache.put(NAME, kind, found(60), 0)
    cache.get(NAME, 1, 1)
    cache.put(NAME, 3, found(60), 1)
    assert [kind for kind in (1, 2, 3) if cache.get(NAME, kind, 2)] == [1, 3]


def test_memory_is_bounded_whatever_a_name_has():
    large = Outcome(Rcode.NOERROR, tuple(Record(b"\1x\0", Type.A, 60, bytes(4)) for _ in range(4000)))
    cache = Cache(most_bytes=4_000_000)
    for number in range(50):
        cache.put(b"%d" % number, Type.A, large, 0)
        assert cache.bytes <= 4_000_000
    assert 1 <= len(cache) < 10
    assert cache.get(b"49", Type.A, 0)
    for number in range(50):
        cache.get(b"%d" % number, Type.A, 61)
    assert (len(cache), cache.bytes) == (0, 0)


def test_what_is_larger_than_everything_is_not_kept():
    cache = Cache(most_bytes=1000)
    cache.put(b"a", Type.A, found(60), 0)
    cache.put(b"b", Type.A, found(*[60] * 100), 0)
    assert len(cache) == 1
