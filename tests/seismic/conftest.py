from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data" / "seismic"


@pytest.fixture
def shared() -> Path:
    """Reference data that is not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip("reference data ../shared/data/seismic is not here")
    return SHARED


class Oracle:
    """Migration by definition, float64 numpy, sharing no code with the package."""

    @staticmethod
    def migrate(traces, dt, start, source, receiver, pillars, t0, v, *, area=1.0, true=True, dip=None, taper=0.2):
        """Return (image, fold) of shape (pillars, times); `v` is a constant or one value per time."""
        traces = np.asarray(traces, np.float64)
        t0, v = np.asarray(t0, np.float64), np.broadcast_to(np.asarray(v, np.float64), np.shape(t0))
        image, fold = np.zeros((len(pillars), len(t0))), np.zeros((len(pillars), len(t0)), np.int64)
        rows = np.arange(len(traces))[:, None]
        for p, place in enumerate(pillars):
            ds = ((source - place) ** 2).sum(1)[:, None]
            dr = ((receiver - place) ** 2).sum(1)[:, None]
            t = np.sqrt(t0**2 / 4 + ds / v**2) + np.sqrt(t0**2 / 4 + dr / v**2)
            x = (t - start) / dt
            on = (x >= 0) & (x <= traces.shape[1] - 1)
            j = np.clip(np.floor(x).astype(int), 0, traces.shape[1] - 2)
            value = traces[rows, j] * (1 - (x - j)) + traces[rows, j + 1] * (x - j)
            if true:
                value = value * 2 * t0 / (math.pi * v**2 * np.maximum(t, 1e-12) ** 2) * area
            if dip is not None:
                d = np.hypot(*(0.5 * (source + receiver) - place).T)[:, None]
                r = 0.5 * v * t0 * math.tan(math.radians(dip))
                on &= d <= r
                u = np.clip((d - (1 - taper) * r) / np.maximum(taper * r, 1e-12), 0, 1)
                value = value * (0.5 + 0.5 * np.cos(math.pi * u))
            image[p] = np.where(on, value, 0).sum(0)
            fold[p] = on.sum(0)
        return image, fold

    @staticmethod
    def minus_derivative(traces, dt):
        """Spectral -d/dt, exact for the band-limited traces that tests feed it."""
        n = 4 * np.shape(traces)[1]
        spectrum = np.fft.rfft(traces, n, axis=1)
        return np.fft.irfft(-2j * np.pi * np.fft.rfftfreq(n, dt) * spectrum, n, axis=1)[:, : np.shape(traces)[1]]


@pytest.fixture
def oracle() -> type[Oracle]:
    return Oracle


def peak(t, y):
    """Time and value of the largest sample, refined by a parabola."""
    i = int(np.clip(np.argmax(y), 1, len(y) - 2))
    a, b, c = y[i - 1 : i + 2]
    shift = 0.5 * (a - c) / (a - 2 * b + c)
    return t[i] + shift * (t[1] - t[0]), b - 0.25 * (a - c) * shift


@pytest.fixture(name="peak")
def peak_fixture():
    return peak


def relative(a, b):
    return float(np.linalg.norm(np.asarray(a, float) - b) / np.linalg.norm(np.asarray(b, float)))


@pytest.fixture(name="relative")
def relative_fixture():
    return relative
