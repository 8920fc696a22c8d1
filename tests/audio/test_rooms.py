from __future__ import annotations

import numpy as np
import pytest

from elinvar import audio
from elinvar.errors import InputError

RATE = 16_000


def test_a_room_decays_by_60_db_and_darkens() -> None:
    ir = audio.room(1.0, RATE, predelay=0.02, damping=0.0, seed=3)
    assert ir.shape == (2, RATE + 320)
    assert not ir[:, :320].any()
    np.testing.assert_allclose((ir**2).sum(axis=1), 1.0, rtol=1e-4)
    energy = (ir[:, 320:] ** 2).sum(axis=0).reshape(10, -1).mean(axis=1)
    fall = 10 * np.log10(energy)
    np.testing.assert_allclose(np.diff(fall), -6.0, atol=1.0)  # 60 dB per second, in tenths
    dark = audio.room(1.0, RATE, damping=1.0, seed=3)[0]
    late = np.abs(np.fft.rfft(dark[-4000:])) ** 2
    assert late[:200].mean() > 100 * late[-200:].mean()
    np.testing.assert_array_equal(ir, audio.room(1.0, RATE, predelay=0.02, damping=0.0, seed=3))
    assert np.abs(np.corrcoef(ir)[0, 1]) < 0.1


def test_mix() -> None:
    dry = audio.reverb(0.1, RATE, mix=0.0, channels=1).prepare(RATE, 64, 1)
    x = np.random.default_rng(0).standard_normal((1, 500)).astype(np.float32)
    np.testing.assert_allclose(dry.process(x), x, atol=1e-6)
    half = audio.reverb(0.1, RATE, mix=0.5, seed=1)
    want = 0.5 * x + 0.5 * audio.convolve(x, audio.room(0.1, RATE, channels=1, seed=1), mode="same")
    mono = audio.reverb(0.1, RATE, mix=0.5, channels=1, seed=1)
    np.testing.assert_allclose(mono.convolve(x, mode="same"), want, atol=1e-5)
    with pytest.raises(InputError, match="16000"):
        half.prepare(48_000, 64, 2)
    with pytest.raises(InputError, match="mix"):
        audio.reverb(1.0, RATE, mix=2.0)
    with pytest.raises(InputError, match="seconds"):
        audio.room(0.0, RATE)
