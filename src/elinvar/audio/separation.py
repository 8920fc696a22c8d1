"""Stem separation: a mix becomes its stems."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from elinvar.audio._check import choice, count, finite, optional_library, rate
from elinvar.audio._download import collect
from elinvar.audio._level import Level
from elinvar.audio._runner import Runner, compute_dtype
from elinvar.audio._segments import Grid, overlap_add
from elinvar.audio.htdemucs import MODES
from elinvar.audio.htdemucs_weights import Separator, load_model
from elinvar.errors import InputError
from elinvar.runtime.device import device as find_device
from elinvar.runtime.transfers import to_device

if TYPE_CHECKING:
    from elinvar.runtime.device import Device
    from elinvar.runtime.precision import Precision

__all__ = ["separate"]

Progress = Callable[[int, "int | None"], object]
_TILE, _GPU_BATCH = (
    8,
    16,
)  # segments at once: 3.4 ms each in float16 on an H200, 5.4 ms in batches of 8, no less in larger ones


@torch.no_grad()
def separate(
    wave: Any,
    sample_rate: float,
    model: Separator | str | Path = "htdemucs",
    *,
    segment: float | None = None,
    shifts: int = 0,
    overlap: float = 0.25,
    transition_power: float = 1.0,
    seed: int = 0,
    mode: str = "full",
    normalise: bool = True,
    device: str | Device = "auto",
    precision: str | Precision = "fp32",
    batch: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Separate audio into stems.

    Parameters
    ----------
    wave
        ``[..., channels, time]`` or ``[time]``, numpy or torch, float32 or float64 in [-1, 1], int16 or int32; one
        channel or two.
    sample_rate
        Of the audio in Hz. Another rate than the network's is converted and the stems are converted back.
    model
        What `load_model` returns or accepts.
    segment
        Seconds each run contributes, at most what the network sees (7.8 s), which is the default.
    shifts
        Repeat this often with the segments elsewhere, and average: costs that many times as much. 0 is deterministic
        without a seed.
    overlap
        Part of a segment that is computed twice, 0 to 0.95.
    transition_power
        Exponent of the cross-fade's triangle.
    seed
        Of the shifts.
    mode
        ``"full"``, or ``"preview"``: a named rough idea in a tenth of the time.
    normalise
        Take out the mean and standard deviation of the whole track before, and give them back after: what `demucs`
        does. Every segment is measured by the track's, never by its own (the network itself also normalises each
        segment). False feeds the samples as they are.
    device
        Where the network runs; its weights are moved there.
    precision
        ``"fp32"`` (without TF32), ``"bf16"``, ``"fp16"`` (GPUs) or ``"auto"``: the fastest the device is good at.
        Errors of bf16 stay 38 dB below the signal, those of fp16 56 dB.
    batch
        Segments per run; by default 1 on the CPU, and on a GPU up to 16, as its memory allows.
    progress
        ``progress(samples_done, samples)``, at the network's rate.

    Returns
    -------
    dict
        Stem name to float32 tensor with the shape and on the device of `wave`.

    Raises
    ------
    InputError
        The shape, rate or an option is not accepted, or a sample is NaN or infinite.
    WeightsError
        The model's weights are not there, with the ways to supply them.
    """
    choice("separate", "mode", mode, MODES)
    given = samples(wave)
    shape = given.shape
    tracks = given[None, None] if given.dim() == 1 else given.reshape(math.prod(shape[:-2]), *shape[-2:])
    if tracks.shape[1] not in (1, 2):
        raise InputError(f"separate: the wave has shape {tuple(shape)}; one or two channels are accepted, not more.")
    network = load_model(model) if isinstance(model, (str, Path)) else model
    place = find_device(device)
    network.to(place.torch)
    own = rate("separate", sample_rate)
    compute = compute_dtype(precision, place)
    size = batch_of(batch, place, network, compute)
    runner = Runner(network, place, mode=mode, compute=compute, batch=size)
    options: dict[str, Any] = {"segment": segment, "overlap": overlap, "shifts": shifts, "seed": seed}
    like: dict[str, Any] = {"dtype": torch.float32, "device": given.device}
    joined = torch.empty(len(network.sources), len(tracks), *tracks.shape[1:], **like)
    for i, track in enumerate(tracks):
        mix, level = prepared(track, own, network.sample_rate, place, normalise=normalise)
        grid = Grid.make(mix.shape[1], network.length, network.sample_rate, power=transition_power, **options)
        if own == network.sample_rate:
            whole(mix, grid, runner, level, joined[:, i], batch=size, progress=progress)
        else:
            stems = torch.empty(len(network.sources), len(track), grid.length, **like)
            whole(mix, grid, runner, level, stems, batch=size, progress=progress)
            joined[:, i] = _back(stems, network.sample_rate, own, shape[-1])
    return {name: joined[i].reshape(shape) for i, name in enumerate(network.sources)}


