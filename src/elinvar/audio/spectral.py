"""Short-time Fourier transform and its inverse, whole signals and streams.

Layout as in librosa and torch: [..., frequency, time]. Frames are analysed with a periodic window; the inverse adds
windowed frames and divides by the sum of squared windows (Griffin and Lim 1984), which is exact wherever that sum is
not zero. Samples no window reaches (the first ones without `center` and a Hann window) come out as zeros.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError
from elinvar.runtime.parallel import parallel_for
from elinvar.runtime.trace import trace

from . import _spectrum
from ._check import Array, Signal, choice, count, rows_of, signal, write_out
from ._convolve_torch import wants_torch
from .fourier import irfft, rfft
from .windows import check_nola
from .windows import window as make_window

__all__ = ["STFT", "StreamingSTFT", "istft", "stft"]

_PAD = {"constant": "constant", "zeros": "constant", "reflect": "reflect", "edge": "edge", "replicate": "edge",
        "circular": "wrap", "wrap": "wrap"}  # fmt: skip
_FRAMES = 128  # frames a thread takes at a time: about 1 MB of spectra at 2048
_FLOOR = 1e-10  # sum of squared windows below which a sample counts as unseen


class STFT:
    """Short-time Fourier transform with everything prepared.

    ::

        stft = audio.STFT(2048, 512)
        X = stft(x)                       # complex64 [..., 1025, frames]
        y = stft.inverse(X, length=x.shape[-1])

    Parameters
    ----------
    n_fft
        Samples of a transform, any number from 2; powers of two are fastest.
    hop_length
        Samples from frame to frame; n_fft // 4 by default.
    win_length
        Samples of the window, centred in n_fft with zeros; n_fft by default.
    window
        Name for `audio.window`, or the samples.
    center
        Whether frame k is centred on sample k hop_length; the signal is padded by n_fft // 2 on both sides.
    pad_mode
        "reflect", "constant" (zeros), "edge" or "wrap". A signal too short to reflect is padded with zeros.
    normalized
        Multiply by 1 / sqrt(n_fft), as torch does; `inverse` undoes it.
    """

    def __init__(
        self,
        n_fft: int = 2048,
        hop_length: int | None = None,
        win_length: int | None = None,
        window: str | tuple[str, float] | ArrayLike = "hann",
        center: bool = True,
        pad_mode: str = "reflect",
        normalized: bool = False,
    ) -> None:
        self.n_fft = count("STFT", "n_fft", n_fft, minimum=2)
        self.hop_length = max(1, self.n_fft // 4) if hop_length is None else count("STFT", "hop_length", hop_length)
        self.win_length = self.n_fft if win_length is None else count("STFT", "win_length", win_length)
        if self.win_length > self.n_fft:
            raise InputError(f"STFT: win_length is {self.win_length}; at most n_fft = {self.n_fft} is accepted.")
        self.center, self.normalized = center, normalized
        self._pad = _PAD[choice("STFT", "pad_mode", pad_mode, tuple(_PAD))]
        before = (self.n_fft - self.win_length) // 2
        self.window: NDArray[np.float64] = np.zeros(self.n_fft)
        """The window as it is applied, float64 [n_fft]."""
        self.window[before : before + self.win_length] = make_window(window, self.win_length)
        scale = 1.0 / np.sqrt(self.n_fft) if normalized else 1.0
        self._analysis = (self.window * scale).astype(np.float32)
        self._synthesis = (self.window / (self.n_fft * scale)).astype(np.float32)  # irfft's factor is in it
        self._own = self.n_fft & (self.n_fft - 1) == 0 and 128 <= self.n_fft <= _spectrum.LARGEST
        self._divisors = lru_cache(maxsize=4)(self._divisor)

    @property
    def invertible(self) -> bool:
        """Whether every sample is seen by some window (NOLA)."""
        return check_nola(self.window, self.n_fft, self.hop_length)

    def frames(self, n: int) -> int:
        """How many frames a signal of n samples has."""
        length = n + 2 * (self.n_fft // 2) if self.center else n
        return 0 if n == 0 or length < self.n_fft else 1 + (length - self.n_fft) // self.hop_length

    def _padded(self, x: Array) -> Array:
        if not self.center:
            return x
        half, n = self.n_fft // 2, x.shape[-1]
        mode = self._pad if n > half or self._pad in ("constant", "edge") else "constant"
        padded = np.empty((len(x), n + 2 * half), np.float32)
        padded[:, half : half + n] = x
        if mode == "reflect":
            padded[:, :half] = x[:, half:0:-1]
            padded[:, half + n :] = x[:, n - 2 : n - 2 - half : -1] if n - 2 - half >= 0 else x[:, n - 2 :: -1]
        elif mode == "edge":
            padded[:, :half], padded[:, half + n :] = x[:, :1], x[:, -1:]
        elif mode == "wrap":
            padded[:, :half], padded[:, half + n :] = x[:, -half:], x[:, :half]
        else:
            padded[:, :half], padded[:, half + n :] = 0.0, 0.0
        return padded

    @trace("audio.stft")
    def __call__(self, x: Signal, *, out: Any = None) -> Any:
        """Return complex64 [..., n_fft // 2 + 1, frames] of samples [..., time].

        The result lies in memory frame by frame; it is a view with the last axes exchanged.
        """
        if wants_torch(x):
            return write_out("stft", self._torch(x), out)
        samples, _ = signal("stft", x)
        rows = rows_of(samples)
        bins, frames = self.n_fft // 2 + 1, self.frames(rows.shape[1])
        y = np.empty((len(rows), frames, bins), np.complex64)
        if frames and len(rows):
            self._forward(self._padded(rows), y)
        shaped = y.reshape(*samples.shape[:-1], frames, bins).swapaxes(-1, -2)
        if not isinstance(x, np.ndarray) and hasattr(x, "detach"):
            import torch

            return write_out("stft", torch.from_numpy(shaped), out)
        return write_out("stft", shaped, out)

    def _forward(self, padded: Array, y: NDArray[np.complex64]) -> None:
        rows, frames, _ = y.shape
        if self._own:
            flat, out, width = padded.reshape(-1), y.view(np.float32), padded.shape[1]

            def own(begin: int, end: int) -> None:
                plan = _spectrum.plan(self.n_fft // 2)
                for r in range(rows):
                    first = r * width + begin * self.hop_length
                    _spectrum.forward_frames(plan, flat, first, self.hop_length, self._analysis, out[r, begin:end])

            parallel_for(frames, own, chunk=_FRAMES)
            return
        views = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft, axis=-1)[:, :: self.hop_length]
        for begin in range(0, frames, _FRAMES):
            part = views[:, begin : begin + _FRAMES] * self._analysis
            y[:, begin : begin + part.shape[1]] = rfft(part, self.n_fft)

    def _divisor(self, frames: int) -> tuple[Array, int]:
        """1 / sum of squared windows, and how many leading samples do not count."""
        total = np.zeros((frames - 1) * self.hop_length + self.n_fft)
        square = self.window**2
        for k in range(frames):
            total[k * self.hop_length : k * self.hop_length + self.n_fft] += square
        factor = np.zeros_like(total)
        np.divide(1.0, total, out=factor, where=total > _FLOOR)
        return factor.astype(np.float32), self.n_fft // 2 if self.center else 0

    @trace("audio.istft")
    def inverse(self, X: Any, length: int | None = None, *, out: Any = None) -> Any:
        """Return samples [..., length] of a spectrogram [..., n_fft // 2 + 1, frames].

        Parameters
        ----------
        X
            complex64; numpy array or torch tensor.
        length
            Samples wanted; cut or zero-padded. By default what the frames cover.
        out
            Where to write.
        """
        if wants_torch(X):
            return write_out("istft", self._torch_inverse(X, length), out)
        tensor = not isinstance(X, np.ndarray) and hasattr(X, "numpy")
        array = np.asarray(X.numpy() if tensor else X)
        bins = self.n_fft // 2 + 1
        if array.ndim < 2 or array.shape[-2] != bins or array.dtype.kind != "c":
            raise InputError(
                f"istft: got {array.dtype} of shape {array.shape}; give complex [..., {bins}, frames]: "
                f"n_fft is {self.n_fft}."
            )
        frames = array.shape[-1]
        flat = np.ascontiguousarray(array.swapaxes(-1, -2), np.complex64)
        flat = flat.reshape(math.prod(array.shape[:-2]), frames, bins)
        wanted = self._natural(frames) if length is None else count("istft", "length", length, minimum=0)
        y = np.zeros((len(flat), wanted), np.float32)
        if frames:
            self._backward(flat, y)
        y = y.reshape(*array.shape[:-2], wanted)
        if tensor:
            import torch

            return write_out("istft", torch.from_numpy(y), out)
        return write_out("istft", y, out)

    def _natural(self, frames: int) -> int:
        if frames == 0:
            return 0
        covered = (frames - 1) * self.hop_length + self.n_fft
        return covered - 2 * (self.n_fft // 2) if self.center else covered

    def _backward(self, flat: NDArray[np.complex64], y: Array) -> None:
        rows, frames, _ = flat.shape
        factor, skip = self._divisors(frames)

        def some(begin: int, end: int) -> None:
            plan = _spectrum.plan(self.n_fft // 2) if self._own else None
            for r in range(begin, end):
                whole = np.zeros(len(factor), np.float32)
                if plan is not None:
                    spectra = flat[r].view(np.float32)
                    _spectrum.inverse_frames(plan, spectra, self._synthesis, whole, 0, self.hop_length)
                else:
                    self._add_frames(flat[r], whole)
                keep = max(0, min(y.shape[1], len(whole) - skip))
                np.multiply(whole[skip : skip + keep], factor[skip : skip + keep], out=y[r, :keep])

        parallel_for(rows, some, chunk=1)

    def _add_frames(self, spectra: NDArray[np.complex64], whole: Array) -> None:
        window = self._synthesis * np.float32(self.n_fft)
        for begin in range(0, len(spectra), _FRAMES):
            parts = irfft(spectra[begin : begin + _FRAMES], self.n_fft) * window
            for k, part in enumerate(parts, begin):
                whole[k * self.hop_length : k * self.hop_length + self.n_fft] += part

    def _torch(self, x: Any) -> Any:
        import torch

        window = torch.from_numpy(self.window.astype(np.float32)).to(x.device)
        rows = x.float().reshape(-1, x.shape[-1])
        if self.center:
            half, n = self.n_fft // 2, rows.shape[-1]
            mode = {"edge": "replicate", "wrap": "circular"}.get(self._pad, self._pad)
            mode = mode if n > half or mode == "replicate" else "constant"
            rows = torch.nn.functional.pad(rows[None], (half, half), mode=mode)[0]
        found = torch.stft(
            rows, self.n_fft, self.hop_length, self.n_fft, window, center=False, normalized=self.normalized,
            return_complex=True,
        )  # fmt: skip
        return found.reshape(*x.shape[:-1], *found.shape[-2:])

    def _torch_inverse(self, X: Any, length: int | None) -> Any:
        import torch

        frames = X.shape[-1]
        factor, skip = self._divisors(frames)
        window = torch.from_numpy(self._synthesis * np.float32(self.n_fft)).to(X.device)
        parts = torch.fft.irfft(X.reshape(-1, *X.shape[-2:]), self.n_fft, dim=-2) * window[:, None]
        whole = torch.nn.functional.fold(parts, (1, len(factor)), (1, self.n_fft), stride=(1, self.hop_length))
        whole = whole[:, 0, 0] * torch.from_numpy(factor).to(X.device)
        wanted = self._natural(frames) if length is None else length
        y = whole[:, skip : skip + wanted]
        y = torch.nn.functional.pad(y, (0, wanted - y.shape[-1]))
        return y.reshape(*X.shape[:-2], wanted)


@lru_cache(maxsize=16)
def _prepared(
    n_fft: int, hop_length: int | None, win_length: int | None, window: Any, center: bool, pad: str, normalized: bool
) -> STFT:
    return STFT(n_fft, hop_length, win_length, window, center, pad, normalized)


def _stft(
    n_fft: int, hop_length: int | None, win_length: int | None, window: Any, center: bool, pad: str, normalized: bool
) -> STFT:
    make = _prepared if isinstance(window, (str, tuple)) else STFT
    return make(n_fft, hop_length, win_length, window, center, pad, normalized)


def stft(
    x: Signal,
    n_fft: int = 2048,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: str | tuple[str, float] | ArrayLike = "hann",
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    *,
    out: Any = None,
) -> Any:
    """Return the short-time Fourier transform of samples [..., time]; see `STFT` for the parameters."""
    return _stft(n_fft, hop_length, win_length, window, center, pad_mode, normalized)(x, out=out)


def istft(
    X: Any,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: str | tuple[str, float] | ArrayLike = "hann",
    center: bool = True,
    normalized: bool = False,
    length: int | None = None,
    *,
    n_fft: int | None = None,
    out: Any = None,
) -> Any:
    """Return samples of a spectrogram [..., bins, frames]; n_fft is 2 (bins - 1) unless given."""
    size = 2 * (X.shape[-2] - 1) if n_fft is None else n_fft
    return _stft(size, hop_length, win_length, window, center, "reflect", normalized).inverse(X, length, out=out)


class StreamingSTFT:
    """Frames of a stream as they become complete, and sound from frames; no allocation per block once warm.

    Parameters
    ----------
    n_fft, hop_length, window
        As in `STFT`; n_fft a power of two from 128, hop_length a divisor of n_fft.
    channels
        Rows of every block.

    Notes
    -----
    ``pull(push(x))`` is x delayed by `latency`.
    """

    def __init__(
        self, n_fft: int = 2048, hop_length: int | None = None, window: str | tuple[str, float] | ArrayLike = "hann",
        channels: int = 1,
    ) -> None:  # fmt: skip
        self._stft = STFT(n_fft, hop_length, window=window, center=False)
        if not self._stft._own or n_fft % self._stft.hop_length:  # noqa: SLF001  (same module)
            raise InputError(
                f"StreamingSTFT: n_fft is {n_fft} and hop_length {self._stft.hop_length}; give a power of two from 128 "
                "and one of its divisors."
            )
        self.n_fft, self.hop_length = n_fft, self._stft.hop_length
        self.channels = count("StreamingSTFT", "channels", channels)
        folded = np.zeros(self.hop_length)
        for k in range(0, n_fft, self.hop_length):
            folded += self._stft.window[k : k + self.hop_length] ** 2
        if folded.min() <= _FLOOR:
            raise InputError(
                f"StreamingSTFT: windows {self.hop_length} samples apart leave samples unseen; choose a smaller hop."
            )
        self._factor = (1.0 / folded).astype(np.float32)
        self._plan = _spectrum.plan(n_fft // 2)
        self._history = np.zeros((self.channels, n_fft), np.float32)
        self._sums = np.zeros((self.channels, n_fft), np.float32)
        self._filled = 0
        self._spectrum = np.zeros((self.channels, 1, n_fft // 2 + 1), np.complex64)

    @property
    def latency(self) -> int:
        """Samples between input and output when every hop is pushed and pulled."""
        return self.n_fft - self.hop_length

    def reset(self) -> None:
        """Forget the past."""
        self._history[:], self._sums[:], self._filled = 0.0, 0.0, 0

    def push(self, hop: Array) -> NDArray[np.complex64]:
        """Take hop_length samples [channels, hop_length]; return the newest frame [channels, bins].

        The returned array is overwritten by the next call.
        """
        if hop.shape != (self.channels, self.hop_length) or hop.dtype != np.float32:
            raise InputError(
                f"StreamingSTFT.push: got {hop.dtype} of shape {hop.shape}; give float32 "
                f"[{self.channels}, {self.hop_length}]."
            )
        history = self._history
        history[:, : -self.hop_length] = history[:, self.hop_length :]
        history[:, -self.hop_length :] = hop
        analysis = self._stft._analysis  # noqa: SLF001
        for c in range(self.channels):
            _spectrum.forward_frames(self._plan, history[c], 0, 1, analysis, self._spectrum[c].view(np.float32))
        return self._spectrum[:, 0]

    def pull(self, frame: NDArray[np.complex64], out: Array | None = None) -> Array:
        """Take a frame [channels, bins]; return the hop_length samples [channels, hop_length] that are complete."""
        y = np.empty((self.channels, self.hop_length), np.float32) if out is None else out
        synthesis = self._stft._synthesis  # noqa: SLF001
        for c in range(self.channels):
            row = np.ascontiguousarray(frame[c : c + 1], np.complex64).view(np.float32)
            _spectrum.inverse_frames(self._plan, row, synthesis, self._sums[c], 0, 1)
        np.multiply(self._sums[:, : self.hop_length], self._factor, out=y)
        self._sums[:, : -self.hop_length] = self._sums[:, self.hop_length :]
        self._sums[:, -self.hop_length :] = 0.0
        return y
