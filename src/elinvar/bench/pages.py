"""A benchmark result as one HTML page: bars with intervals, the roofline, every statistic, and how far to trust it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from elinvar.report import Page, bars, roofline_plot

from . import words
from .results import Comparison, Result
from .samples import Samples

__all__ = ["page"]

_HOW = """
Each bar is the **median** of all samples, the whisker its 95 % confidence interval (order statistics; no distribution
is assumed). Nothing is dropped: the JSON file beside this page keeps every sample.

- **of yardstick**: the time a perfect program would need at the speed a STREAM triad and a matrix product reached in
  the same process just before and after, over the median. Data that fits a cache can exceed 100 %.
- **remarks** say when other programs used more than 5 % of the CPU, or when the machine's own speed moved by more than
  10 % during the samples. Such a row proves nothing.
- Times of different machines are never compared, by this page or by `elinvar bench compare`.
"""


def _spans_decades(samples: Mapping[str, Samples]) -> bool:
    medians = [s.median for s in samples.values()]
    return max(medians) > 50 * min(medians)


def _bars(samples: Mapping[str, Samples]) -> Any:
    scale, unit = words.unit_for(max(s.median for s in samples.values()))
    return bars(
        list(samples),
        [s.median / scale for s in samples.values()],
        [(s.interval[0] / scale, s.interval[1] / scale) for s in samples.values()],
        unit=unit,
        labels=[words.duration(s.median) for s in samples.values()],
        log=_spans_decades(samples),
    )


def _ceilings(result: Result) -> tuple[float, dict[str, float | None]] | None:
    """Bandwidth and matmul rates: a measured roofline when the result carries one, else its yardsticks."""
    roof = result.extras.get("roofline")
    if isinstance(roof, Mapping):
        return float(roof["copy_gbps"]), {"fp32": roof["f32_gflops"], "bf16": roof["bf16_gflops"]}
    marks = [mark for s in result.samples.values() for mark in (s.before, s.after) if mark is not None]
    if not marks:
        return None
    rates: dict[str, float | None] = {}
    for dtype in sorted({mark.dtype for mark in marks}):
        rates[dtype] = statistics.median(mark.gemm_gflops for mark in marks if mark.dtype == dtype)
    return statistics.median(mark.triad_gbps for mark in marks), rates


def _points(samples: Mapping[str, Samples]) -> list[dict[str, Any]]:
    return [
        {"name": name, "intensity": s.work.flops / s.work.bytes, "gflops": s.work.flops / s.median / 1e9}
        for name, s in samples.items()
        if s.work is not None and s.work.flops and s.work.bytes
    ]


def _unbroken(row: Mapping[str, str]) -> dict[str, str]:
    """Keep numbers and their units on one line."""
    free = {"remarks"}
    return {key: value if key in free else value.replace(" ", "\u00a0") for key, value in row.items()}


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _roofline(out: Page, result: Result) -> None:
    ceilings = _ceilings(result)
    if ceilings is None or ceilings[0] <= 0 or not any(ceilings[1].values()):
        return
    out.section("Roofline", "What this machine could do, measured in the same process, and how close each row comes.")
    points = _points(result.samples)
    rates = ", ".join(f"{name} {value:,.0f} GFLOP/s" for name, value in ceilings[1].items() if value)
    tail = "" if points else " No row states both operations and bytes, so there is no point to draw."
    out.figure(roofline_plot(*ceilings, points), f"Memory {ceilings[0]:,.1f} GB/s; matrix product {rates}.{tail}")


def _verdicts(out: Page, comparison: Comparison) -> None:
    out.section("Against the baseline", "How this run stands to the one before it on the same machine.")
    out.table(
        [
            {
                "what": name,
                "verdict": verdict.word,
                "time ratio": verdict.ratio,
                "95 % interval": f"{verdict.interval[0]:.3f}–{verdict.interval[1]:.3f}",
                "why": verdict.why,
            }
            for name, verdict in comparison.verdicts.items()
        ],
        "A ratio above one is slower.",
    )


def page(result: Result, comparison: Comparison | None = None) -> Page:
    """Return the page of a result, with verdicts when it was compared with an earlier one."""
    where = result.machine.get("name", "unknown machine")
    when = result.created.replace("T", " ").replace("+00:00", " UTC") or "unknown time"
    when += f", commit {result.commit or 'unknown'}"
    out = Page(f"Benchmark: {result.name}", f"{where}. {when}.", f"Written by `elinvar bench {result.name}`.")
    out.section("Times")
    contended = [name for name, s in result.samples.items() if s.contended]
    if contended:
        which = ", ".join(f"`{name}`" for name in contended) if len(contended) <= 4 else "the rows with remarks"
        out.note(f"The machine was not quiet: do not quote {which}. Run again when it is.")
    axis = " The axis is logarithmic." if _spans_decades(result.samples) else ""
    out.figure(_bars(result.samples), f"Median time per call with its 95 % confidence interval; less is better.{axis}")
    rows = [_unbroken(words.row(s)) for s in result.samples.values()]
    empty = {key for key in rows[0] if not any(row[key] for row in rows)} if rows else set()
    out.table([{key: value for key, value in row.items() if key not in empty} for row in rows])
    _roofline(out, result)
    if comparison is not None and comparison.verdicts:
        _verdicts(out, comparison)
    tables = words.facts(result.extras)
    if tables:
        out.section("Findings", "What the benchmark worked out beside the times.")
    for title, lines in tables.items():
        out.table(lines, title)
    out.section("How to read this")
    out.text(_HOW)
    out.section("Machine")
    single = {key: value for key, value in result.extras.items() if not words.facts({key: value})}
    facts = {**result.machine, **{f"result: {key}": value for key, value in single.items()}}
    out.table([{"": key.replace("_", " "), "value": _plain(value)} for key, value in facts.items()])
    return out
