from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from elinvar import audio
from elinvar.errors import InputError

RATE = 48000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 9000)).astype(np.float32)
EIGHT = {
    "lowpass": audio.Biquad.lowpass(1000, 0.7, RATE),
    "highpass": audio.Biquad.highpass(1000, 0.7, RATE),
    "bandpass": audio.Biquad.bandpass(1000, 2, RATE),
    "notch": audio.Biquad.notch(1000, 2, RATE),
    "allpass": audio.Biquad.allpass(1000, 0.7, RATE),
    "peaking": audio.Biquad.peaking(1000, 1, 6, RATE),
    "low_shelf": audio.Biquad.low_shelf(1000, 0.7, 6, RATE),
    "high_shelf": audio.Biquad.high_shelf(1000, 0.7, 6, RATE),
}


def off(found: np.ndarray, want: np.ndarray) -> float:
    return float(np.sqrt(((found - want) ** 2).mean() / (want**2).mean()))


@pytest.mark.parametrize(
    ("name", "low", "at", "high"),
    [("lowpass", 0, 20 * math.log10(0.7), -300), ("highpass", -300, 20 * math.log10(0.7), 0),
     ("bandpass", -300, 0, -300),
     ("notch", 0, -300, 0), ("allpass", 0, 0, 0), ("peaking", 0, 6, 0), ("low_shelf", 6, 3, 0),
     ("high_shelf", 0, 3, 6)],
)  # fmt: skip
def test_cookbook_gains(name: str, low: float, at: float, high: float) -> None:
    gain = 20 * np.log10(np.abs(EIGHT[name].response([0, 1000, RATE / 2], RATE)) + 1e-20)
    np.testing.assert_allclose(np.maximum(gain, -200), np.maximum([low, at, high], -200), atol=1e-6)


def test_allpass_turns_by_half() -> None:
    assert abs(np.angle(EIGHT["allpass"].response([1000], RATE)[0])) == pytest.approx(math.pi)


def test_coefficients_by_hand() -> None:
    w, q, gain = 2 * math.pi * 440 / RATE, 1.3, 10 ** (-4.5 / 40)
    alpha = math.sin(w) / (2 * q)
    a0 = 1 + alpha / gain
    want = [(1 + alpha * gain) / a0, -2 * math.cos(w) / a0, (1 - alpha * gain) / a0, -2 * math.cos(w) / a0,
            (1 - alpha / gain) / a0]  # fmt: skip
    np.testing.assert_allclose(audio.Biquad.peaking(440, 1.3, -4.5, RATE).coefficients[0], want, rtol=1e-12)


@pytest.mark.parametrize("name", EIGHT)
def test_filters_are_scipys(name: str) -> None:
    want = signal.sosfilt(EIGHT[name].sos, NOISE.astype(np.float64), axis=-1)
    assert off(EIGHT[name](NOISE), want) <= 1e-6


def test_hardest_case_of_the_brief() -> None:
    band = audio.Biquad.peaking(20, 10, 12, RATE)
    x = np.sin(2 * np.pi * 20 * np.arange(RATE) / RATE).astype(np.float32)[None]
    want = signal.sosfilt(band.sos, x.astype(np.float64), axis=-1)
    assert off(band(x), want) <= 1e-6


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 900), min_size=1, max_size=4), channels=st.integers(1, 3), sections=st.integers(1, 5)
)
def test_any_cut_gives_the_same(sizes: list[int], channels: int, sections: int) -> None:
    cascade = audio.Cascade(list(EIGHT.values())[:sections])
    x = np.ascontiguousarray(NOISE[:channels, :3000])
    whole = cascade(x)
    cascade.prepare(RATE, 64, channels)
    parts, at = [], 0
    while at < 3000:
        n = sizes[len(parts) % len(sizes)]
        parts.append(cascade.process(np.ascontiguousarray(x[:, at : at + n])))
        at += n
    assert off(np.concatenate(parts, axis=1), whole.astype(np.float64)) <= 1e-7


def test_c_entry_and_in_place() -> None:
    cascade = audio.Cascade([EIGHT["peaking"], EIGHT["lowpass"]]).prepare(RATE, 64, 3)
    x = np.ascontiguousarray(NOISE[:, :1000])
    want = cascade(x)
    y = np.empty_like(x)
    call = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 3, ctypes.c_int64)(cascade.entry)
    assert call(cascade.root.ctypes.data, x.ctypes.data, y.ctypes.data, 1000) == 0
    np.testing.assert_array_equal(y, want)
    cascade.reset()
    assert cascade.process(x, out=x) is x
    np.testing.assert_array_equal(x, want)


def test_update_while_running() -> None:
    a, b = EIGHT["peaking"], audio.Biquad.peaking(2000, 1, -6, RATE)
    live = audio.Cascade([a]).prepare(RATE, 64, 1)
    first = live.process(NOISE[0, :500])
    live.update(b)
    second = live.process(NOISE[0, 500:5000])
    np.testing.assert_array_equal(first, a(NOISE[0, :500]))
    np.testing.assert_allclose(second[2000:], b(NOISE[0, :5000])[2500:], atol=1e-6)  # the old state has died away
    np.testing.assert_array_equal(live.coefficients, b.coefficients)
    with pytest.raises(InputError, match="2 sections for 1"):
        live.update(audio.Cascade([a, b]))


