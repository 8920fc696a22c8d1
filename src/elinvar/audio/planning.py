"""What a separation will cost before it is done: measured here, on noise, by the code that does it.

Nothing is fitted. `measure_segment` runs the network; `measure_host` runs everything else of `separate` around a
network that takes no time; `measure_files` does so from file to file, with the first seconds of the file itself.
`plan_separation` counts how often each happens, and which of them overlap.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from elinvar.audio._check import choice, number
from elinvar.audio._level import Level
from elinvar.audio._peak import peak_bytes
from elinvar.audio._runner import PLAIN, Runner, compute_dtype, fill
from elinvar.audio._segments import Grid, groups
from elinvar.audio._stream_io import FORMATS, Reader
from elinvar.audio.htdemucs_weights import Separator, load_model
from elinvar.audio.separation import batch_of, estimated_bytes, prepared, samples, whole
from elinvar.audio.separation_file import FileJob, FileRun
from elinvar.runtime.device import Device
from elinvar.runtime.device import device as find_device
from elinvar.runtime.parallel import cpu_threads
from elinvar.runtime.precision import Precision
from elinvar.runtime.trace import trace

__all__ = [
    "FileCost",
    "HostCost",
    "SegmentCost",
    "SeparationPlan",
    "measure_files",
    "measure_host",
    "measure_segment",
    "plan_separation",
]

_PIECES = (4, 16)  # segments of noise: two lengths, to tell what happens once
_SECONDS = 30  # of a file
_WAITING = 3  # parts of all stems: made, levelled, and being written


@dataclasses.dataclass(frozen=True)
class SegmentCost:
    """What a segment costs here.

    Attributes
    ----------
    seconds, cpu_seconds
        Of the clock and of the processors; of one segment, where several run at once.
    peak_bytes
        Beyond the weights, at the peak of a run.
    record_seconds, replay_seconds
        Where a GPU records a run that comes often: the recording, and a segment after it.
    """

    seconds: float
    peak_bytes: int
    cpu_seconds: float = 0.0
    record_seconds: float = 0.0
    replay_seconds: float | None = None

    def run_seconds(self, size: int, before: int) -> float:
        """Seconds of a run of `size` segments after `before` others of that size."""
        if self.replay_seconds is None or before < PLAIN:
            return size * self.seconds
        return self.record_seconds if before == PLAIN else size * self.replay_seconds


@dataclasses.dataclass(frozen=True)
class HostCost:
    """Seconds beside the network.

    Attributes
    ----------
    prepare
        Per second of audio, before the network's first run.
    collect
        Per second of audio, after each run.
    start
        Once.
    """

    prepare: float = 0.0
    collect: float = 0.0
    start: float = 0.0


@dataclasses.dataclass(frozen=True)
class FileCost:
    """Seconds per second of audio from file to file beside the network.

    Attributes
    ----------
    measure
        To read the file for its level, before everything else.
    read
        To read it again for the network, in a thread of its own.
    write
        To write the stem that takes longest, each in a thread of its own.
    cpu_seconds
        Of the processors for all of it.
    """

    measure: float = 0.0
    read: float = 0.0
    write: float = 0.0
    cpu_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class SeparationPlan:
    """What a separation takes; prints as a paragraph.

    Attributes
    ----------
    duration
        Seconds of audio.
    runs
        Segments the network sees.
    seconds, cpu_seconds
        Predicted time of the whole: by the clock, if the machine stays as busy as it was; and of its processors.
    weights_bytes, work_bytes
        The network's weights; activations and the joining of segments at their peak.
    result_bytes
        All stems in memory, which `separate` needs and `separate_file` does not.
    waiting_bytes
        What waits between reading, the network and writing, which `separate_file` needs and `separate` does not.
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
    waiting_bytes: int = 0

    @property
    def memory_bytes(self) -> int:
        """What `separate` takes beyond the mix itself."""
        return self.weights_bytes + self.work_bytes + self.result_bytes

    @property
    def streaming_bytes(self) -> int:
        """What `separate_file` takes, whatever the duration."""
        return self.weights_bytes + self.work_bytes + self.waiting_bytes

    def __str__(self) -> str:
        speed = self.duration / self.seconds if self.seconds else math.inf
        return (
            f"{self.duration:.1f} s of audio in {self.runs} runs on {self.device} in {self.precision}: about "
            f"{self.seconds:.1f} s ({speed:.2f} x real time); {self.weights_bytes / 1e6:.0f} MB of weights and "
            f"{(self.work_bytes + self.waiting_bytes) / 1e6:.0f} MB to work in from file to file; in memory, "
            f"{self.work_bytes / 1e6:.0f} MB and {self.result_bytes / 1e6:.0f} MB for the stems."
        )


_measured: dict[tuple[Any, ...], Any] = {}


def _noise(*shape: int) -> torch.Tensor:
    make = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=make, dtype=torch.float32, device="cpu").mul_(0.1)


