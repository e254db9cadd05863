"""Options read from annotations, and told again in the same words."""

from hypothesis import given
from hypothesis import strategies as st

from uproxy.model.options import DEFAULT_OPTIONS, PREFIX, Balancing, Options, asked_for, parse_options

seconds = st.integers(1, 10_000).map(float)
counts = st.integers(1, 1000)


@given(
    st.builds(
        Options,
        balancing=st.just(Balancing.LEAST_CONNECTIONS),
        slow_start_s=st.none() | seconds,
        removed_drain_s=st.none() | st.just(0.0) | seconds,
        max_connection_age_s=st.none() | seconds,
        max_connections_per_endpoint=counts,
        queue_max=st.just(0) | counts,
        hold_s=st.none() | seconds,
        proxy_protocol=st.booleans(),
    )
)
def test_what_is_asked_for_can_be_asked_for_again(options):
    told = {PREFIX + name: value for name, value in asked_for(options).items()}
    assert parse_options(told) == (options, ())


def test_defaults_are_not_asked_for():
    assert asked_for(DEFAULT_OPTIONS) == {}
