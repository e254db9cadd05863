"""The command line: `uproxy run|check|services|dns|resolve|cleanup|demo|bench|version`.

Owns arguments, what is printed, and exit statuses: 0 done, 1 a mistake or a failure, each
told in one line. Imports a command's parts only when it runs, so that `--help` is quick.
"""

import argparse
import asyncio
import logging
import os
import platform
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from uproxy import __version__
from uproxy.bench.flags import add_bench_flags
from uproxy.errors import UproxyError
from uproxy.settings import (
    METRICS_ADDRESS,
    Settings,
    Surroundings,
    add_run_flags,
    parse_address,
    parse_settings,
    parse_switch,
)

if TYPE_CHECKING:
    from uproxy.handoff.choice import Possible
    from uproxy.sources.config_file import ConfigFile
    from uproxy.state.addresses import AddressPlan
    from uproxy.steering.probe import Choice

_log = logging.getLogger("uproxy")


_SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class _Parser(argparse.ArgumentParser):
    """Exits 1, as kubectl and kube-proxy do, and without a page of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"{self.prog}: {message} (try {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
    except UproxyError as error:
        for line in str(error).splitlines():
            print(f"uproxy: {line}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0  # the reader, `head` say, has seen enough
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="uproxy", description="A userspace L4 proxy for Kubernetes Services.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], help_: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(
            name, help=help_, description=help_, allow_abbrev=False
        )
        sub.set_defaults(command=run)
        return sub

    add_run_flags(command("run", _run, "Proxy the Services of some manifests until told to stop."))
    check = command("check", _check, "Validate manifests, and print what this machine can do.")
    add_run_flags(check)
    services = command("services", _services, "Print what a running proxy has programmed.")
    services.add_argument("-o", "--output", choices=("wide", "json"), help="more columns, or JSON")
    services.add_argument(
        "--address", default=METRICS_ADDRESS, metavar="IP:PORT", help="its metrics address (%(default)s)"
    )
    cleanup = command("cleanup", _cleanup, "Remove every rule, set and route that any run has left.")
    cleanup.add_argument(
        "--kube-proxy",
        action="store_true",
        help="and what kube-proxy has left: its tables, chains, ipsets and virtual servers, by their names",
    )
    demo = command("demo", _demo, "Proxy a Service with three local backends, without root.")
    demo.add_argument("--once", action="store_true", help="send requests, print who answered, and end")
    add_bench_flags(command("bench", _bench, "Measure what each path from a client to a pod costs."))
    add_run_flags(command("dns", _dns, "Answer the names of Services, without proxying them."))
    resolve = command("resolve", _resolve, "Print what a name would be answered, and from which object.")
    resolve.add_argument("name", metavar="NAME", help="a name, or an address")
    resolve.add_argument("-n", "--namespace", default="default", help="of who asks (default: %(default)s)")
    add_run_flags(resolve)
    command("version", _version, "Print the version.")
    return parser


def _on_uvloop(work: Coroutine[Any, Any, int]) -> int:
    import uvloop

    status: int = uvloop.run(work)
    return status


def _run(arguments: argparse.Namespace) -> int:
    settings, config = _settings(arguments)
    if parse_switch(arguments.cleanup):
        return _cleanup(arguments)
    if parse_switch(arguments.init_only):
        return _init_only(settings)
    choice, possible, first_port = _prepare(settings)
    return _on_uvloop(_serve(settings, choice, possible, first_port, config))


def _init_only(settings: Settings) -> int:
    """Try everything once with full privileges: the kernel loads the modules that the rules need, which
    a process with CAP_NET_ADMIN alone may not everywhere have it do."""
    from uproxy.handoff.choice import findings
    from uproxy.steering.probe import choose, probe

    found = asyncio.run(probe())
    print("\n".join([*found.lines(), *asyncio.run(findings())]))
    choice = choose(settings.capture, found, settings.redirect_mechanism)
    print(f"capture: {choice.capture} by {choice.mechanism}: {choice.reason}")
    return 0


def _prepare(settings: Settings) -> "tuple[Choice, Possible, int]":
    """What has to be done before there is a thread but this one: to look at the machine with all
    privileges, and then to give up those that are not needed any more."""
    from uproxy.app.handoff import handoff
    from uproxy.kit.logs import set_up_logging
    from uproxy.kit.privileges import Capability, keep_capabilities, set_oom_score_adj
    from uproxy.steering import iptables
    from uproxy.steering.probe import OK, Mechanism, choose, probe

    set_up_logging(settings.log_format, settings.verbosity)
    for note in settings.notes:
        _log.info("%s", note)
    found = asyncio.run(probe())
    if found.pod_links != OK:
        _log.warning("%s", found.pod_links)
    choice = choose(settings.capture, found, settings.redirect_mechanism)
    possible = asyncio.run(handoff(settings, choice))
    if settings.oom_score_adj is not None and (why := set_oom_score_adj(settings.oom_score_adj)):
        _log.info("oom_score_adj stays as it is: %s", why)
    kept = [Capability.NET_ADMIN, Capability.NET_BIND_SERVICE]
    raw_sockets = possible.raw_sockets or choice.mechanism is Mechanism.IPTABLES
    if raw_sockets or asyncio.run(iptables.is_left()):
        kept.append(Capability.NET_RAW)  # iptables matches ipsets, which takes a raw socket
    if settings.files or settings.kubeconfig:  # which may be somebody's private ones
        kept.append(Capability.DAC_READ_SEARCH)
    if why := keep_capabilities(*kept):
        _log.info("not all privileges could be given up: %s", why)
    return choice, possible, found.first_port


def _settings(
    arguments: argparse.Namespace, *, needs_sources: bool = True
) -> tuple[Settings, "ConfigFile | None"]:
    """What the flags say, and the file that they name."""
    surroundings = Surroundings(platform.node(), _in_cluster())
    if not arguments.config:
        return parse_settings(arguments, surroundings, needs_sources=needs_sources), None
    from uproxy.sources.config_file import ConfigFile

    config = ConfigFile(arguments.config)
    settings = parse_settings(arguments, surroundings, config.value(), needs_sources=needs_sources)
    return settings, config


def _in_cluster() -> bool:
    """Whether this is a Pod that has a service account, by the same signs as client-go's."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and _SERVICE_ACCOUNT_TOKEN.exists()


