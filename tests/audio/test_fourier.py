from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar import audio
from elinvar.audio import _spectrum, fourier
from elinvar.errors import InputError

NOISE = np.random.default_rng(0).standard_normal((3, 4096)).astype(np.float32)


def relative(found: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(found - want).max() / max(np.abs(want).max(), 1e-300))


@pytest.mark.parametrize("n", [128, 256, 512, 1024, 2048, 4096])  # even and odd powers: with and without a radix-2 pass
def test_own_kernels_equal_numpy_in_float64(n: int) -> None:
    x = NOISE[:, :n].copy()
    want = np.fft.rfft(x.astype(np.float64))
    spectrum = fourier._own_rfft(x, n)
    assert relative(spectrum, want) < 3e-7
    assert relative(fourier._own_irfft(spectrum, n), x) < 5e-7
    z = (x + 1j * x[::-1]).astype(np.complex64)
    want = np.fft.fft(z.astype(np.complex128))
    spectrum = fourier._own_complex(z, n, inverse=False)
    assert relative(spectrum, want) < 3e-7
    assert relative(fourier._own_complex(spectrum, n, inverse=True), z) < 5e-7


def test_longest_own_transform() -> None:
    n = _spectrum.LARGEST
    x = np.random.default_rng(1).standard_normal((1, n)).astype(np.float32)
    assert relative(fourier._own_rfft(x, n), np.fft.rfft(x.astype(np.float64))) < 4e-7


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 600), rows=st.integers(0, 3), pad=st.integers(-3, 40))
def test_any_length(n: int, rows: int, pad: int) -> None:
    x, length = NOISE[:rows, :n], max(1, n + pad)
    assert relative(audio.rfft(x, length), np.fft.rfft(x.astype(np.float64), length)) < 1e-6 if rows else True
    assert audio.rfft(x, length).shape == (rows, length // 2 + 1)
    if rows:
        assert relative(audio.irfft(audio.rfft(x), n), x) < 2e-6
        assert relative(audio.ifft(audio.fft(x)), x) < 2e-6


def test_every_backend_agrees() -> None:
    for kind in ("rfft", "irfft", "fft", "ifft"):
        x = NOISE[:, :257] if kind == "irfft" else NOISE[:, :512]
        x = np.ascontiguousarray(x) if kind == "rfft" else np.ascontiguousarray(x).astype(np.complex64)
        results = {name: run(x, 512) for name, run in fourier._candidates(kind, 512).items()}
        assert set(results) == {"elinvar", "scipy", "torch", "numpy"}
        for found in results.values():
            assert relative(found, results["numpy"]) < 1e-6
        assert fourier.backend(kind, 512) in results


def test_prepared_transform() -> None:
    plan, x = audio.FFT(512), NOISE[0, :512].copy()
    spectrum, back = np.empty(257, np.complex64), np.empty(512, np.float32)
    assert plan.forward(x, spectrum) is spectrum
    assert relative(spectrum, np.fft.rfft(x.astype(np.float64))) < 3e-7
    assert plan.inverse(spectrum, back) is back
    assert relative(back, x) < 5e-7
    with pytest.raises(InputError, match="n is 1000"):
        audio.FFT(1000)
    with pytest.raises(InputError, match=r"FFT\.forward: got float64"):
        plan.forward(x.astype(np.float64))
    with pytest.raises(InputError, match=r"FFT\.inverse"):
        plan.inverse(spectrum[:-1])


def test_dtypes_and_containers() -> None:
    x = NOISE[0, :300]
    assert audio.rfft(x).dtype == np.complex64
    assert audio.rfft(x.astype(np.float64)).dtype == np.complex128
    assert isinstance(audio.rfft(torch.from_numpy(x.copy())), torch.Tensor)
    out = np.empty(151, np.complex64)
    assert audio.rfft(x, out=out) is out
    leaf = torch.from_numpy(x.copy()).requires_grad_()
    audio.irfft(audio.rfft(leaf), 300).square().sum().backward()
    assert torch.allclose(leaf.grad, 2 * leaf.detach(), atol=1e-5)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="nothing to transform"):
        audio.rfft(np.zeros((2, 0), np.float32))
    with pytest.raises(InputError, match="real samples"):
        audio.rfft(np.zeros(4, np.complex64))
    with pytest.raises(InputError, match="one number"):
        audio.fft(np.float32(1))
    with pytest.raises(InputError, match="rfft, irfft"):
        fourier.backend("dct", 8)
    with pytest.raises(InputError, match="out has shape"):
        audio.rfft(NOISE[0, :300], out=np.empty(3, np.complex64))


@given(n=st.integers(1, 100_000))
def test_next_fast_length(n: int) -> None:
    found = audio.next_fast_length(n)
    assert n <= found <= max(1.125 * n, n + 1)
    for p in (2, 3, 5, 7):
        while found % p == 0:
            found //= p
    assert found == 1
