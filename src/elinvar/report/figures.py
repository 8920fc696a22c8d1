"""The figures every engine draws: bars with confidence intervals, a roofline, a picture with axes."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

from elinvar.errors import InputError, MissingDependency

from . import png

__all__ = ["bars", "image_figure", "roofline_plot"]

_BLUE, _GREY, _ORANGE = "#2f7fc1", "#9aa5b1", "#e0792b"


def _graph_objects() -> Any:
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise MissingDependency("report: figures need plotly; install it with `pip install plotly`.") from error
    return go


def _short(value: float, unit: str) -> str:
    # Three figures; the thousands a person reads at a glance are not written as powers of ten.
    number = f"{value:,.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"
    return f"{number} {unit}".rstrip()


def bars(
    names: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float]] | None = None,
    *,
    unit: str = "s",
    title: str | None = None,
    highlight: str | Sequence[str] = (),
    labels: Sequence[str] | None = None,
    log: bool = False,
) -> Any:
    """Draw horizontal bars, one per name from top to bottom, with a whisker per interval.

    Parameters
    ----------
    names, values
        What was measured, in `unit`.
    intervals
        Confidence interval of each value, same unit.
    unit
        Written on the axis and behind each value.
    title
        Shown above.
    highlight
        Names drawn in colour when others should stand back; default: all.
    labels
        Written behind the bars instead of the values.
    log
        Logarithmic axis, for values that span decades; bars then start at a power of ten, so compare the labels.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    if any(given is not None and len(given) != len(names) for given in (values, intervals, labels)):
        raise InputError(f"bars: {len(names)} names, {len(values)} values; pass one value, interval, label per name.")
    if not names:
        raise InputError("bars: nothing to draw; pass at least one name and value.")
    if log and min(values) <= 0:
        raise InputError(f"bars: a logarithmic axis needs values > 0, got {min(values)!r}; use log=False.")
    chosen = {highlight} if isinstance(highlight, str) else set(highlight)
    colours = [_BLUE if not chosen or name in chosen else _GREY for name in names]
    go = _graph_objects()
    trace = go.Bar(
        x=list(values),
        y=list(names),
        orientation="h",
        error_x=None if intervals is None else _whiskers(values, intervals),
        marker={"color": colours, "cornerradius": 4},
        hovertemplate="%{y}: %{x:.4g} " + unit + "<extra></extra>",
    )
    ends = [high for _, high in intervals] if intervals else list(values)
    written = labels or [_short(value, unit if len(unit) <= 5 else "") for value in values]
    text = go.Scatter(
        x=[max(pair) for pair in zip(values, ends, strict=True)],
        y=list(names),
        mode="text",
        text=[f"  {label}" for label in written],
        textposition="middle right",
        cliponaxis=False,
        hoverinfo="skip",
    )
    layout = {
        "height": 110 + 42 * len(names),
        "bargap": 0.42,
        "showlegend": False,
        "xaxis": {"title": {"text": unit}, "showgrid": True, **_span(values, ends, log=log)},
        "yaxis": {"autorange": "reversed", "showgrid": False, "ticksuffix": "  "},
    }
    if title:
        layout["title"] = {"text": title, "x": 0.01, "font": {"size": 16}}
    return go.Figure([trace, text], layout)


def _whiskers(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return error bars from each value to the ends of its interval."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, high - value) for value, (_, high) in zip(values, intervals, strict=True)],
        "arrayminus": [max(0.0, value - low) for value, (low, _) in zip(values, intervals, strict=True)],
        "thickness": 1.5,
        "width": 5,
        "color": "#7d8894",
    }


def _span(values: Sequence[float], ends: Sequence[float], *, log: bool) -> dict[str, Any]:
    """Return what an axis of bars spans, with room for the labels behind them."""
    if not log:
        return {"range": [min(0.0, *values), 1.18 * max(*ends, 0.0) or 1.0], "rangemode": "tozero"}
    low, high = math.floor(math.log10(min(values)) - 0.3), math.log10(max(ends))
    return {"type": "log", "dtick": 1, "range": [low, high + 0.25 * (high - low)]}