def _clock(place: Device, work: Callable[[], object], runs: int) -> tuple[float, float]:
    """Return the median seconds of `work`, by the clock and of the processors."""
    wall, cpu = [], []
    for _ in range(runs):
        place.synchronize()
        begin, spent = time.perf_counter(), time.process_time()
        work()
        place.synchronize()
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - spent)
    return statistics.median(wall), statistics.median(cpu)


def measure_segment(
    model: Separator,
    device: str | Device = "auto",
    *,
    precision: str | Precision = "fp32",
    mode: str = "full",
    batch: int | None = None,
    often: bool = False,
) -> SegmentCost:
    """Run the network on noise and return its cost, without the first run; remembered for this process.

    On the CPU the seconds are wall-clock seconds with the threads torch uses now. `batch` segments run at once, by
    default as many as `separate` takes: the seconds are those of one of them, the bytes those of all. `often` also
    measures what comes after some runs of a small batch on a GPU: its recording.
    """
    place = find_device(device)
    compute = compute_dtype(precision, place)
    size = batch_of(batch, place, model, compute)
    often = often and place.kind == "cuda" and Runner.records(size)
    key = ("segment", model.fingerprint, str(place), compute, mode, torch.get_num_threads(), size, often)
    if key not in _measured:
        how: dict[str, Any] = {"mode": mode, "compute": compute}
        runner = Runner(model.to(place.torch), place, graphs=False, **how)
        windows = _noise(size, 2, model.length).to(place.torch)
        runner(windows)
        recording, replay = 0.0, None
        with peak_bytes(place) as peak:
            seconds, cpu = _clock(place, lambda: runner(windows), 1 if place.kind == "cpu" else 3)
            if often:
                for _ in range(2):  # the first recording of a process takes longer
                    recorder = Runner(model, place, graphs=True, **how)
                    recording, _ = _clock(place, lambda run=recorder: run(windows), 1)  # type: ignore[misc]
                replay = _clock(place, lambda: recorder(windows), 3)[0] / size
        high = peak() or size * estimated_bytes(model, compute)
        _measured[key] = SegmentCost(seconds / size, high, cpu / size, recording, replay)
    found: SegmentCost = _measured[key]
    return found


def measure_host(
    model: Separator, device: str | Device = "auto", *, batch: int = 1, overlap: float = 0.25, shifts: int = 0
) -> HostCost:
    """Separate noise with a network that takes no time, and return what the rest takes; remembered for this process.

    Checks, levels, the way to the device, joining, and the way back into memory that nobody has touched yet.
    """
    place = find_device(device)
    key = ("host", model.config, str(place), torch.get_num_threads(), batch, overlap, shifts)
    if key not in _measured:
        _measured[key] = _measured_host(model, place, batch, overlap, shifts)
    found: HostCost = _measured[key]
    return found


def _measured_host(model: Separator, place: Device, batch: int, overlap: float, shifts: int) -> HostCost:
    rate, shape = model.sample_rate, (batch, len(model.sources), 2, model.length)
    stems = torch.zeros(shape, dtype=torch.float32, device=place.torch)

    def prepare() -> tuple[torch.Tensor, Level]:
        return prepared(samples(wave), rate, rate, place, normalise=True)

    def collect() -> None:
        out = torch.empty(len(model.sources), 2, length, dtype=torch.float32, device="cpu")
        grid = Grid.make(length, model.length, rate, segment=None, overlap=overlap, shifts=shifts, seed=0, power=1.0)
        whole(mix, grid, lambda windows: stems[: len(windows)], level, out, batch=batch)

    took, prepares = [], []
    for length in (model.length * n for n in _PIECES):
        wave = _noise(2, length)
        mix, level = prepare()
        collect()
        prepares.append(_clock(place, prepare, 3)[0] * rate / length)
        took.append((length / rate, _clock(place, collect, 5)[0]))
    start, collected = _line(*took)
    return HostCost(prepares[-1], collected, start)


def _line(short: tuple[float, float], long: tuple[float, float]) -> tuple[float, float]:
    """Return what happens once and what grows with the audio, from (seconds of audio, seconds) of two pieces."""
    (a, x), (b, y) = short, long
    if b <= a:
        return 0.0, y / b
    slope = max(0.0, (y - x) / (b - a))
    return max(0.0, y - slope * b), slope


def measure_files(
    path: str | Path,
    model: Separator,
    device: str | Device = "auto",
    *,
    overlap: float = 0.25,
    format: str = "wav",  # noqa: A002
    two_stems: str | None = None,
) -> FileCost:
    """Separate the first seconds of a file with a network that takes no time, and return what the rest takes.

    Every stem is then the mix: what an encoder needs depends on what it hears.
    """
    place, source, stems = find_device(device), Path(path), len(model.sources)
    if Reader(source).frames == 0:
        return FileCost()
    job = FileJob(overlap=overlap, format=format, two_stems=two_stems, normalise=False)
    job.check(model.sources)

    def network(windows: torch.Tensor) -> torch.Tensor:
        return windows[:, None].expand(-1, stems, -1, -1)

    reader = Reader(source, _SECONDS)
    seconds = reader.frames / reader.rate
    for _ in range(2):  # the first loads libraries and does not count
        begin, spent = time.perf_counter(), time.process_time()
        Level.of(reader.blocks(once=True))
        measure = time.perf_counter() - begin
        with tempfile.TemporaryDirectory() as folder, trace.record() as recording:
            FileRun(reader, model, job, place, network, 1).write(Path(folder))
        spent, took = time.process_time() - spent, recording.totals()
    stages = [taken for stage, taken in took.items() if stage == "download" or stage.startswith("write ")]
    finish = took["finish"] / len(job.names(model.sources))
    return FileCost(measure / seconds, took["read"] / seconds, (max(stages) + finish) / seconds, spent / seconds)


