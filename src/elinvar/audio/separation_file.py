"""Stem separation from file to file: flat memory for any length, whole results or none, nothing done twice."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from elinvar.audio._check import choice, count
from elinvar.audio._download import Landing, behind
from elinvar.audio._level import Level
from elinvar.audio._runner import Runner, compute_dtype, torch_threads
from elinvar.audio._segments import Grid, Load, Loaded, Place, overlap_add
from elinvar.audio._stream_io import CLIP_MODES, FORMATS, Reader, StemWriter, Window, resampled
from elinvar.audio.htdemucs import MODES
from elinvar.audio.htdemucs_weights import Separator, load_model
from elinvar.audio.separation import Progress, batch_of
from elinvar.errors import Cancelled, InputError
from elinvar.runtime.device import device as find_device
from elinvar.runtime.files import atomic_directory
from elinvar.runtime.pipeline import Pipeline, Stage

if TYPE_CHECKING:
    from elinvar.runtime.device import Device
    from elinvar.runtime.pipeline import Executor
    from elinvar.runtime.precision import Precision

__all__ = ["FileJob", "FileRun", "SeparatedFile", "separate_file", "separate_files"]

_RECORD = "separation.json"


@dataclasses.dataclass(frozen=True)
class SeparatedFile:
    """What `separate_file` wrote.

    Attributes
    ----------
    source, folder
        The input and the folder of its stems.
    stems
        Stem name to file.
    seconds
        Length of the audio.
    clipped
        Samples cut off at full scale, by stem; always 0 for float WAV.
    skipped
        Whether everything was there already.
    """

    source: Path
    folder: Path
    stems: dict[str, Path]
    seconds: float
    clipped: dict[str, int]
    skipped: bool


@dataclasses.dataclass(frozen=True)
class FileJob:
    """Everything that decides what is in the files."""

    segment: float | None = None
    shifts: int = 0
    overlap: float = 0.25
    transition_power: float = 1.0
    seed: int = 0
    mode: str = "full"
    normalise: bool = True
    precision: str = "fp32"
    two_stems: str | None = None
    format: str = "wav"
    quality: float | None = None
    clip_mode: str = "none"

    def check(self, sources: Sequence[str]) -> None:
        """Refuse what `separate_file` does not accept."""
        choice("separate_file", "mode", self.mode, MODES)
        choice("separate_file", "format", self.format, tuple(FORMATS))
        choice("separate_file", "clip_mode", self.clip_mode, CLIP_MODES)
        if self.two_stems is not None:
            choice("separate_file", "two_stems", self.two_stems, tuple(sources))

    def names(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Names of the stems that are written."""
        return tuple(sources) if self.two_stems is None else (self.two_stems, f"no_{self.two_stems}")

    def mixdown(self, part: Tensor, sources: Sequence[str]) -> Tensor:
        """Keep all stems, or one and the sum of the others."""
        if self.two_stems is None:
            return part
        i = list(sources).index(self.two_stems)
        rest = [k for k in range(len(sources)) if k != i]
        return torch.stack([part[i], part[rest].sum(dim=0)])


