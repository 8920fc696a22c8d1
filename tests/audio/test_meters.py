from __future__ import annotations

import math

import numpy as np
import pytest

from elinvar import audio
from elinvar.audio.meters import k_weighting
from elinvar.errors import InputError

RATE = 48_000


def tone(db: float, seconds: float, hertz: float = 1000.0, rate: int = RATE, channels: int = 2) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return np.tile((10 ** (db / 20) * np.sin(2 * np.pi * hertz * t)).astype(np.float32), (channels, 1))


def test_weighting_is_the_standards_table() -> None:
    want = [[1.53512485958697, -2.69169618940638, 1.19839281085285, -1.69065929318241, 0.73248077421585],
            [1.0, -2.0, 1.0, -1.99004745483398, 0.99007225036621]]  # fmt: skip
    found = k_weighting(48_000).coefficients
    np.testing.assert_allclose(found, want, atol=1e-6)


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
def test_ebu_3341_case_1_and_2(rate: int) -> None:
    """A stereo tone of 1 kHz at -23 dBFS is -23 LUFS, at -33 dBFS -33 LUFS, within 0.1 LU."""
    for db in (-23.0, -33.0):
        found = audio.loudness(tone(db, 5.0, rate=rate), rate)
        assert found.integrated == pytest.approx(db, abs=0.1)
        assert found.momentary_max == pytest.approx(db, abs=0.1)
        assert found.short_term_max == pytest.approx(db, abs=0.1)


def test_ebu_3341_case_3_the_quiet_parts_are_gated() -> None:
    x = np.concatenate([tone(-36, 5), tone(-23, 20), tone(-36, 5)], axis=1)
    assert audio.loudness(x, RATE).integrated == pytest.approx(-23.0, abs=0.1)


def test_ebu_3342_case_1_range() -> None:
    x = np.concatenate([tone(-20, 20), tone(-30, 20)], axis=1)
    assert audio.loudness(x, RATE).range == pytest.approx(10.0, abs=1.0)


def test_surround_weights() -> None:
    only_left = np.zeros((6, 2 * RATE), np.float32)
    only_left[0] = tone(-20, 2.0, channels=1)
    surround = np.roll(only_left, 4, axis=0)
    left, behind = audio.loudness(only_left, RATE).integrated, audio.loudness(surround, RATE).integrated
    assert behind - left == pytest.approx(10 * math.log10(1.41), abs=1e-6)
    assert audio.loudness(np.roll(only_left, 3, axis=0), RATE).integrated == -math.inf  # LFE


def test_true_peak_between_samples() -> None:
    t = np.arange(RATE)
    x = np.sin(2 * np.pi * RATE / 4 * t / RATE + np.pi / 4).astype(np.float32)  # samples at +-0.707 only
    found = audio.loudness(x, RATE)
    assert found.sample_peak == pytest.approx(-3.01, abs=0.01)
    assert found.true_peak == pytest.approx(0.0, abs=0.5)


def test_normalize() -> None:
    x = tone(-30, 2.0)
    y, gain = audio.normalize_loudness(x, RATE, -16.0)
    assert gain == pytest.approx(14.0, abs=0.1)
    assert audio.loudness(y, RATE).integrated == pytest.approx(-16.0, abs=0.01)
    _, held = audio.normalize_loudness(x, RATE, -1.0, ceiling=-6.0)
    assert held == pytest.approx(24.0, abs=0.1)
    assert audio.normalize_loudness(x, RATE, -1.0, ceiling=None)[1] == pytest.approx(29.0, abs=0.1)


def test_silence_and_nothing() -> None:
    for n in (0, 10, RATE):
        found = audio.loudness(np.zeros((2, n), np.float32), RATE)
        assert found.integrated == found.true_peak == -math.inf
        assert found.range == 0.0
    with pytest.raises(InputError, match="silent"):
        audio.normalize_loudness(np.zeros((2, RATE), np.float32), RATE)
    with pytest.raises(InputError, match="at most 6"):
        audio.loudness(np.zeros((7, 10), np.float32), RATE)
    with pytest.raises(InputError, match="NaN"):
        audio.loudness(np.full(10, np.nan, np.float32), RATE)
