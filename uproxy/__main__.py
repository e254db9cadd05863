"""`uproxy`, and `python -m uproxy`: what is run first.

Owns the order: signals are caught before the rest is imported, which takes longer than a container may
live that is stopped at its start.
"""

from uproxy.kit import endings

endings.catch()

from uproxy.cli import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
