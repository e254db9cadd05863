"""`python -m uproxy.bench.resident`: the load generator, resident: plans in, answers out, by lines.

Starting Python takes as long as a short measurement, and disturbs the one before. Owns nothing
but the loop; it ends with its standard input.
"""

import sys

import msgspec

from uproxy.bench.load.generate import generate
from uproxy.bench.load.plan import LoadOutcome, LoadPlan
from uproxy.errors import UproxyError


class Answer(msgspec.Struct, frozen=True):
    """What came of one plan."""

    outcome: LoadOutcome | None = None
    error: str = ""
    """In words, when the plan could not be carried out."""


def main() -> int:
    """Answer each line until there are no more."""
    for line in sys.stdin.buffer:
        try:
            answer = Answer(generate(msgspec.json.decode(line, type=LoadPlan)))
        except UproxyError as error:
            answer = Answer(error=str(error))
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
