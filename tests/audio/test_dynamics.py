from __future__ import annotations

import math

import numpy as np
import pytest

from elinvar import audio
from elinvar.errors import InputError

RATE = 48000


def tone(db: float, seconds: float = 0.5, hertz: float = 1000.0) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (10 ** (db / 20) * np.sin(2 * np.pi * hertz * t)).astype(np.float32)[None]


def level(x: np.ndarray) -> float:
    return 20 * math.log10(float(np.abs(x[:, -2000:]).max()))


@pytest.mark.parametrize(("loud", "want"), [(-40.0, -40.0), (-10.0, -17.5), (0.0, -15.0)])
def test_compressor_curve(loud: float, want: float) -> None:
    squeezed = audio.Compressor(-20.0, 4.0, attack=0.0, release=0.5, knee_db=0.0)(tone(loud), RATE)
    assert level(squeezed) == pytest.approx(want, abs=0.2)


def test_compressor_time_and_makeup() -> None:
    live = audio.Compressor(-20.0, 4.0, attack=0.01, release=0.1, knee_db=6.0, makeup_db=6.0).prepare(RATE, 64, 1)
    ones = np.ones((1, 480), np.float32)
    live.process(ones)
    assert live.reduction_db == pytest.approx(15.0 * (1 - math.exp(-1)), rel=1e-3)  # one attack: 63 %
    for _ in range(30):
        y = live.process(ones)
    assert 20 * math.log10(y[0, -1]) == pytest.approx(-15.0 + 6.0, abs=0.01)
    live.set(-20.0, 1.0)
    for _ in range(300):
        y = live.process(ones)
    assert y[0, -1] == pytest.approx(1.0, abs=1e-4)


def test_stereo_image_stays() -> None:
    x = np.concatenate([tone(0.0), tone(-12.0)])
    y = audio.Compressor(-20.0, 4.0)(x, RATE)
    np.testing.assert_allclose(y[1] * 10 ** (12 / 20), y[0], atol=1e-5)


@pytest.mark.parametrize("lookahead", [0.0, 0.001, 0.005])
def test_limiter_never_exceeds_and_never_touches_what_is_below(lookahead: float) -> None:
    noise = np.random.default_rng(0).standard_normal((2, 20_000)).astype(np.float32)
    ceiling = 10 ** (-6 / 20)
    y = audio.Limiter(-6.0, lookahead)(noise, RATE)
    assert np.abs(y).max() <= np.float32(ceiling)
    quiet = noise * np.float32(0.05)
    np.testing.assert_array_equal(audio.Limiter(-6.0, lookahead)(quiet, RATE), quiet)


def test_limiter_needs_no_clipping() -> None:
    """A lone peak: the gain is down when it comes, so that its neighbours keep their ratio to it."""
    x = np.full((1, 4000), 0.1, np.float32)
    x[0, 2000] = 4.0
    live = audio.Limiter(0.0, 0.005, release=0.01).prepare(RATE, 64, 1)
    y = np.concatenate([live.process(x), live.process(np.zeros((1, 240), np.float32))], axis=1)[:, live.latency :]
    assert live.latency == 240
    assert y[0, 2000] == pytest.approx(1.0, abs=1e-6)
    assert y[0, 1999] == pytest.approx(0.025, abs=1e-3)
    assert y[0, 1700] == pytest.approx(0.1)
    assert np.abs(np.diff(y[0, 1700:2000])).max() < 0.001  # the gain glides
    assert y[0, -1] == pytest.approx(0.1, abs=3e-3)


def test_gate_opens_holds_and_closes() -> None:
    gate = audio.Gate(-30.0, 6.0, attack=0.0, release=0.001, hold=0.01, floor_db=-80.0)
    quiet, loud = tone(-40.0, 0.1), tone(-20.0, 0.1)
    y = gate(np.concatenate([quiet, loud, quiet, quiet], axis=1), RATE)
    n = quiet.shape[1]
    assert np.abs(y[:, :n]).max() < 1e-5
    assert np.abs(y[:, n + 20 : 2 * n] - loud[:, 20:]).max() < 1e-6
    assert np.abs(y[:, -n:]).max() < 1e-5


def test_gate_closes_lower_than_it_opens() -> None:
    gate = audio.Gate(-30.0, 6.0, attack=0.0, release=0.001, hold=0.0)
    between = tone(-33.0, 0.1)
    assert np.abs(gate(between, RATE)).max() < 1e-4  # not loud enough to open
    opened = gate(np.concatenate([tone(-20.0, 0.05), between], axis=1), RATE)
    np.testing.assert_allclose(opened[:, -2000:], between[:, -2000:], atol=1e-6)  # but to stay open


def test_delay_and_gain() -> None:
    x = np.zeros((1, 500), np.float32)
    x[0, 3] = 1.0
    y = audio.Delay(100 / RATE, feedback=0.5, mix=0.25)(x, RATE)[0]
    np.testing.assert_allclose(y[[3, 103, 203, 303]], [0.75, 0.25, 0.125, 0.0625], atol=1e-7)
    assert np.count_nonzero(y) == 5
    np.testing.assert_array_equal(audio.Delay(0.0, mix=0.5)(x, RATE), x)
    assert audio.Delay(100 / RATE, 0.5).prepare(RATE, 64).tail_length == 100 * 21
    np.testing.assert_allclose(audio.Gain(6.0)(x, RATE)[0, 3], 10**0.3)
    live = audio.Gain().prepare(RATE, 64, 1)
    live.set(-math.inf)
    assert not live.process(x).any()


@pytest.mark.parametrize("make", [audio.Compressor, audio.Gate, audio.Limiter, audio.Delay, audio.Gain])
def test_nan_becomes_silence(make: type) -> None:
    live = make().prepare(RATE, 64, 2)
    x = np.full((2, 64), 0.5, np.float32)
    x[0, 5], x[1, 7] = np.nan, np.inf
    assert np.isfinite(live.process(x)).all()
    assert live.nonfinite >= 2
    assert np.isfinite(live.process(np.full((2, 300), 0.5, np.float32))).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: audio.Compressor(ratio=0.5), "ratio"),
        (lambda: audio.Delay(feedback=1.0), "feedback"),
        (lambda: audio.Gain(math.nan), "gain_db"),
        (lambda: audio.Limiter(lookahead=-1), "lookahead"),
        (lambda: audio.Gate(floor_db=3), "floor_db"),
        (lambda: audio.Limiter().latency, "not prepared"),
    ],
)
def test_bad_input(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
