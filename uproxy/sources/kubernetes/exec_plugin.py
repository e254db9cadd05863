"""Credentials from a program that a kubeconfig names (client.authentication.k8s.io, `exec`).

Owns running it, reading what it says, and that neither it nor what it has started outlives us: it has a
process group of its own, which is killed with it, and the kernel kills it when the thread that waits for it
is gone, however this process ended. Not the ExecProvider of the package `kubernetes`: that one
does not say why a plugin failed, blocks when one writes much to standard error, and leaves one that
hangs behind.
"""

import asyncio
import atexit
import ctypes
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct, field

_PR_SET_PDEATHSIG = 1
_running: set[int] = set()
"""Process groups."""


class _Variable(Struct):
    name: str
    value: str = ""


class _Plugin(Struct, rename="camel"):
    command: str
    api_version: str
    args: list[str] | None = None
    env: list[_Variable] | None = None
    install_hint: str = ""


class PluginStatus(Struct, rename="camel"):
    """`status` of an ExecCredential: a token, or a certificate with its key, both as PEM text."""

    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expires: datetime | None = field(default=None, name="expirationTimestamp")


class _ExecCredential(Struct, rename="camel"):
    api_version: str
    status: PluginStatus


async def run_plugin(given: object, base: Path) -> PluginStatus:
    """Run the program of a user's `exec` field; a relative path with a slash starts at `base`.

    Raises ValueError when it fails, or says something else than credentials. A program that is
    still running when this is cancelled is killed.
    """
    try:
        plugin = msgspec.convert(given, _Plugin)
    except msgspec.ValidationError as error:
        raise ValueError(f"exec: {error}") from error
    command = str(base / plugin.command) if "/" in plugin.command else plugin.command
    try:
        output = await _output(command, plugin)
    except OSError as error:
        raise ValueError(
            f"exec plugin {command}: {error.strerror}. {plugin.install_hint}".rstrip(". ")
        ) from error
    try:
        credential = msgspec.json.decode(output, type=_ExecCredential)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise ValueError(f"exec plugin {command}: its output is no ExecCredential: {error}") from error
    return _checked(command, plugin, credential)


async def _output(command: str, plugin: _Plugin) -> bytes:
    info = {
        "apiVersion": plugin.api_version,
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }
    added = {variable.name: variable.value for variable in plugin.env or ()}
    added["KUBERNETES_EXEC_INFO"] = msgspec.json.encode(info).decode()
    starting = asyncio.create_subprocess_exec(
        command,
        *(plugin.args or ()),
        env=os.environ | added,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,  # as all that is run: see kit/commands.py
        preexec_fn=_die_with_us(),
    )
    process = await _started(starting)
    _running.add(process.pid)
    try:
        output, words = await process.communicate()
    finally:
        _running.discard(process.pid)
        _kill(process.pid)
        await process.wait()
    if process.returncode:
        last = words.decode(errors="replace").strip().splitlines()[-1:] or ["no words"]
        raise ValueError(f"exec plugin {command}: exit {process.returncode}: {last[0]}")
    return output


async def _started(starting: Coroutine[object, object, Process]) -> Process:
    """The process. Cancelled half-way, it is ended with all that it has started: asyncio ends the plugin
    alone, and waits for pipes that the others hold."""
    task = asyncio.ensure_future(starting)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(OSError):
            process = await task
            _kill(process.pid)
            await process.wait()
        raise


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


@atexit.register
def _kill_all() -> None:
    """The thread that waits for one is not waited for."""
    for group in _running:
        _kill(group)


def _die_with_us() -> Callable[[], object]:
    """For the child, before it is the plugin: one system call, and nothing of Python's."""
    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _checked(command: str, plugin: _Plugin, credential: _ExecCredential) -> PluginStatus:
    status = credential.status
    if credential.api_version != plugin.api_version:
        raise ValueError(
            f"exec plugin {command}: says {credential.api_version}, and {plugin.api_version} is asked for"
        )
    if not status.token and not (status.client_certificate_data and status.client_key_data):
        raise ValueError(f"exec plugin {command}: gave neither a token nor a certificate with its key")
    return status