def test_nan_silence_and_denormals() -> None:
    live = audio.Cascade([audio.Biquad.lowpass(20, 10, RATE)]).prepare(RATE, 64, 1)
    x = np.zeros((1, 1000), np.float32)
    x[0, 0], x[0, 5], x[0, 6] = 1.0, np.nan, -np.inf
    assert np.isfinite(live.process(x)).all()
    assert live.nonfinite == 2
    for _ in range(2000):
        live.process(np.zeros((1, 1000), np.float32))
    assert np.all(live._arrays[1][-8:] == 0.0)  # decayed to nothing, not to denormal numbers
    assert 10_000 < audio.Biquad.lowpass(20, 10, RATE).tail_length < 200_000


def test_designs_are_scipys() -> None:
    pairs = [
        (audio.butterworth(4, 1000, RATE), signal.butter(4, 1000, output="sos", fs=RATE)),
        (audio.butterworth(3, (500, 2000), RATE, "bandpass"),
         signal.butter(3, (500, 2000), "bandpass", output="sos", fs=RATE)),
        (audio.chebyshev1(4, 1, 1000, RATE, "highpass"), signal.cheby1(4, 1, 1000, "highpass", output="sos", fs=RATE)),
        (audio.chebyshev2(4, 40, 1000, RATE), signal.cheby2(4, 40, 1000, output="sos", fs=RATE)),
        (audio.elliptic(5, 1, 60, 1000, RATE), signal.ellip(5, 1, 60, 1000, output="sos", fs=RATE)),
    ]  # fmt: skip
    for found, want in pairs:
        np.testing.assert_allclose(found.sos, want, atol=1e-14)
        assert off(found(NOISE), signal.sosfilt(want, NOISE.astype(np.float64), axis=-1)) <= 2e-6


def test_filter_bank() -> None:
    bank = audio.FilterBank(10, 31.25, 16000, RATE, gains_db=[3, 0, -3, 6, 0, 0, 0, 2, -6, 1])
    np.testing.assert_allclose(bank.frequencies, 31.25 * 2.0 ** np.arange(10), rtol=1e-12)
    want = np.prod([audio.Biquad.peaking(f, 1.414, g, RATE).response([700], RATE)
                    for f, g in zip(bank.frequencies, bank.gains_db, strict=True)])  # fmt: skip
    assert bank.response([700], RATE)[0] == pytest.approx(want)
    flat = audio.FilterBank(5, 100, 8000, RATE)
    np.testing.assert_allclose(flat(NOISE), NOISE, atol=1e-6)
    np.testing.assert_allclose(flat.parallel(NOISE), NOISE, atol=1e-6)
    flat.prepare(RATE, 64, 1)
    flat.set_gains([6] * 5)
    np.testing.assert_array_equal(
        flat.process(NOISE[0]), audio.FilterBank(5, 100, 8000, RATE, gains_db=[6] * 5)(NOISE[0])
    )


def test_shapes_and_types() -> None:
    band = EIGHT["peaking"]
    assert band(NOISE[0]).shape == (9000,)
    assert band(NOISE[None]).shape == (1, 3, 9000)
    assert band(NOISE[:, :0]).shape == (3, 0)
    assert isinstance(band(torch.from_numpy(NOISE)), torch.Tensor)
    out = np.empty_like(NOISE)
    assert band(NOISE, out=out) is out
    assert off(band((NOISE * 32767).astype(np.int16)), band(NOISE).astype(np.float64)) < 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: audio.Biquad(1, 0, 0, -2.0, 1.0), "unstable"),
        (lambda: audio.Biquad(1, 0, 0, 0, 1.5), "unstable"),
        (lambda: audio.Biquad(math.nan, 0, 0, 0, 0), "six finite"),
        (lambda: audio.Cascade([(1, 0, 0, 0, 0, 0)]), "a0 not 0"),
        (lambda: audio.Cascade([]), "no sections"),
        (lambda: audio.Biquad.lowpass(24000, 0.7, RATE), "frequency is 24000"),
        (lambda: audio.Biquad.lowpass(1000, 0, RATE), "q is 0"),
        (lambda: audio.Biquad.peaking(1000, 1, 999, RATE), "gain_db"),
        (lambda: audio.Biquad.notch(1000, 1, -1), "sample_rate"),
        (lambda: audio.FilterBank(3, 100, 50, RATE), "low < high"),
        (lambda: audio.FilterBank(3, 100, 5000, RATE, gains_db=[1]), "1 gains for 3"),
        (lambda: audio.butterworth(2, 30000, RATE), "half the sampling rate"),
        (lambda: audio.butterworth(2, 1000, RATE, "bandpass"), "needs 2"),
        (lambda: audio.butterworth(2, 1000, RATE, "comb"), "kind"),
        (lambda: audio.Biquad.lowpass(1000, 0.7, RATE).process(NOISE), "not prepared"),
    ],
)
def test_bad_input(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_gradients_are_refused_not_dropped() -> None:
    x = torch.ones(100, requires_grad=True)
    with pytest.raises(InputError, match=r"Biquad.*requires gradients.*detach"):
        audio.Biquad.lowpass(100, 0.7, 8000)(x)
    with torch.no_grad():
        assert not audio.Biquad.lowpass(100, 0.7, 8000)(x).requires_grad
