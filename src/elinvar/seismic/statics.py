"""Elevation statics: what stands between a survey on hills and a migration that knows one flat datum."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from elinvar.errors import InputError

from ._check import number
from .survey import Floats, Survey, SurveyWarning
from .traces import Indices, Samples, Traces

__all__ = ["elevation_statics", "to_datum", "warn_of_elevations"]

FLAT = 5.0
"""Metres by which sources, or receivers, may differ in height before a migration without statics is worth a word."""


def elevation_statics(survey: Survey, datum: float, velocity: float) -> Floats:
    """Return the time in seconds, (n,), by which each trace is late for having been shot and recorded above a datum.

    Vertical rays through a replacement medium: ``((source - datum) + (receiver - datum)) / velocity``. Yilmaz (2001),
    Seismic Data Analysis, section 3.3.

    Parameters
    ----------
    survey
        With elevations in metres.
    datum
        Elevation of the datum in metres.
    velocity
        Replacement velocity in m/s.
    """
    level = number("elevation_statics", "datum", datum)
    v = number("elevation_statics", "velocity", velocity, low=0.0, open_low=True)
    return np.asarray((survey.source_elevation + survey.receiver_elevation - 2.0 * level) / v, np.float64)


def to_datum(survey: Survey, datum: float, velocity: float) -> Survey:
    """Return the survey as if it had been shot and recorded on a flat datum: each trace shifted by its statics.

    The shift is exact for band-limited traces (a phase ramp on their spectrum, zeros outside what was recorded) and is
    made when traces are read. Rays are taken as vertical between surface and datum: right where the near surface is
    slow, as beneath hills it mostly is. ``migrate(..., datum=, replacement=)`` begins its legs at the elevations
    instead.

    Parameters
    ----------
    survey
        With elevations in metres.
    datum
        Elevation of the datum in metres; choose one near the surface.
    velocity
        Replacement velocity between surface and datum in m/s.

    Returns
    -------
    Survey
        Over the same samples, with all elevations at `datum`.

    Raises
    ------
    InputError
        A velocity that is not positive, or statics longer than the record.
    """
    late = elevation_statics(survey, datum, velocity)
    record = survey.n_samples * survey.dt
    worst = float(np.abs(late[survey.live]).max())
    if worst >= record:
        raise InputError(
            f"to_datum: a trace would move by {worst:.3f} s, and the record is {record:.3f} s long; give a datum "
            f"nearer the elevations, {survey.source_elevation.min():g} to {survey.source_elevation.max():g} m, and m/s."
        )
    moved = survey.with_traces(_Shifted(survey.traces, late / survey.dt))
    for name in ("source_elevation", "receiver_elevation", "datum"):
        moved.__dict__[name] = np.full(survey.n_traces, float(datum))
    moved.notes = (*survey.notes, f"elevation statics to {datum:g} m with {velocity:g} m/s")
    return moved


def warn_of_elevations(survey: Survey) -> None:
    """Warn when sources or receivers differ in height by more than `FLAT`, and travel times are not told."""
    live = survey.live
    spread = max(float(np.ptp(h[live])) for h in (survey.source_elevation, survey.receiver_elevation))
    if spread > FLAT:
        warnings.warn(
            f"migrate: elevations of {survey.name} differ by {spread:.1f} m, and travel times are counted from one "
            "flat datum: give migrate datum= and replacement=, or apply statics, seismic.to_datum(survey, datum, "
            "velocity).",
            SurveyWarning,
            stacklevel=3,
        )


@dataclass(frozen=True)
class _Shifted:
    """Traces of another source, each moved to earlier times by some samples."""

    traces: Traces
    samples: Floats

    @property
    def shape(self) -> tuple[int, int]:
        return self.traces.shape

    def read(self, index: Indices) -> Samples:
        data = self.traces.read(index)
        shift = self.samples[index]
        n = data.shape[1]
        padded = 2 * n  # what leaves at one end must not come back at the other; shifts are shorter than a record
        turn = np.exp(2j * np.pi * np.fft.rfftfreq(padded)[None, :] * shift[:, None])
        if padded % 2 == 0:
            turn[:, -1] = np.cos(np.pi * shift)  # the Nyquist frequency has no sign, so it cannot be turned
        moved = np.fft.irfft(np.fft.rfft(data, padded, axis=1) * turn, padded, axis=1)
        return np.ascontiguousarray(moved[:, :n], dtype=np.float32)
