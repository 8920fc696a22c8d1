from __future__ import annotations

import numpy as np
import pytest
import torch

from elinvar import audio
from elinvar.errors import InputError


def tone(rate: int, n: int, hertz: float = 1000.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(n) / rate).astype(np.float32)


@pytest.mark.parametrize(("a", "b"), [(48_000, 44_100), (44_100, 48_000), (8000, 192_000), (192_000, 8000)])
def test_a_tone_stays_a_tone(a: int, b: int) -> None:
    x = tone(a, a // 4)
    y = audio.resample(x, a, b, quality="best")
    assert len(y) == round(len(x) * b / a)
    middle = slice(b // 16, -b // 16)
    assert np.abs(y - tone(b, len(y)))[middle].max() < 1e-5


def test_shapes_and_identity() -> None:
    x = np.stack([tone(48_000, 4800), tone(48_000, 4800, 500.0)])
    assert audio.resample(x[None], 48_000, 24_000).shape == (1, 2, 2400)
    np.testing.assert_array_equal(audio.resample(x, 48_000, 48_000), x)
    assert audio.resample(x[:, :0], 48_000, 44_100).shape == (2, 0)
    assert isinstance(audio.resample(torch.from_numpy(x), 48_000, 24_000), torch.Tensor)
    assert audio.resample(x[:, :1], 48_000, 24_000).shape == (2, 0)


def test_stream_equals_whole() -> None:
    x = np.stack([tone(48_000, 9600), tone(48_000, 9600, 700.0)])
    stream = audio.Resampler(48_000, 44_100, 2)
    parts = [stream.process(x[:, i : i + 333], last=i + 333 >= 9600) for i in range(0, 9600, 333)]
    whole = audio.resample(x, 48_000, 44_100)
    found = np.concatenate(parts, axis=1)
    assert abs(found.shape[1] - whole.shape[1]) <= 1
    n = min(found.shape[1], whole.shape[1])
    assert np.abs(found[:, :n] - whole[:, :n]).max() < 1e-5
    stream.reset()
    assert stream.process(x[:, :333]).shape[0] == 2


def test_bad_input() -> None:
    with pytest.raises(InputError, match="to_rate is -1"):
        audio.resample(tone(8000, 80), 8000, -1)
    with pytest.raises(InputError, match="quality"):
        audio.resample(tone(8000, 80), 8000, 4000, quality="superb")
    with pytest.raises(InputError, match="NaN"):
        audio.resample(tone(8000, 80) * np.nan, 8000, 4000)
    with pytest.raises(InputError, match=r"Resampler\.process"):
        audio.Resampler(8000, 4000).process(tone(8000, 80))