async def _serve(
    settings: Settings,
    choice: "Choice",
    possible: "Possible",
    first_port: int,
    config: "ConfigFile | None",
) -> int:
    from uproxy.app.handoff import under
    from uproxy.app.plan import served_plan, steering
    from uproxy.app.proxy import Proxy
    from uproxy.app.sources import Emit, cluster_sources, load_manifests

    emit = Emit()
    if settings.from_cluster:
        sources = cluster_sources(settings, emit)
    else:
        sources = load_manifests(settings, emit).sources()
    with steering(choice, take_over=settings.take_over) as (granted, turn):
        plan = served_plan(settings.service_cidr, granted, first_port)
        proxy = Proxy(settings, granted, plan, sources, emit, possible=under(granted, possible), turn=turn)
        await proxy.run(config)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from uproxy.app.check import check, check_cleanup

    settings, _ = _settings(arguments, needs_sources=False)
    if parse_switch(arguments.cleanup):
        check_cleanup(print)
    else:
        asyncio.run(check(settings, print))
    return 0


def _dns(arguments: argparse.Namespace) -> int:
    from uproxy.kit.logs import set_up_logging
    from uproxy.names import serve_names

    settings, _ = _settings(arguments)
    set_up_logging(settings.log_format, settings.verbosity)
    plan = _plan(settings)

    async def serve() -> int:
        await serve_names(settings, plan)
        return 0

    return _on_uvloop(serve())


def _resolve(arguments: argparse.Namespace) -> int:
    from uproxy.names import resolve

    settings, _ = _settings(arguments)
    print("\n".join(resolve(settings, _plan(settings), arguments.name, arguments.namespace)))
    return 0


def _plan(settings: Settings) -> "AddressPlan":
    """The addresses that `uproxy run` would serve on this machine."""
    from uproxy.app.plan import address_plan
    from uproxy.steering.probe import choose, probe

    found = asyncio.run(probe())
    choice = choose(settings.capture, found, settings.redirect_mechanism)
    return address_plan(settings.service_cidr, choice, found.first_port)


def _services(arguments: argparse.Namespace) -> int:
    import msgspec

    from uproxy.admin.client import fetch_services
    from uproxy.admin.table import table, wide_table

    try:
        address = parse_address(arguments.address)
    except ValueError as error:
        raise UproxyError(f"--address: {error}") from error
    rows = fetch_services(address)
    if arguments.output == "json":
        print(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
    else:
        print(wide_table(rows) if arguments.output == "wide" else table(rows))
    return 0


def _cleanup(arguments: argparse.Namespace) -> int:
    from uproxy.app.cleanup import cleanup
    from uproxy.kit.endings import finishing
    from uproxy.steering.cleanup import require_net_admin
    from uproxy.steering.lock import PATIENCE_S, SteeringLock

    with finishing():
        require_net_admin()
        lock = SteeringLock(PATIENCE_S)  # a running proxy's rules are not leftovers
        removed = asyncio.run(cleanup(kube_proxy=getattr(arguments, "kube_proxy", False)))
        lock.release()
    for what in removed:
        print(f"removed {what}")
    if not removed:
        print("nothing to remove")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from uproxy.demo import demo

    return _on_uvloop(demo(once=arguments.once))


def _bench(arguments: argparse.Namespace) -> int:
    try:
        from uproxy.bench.command import bench
    except ModuleNotFoundError as error:
        raise UproxyError(
            f"the benchmark needs the extra `bench`: pip install 'uproxy[bench]' ({error})"
        ) from error

    from uproxy.kit.endings import interrupting

    with interrupting():
        return bench(arguments)


def _version(_arguments: argparse.Namespace) -> int:
    from uproxy.dataplane.relay.native_relay import engine_or_reason

    reason = engine_or_reason()
    print(f"uproxy {__version__} (relay: {'native' if reason is None else f'python, {reason}'})")
    return 0
