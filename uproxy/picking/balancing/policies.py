"""From what a Service asks for to the policy that does it."""

from random import Random
from typing import assert_never

from uproxy.model.options import Balancing, Options
from uproxy.picking.balancing.balancer import Balancer, Loads
from uproxy.picking.balancing.least_connections import LeastConnections
from uproxy.picking.balancing.maglev import Maglev
from uproxy.picking.balancing.round_robin import RoundRobin
from uproxy.picking.balancing.two_choices import TwoChoices

_STARTS = 1 << 16


def new_balancer(options: Options, loads: Loads, random: Random) -> Balancer:
    """The policy that `options` ask for, without any backend yet."""
    match options.balancing:
        case Balancing.ROUND_ROBIN:
            return RoundRobin(random.randrange(_STARTS))
        case Balancing.LEAST_CONNECTIONS:
            return LeastConnections(loads, options.slow_start_s, random.randrange(_STARTS))
        case Balancing.P2C:
            return TwoChoices(loads, random)
        case Balancing.MAGLEV:
            return Maglev()
        case _:
            assert_never(options.balancing)
