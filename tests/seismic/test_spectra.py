from __future__ import annotations

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.seismic import spectra
from elinvar.seismic.wavelet import ricker

T = 0.002 * np.arange(1000)


def test_a_sine_is_where_and_as_large_as_it_is():
    traces = np.stack([3.0 * np.sin(2 * np.pi * 30 * T + phase) for phase in (0, 1, 2)] + [np.zeros(1000)])
    f, a = spectra.amplitude_spectrum(traces, 0.002)
    assert f[-1] == 250
    assert f[np.argmax(a)] == pytest.approx(30)
    assert a.max() == pytest.approx(3, rel=0.01)
    assert not spectra.amplitude_spectrum(np.zeros((2, 100)), 0.002)[1].any()


def test_a_ricker_peaks_at_its_frequency():
    f, a = spectra.amplitude_spectrum(ricker(T - 1.0, 25.0)[None], 0.002)
    assert f[np.argmax(a)] == pytest.approx(25, abs=0.6)


@pytest.mark.parametrize("slope", [2e-4, -1e-4, 0.0])
def test_a_dipping_event_lies_on_its_line(slope):
    x = 12.5 * np.arange(200)
    section = np.sin(2 * np.pi * 40 * (T[None] - slope * x[:, None]))
    k, f, a = spectra.frequency_wavenumber(section, 12.5, 0.002)
    i, j = np.unravel_index(np.argmax(a), a.shape)
    assert f[j] == pytest.approx(40)
    assert k[i] == pytest.approx(40 * slope, abs=0.6 / 2500)
    assert a.max() == pytest.approx(1, rel=0.05)
    assert k.min() == pytest.approx(-0.5 / 12.5)


def test_decibels():
    assert spectra.decibels([10, 1, 0], -60).tolist() == pytest.approx([0, -20, -60])
    assert spectra.decibels([0, 0]).tolist() == [-80, -80]


def test_what_is_no_section_is_named():
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        spectra.amplitude_spectrum(np.ones(3), 0.002)
    with pytest.raises(InputError, match="dx is 0"):
        spectra.frequency_wavenumber(np.ones((3, 3)), 0, 0.002)