def roofline_plot(
    copy_gbps: float,
    ceilings: Mapping[str, float | None],
    points: Sequence[Mapping[str, Any]] = (),
    *,
    title: str | None = None,
) -> Any:
    """Draw the roofline: attainable GFLOP/s over arithmetic intensity (Williams, Waterman, Patterson, 2009).

    Parameters
    ----------
    copy_gbps
        Measured memory bandwidth, GB/s: the slanted roof.
    ceilings
        Name to measured GFLOP/s: the flat roofs; None entries are left out.
    points
        Mappings with ``name``, ``intensity`` (operations per byte) and ``gflops``.
    title
        Shown above.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    flats = {name: rate for name, rate in ceilings.items() if rate}
    if copy_gbps <= 0 or not flats:
        raise InputError(f"roofline_plot: needs a bandwidth > 0 and a ceiling, got {copy_gbps!r} and {dict(ceilings)}.")
    usable = [p for p in points if p["intensity"] > 0 and p["gflops"] > 0]
    ridge = max(flats.values()) / copy_gbps
    low = min([p["intensity"] for p in usable] + [0.1]) / 2
    high = max([p["intensity"] for p in usable] + [ridge]) * 4
    middle = math.sqrt(low * high)
    go = _graph_objects()
    traces = []
    for index, (name, rate) in enumerate(sorted(flats.items(), key=lambda item: item[1])):
        knee = rate / copy_gbps
        traces.append(
            go.Scatter(
                x=[min(low, knee), knee, high],
                y=[copy_gbps * min(low, knee), rate, rate],
                mode="lines",
                line={"color": [_GREY, _ORANGE, "#8a6fd1"][index % 3], "width": 2},
                name=f"{name} {rate:,.0f} GFLOP/s",
                hoverinfo="name",
            )
        )
    if usable:
        traces.append(
            go.Scatter(
                x=[p["intensity"] for p in usable],
                y=[p["gflops"] for p in usable],
                text=[str(p["name"]) for p in usable],
                mode="markers+text" if len(usable) <= 8 else "markers",
                textposition=["bottom left" if p["intensity"] > middle else "bottom right" for p in usable],
                marker={"size": 11, "color": _BLUE, "line": {"width": 1.5, "color": "#ffffff"}},
                name="measured",
                hovertemplate="%{text}<br>%{x:.3g} operations/byte<br>%{y:.4g} GFLOP/s<extra></extra>",
            )
        )
    layout = {
        "height": 460,
        "showlegend": True,
        "xaxis": {"type": "log", "title": {"text": "operations per byte"}, "dtick": 1},
        "yaxis": {"type": "log", "title": {"text": "GFLOP/s"}, "dtick": 1},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    }
    if title:
        layout["title"] = {"text": title, "x": 0.01, "font": {"size": 16}}
    return go.Figure(traces, layout)


def image_figure(
    image: Any,
    *,
    x: tuple[float, float],
    y: tuple[float, float],
    xlabel: str,
    ylabel: str,
    colours: str = "gray",
    limits: tuple[float, float] | None = None,
    height: int = 420,
    title: str | None = None,
) -> Any:
    """Draw an array as a picture with axes; far lighter than a heat map of the same size.

    Parameters
    ----------
    image
        (height, width) of numbers, coloured as in `Page.image`; row 0 is at ``y[0]``, shown at the top.
    x, y
        Coordinates of the first and last column, and of the first and last row.
    xlabel, ylabel
        With units: "distance (m)", "two-way time (s)".

    Returns
    -------
    plotly.graph_objects.Figure
    """
    body = png.colour(image, colours, limits)
    width, rows = png.size(body)
    # The outermost samples are centred on their coordinates, so the picture reaches half a sample beyond.
    dx, dy = ((b - a) / max(n - 1, 1) or 1.0 for (a, b), n in ((x, width), (y, rows)))
    left, right, top, bottom = x[0] - dx / 2, x[1] + dx / 2, y[0] - dy / 2, y[1] + dy / 2
    go = _graph_objects()
    frame = go.Scatter(x=[left, right], y=[top, bottom], mode="markers", marker={"opacity": 0}, hoverinfo="skip")
    picture = {
        "source": "data:image/png;base64," + base64.b64encode(body).decode("ascii"),
        "xref": "x",
        "yref": "y",
        "x": left,
        "y": top,
        "sizex": abs(right - left),
        "sizey": abs(bottom - top),
        "sizing": "stretch",
        "layer": "below",
    }
    layout = {
        "height": height,
        "showlegend": False,
        "images": [picture],
        "xaxis": {"range": [left, right], "title": {"text": xlabel}, "showgrid": False, "zeroline": False},
        "yaxis": {"range": [bottom, top], "title": {"text": ylabel}, "showgrid": False, "zeroline": False},
    }
    if title:
        layout["title"] = {"text": title, "x": 0.01, "font": {"size": 16}}
    return go.Figure([frame], layout)
