"""Log lines: text for people, JSON for machines. Nobody waits for them to be written (`outlet`)."""

import json
import logging
import sys
from datetime import UTC, datetime

from uproxy.kit.outlet import Outlet, OutletStream, take_over_stderr
from uproxy.kit.printable import printable


class TextFormatter(logging.Formatter):
    """`20:48:49 info  ready: 12 Services`; fields follow as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback, if there is one, on the lines after it."""
        at = datetime.fromtimestamp(record.created, UTC).astimezone()
        fields = "".join(f" {key}={value}" for key, value in _fields(record).items())
        line = f"{at:%H:%M:%S} {record.levelname.lower():7} {printable(record.getMessage() + fields)}"
        if record.exc_info:
            line += "".join(
                f"\n{printable(each)}" for each in self.formatException(record.exc_info).split("\n")
            )
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339), level, message, and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {"time": at, "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        line = json.dumps(entry | _fields(record), ensure_ascii=False)
        return line if line.isprintable() else json.dumps(entry | _fields(record))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What the caller passed as `extra={"fields": {...}}`."""
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


DEBUG_VERBOSITY = 4
"""From here on klog's `-v` is said to be for debugging."""


class _Handler(logging.Handler):
    """Passes lines on."""

    def __init__(self, outlet: Outlet) -> None:
        super().__init__()
        self._outlet = outlet

    def emit(self, record: logging.LogRecord) -> None:
        """Format now, write later. What cannot be formatted is a mistake of ours, and no reason to end."""
        try:
            self._outlet.put(f"{self.format(record)}\n")
        except Exception:  # noqa: BLE001 - as logging's own handlers
            self.handleError(record)


def set_up_logging(log_format: str, verbosity: int = 0) -> None:
    """Send every log line to standard error; our own debug lines too when `verbosity` is 4 or more."""
    formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    outlet = take_over_stderr(lambda count: _lost(formatter, count))
    handler = _Handler(outlet)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("uproxy").setLevel(logging.DEBUG if verbosity >= DEBUG_VERBOSITY else logging.INFO)


def lines_dropped() -> int:
    """How many lines nobody took, since the start."""
    return sys.stderr.outlet.dropped if isinstance(sys.stderr, OutletStream) else 0


def _lost(formatter: logging.Formatter, count: int) -> str:
    text = f"{count} log lines were dropped: nobody took them"
    return formatter.format(logging.LogRecord("uproxy", logging.WARNING, "", 0, text, None, None)) + "\n"
