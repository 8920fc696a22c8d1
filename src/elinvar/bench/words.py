"""Numbers as people read them: durations, rates, and one table row per sample set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .samples import Samples

__all__ = ["duration", "facts", "interval", "rate", "row", "unit_for"]

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def unit_for(seconds: float) -> tuple[float, str]:
    """Return (seconds per unit, unit) that writes `seconds` as a number of at least one, where possible."""
    for scale, unit in _UNITS:
        if seconds >= scale:
            return scale, unit
    return _UNITS[-1]


def duration(seconds: float) -> str:
    """Write a duration with four digits: ``1.234 ms``."""
    scale, unit = unit_for(seconds)
    return f"{seconds / scale:.4g} {unit}"


def interval(bounds: tuple[float, float]) -> str:
    """Write an interval in the unit of its upper end: ``1.21–1.26 ms``."""
    scale, unit = unit_for(bounds[1])
    return f"{bounds[0] / scale:.4g}–{bounds[1] / scale:.4g} {unit}"


def rate(samples: Samples) -> str:
    """Write what was achieved per second at the median: items, else GFLOP/s or GB/s; empty without work.

    Work that computes less than one operation per byte is bound by memory: its rate is GB/s.
    """
    work = samples.work
    if work is None:
        return ""
    if work.items:
        value = work.items / samples.median
        for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
            if value >= scale:
                return f"{value / scale:.3g} {prefix} {work.unit}/s"
        return f"{value:.3g} {work.unit}/s"
    if work.flops and work.flops >= work.bytes:
        return f"{work.flops / samples.median / 1e9:.4g} GFLOP/s"
    return f"{work.bytes / samples.median / 1e9:.4g} GB/s" if work.bytes else ""


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value)
    return "" if value is None else str(value)


def facts(extras: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Return what a benchmark found beside its times, as tables by their titles: what is a table, not single values."""
    found = {}
    for title, value in extras.items():
        if _is_rows(value):
            found[title] = [{key: _cell(cell) for key, cell in line.items()} for line in value]
        elif isinstance(value, Mapping) and value and all(_is_rows(rows) for rows in value.values()):
            for name, rows in value.items():
                found[f"{title}: {name}"] = [{key: _cell(cell) for key, cell in line.items()} for line in rows]
        elif isinstance(value, Mapping) and value and all(isinstance(line, Mapping) for line in value.values()):
            found[title] = [
                {"": str(name), **{str(key): _cell(cell) for key, cell in line.items()}} for name, line in value.items()
            ]
    return found


def _is_rows(value: object) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(line, Mapping) for line in value)


def row(samples: Samples) -> dict[str, str]:
    """Return one line of a table: name, median, interval, extremes, spread, rate, share of the roofline, remarks."""
    percent = samples.percent_of_roofline
    return {
        "what": samples.name,
        "median": duration(samples.median),
        "95 % interval": interval(samples.interval),
        "min": duration(samples.min),
        "max": duration(samples.max),
        "std": f"{100 * samples.std / samples.mean:.1f} %",
        "runs": str(len(samples)),
        "rate": rate(samples),
        "of yardstick": "" if percent is None else f"{percent:.0f} %",
        "remarks": "; ".join(samples.concerns),
    }