def samples(wave: Any, operation: str = "separate") -> Tensor:
    """Return finite float32 samples on the device they came from."""
    x = wave.detach() if isinstance(wave, Tensor) else torch.from_numpy(np.ascontiguousarray(wave))
    scale = {torch.int16: 2.0**-15, torch.int32: 2.0**-31}.get(x.dtype)
    if scale is None and not x.is_floating_point():
        raise InputError(f"{operation}: the wave is {x.dtype}; give float32 or float64 in [-1, 1], or int16 or int32.")
    if x.dim() == 0:
        raise InputError(f"{operation}: the wave is one number; give samples [..., channels, time].")
    x = x.float() if scale is None else x.float().mul_(scale)  # rounded once: the scale is a power of two
    if x.numel() and not bool(torch.stack(torch.aminmax(x)).isfinite().all()):  # one pass, nothing allocated
        finite(operation, x.cpu().numpy(), "the wave")
    return x


def prepared(track: Tensor, own: float, wanted: float, place: Device, *, normalise: bool) -> tuple[Tensor, Level]:
    """Return ``[channels, time]`` as ``[2, time]`` on the device, at the network's rate and without its level."""
    mix = at_rate(track.expand(2, -1), own, wanted)
    level = Level()
    if own == wanted:  # one channel is half the way and half the work
        here = to_device(track, place.torch)
        mix, track = here.expand(2, -1), here
    if normalise:
        level = Level.of_tensor(track)
    return level.take(to_device(mix, place.torch)), level


def at_rate(mix: Tensor, given: float, wanted: float) -> Tensor:
    if given == wanted or mix.shape[1] == 0:
        return mix
    soxr = optional_library("soxr", "audio at another sampling rate than the network's")
    return torch.from_numpy(soxr.resample(mix.cpu().T.numpy(), given, wanted, "VHQ").T.copy()).to(mix.device)


def _back(stems: Tensor, given: float, wanted: float, length: int) -> Tensor:
    """Convert ``[stems, channels, time]`` to the caller's rate and exactly his number of samples."""
    if given != wanted and stems.shape[-1]:
        rows = stems.reshape(-1, stems.shape[-1])
        stems = at_rate(rows, given, wanted).reshape(*stems.shape[:-1], -1)
    if stems.shape[-1] < length:
        stems = torch.nn.functional.pad(stems, (0, length - stems.shape[-1]))
    return stems[..., :length]


def whole(
    mix: Tensor,
    grid: Grid,
    run: Callable[[Tensor], Tensor],
    level: Level,
    out: Tensor,
    *,
    batch: int,
    progress: Progress | None = None,
) -> None:
    """Separate ``mix [2, time]`` into ``out [stems, channels, time]``, wherever that is."""

    def read(start: int, stop: int) -> Tensor:
        inside = mix[:, max(0, start) : max(0, stop)]
        return torch.nn.functional.pad(inside, (max(0, -start), stop - max(0, start) - inside.shape[1]))

    def finished() -> Iterator[tuple[int, Tensor]]:
        for start, part in overlap_add(grid, read, run, batch=batch, progress=progress):
            stems = level.give(part)
            yield start, stems.mean(dim=1, keepdim=True) if out.shape[1] == 1 else stems

    collect(finished(), out, mix.device, ahead=2 * batch)


def batch_of(batch: int | None, place: Device, network: Separator, compute: torch.dtype) -> int:
    """Segments per run: on a GPU as many as half of its budget holds, up to what keeps the largest ones busy."""
    if batch is not None:
        return count("separate", "batch", batch)
    if place.kind == "cpu":
        return 1
    fits = place.profile.recommended_budget_bytes // (2 * estimated_bytes(network, compute))
    most = max(1, min(_GPU_BATCH, fits))
    return most - most % _TILE if most > _TILE else most


def estimated_bytes(model: Separator, compute: torch.dtype) -> int:
    """Peak of one run where it cannot be measured: five of the first level's widest activations, plus the spectra."""
    c = model.config
    level = c.n_fft // 2 // c.shape.stride * math.ceil(c.length / c.hop) * 2 * c.channels
    spectra = len(c.sources) * c.audio_channels * c.length * 4 * 4
    return 5 * level * compute.itemsize + 2 * spectra