def separate_file(
    path: str | Path,
    out_dir: str | Path,
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
    two_stems: str | None = None,
    format: str = "wav",  # noqa: A002
    quality: float | None = None,
    clip_mode: str = "none",
    batch: int | None = None,
    overwrite: bool = False,
    truncated: bool = False,
    progress: Progress | None = None,
) -> SeparatedFile:
    """Separate an audio file into ``out_dir/<name>/<stem>.<format>``.

    Memory does not grow with the length of the file. The folder appears when everything in it is complete; it holds a
    record of the input and the options, and a second call with the same ones does nothing.

    Parameters
    ----------
    path
        Anything libsndfile reads: WAV, FLAC, MP3, OGG, AIFF, ...; one channel or two, any rate. The stems have the
        file's own rate and channels.
    out_dir
        Made when missing.
    model, segment, shifts, overlap, transition_power, seed, mode, normalise, device, precision, batch, progress
        As in `separate`. To normalise, the file is read twice: first to measure it.
    two_stems
        A stem's name: write that stem and ``no_<stem>``, the sum of all others.
    format
        ``"wav"`` (float32), ``"wav16"``, ``"wav24"``, ``"flac"`` (24 bits), ``"flac16"``, ``"mp3"`` or ``"ogg"``.
    quality
        libsndfile's compression level from 0 (best or fastest) to 1; None takes its default.
    clip_mode
        Samples beyond full scale, where stems are louder than the mix: ``"none"`` writes them as they are, and every
        format but float WAV cuts them off; ``"clamp"`` cuts them off in all; ``"rescale"`` makes a stem that has any
        quieter as a whole, to 1 / 1.01 of full scale (its float samples are kept in the folder meanwhile).
    overwrite
        Do it again even if it is done.
    truncated
        Accept a file that ends before the length it declares, and separate what is there.

    Raises
    ------
    InputError
        The file is unreadable, truncated or has more than two channels, an option is not accepted, or the folder holds
        something that is not the result of a separation.
    OSError
        The disk is full, or cannot be written; nothing is left behind.
    """
    network = load_model(model) if isinstance(model, (str, Path)) else model
    job = FileJob(
        segment, shifts, overlap, transition_power, seed, mode, normalise, str(precision), two_stems, format, quality,
        clip_mode,
    )  # fmt: skip
    job.check(network.sources)
    source = Path(path)
    folder = Path(out_dir) / source.stem
    reader = Reader(source, truncated=truncated)
    record = _record(source, reader, network, job)
    stems = {name: folder / f"{name}.{_suffix(format)}" for name in job.names(network.sources)}
    seconds = reader.frames / reader.rate
    done = _finished(folder, record, stems.values())
    if done is not None and not overwrite:
        if progress is not None:
            progress(1, 1)
        return SeparatedFile(source, folder, stems, seconds, done, skipped=True)
    place = find_device(device)
    network.to(place.torch)
    compute = compute_dtype(precision, place)
    with atomic_directory(folder) as temporary:
        size = batch_of(batch, place, network, compute)
        runner = Runner(network, place, mode=mode, compute=compute, batch=size)
        work = FileRun(reader, network, job, place, runner, size, progress)
        clipped = work.write(temporary)
        (temporary / _RECORD).write_text(json.dumps({**record, "clipped": clipped}, indent=1), encoding="utf-8")
    return SeparatedFile(source, folder, stems, seconds, clipped, skipped=False)


def _suffix(kind: str) -> str:
    return kind.rstrip("0123456789") if kind != "mp3" else kind


@dataclasses.dataclass(frozen=True)
class FileRun:
    """One file on its way through the network, which `run` runs."""

    reader: Reader
    network: Separator
    job: FileJob
    place: Device
    run: Callable[[Tensor], Tensor]
    batch: int
    progress: Progress | None = None

    def write(self, folder: Path) -> dict[str, int]:
        """Write all stems into `folder`; return how many samples were cut off in each."""
        job, reader = self.job, self.reader
        names = job.names(self.network.sources)
        shape = (reader.rate, reader.channels, reader.frames)
        with contextlib.ExitStack() as stack:
            writers = []
            for name in names:
                file = folder / f"{name}.{_suffix(job.format)}"
                given = self.network.sample_rate
                writer = StemWriter(file, *shape, job.format, job.quality, job.clip_mode, given)
                stack.callback(writer.close)
                writers.append(writer)
            stages = [Stage(_Sink(writer, i), name=f"write {names[i]}") for i, writer in enumerate(writers)]
            parts = self._parts()
            if self.place.kind == "cuda":
                land = Landing(self.place.torch)
                stages.insert(0, Stage(lambda item: land(*item).numpy().copy(), name="download"))
                blocks: Iterator[Any] = behind(((part, land.mark()) for part in parts), self.batch)
            else:
                blocks = (part.cpu().numpy() for part in parts)
            # A block is written stem after stem, several blocks at a time: every stem has a thread. What waits for
            # them waits on the GPU; a CPU makes blocks more slowly than they are written.
            waiting = len(stages) + 1 if self.place.kind == "cuda" else 2
            with Pipeline(stages, in_flight=waiting) as pipeline:
                for _ in pipeline.run(blocks):
                    pass
            with Pipeline([Stage(StemWriter.finish, name="finish", workers=len(writers))], len(writers)) as pipeline:
                for _ in pipeline.run(writers):
                    pass
        return {name: writer.clipped for name, writer in zip(names, writers, strict=True)}

    def _parts(self) -> Iterator[Tensor]:
        """Yield ``[stems, channels, n]`` at the network's rate, where the network runs."""
        reader, network, job = self.reader, self.network, self.job
        rate, own = network.sample_rate, reader.rate
        length = reader.frames if own == rate else max(1, round(reader.frames * rate / own)) if reader.frames else 0
        grid = Grid.make(
            length, network.length, rate, segment=job.segment, overlap=job.overlap, shifts=job.shifts, seed=job.seed,
            power=job.transition_power,
        )  # fmt: skip
        level = Level.of(reader.blocks(once=True)) if job.normalise else Level()
        with contextlib.closing(reader.blocks()) as heard:
            mix = heard if own == rate else resampled(heard, own, rate, length)
            window = Window(level.take_from(mix), length, grid.reach, self.place.torch)
            joined = overlap_add(
                grid, window.read, self.run, batch=self.batch, progress=self.progress, ahead=self._ahead
            )
            with contextlib.closing(joined) as parts:  # before what it reads
                for _, part in parts:
                    stems = job.mixdown(level.give(part), network.sources)
                    yield stems.mean(dim=1, keepdim=True) if reader.channels == 1 else stems

    def _ahead(self, load: Load, groups: Iterator[list[Place]]) -> Iterator[Loaded]:
        """Read and upload in a thread of its own, on a stream of its own: a plain copy waits for the network's."""
        with Pipeline([Stage(load, name="read", device=self.place)], in_flight=2) as pipeline:
            yield from pipeline.run(groups)


