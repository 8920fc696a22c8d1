from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import InputError
from elinvar.seismic.filters import fast_length, phase_filter, resample
from elinvar.seismic.kernels.migrate.interpolation import TAPS, weights
from elinvar.seismic.wavelet import ricker, ricker_derivative

DT = 0.002
T = np.arange(501) * DT


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-10)])
def test_three_dimensions_is_minus_the_derivative(dtype, tolerance):
    centre = torch.tensor([0.3, 0.5137])
    wave = torch.from_numpy(ricker(T - centre.numpy()[:, None], 25.0)).to(dtype)
    step = 1e-5
    known = -(ricker(T - centre.numpy()[:, None] + step, 25.0) - ricker(T - centre.numpy()[:, None] - step, 25.0)) / (
        2 * step
    )
    found = phase_filter(wave, DT)
    assert found.dtype == dtype
    assert np.linalg.norm(found.numpy() - known) / np.linalg.norm(known) < max(tolerance, 1e-6)


def test_two_half_derivatives_are_a_whole_one():
    wave = torch.from_numpy(ricker(T - 0.5, 30.0))[None]
    twice = phase_filter(phase_filter(wave, DT, dimensions=2), DT, dimensions=2)
    once = phase_filter(wave, DT)
    # A half derivative has a long tail, part of which leaves the record.
    assert torch.linalg.norm(twice - once) / torch.linalg.norm(once) < 2e-2


def test_the_input_is_not_changed_and_a_constant_has_no_slope_inside():
    wave = torch.ones(2, 400)
    out = phase_filter(wave, DT)
    assert (wave == 1).all()
    # Cut off at full height, the record must not ring inside.
    assert out[:, 40:-40].abs().max() < 1e-3 * 1 / DT


def test_linear_interpolation_loses_nothing_on_average():
    # Sample a filtered wave at many fractions of a sample: the mean of the interpolated waves is the exact one.
    wave = torch.from_numpy(ricker(T - 0.5, 40.0))[None]
    for interpolation, loss in (("linear", 2e-3), (None, 5e-2)):
        y = phase_filter(wave, DT, interpolation=interpolation)[0].numpy()
        shifts = (np.arange(64) + 0.5) / 64
        # A record that started `shift` samples later, interpolated back to the grid.
        late = [
            phase_filter(torch.from_numpy(ricker(T - s * DT - 0.5, 40.0))[None], DT, interpolation=interpolation)
            for s in shifts
        ]
        back = np.mean(
            [(1 - s) * z[0, 100:400].numpy() + s * z[0, 101:401].numpy() for s, z in zip(shifts, late, strict=True)],
            axis=0,
        )
        exact = phase_filter(wave, DT)[0, 100:400].numpy()
        error = np.linalg.norm(back - exact) / np.linalg.norm(exact)
        assert error < loss
        assert interpolation or error > 1e-2
        assert y.shape == T.shape


@pytest.mark.parametrize("interpolation", ["linear", "cubic", "sinc8"])
def test_interpolation_loses_nothing_on_average(interpolation):
    wave = torch.from_numpy(ricker(T - 0.5, 60.0))[None]
    y = phase_filter(wave, DT, interpolation=interpolation)[0].numpy()
    taps = TAPS[interpolation]
    rows = np.stack([y[100 + k : 400 + k] for k in range(1 - taps // 2, 1 + taps // 2)], -1)
    late = (np.arange(64) + 0.5) / 64
    # The mean over places between samples, brought back to them by a shift of the spectrum.
    total = np.zeros(512)
    for f in late:
        between = np.zeros(512)
        between[100:400] = rows @ weights(interpolation, f)
        total += np.fft.irfft(np.fft.rfft(between) * np.exp(-2j * np.pi * np.fft.rfftfreq(512) * f)) / 64
    exact = phase_filter(wave, DT)[0, :501].numpy()
    assert np.linalg.norm(total[120:380] - exact[120:380]) < 2e-3 * np.linalg.norm(exact)


@pytest.mark.parametrize("factor", [2, 4])
def test_oversampling_keeps_the_samples_and_finds_those_between(factor):
    fine = np.arange(factor * 500 + 1) * DT / factor
    wave = torch.from_numpy(ricker(T - 0.5137, 60.0))[None]
    found = resample(wave, factor)[0].numpy()
    assert np.abs(found - ricker(fine - 0.5137, 60.0)).max() < 1e-6
    filtered = phase_filter(wave, DT, oversample=factor)
    assert filtered.shape == (1, factor * 500 + 1)
    assert torch.allclose(filtered[:, ::factor], phase_filter(wave, DT), atol=1e-8 / DT)


def test_nothing_wraps_round():
    wave = torch.from_numpy(ricker(T - T[-1] + 0.04, 25.0))[None]
    out = phase_filter(wave, DT)
    assert out[:, :300].abs().max() < 1e-5 * out.abs().max()


def test_times_start_on_any_sample_rate():
    a = phase_filter(torch.from_numpy(ricker(T - 0.5, 25.0))[None], DT)
    b = phase_filter(torch.from_numpy(ricker(T[::2] - 0.5, 25.0))[None], 2 * DT)
    assert torch.linalg.norm(a[:, ::2] - b) / torch.linalg.norm(b) < 1e-5


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 5), st.integers(1, 70))
def test_any_shape(ntr, ns):
    assert phase_filter(torch.zeros(ntr, ns), DT).shape == (ntr, ns)


@given(st.integers(1, 20000))
@settings(deadline=None, max_examples=200)
def test_fast_lengths_are_even_smooth_and_close(n):
    length = fast_length(n)
    assert length >= n
    assert length % 2 == 0
    assert length <= max(2 * n, 2)
    for factor in (2, 3, 5):
        while length % factor == 0:
            length //= factor
    assert length == 1
    assert n < 1000 or fast_length(n) < 1.08 * n


@pytest.mark.parametrize(
    ("traces", "options", "words"),
    [
        (torch.zeros(3, 5, dtype=torch.int32), {}, "int32"),
        (torch.zeros(5), {}, r"\(5,\)"),
        (torch.zeros(0, 5), {}, r"\(0, 5\)"),
        (torch.zeros(3, 5), {"dimensions": 1}, "dimensions is 1"),
        (torch.zeros(3, 5), {"dt": 0}, "dt is 0"),
        (torch.zeros(3, 5), {"interpolation": "best"}, "interpolation .*'best'"),
        (torch.zeros(3, 5), {"oversample": 3}, "oversample is 3"),
    ],
)
def test_wrong_arguments_are_named(traces, options, words):
    with pytest.raises(InputError, match=words):
        phase_filter(traces, **{"dt": DT, **options})


def test_wavelets():
    t = np.linspace(-0.2, 0.2, 40001)
    assert ricker(0.0, 25.0) == 1.0
    slope = np.gradient(ricker(t, 25.0), t)
    assert ricker_derivative(t, 25.0) == pytest.approx(slope / slope.max(), abs=1e-6)
    assert ricker_derivative(t, 25.0).max() == pytest.approx(1.0, abs=1e-6)
    # It rises before the centre: a positive reflector is a sum of positive scatterers.
    assert t[np.argmax(ricker_derivative(t, 25.0))] < 0
    with pytest.raises(InputError, match="frequency"):
        ricker(0.0, 0.0)
