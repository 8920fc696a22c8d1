"""Mutes of traces: what was recorded in vain is neither summed nor counted.

A mute makes samples zero from one time to another, with half a cosine beyond its ends, and their contributions are not
in the fold. It comes from the trace headers, from a table of times by offset, or from both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

from ._check import number

if TYPE_CHECKING:
    from .survey import Survey

__all__ = ["Mute"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mute:
    """Which samples to leave out.

    Parameters
    ----------
    header
        Take each trace's zone from its header words ``muts`` and ``mute``, the start and end of the mute (bytes 111 and
        113; :func:`~elinvar.seismic.open_segy` takes others): samples from the start up to the end. With a start of 0
        or before the first sample that is everything before the end. Traces whose end is 0, or not behind the start,
        are not muted.
    table
        Pairs (offset in m, time in s), offsets rising: everything before the time is muted. Linear between the offsets,
        constant beyond them.
    taper
        Seconds over which the weight rises behind the zone, and falls before it.
    """

    header: bool = False
    table: tuple[tuple[float, float], ...] | None = None
    taper: float = 0.02

    def __post_init__(self) -> None:
        number("Mute", "taper", self.taper, low=0.0)
        if not isinstance(self.header, bool):
            raise InputError(f"Mute: header is {self.header!r}; give True to use the header words muts and mute.")
        if self.table is None:
            if not self.header:
                raise InputError("Mute: neither header nor table is given; give one, or leave the mute out.")
            return
        try:
            pairs = np.asarray(self.table, np.float64)
        except (TypeError, ValueError):
            pairs = np.empty(0)
        sound = pairs.ndim == 2 and pairs.shape[1:] == (2,) and len(pairs) > 0 and bool(np.isfinite(pairs).all())
        if not sound or (np.diff(pairs[:, 0]) <= 0).any():
            raise InputError(f"Mute: table is {self.table!r}; give pairs (offset in m, time in s), offsets rising.")
        object.__setattr__(self, "table", tuple((float(h), float(t)) for h, t in pairs))

    def __str__(self) -> str:
        table = "" if self.table is None else f"{len(self.table)} times by offset"
        return " and ".join(filter(None, ("header" if self.header else "", table))) + f", taper {self.taper:g} s"

    def check(self, survey: Survey) -> None:
        """Refuse a survey that does not have the header words.

        Raises
        ------
        InputError
            It has not, or a trace's two mutes lie apart.
        """
        missing = [name for name in ("muts", "mute") if self.header and name not in survey.headers]
        if missing:
            raise InputError(
                f"Mute: {survey.name} has no header {missing[0]!r}; give Survey headers muts and mute in seconds, or a "
                "table."
            )
        self.zones(survey, np.arange(survey.n_traces))

    def inner(self, survey: Survey) -> bool:
        """Whether a trace's mute begins behind its first sample."""
        return self.header and bool(np.isfinite(self.zones(survey, np.arange(survey.n_traces))[:, 0]).any())

    def zones(self, survey: Survey, index: NDArray[np.int64]) -> Floats:
        """Return from when to when the traces at `index` are muted, seconds, (n, 2); both infinite for never."""
        zone = np.full((len(index), 2), np.inf)
        if self.header:
            begin, end = (np.asarray(survey.headers[name][index], np.float64) for name in ("muts", "mute"))
            muted = (end > 0) & (end > begin)
            first = np.where(begin <= np.maximum(survey.delay[index], 0.0), -np.inf, begin)
            zone[muted] = np.stack([first, end], axis=1)[muted]
        if self.table is not None:
            offsets, times = np.array(self.table).T
            apart_by = np.hypot(*(survey.receiver[index] - survey.source[index]).T)
            top = np.interp(apart_by, offsets, times)
            apart = np.isfinite(zone[:, 0]) & (zone[:, 0] > top)
            if apart.any():
                k = int(index[np.flatnonzero(apart)[0]])
                raise InputError(
                    f"Mute: trace {k} of {survey.name} is muted from {zone[apart][0, 0]:g} s by its header and up to "
                    f"{top[apart][0]:g} s by the table; one zone per trace is accepted, use one of the two."
                )
            zone[:, 1] = np.where(np.isfinite(zone[:, 1]), np.maximum(zone[:, 1], top), top)
            zone[:, 0] = -np.inf
        return zone

    def weights(self, zones: Floats, start: float, dt: float, ns: int) -> NDArray[np.float32]:
        """Return what samples are multiplied by, (n, ns), for `zones` (n, 2) and the time of sample 0."""
        t = start + dt * np.arange(ns)
        away = np.maximum(zones[:, :1] - t, t - zones[:, 1:])  # seconds outside the zone, negative within
        if self.taper == 0:
            return np.asarray(away >= 0, np.float32)
        rise = np.clip(away, 0.0, self.taper) / self.taper
        return np.asarray(0.5 - 0.5 * np.cos(np.pi * rise), np.float32)