@dataclasses.dataclass(frozen=True)
class _Sink:
    """Writes stem `i` of every block that passes."""

    writer: StemWriter
    i: int

    def __call__(self, block: Any) -> Any:
        self.writer.write(block[self.i])
        return block


def _record(source: Path, reader: Reader, network: Separator, job: FileJob) -> dict[str, Any]:
    status = source.stat()
    return {
        "source": source.name,
        "bytes": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "frames": reader.frames,
        "sample_rate": reader.rate,
        "weights": network.fingerprint,
        "options": dataclasses.asdict(job),
    }


def _finished(folder: Path, record: dict[str, Any], files: Iterable[Path]) -> dict[str, int] | None:
    """Return the clipped counts when the folder is the result of the same job; None when it is still to be done."""
    if not folder.exists():
        return None
    try:
        old = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        clipped = dict(old.pop("clipped"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        if folder.is_dir() and not any(folder.iterdir()):
            return None
        raise InputError(
            f"{folder} exists and is no result of a separation; choose another folder, or move it away."
        ) from None
    return clipped if old == record and all(file.is_file() for file in files) else None


def separate_files(
    paths: Sequence[str | Path],
    out_dir: str | Path,
    model: Separator | str | Path = "htdemucs",
    *,
    jobs: int = 1,
    executor: Executor | None = None,
    progress: Callable[[int, int | None], object] | None = None,
    **options: Any,
) -> Iterator[SeparatedFile]:
    """Separate many files; yields their results in order.

    Parameters
    ----------
    paths
        Files with different names.
    jobs
        Files at the same time; they share the weights and divide torch's threads. Each needs its own working memory,
        see `plan_separation`.
    executor
        A cluster (``elinvar.runtime.cluster``): one file is one task, `model` must then be a name or a path that its
        workers can load.
    progress
        Called with files done and their number.
    options
        Of `separate_file`.

    Raises
    ------
    InputError
        Two files would write the same folder, or a model object was given for a cluster.
    """
    jobs = count("separate_files", "jobs", jobs)
    sources = [Path(p) for p in paths]
    stems = [p.stem for p in sources]
    double = next((s for s in stems if stems.count(s) > 1), None)
    if double is not None:
        raise InputError(f"separate_files: two files are named {double!r} and would share a folder; rename one.")
    if executor is not None and not isinstance(model, (str, Path)):
        raise InputError("separate_files: with an executor the model must be a name or a path, not an object.")
    shared = model if executor is not None or not sources else _loaded(model)
    threads = None if jobs == 1 or executor is not None else max(1, torch.get_num_threads() // jobs)
    work = _Task(str(out_dir), shared, threads, options)
    if executor is not None:
        with Pipeline([Stage(work, name="separate", workers=jobs)], jobs + 1, executor, progress) as pipeline:
            yield from pipeline.run(sources)
        return

    def separated(path: Path) -> SeparatedFile:
        return work(path, lambda: pipeline.stopping)

    with Pipeline([Stage(separated, name="separate", workers=jobs)], jobs + 1, progress=progress) as pipeline:
        yield from pipeline.run(sources)


def _loaded(model: Separator | str | Path) -> Separator:
    return load_model(model) if isinstance(model, (str, Path)) else model


@dataclasses.dataclass(frozen=True)
class _Task:
    """One file of many; a class, so that it travels to the workers of a cluster."""

    out_dir: str
    model: Separator | str | Path
    threads: int | None
    options: dict[str, Any]

    def __call__(self, path: Path, stopping: Callable[[], bool] | None = None) -> SeparatedFile:
        """Separate one file, unless `stopping` says, between two runs of the network, that the others are given up."""

        def watch(done: int, total: int | None) -> None:
            if stopping is not None and stopping():
                raise Cancelled(f"{path.name} was given up after {done} of {total} samples; separate it again.")

        with torch_threads(self.threads):
            return separate_file(path, self.out_dir, self.model, **{"progress": watch, **self.options})