def _flow(*stages: Sequence[float]) -> float:
    """Seconds of groups that go through stages which overlap, each stage taking one group after the other."""
    ends = [0.0] * len(stages)
    for group in zip(*stages, strict=True):
        at = 0.0
        for i, seconds in enumerate(group):
            at = ends[i] = max(at, ends[i]) + seconds
    return ends[-1]


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
    file: str | Path | None = None,
    format: str = "wav",  # noqa: A002
    two_stems: str | None = None,
) -> SeparationPlan:
    """Say how long a separation will take and how much memory it needs.

    What is measured for it stays known in this process: the network is run a few times on noise, so the first call
    takes seconds. Neither starting a process nor loading a model is counted.

    Parameters
    ----------
    duration
        Seconds of audio.
    model, segment, overlap, shifts, mode, device, precision, batch
        As in `separate`, of which the whole is planned: audio in memory at the network's rate to stems in memory.
    cost
        Of one segment, for the network's time alone; then nothing is measured.
    file
        Plan `separate_file` of this file instead, reading and writing included: its first seconds are read and written
        once, to a temporary folder.
    format, two_stems
        As in `separate_file`.
    """
    duration = number("plan_separation", "duration", duration, low=0.0)
    choice("plan_separation", "format", format, tuple(FORMATS))
    network = load_model(model) if isinstance(model, (str, Path)) else model
    place, rate = find_device(device), network.sample_rate
    length = round(duration * rate)
    grid = Grid.make(
        length, network.length, rate, segment=segment, overlap=overlap, shifts=shifts, seed=0, power=1.0
    )  # fmt: skip
    compute = compute_dtype(precision, place)
    size = batch_of(batch, place, network, compute)
    sizes = [fill(len(group), size, compute, place) for group in groups(grid, size)]
    size = max(sizes, default=1)
    one, last, host, files = cost, cost, HostCost(), None
    if one is None or last is None:
        how: dict[str, Any] = {"precision": precision, "mode": mode}
        one = measure_segment(network, place, batch=size, often=len(sizes) > PLAIN, **how)
        last = one if len({*sizes}) < 2 else measure_segment(network, place, batch=sizes[-1], **how)
        if file is None:
            host = measure_host(network, place, batch=size, overlap=overlap, shifts=shifts)
        else:
            files = measure_files(
                file, network, place, overlap=overlap, format=format, two_stems=two_stems
            )  # fmt: skip
    runs = [one.run_seconds(size, i) if n == size else last.run_seconds(n, 0) for i, n in enumerate(sizes)]
    audio = [duration * n / sum(sizes) for n in sizes]
    stems = len(network.sources) * 2 * 4
    return SeparationPlan(
        duration=duration,
        runs=grid.runs,
        seconds=_seconds(place, runs, audio, host, files),
        weights_bytes=network.memory_bytes,
        work_bytes=one.peak_bytes + _joining(grid, stems, size, place),
        result_bytes=stems * length,
        waiting_bytes=_WAITING * stems * grid.stride,
        device=str(place),
        precision=str(precision),
        cpu_seconds=one.cpu_seconds * grid.runs
        + duration * (host.prepare + host.collect if files is None else files.cpu_seconds),
    )


def _seconds(place: Device, runs: list[float], audio: list[float], host: HostCost, files: FileCost | None) -> float:
    """Seconds of the whole job: `runs` of the network, each for so many seconds of `audio`."""
    duration = sum(audio)
    if place.kind != "cuda":  # the processors do one thing at a time
        beside = host.prepare + host.collect if files is None else files.cpu_seconds / cpu_threads()
        return sum(runs) + duration * beside
    if files is None:
        return host.start + host.prepare * duration + _flow(runs, [host.collect * seconds for seconds in audio])
    read, write = ([rate * seconds for seconds in audio] for rate in (files.read, files.write))
    return files.measure * duration + _flow(read, runs, write)


def _joining(grid: Grid, stems: int, size: int, place: Device) -> int:
    """Bytes beside the network's: of a sample of all stems there are `stems`."""
    # Every shift has an accumulator; what is final is divided, copied and averaged.
    shifted = 22050 * (len(grid.origins) > 1 or grid.origins[0] != 0)
    joining = stems * (len(grid.origins) * (grid.segment + shifted) + 2 * grid.stride)
    if place.kind == "cuda":
        # What waits to be sent, with parts being made, levelled and on their way; and the mix.
        joining += stems * grid.stride * (2 * size + 3) + 2 * 4 * grid.length
    return joining
