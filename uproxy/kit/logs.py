"""Log lines: text for people, JSON for machines."""

import json
import logging
import sys
from datetime import UTC, datetime


class TextFormatter(logging.Formatter):
    """`20:48:49 info  ready: 12 Services`; fields follow as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback, if there is one, on the lines after it."""
        at = datetime.fromtimestamp(record.created, UTC).astimezone()
        fields = "".join(f" {key}={value}" for key, value in _fields(record).items())
        line = f"{at:%H:%M:%S} {record.levelname.lower():7} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339), level, message, and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {"time": at, "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry | _fields(record), ensure_ascii=False)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What the caller passed as `extra={"fields": {...}}`."""
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


DEBUG_VERBOSITY = 4
"""From here on klog's `-v` is said to be for debugging."""


def set_up_logging(log_format: str, verbosity: int = 0) -> None:
    """Send every log line to standard error; our own debug lines too when `verbosity` is 4 or more."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("uproxy").setLevel(logging.DEBUG if verbosity >= DEBUG_VERBOSITY else logging.INFO)
