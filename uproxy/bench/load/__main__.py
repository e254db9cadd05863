"""`python -m uproxy.bench.load run|serve`: a plan from stdin to an outcome on stdout, or the server.

Owns arguments and exit statuses: 0 done, 1 one clear line on stderr.
"""

import argparse
import signal
import sys

import msgspec

from uproxy.bench.load.faulty import parse_faults
from uproxy.bench.load.generate import choose, generate
from uproxy.bench.load.plan import LoadPlan
from uproxy.bench.load.serve import default_name, serve_native, serve_until_signal
from uproxy.bench.load.target import raise_descriptor_limit
from uproxy.bench.load.wire import NAME
from uproxy.errors import UproxyError
from uproxy.settings import parse_address


def main() -> int:
    """Run a command; returns the exit status."""
    arguments = _parser().parse_args()
    try:
        arguments.command(arguments)
    except UproxyError as error:
        print(f"uproxy bench: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m uproxy.bench.load")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="read a LoadPlan from stdin, print a LoadOutcome")
    run.set_defaults(command=_run)
    serve = commands.add_parser("serve", help="answer the generator, and plain HTTP, until SIGTERM")
    serve.set_defaults(command=_serve)
    serve.add_argument("address", metavar="ADDR:PORT", help="port 0 chooses one, and prints it")
    serve.add_argument("--name", default=default_name(), help=f"told in replies; at most {NAME} bytes")
    serve.add_argument(
        "--delay", action="append", default=[], help="constant:5ms, percent:1:100ms, stall:5s:500ms"
    )
    serve.add_argument("--errors", type=float, default=0.0, help="share of requests that are reset")
    serve.add_argument("--by", choices=("auto", "native", "python"), default="auto", help="which server")
    return parser


def _run(_arguments: argparse.Namespace) -> None:
    # Python's own handler would wait until the native generator comes back.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        plan = msgspec.json.decode(sys.stdin.buffer.read(), type=LoadPlan)
    except msgspec.DecodeError as error:
        raise UproxyError(f"bad plan: {error}") from error
    outcome = generate(plan)
    sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")


def _serve(arguments: argparse.Namespace) -> None:
    try:
        ip, port = parse_address(arguments.address)
    except ValueError as error:
        raise UproxyError(str(error)) from error
    if not 0 < len(arguments.name.encode()) <= NAME:
        raise UproxyError(f"--name {arguments.name}: 1 to {NAME} bytes")
    faults = parse_faults(arguments.delay, arguments.errors)
    raise_descriptor_limit()
    if choose(arguments.by) == "native":
        serve = serve_native
    else:
        from uproxy.bench.load.python.server import serve
    serve_until_signal(ip, port, arguments.name, faults, serve)


if __name__ == "__main__":
    sys.exit(main())
