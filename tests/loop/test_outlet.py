"""Log lines into a pipe that nobody reads, a full disk, a closed descriptor; and what the end does then."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.loop.rig import until
from uproxy.kit.logs import JsonFormatter, TextFormatter
from uproxy.kit.outlet import Outlet

PROGRAM = """
import logging, sys
from uproxy.kit.logs import set_up_logging, lines_dropped
set_up_logging("text")
for number in range(15_000):
    logging.getLogger("uproxy").info("line %d %s", number, "x" * 100)
print(lines_dropped(), flush=True)
raise SystemExit("last words")
"""


def lost(count: int) -> str:
    return f"{count} lost\n"


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    for end in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(end)


def read_all(reader: int) -> str:
    found = b""
    while True:
        try:
            piece = os.read(reader, 1 << 16)
        except BlockingIOError:
            return found.decode()
        if not piece:
            return found.decode()
        found += piece


async def test_lines_come_out_in_their_order_and_the_thread_goes(pipe):
    outlet = Outlet(pipe[1], lost)
    for number in range(1000):
        outlet.put(f"{number}\n")
    outlet.flush()
    assert read_all(pipe[0]) == "".join(f"{number}\n" for number in range(1000))
    await until(lambda: "log" not in {thread.name for thread in threading.enumerate()})


async def test_what_nobody_takes_is_counted_and_told_when_it_goes_on(pipe):
    outlet = Outlet(pipe[1], lost, most_bytes=20_000)
    for _ in range(30_000):
        outlet.put("nobody reads this\n")
    assert outlet.dropped > 20_000
    found, again = "", 0
    while not found.endswith("again\n"):
        outlet.put("again\n")
        again += 1
        found += read_all(pipe[0])
        outlet.flush(0.1)
        found += read_all(pipe[0])
    lines = found.splitlines()
    assert lines.count("nobody reads this") + lines.count("again") + outlet.dropped == 30_000 + again
    assert sum(int(line.split()[0]) for line in lines if line.endswith("lost")) == outlet.dropped


async def test_a_reader_that_has_gone_costs_lines_and_no_more(pipe):
    outlet = Outlet(pipe[1], lost)
    os.close(pipe[0])
    for number in range(10):
        outlet.put(f"{number}\n")
        outlet.flush()
    assert outlet.dropped >= 10


@pytest.mark.parametrize("where", ["unread", "closed", "/dev/full"])
def test_a_process_ends_whoever_reads_its_log(where, tmp_path):
    reader, writer = os.pipe()
    command = [sys.executable, "-c", PROGRAM]
    errors = writer if where == "unread" else subprocess.DEVNULL
    if where == "closed":
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(  # noqa: TID251
            command, stdout=subprocess.PIPE, stderr=full if where == "/dev/full" else errors,
            timeout=50, check=False, cwd=Path(__file__).parents[2],
        )  # fmt: skip
    os.close(reader)
    os.close(writer)
    assert done.returncode == 1
    assert int(done.stdout) > 1000 or where == "closed"


def record(text: str, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("uproxy", logging.INFO, "", 0, text, None, None)
    made.fields = fields
    return made


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_no_name_can_say_anything_to_a_terminal_or_begin_a_line(formatter):
    evil = "".join(map(chr, range(0xA0))) + "\u2028\u202e\ufeff\ud800\n\r\x1b[31mred"
    line = formatter.format(record(f"service {evil}", client=evil, service=evil))
    assert line.isprintable()
    try:
        raise ValueError(evil)
    except ValueError:
        with_trace = record("x")
        with_trace.exc_info = sys.exc_info()
    assert all(each.isprintable() for each in formatter.format(with_trace).split("\n"))
