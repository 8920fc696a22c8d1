"""Stem separation: a mix becomes its stems, and what that will cost before it is done."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from elinvar.audio._check import choice, count, finite, number, optional_library, rate
from elinvar.audio._download import Download
from elinvar.audio._level import Level
from elinvar.audio._peak import peak_bytes
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

__all__ = ["SegmentCost", "SeparationPlan", "measure_segment", "plan_separation", "separate"]

Progress = Callable[[int, "int | None"], object]
_GPU_BATCH = 16  # segments at once: 3.4 ms each in float16 on an H200, 5.4 ms in batches of 8, no less in larger ones


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
    runner = Runner(network, place, mode=mode, compute=compute_dtype(precision, place))
    options: dict[str, Any] = {"segment": segment, "overlap": overlap, "shifts": shifts, "seed": seed}
    size = batch_of(batch, place, network, runner.compute)
    joined = torch.empty(len(network.sources), len(tracks), *tracks.shape[1:], device=given.device)
    for i, track in enumerate(tracks):
        mix = at_rate(track.expand(2, -1), own, network.sample_rate)
        level = Level.of_tensor(track) if normalise else Level()
        grid = Grid.make(mix.shape[1], network.length, network.sample_rate, power=transition_power, **options)
        if own == network.sample_rate:
            _whole(mix, grid, runner, level, joined[:, i], size, progress)
        else:
            stems = torch.empty(len(network.sources), len(track), grid.length, device=given.device)
            _whole(mix, grid, runner, level, stems, size, progress)
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
    x = x.double().mul(scale).float() if scale is not None else x.float()
    if not bool(torch.isfinite(x.double().sum())):
        finite(operation, x.cpu().numpy(), "the wave")
    return x


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


def _whole(
    mix: Tensor, grid: Grid, runner: Runner, level: Level, out: Tensor, size: int, progress: Progress | None
) -> None:
    """Separate ``mix [2, time]`` into ``out [stems, channels, time]``, wherever that is."""
    where = runner.device.torch
    mix = level.take(to_device(mix, where))

    def read(start: int, stop: int) -> Tensor:
        inside = mix[:, max(0, start) : max(0, stop)]
        return torch.nn.functional.pad(inside, (max(0, -start), stop - max(0, start) - inside.shape[1]))

    with Download(out, where, behind=size) as download:
        for start, part in overlap_add(grid, read, runner, batch=size, progress=progress):
            stems = level.give(part)
            download.put(start, stems.mean(dim=1, keepdim=True) if out.shape[1] == 1 else stems)


def batch_of(batch: int | None, place: Device, network: Separator, compute: torch.dtype) -> int:
    """Segments per run: on a GPU as many as half of its budget holds, up to what keeps the largest ones busy."""
    if batch is not None:
        return count("separate", "batch", batch)
    if place.kind == "cpu":
        return 1
    return max(1, min(_GPU_BATCH, place.profile.recommended_budget_bytes // (2 * _estimate(network, compute))))


# -- what it will cost ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SegmentCost:
    """What a segment costs here: wall-clock seconds; bytes beyond the weights at the peak of a run; CPU seconds."""

    seconds: float
    peak_bytes: int
    cpu_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class SeparationPlan:
    """What a separation takes; prints as a paragraph.

    Attributes
    ----------
    duration
        Seconds of audio.
    runs
        How often the network runs.
    seconds, cpu_seconds
        Predicted time of all runs: by the clock, if the machine stays as busy as it was; and of its processors.
    weights_bytes, work_bytes
        The network's weights; activations and the joining of segments at their peak.
    result_bytes
        All stems in memory, which `separate` needs and `separate_file` does not.
    """

    duration: float
    runs: int
    seconds: float
    weights_bytes: int
    work_bytes: int
    result_bytes: int
    device: str
    precision: str
    cpu_seconds: float = 0.0

    @property
    def memory_bytes(self) -> int:
        """What `separate` takes beyond the mix itself."""
        return self.weights_bytes + self.work_bytes + self.result_bytes

    @property
    def streaming_bytes(self) -> int:
        """What `separate_file` takes, whatever the duration."""
        return self.weights_bytes + self.work_bytes

    def __str__(self) -> str:
        speed = self.duration / self.seconds if self.seconds else math.inf
        return (
            f"{self.duration:.1f} s of audio in {self.runs} runs on {self.device} in {self.precision}: about "
            f"{self.seconds:.1f} s ({speed:.2f} x real time); {self.weights_bytes / 1e6:.0f} MB of weights and "
            f"{self.work_bytes / 1e6:.0f} MB to work in from file to file, {self.result_bytes / 1e6:.0f} MB more for "
            "the stems in memory."
        )


_measured: dict[tuple[Any, ...], SegmentCost] = {}


def measure_segment(
    model: Separator,
    device: str | Device = "auto",
    *,
    precision: str | Precision = "fp32",
    mode: str = "full",
    batch: int | None = None,
) -> SegmentCost:
    """Run the network twice on noise and return the cost of the second run; remembered for this process.

    On the CPU the seconds are wall-clock seconds with the threads torch uses now. `batch` segments run at once, by
    default as many as `separate` takes: the seconds are those of one of them, the bytes those of all.
    """
    place = find_device(device)
    compute = compute_dtype(precision, place)
    size = batch_of(batch, place, model, compute)
    key = (model.fingerprint, str(place), compute, mode, torch.get_num_threads(), size)
    if key not in _measured:
        runner = Runner(model.to(place.torch), place, mode=mode, compute=compute)
        noise = 0.1 * torch.randn(size, 2, model.length, generator=torch.Generator().manual_seed(0))
        windows = noise.to(place.torch)
        runner(windows)
        place.synchronize()
        with peak_bytes(place) as peak:
            begin, cpu = time.perf_counter(), time.process_time()
            runner(windows)
            place.synchronize()
            seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        _measured[key] = SegmentCost(seconds / size, peak() or size * _estimate(model, compute), cpu / size)
    return _measured[key]


def _estimate(model: Separator, compute: torch.dtype) -> int:
    """Peak of one run where it cannot be measured: five of the first level's widest activations, plus the spectra."""
    c = model.config
    level = c.n_fft // 2 // c.shape.stride * math.ceil(c.length / c.hop) * 2 * c.channels
    spectra = len(c.sources) * c.audio_channels * c.length * 4 * 4
    return 5 * level * compute.itemsize + 2 * spectra


