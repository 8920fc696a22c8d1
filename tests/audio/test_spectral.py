from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar import audio
from elinvar.errors import InputError
from elinvar.runtime.parallel import set_threads

SIGNAL = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 6000)).astype(np.float32)


def by_torch(x: np.ndarray, n: int, hop: int, window: str = "hann", **options: object) -> np.ndarray:
    samples = torch.from_numpy(audio.window(window, n))
    found = torch.stft(torch.from_numpy(x).double(), n, hop, window=samples, return_complex=True, **options)
    return np.asarray(found)


@pytest.mark.parametrize(("n", "hop"), [(2048, 512), (256, 64), (256, 100), (1000, 250), (401, 100), (128, 128)])
@pytest.mark.parametrize("pad", ["reflect", "constant"])
def test_equals_torch_in_float64(n: int, hop: int, pad: str) -> None:
    stft = audio.STFT(n, hop, pad_mode=pad)
    found = stft(SIGNAL)
    want = by_torch(SIGNAL, n, hop, pad_mode=pad)
    assert found.dtype == np.complex64
    assert found.shape == want.shape == (2, n // 2 + 1, stft.frames(6000))
    assert np.abs(found - want).max() <= 3e-7 * np.abs(want).max()


def test_without_centre_and_normalized() -> None:
    want = by_torch(SIGNAL, 512, 128, center=False, normalized=True)
    stft = audio.STFT(512, 128, center=False, normalized=True)
    assert np.abs(stft(SIGNAL) - want).max() <= 3e-7 * np.abs(want).max()
    back = stft.inverse(stft(SIGNAL))
    assert back.shape[1] == 46 * 128
    assert np.abs(back - SIGNAL[:, : 46 * 128])[:, 128:-128].max() <= 3e-7  # at the rims the window is nearly 0
    assert np.all(back[:, 0] == 0.0)  # no window sees it: silence, where torch raises


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(0, 700),
    size=st.sampled_from([128, 130, 64, 33]),
    part=st.sampled_from([2, 3, 4]),
    pad=st.sampled_from(["reflect", "constant", "edge", "wrap"]),
    window=st.sampled_from(["hann", "hamming"]),
)
def test_round_trip(n: int, size: int, part: int, pad: str, window: str) -> None:
    x = SIGNAL[:, :n]
    stft = audio.STFT(size, size // part, pad_mode=pad, window=window)
    back = stft.inverse(stft(x), length=n)
    assert back.shape == x.shape
    covered = max(0, stft.frames(n) - 1) * stft.hop_length  # behind it the last window fades to nothing
    assert np.abs(back - x)[:, :covered].max(initial=0.0) <= 5e-7


def test_window_shorter_than_transform_and_leading_dimensions() -> None:
    x = SIGNAL.reshape(2, 1, 6000)
    found = audio.stft(x, 512, 100, 400, "hamming")
    want = torch.stft(torch.from_numpy(SIGNAL).double(), 512, 100, 400, torch.from_numpy(audio.window("hamming", 400)),
                      return_complex=True).numpy()  # fmt: skip
    assert found.shape == (2, 1, 257, 61)
    assert np.abs(found[:, 0] - want).max() <= 3e-7 * np.abs(want).max()
    back = audio.istft(found, 100, 400, "hamming", length=6000)
    assert np.abs(back - x).max() <= 3e-7


def test_threads_do_not_change_a_bit() -> None:
    stft = audio.STFT(256, 64)
    spectra, sounds = [], []
    for threads in (1, 3):
        before = set_threads(threads)
        try:
            spectra.append(stft(SIGNAL))
            sounds.append(stft.inverse(spectra[-1], 6000))
        finally:
            set_threads(before)
    np.testing.assert_array_equal(*spectra)
    np.testing.assert_array_equal(*sounds)


def test_tensors_and_gradients() -> None:
    x = torch.from_numpy(SIGNAL.copy())
    spectrum = audio.stft(x, 256, 64)
    assert isinstance(spectrum, torch.Tensor)
    leaf = x.clone().requires_grad_()
    through = audio.istft(audio.stft(leaf, 256, 64, pad_mode="wrap"), 64, length=6000)
    assert float((through.detach() - x).abs().max()) <= 3e-7
    through.square().sum().backward()
    assert torch.allclose(leaf.grad, 2 * x, atol=1e-4)
    short = torch.rand(2, 20, requires_grad=True)  # too short to reflect
    assert audio.stft(short, 64, 16).shape == audio.stft(short.detach().numpy(), 64, 16).shape


def test_out() -> None:
    stft = audio.STFT(256, 64)
    out = np.empty((2, 129, stft.frames(6000)), np.complex64)
    assert stft(SIGNAL, out=out) is out
    np.testing.assert_array_equal(out, stft(SIGNAL))
    sound = np.empty_like(SIGNAL)
    assert stft.inverse(out, 6000, out=sound) is sound


def test_streaming_is_a_delay() -> None:
    stream = audio.StreamingSTFT(256, 64, channels=2)
    sounds = [stream.pull(stream.push(np.ascontiguousarray(SIGNAL[:, i : i + 64]))) for i in range(0, 5952, 64)]
    late = np.concatenate(sounds, axis=1)
    assert stream.latency == 192
    assert np.abs(late[:, 192:] - SIGNAL[:, : 5952 - 192]).max() <= 3e-7
    frame = audio.StreamingSTFT(256, 64, channels=2).push(np.ascontiguousarray(SIGNAL[:, :64]))
    padded = np.pad(SIGNAL[:, :64], ((0, 0), (192, 0)))
    assert np.abs(frame - audio.STFT(256, 64, center=False)(padded)[..., 0]).max() < 1e-5
    stream.reset()
    assert np.all(stream.pull(np.zeros((2, 129), np.complex64)) == 0)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="n_fft is 1"):
        audio.STFT(1)
    with pytest.raises(InputError, match="win_length is 512"):
        audio.STFT(256, win_length=512)
    with pytest.raises(InputError, match="pad_mode"):
        audio.STFT(256, pad_mode="mirror")
    with pytest.raises(InputError, match="129, frames"):
        audio.STFT(256).inverse(np.zeros((100, 3), np.complex64))
    with pytest.raises(InputError, match="divisors"):
        audio.StreamingSTFT(256, 100)
    with pytest.raises(InputError, match="unseen"):
        audio.StreamingSTFT(256, 256)
    with pytest.raises(InputError, match=r"StreamingSTFT\.push"):
        audio.StreamingSTFT(256, 64).push(np.zeros((1, 63), np.float32))
    with pytest.raises(InputError, match="dtype bool"):
        audio.stft(np.zeros(100, bool))
    assert audio.STFT(256, 256, window="boxcar").invertible
    assert not audio.STFT(256, 256).invertible


def test_nothing_in_nothing_out() -> None:
    assert audio.stft(np.zeros((2, 0), np.float32)).shape == (2, 1025, 0)
    assert audio.istft(np.zeros((2, 1025, 0), np.complex64)).shape == (2, 0)
    one = audio.stft(np.ones((1, 1), np.float32), 256)
    np.testing.assert_allclose(audio.istft(one, length=1), [[1.0]], atol=1e-6)
