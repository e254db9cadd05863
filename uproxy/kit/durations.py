"""Durations as kube-proxy's flags write them: 250ms, 30s, 5m, 1h30m."""

import re

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|\u00b5s|ms|s|m|h)")


def parse_duration_s(text: str) -> float:
    """Seconds in `text`; a bare number counts as seconds.

    Raises ValueError for anything else, negative durations included.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 250ms, 30s or 1h30m")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)
