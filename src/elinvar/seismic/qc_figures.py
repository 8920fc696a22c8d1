"""The figures of a QC report: sections, maps, curves, a rose. Every axis has a unit; times are milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.report import image_figure

from ._check import optional_library

__all__ = ["CLIP", "Shown", "clip", "curves", "histogram", "picture", "points", "rose", "shown"]

Floats = NDArray[np.float64]

CLIP = 99.0
"""Percentile of the amplitude's magnitude that the colours end at."""
_MOST_COLUMNS, _MOST_ROWS = 1200, 1000


def clip(values: ArrayLike, percent: float = CLIP) -> tuple[float, float]:
    """Return colour limits around zero that leave out the strongest `100 - percent` per cent."""
    top = float(np.percentile(np.abs(values), percent)) or float(np.abs(values).max(initial=0.0)) or 1.0
    return -top, top


@dataclass(frozen=True, eq=False)
class Shown:
    """A section or map reduced to what a screen can show.

    Attributes
    ----------
    values
        (rows, columns), row 0 at the top.
    x, y
        Coordinates of the first and last column and row.
    note
        What was done to it, for the caption; empty when nothing was.
    """

    values: Floats
    x: tuple[float, float]
    y: tuple[float, float]
    note: str


def shown(values: ArrayLike, x: ArrayLike, y: ArrayLike) -> Shown:
    """Reduce a picture (rows, columns) with coordinates `x` (columns) and `y` (rows) by averaging whole samples."""
    a = np.asarray(values, np.float64)
    across, down = np.asarray(x, np.float64), np.asarray(y, np.float64)
    factors = [-(-n // most) for n, most in zip(a.shape, (_MOST_ROWS, _MOST_COLUMNS), strict=True)]
    for axis, factor in enumerate(factors):
        a = _mean(a, axis, factor)
    down, across = _mean(down, 0, factors[0]), _mean(across, 0, factors[1])
    note = "" if factors == [1, 1] else f" Shown reduced: means of {factors[1]} x {factors[0]} samples."
    return Shown(a, (float(across[0]), float(across[-1])), (float(down[0]), float(down[-1])), note)


def _mean(a: Floats, axis: int, factor: int) -> Floats:
    """Average neighbours along an axis; a last, shorter group is the mean of what there is."""
    if factor == 1:
        return a
    starts = np.arange(0, a.shape[axis], factor)
    sizes = np.diff(np.append(starts, a.shape[axis]))
    shape = [-1 if k == axis else 1 for k in range(a.ndim)]
    return np.asarray(np.add.reduceat(a, starts, axis=axis) / sizes.reshape(shape), np.float64)


def picture(
    what: Shown,
    xlabel: str,
    ylabel: str,
    *,
    colours: str = "seismic",
    limits: tuple[float, float] | None = None,
    height: int = 420,
    bar: str | None = None,
    square: bool = False,
    lines: tuple[tuple[str, Floats, Floats], ...] = (),
) -> Any:
    """Draw a section or map; `bar` is the colour bar's title with its unit, `lines` (name, x, y) are drawn over it."""
    ends = limits if limits is not None else clip(what.values)
    figure = image_figure(
        what.values, x=what.x, y=what.y, xlabel=xlabel, ylabel=ylabel, colours=colours, limits=ends, height=height
    )
    if bar is not None:
        _colour_bar(figure, colours, ends, bar)
    for k, (name, x, y) in enumerate(lines):
        colour = ("#e0792b", "#2e9e77", "#c8578f")[k % 3]
        figure.add_scatter(x=x, y=y, mode="lines", name=name, line={"color": colour, "width": 2.5})
    if square:
        figure.update_yaxes(scaleanchor="x", scaleratio=1)
    return figure


def _colour_bar(figure: Any, colours: str, limits: tuple[float, float], title: str) -> None:
    """Add a colour bar with the picture's own palette: an invisible marker carries it."""
    from elinvar.report import png

    anchors = png.COLOURS[colours]
    scale = [[k / (len(anchors) - 1), f"#{colour}"] for k, colour in enumerate(anchors)]
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        hoverinfo="skip",
        marker={
            "color": [limits[0]],
            "cmin": limits[0],
            "cmax": limits[1],
            "colorscale": scale,
            "showscale": True,
            "colorbar": {
                "title": {"text": title, "side": "right", "font": {"size": 13}},
                "thickness": 12,
                "len": 1.0,
                "outlinewidth": 0,
            },
        },
    )


def _figure(layout: dict[str, Any]) -> Any:
    return optional_library("plotly.graph_objects", "qc_report").Figure([], layout)


def curves(
    lines: Sequence[tuple[str, ArrayLike, ArrayLike]],
    xlabel: str,
    ylabel: str,
    *,
    down: bool = False,
    height: int = 420,
    xrange: tuple[float, float] | None = None,
    yrange: tuple[float, float] | None = None,
) -> Any:
    """Draw curves (name, x, y); `down` makes y grow downwards, as time does."""
    figure = _figure(
        {
            "height": height,
            "xaxis": {"title": {"text": xlabel}},
            "yaxis": {"title": {"text": ylabel}, **({"autorange": "reversed"} if down else {})},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "showlegend": len(lines) > 1,
        }
    )
    for name, x, y in lines:
        figure.add_scatter(x=np.asarray(x).tolist(), y=np.asarray(y).tolist(), mode="lines", name=name)
    if xrange is not None:
        figure.update_xaxes(range=list(xrange))
    if yrange is not None:
        figure.update_yaxes(range=list(yrange))
    return figure


def histogram(counts: ArrayLike, edges: ArrayLike, xlabel: str, ylabel: str) -> Any:
    """Draw counts between edges."""
    e = np.asarray(edges, np.float64)
    figure = _figure({"height": 340, "bargap": 0.02, "xaxis": {"title": {"text": xlabel}}, "showlegend": False})
    middle, width = 0.5 * (e[1:] + e[:-1]), np.diff(e)
    unit = xlabel.rpartition("(")[2].rstrip(")")
    figure.add_bar(
        x=middle.tolist(),
        y=np.asarray(counts).tolist(),
        width=width.tolist(),
        hovertemplate="%{x:.0f} " + unit + ": %{y:,}<extra></extra>",
    )
    figure.update_yaxes(title={"text": ylabel})
    return figure


def rose(azimuth: ArrayLike, offset: ArrayLike, sectors: int = 36) -> Any:
    """Draw how many traces were shot in each direction, by offset: bars of a compass."""
    a, h = np.asarray(azimuth, np.float64), np.asarray(offset, np.float64)
    edges = np.unique(np.round(np.percentile(h, [0, 25, 50, 75, 100]), 0))
    width = 360.0 / sectors
    # Centred on the compass points: traces shot north must not be half in one bar and half in another.
    place = np.floor((a + 0.5 * width) % 360.0 / width).astype(int)
    figure = _figure(
        {
            "height": 420,
            "polar": {
                "bgcolor": "rgba(0,0,0,0)",
                "angularaxis": {
                    "direction": "clockwise",
                    "rotation": 90,
                    "tickvals": [0, 45, 90, 135, 180, 225, 270, 315],
                    "ticktext": ["N", "45°", "E", "135°", "S", "225°", "W", "315°"],
                    "gridcolor": "rgba(128,128,128,0.3)",
                },
                "radialaxis": {"gridcolor": "rgba(128,128,128,0.3)", "angle": 22.5, "tickangle": 22.5, "nticks": 4},
            },
            "legend": {"title": {"text": "offset (m)"}, "orientation": "h", "y": -0.1},
        }
    )
    bounds = list(pairwise(edges)) or [(edges[0], edges[0])]
    shades = ("#9ecae9", "#5b9bd0", "#2f6fb0", "#173f73")
    for k, (low, high) in enumerate(bounds):
        inside = (h >= low) & ((h < high) | (k == len(bounds) - 1))
        counts = np.bincount(place[inside], minlength=sectors)
        figure.add_barpolar(
            r=counts.tolist(),
            theta=(width * np.arange(sectors)).tolist(),
            width=[width] * sectors,
            name=f"{low:.0f} to {high:.0f}",
            marker={"color": shades[k % 4], "line": {"width": 0}},
            hovertemplate="%{theta:.0f}°: %{r:,} traces<extra></extra>",
        )
    return figure


def points(groups: list[tuple[str, NDArray[np.float64]]], most: int = 4000) -> Any:
    """Draw places on the map (name, (n, 2) in metres), thinned evenly to `most` each."""
    figure = _figure(
        {
            "height": 420,
            "xaxis": {"title": {"text": "easting (m)"}, "tickformat": ".0f", "exponentformat": "none"},
            "yaxis": {"title": {"text": "northing (m)"}, "tickformat": ".0f", "scaleanchor": "x"},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        }
    )
    looks = (
        {"color": "#2f7fc1", "symbol": "circle", "size": 4},
        {"color": "#e0792b", "symbol": "star", "size": 7},
        {"color": "#2e9e77", "symbol": "triangle-down", "size": 6},
    )
    for k, (name, place) in enumerate(groups):
        few = place[:: max(1, -(-len(place) // most))]
        mode = "lines" if name == "image" else "markers"
        figure.add_scatter(
            x=few[:, 0].tolist(),
            y=few[:, 1].tolist(),
            mode=mode,
            name=name,
            marker=looks[k % 3] if mode == "markers" else None,
            line={"color": "#c8578f", "width": 2} if mode == "lines" else None,
            hovertemplate="%{x:.1f} E, %{y:.1f} N<extra>" + name + "</extra>",
        )
    return figure