def plan_separation(
    duration: float,
    model: Separator | str | Path = "htdemucs",
    segment: float | None = None,
    overlap: float = 0.25,
    *,
    shifts: int = 0,
    mode: str = "full",
    device: str | Device = "auto",
    precision: str | Precision = "fp32",
    batch: int | None = None,
    cost: SegmentCost | None = None,
) -> SeparationPlan:
    """Say how long a separation will take and how much memory it needs.

    Parameters
    ----------
    duration
        Seconds of audio.
    model, segment, overlap, shifts, mode, device, precision, batch
        As in `separate`.
    cost
        Of one segment; None measures it here (two runs of the network).
    """
    duration = number("plan_separation", "duration", duration, low=0.0)
    network = load_model(model) if isinstance(model, (str, Path)) else model
    place = find_device(device)
    length = round(duration * network.sample_rate)
    grid = Grid.make(
        length, network.length, network.sample_rate, segment=segment, overlap=overlap, shifts=shifts, seed=0, power=1.0
    )
    size = max(1, min(batch_of(batch, place, network, compute_dtype(precision, place)), grid.runs))
    one = cost or measure_segment(network, place, precision=precision, mode=mode, batch=size)
    stems = len(network.sources) * 2 * 4
    # Every shift has an accumulator; what is final is divided, copied and averaged.
    joining = stems * (len(grid.origins) * (grid.segment + 22050 * bool(shifts)) + 2 * grid.stride)
    if place.kind == "cuda":
        joining += stems * grid.stride * size + 2 * 4 * length  # what waits to be sent, and the mix
    return SeparationPlan(
        duration=duration,
        runs=grid.runs,
        seconds=one.seconds * grid.runs,
        weights_bytes=network.memory_bytes,
        work_bytes=one.peak_bytes + joining,
        result_bytes=stems * length,
        device=str(place),
        precision=str(precision),
        cpu_seconds=one.cpu_seconds * grid.runs,
    )
