"""Starting what is measured on the lab's node, and ending it in good order.

Each function is a context manager over one configuration. Refuses to measure anything.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import http_get, wait_until
from uproxy.errors import CommandFailed
from uproxy.kit.lab import Host

HEALTHZ_PORT = 10256
METRICS_PORT = 10249
NGINX_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

_REPOSITORY = Path(__file__).parents[1]
_END_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Forward:
    """A port of the node that leads to `ip`:`port` of a backend."""

    listen: int
    ip: str
    port: int


@contextmanager
def running(host: Host, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon inside `host`, for the length of the block.

    Raises CommandFailed, with its last words, when it was gone before the block's end.
    """
    with TemporaryDirectory() as directory:
        log = Path(directory, "log")
        with log.open("wb") as output:
            process = host.exec(
                *argv, cwd=_REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            yield process
        finally:
            if process.poll() is not None:
                raise _last_words(argv[0], process.returncode, log)
            _end(process)


def haproxy_config(forwards: list[Forward], *, tuned: bool) -> str:
    """HAProxy on one thread, as installed or `tuned` for bulk: larger buffers and forced splice."""
    lines = ["global", "  nbthread 1", *(["  tune.bufsize 131072"] if tuned else [])]
    lines += ["defaults", "  mode tcp", "  timeout connect 5s"]
    lines += ["  timeout client 1h", "  timeout server 1h"]
    lines += ["  option splice-request", "  option splice-response"] if tuned else []
    for forward in forwards:
        lines += [f"listen on{forward.listen}", f"  bind :{forward.listen}"]
        lines += [f"  server pod {forward.ip}:{forward.port}"]
    return "\n".join(lines) + "\n"


@contextmanager
def haproxy(host: Host, forwards: list[Forward], *, tuned: bool) -> Iterator[subprocess.Popen[bytes]]:
    """HAProxy in the foreground (-db), one process and one thread."""
    with TemporaryDirectory() as directory:
        config = Path(directory, "haproxy.cfg")
        config.write_text(haproxy_config(forwards, tuned=tuned))
        with running(host, _program("haproxy"), "-db", "-f", str(config)) as process:
            yield process


def nginx_config(forwards: list[Forward], directory: str) -> str:
    """nginx's stream proxy in a single process."""
    load = f"load_module {NGINX_STREAM_MODULE};\n" if NGINX_STREAM_MODULE.exists() else ""
    servers = "\n".join(
        f"  server {{ listen {forward.listen}; proxy_pass {forward.ip}:{forward.port}; }}"
        for forward in forwards
    )
    return (
        f"{load}daemon off;\nmaster_process off;\nworker_processes 1;\n"
        f"pid {directory}/pid;\nerror_log stderr;\n"
        f"events {{ worker_connections 8192; }}\nstream {{\n{servers}\n}}\n"
    )


@contextmanager
def nginx(host: Host, forwards: list[Forward]) -> Iterator[subprocess.Popen[bytes]]:
    """Run nginx stream in the foreground, without its master process."""
    with TemporaryDirectory() as directory:
        config = Path(directory, "nginx.conf")
        config.write_text(nginx_config(forwards, directory))
        argv = (_program("nginx"), "-e", "stderr", "-c", str(config))
        with running(host, *argv) as process:
            yield process


@contextmanager
def dnat(host: Host, vip: str, forwards: list[Forward]) -> Iterator[None]:
    """Let the kernel alone translate VIP:port, with one rule for each port."""
    rules = "\n".join(
        f"ip daddr {vip} tcp dport {forward.listen} dnat to {forward.ip}:{forward.port}"
        for forward in forwards
    )
    host.run(
        _program("nft"),
        "-f",
        "-",
        input="table ip bench {\nchain prerouting {\ntype nat hook prerouting priority -100;\n"
        f"{rules}\n}}\n}}\n",
    )
    try:
        yield
    finally:
        host.run(_program("nft"), "delete", "table", "ip", "bench")


@contextmanager
def uproxy(
    host: Host, manifest: Path, capture: str, *, ready_timeout_s: float = 30
) -> Iterator[subprocess.Popen[bytes]]:
    """Run this checkout's uproxy; the block begins once healthz answers 200."""
    argv = [sys.executable, "-m", "uproxy", "run", "-f", str(manifest), "--capture", capture]
    argv += ["--healthz-bind-address", f"127.0.0.1:{HEALTHZ_PORT}"]
    argv += ["--metrics-bind-address", f"127.0.0.1:{METRICS_PORT}"]
    with running(host, *argv) as process:

        def ready() -> bool:
            if process.poll() is not None:
                raise CommandFailed("uproxy ended before it was ready")
            return http_get(host, HEALTHZ_PORT, "/healthz")[0] == 200

        wait_until(ready, "uproxy's healthz", timeout_s=ready_timeout_s)
        yield process


def _program(name: str) -> str:
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin")
    if path is None:
        raise CommandFailed(f"{name} is not installed")
    return path


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_words(program: str, status: int, log: Path) -> CommandFailed:
    words = log.read_text(errors="replace").strip().splitlines()[-15:]
    return CommandFailed("\n  ".join([f"{program} ended by itself, status {status}:", *words]))
