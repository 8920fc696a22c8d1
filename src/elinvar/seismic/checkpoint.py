"""What a migration keeps on disk, so that it can be paused, killed or cut off and go on with the very same bits.

A checkpoint is a folder::

    job.json        what the image depends on: survey, options, device, kernel, libraries, block and tile sizes
    pass-0003.npz   image and fold of a finished pass
    lane-0.npz      image and fold of the pass under way, and how many blocks are in them; one per device
    lock            held by the run that works here
    PAUSE           created by you (``touch``): finish the block, keep everything, end

Every file is written beside its place, flushed to the disk and renamed: at any moment each is whole, old or new. What
an npz holds is checked by its CRC when it is read. Blocks are added in a fixed order and an image is kept bit by bit,
so a job that goes on makes the image that it would have made in one go.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from elinvar import __version__
from elinvar.errors import InputError
from elinvar.runtime.files import atomic_write, write_text

from ._check import count, number
from .job import Layout
from .lane import State
from .locking import Lock
from .options import digest

if TYPE_CHECKING:
    from elinvar.runtime.kernels import Kernel

    from .options import Options
    from .shards import Workers
    from .survey import Survey

__all__ = ["Checkpoint", "Session", "fingerprint", "identity"]

_FORMAT = 1
_SHARE = 0.03  # of the time, at most, goes into keeping
_DISK = 500e6  # bytes per second, until the first writing has been timed
_LOOKED_AT = 16  # traces whose samples are part of a survey's fingerprint
_OURS = re.compile(r"job\.json|pass-\d+\.npz|lane-\d+\.npz|PAUSE|\.(job\.json|(pass|lane)-\d+\.npz)\.\w+\.part")
_LABELS = {  # hashes and the like, whose values say nothing
    "survey.headers": "the survey's headers",
    "survey.sampled": "the survey's samples",
    "survey.file": "the survey's file",
    "survey.file.bytes": "the survey's file",
    "survey.file.modified_ns": "the survey's file",
    "velocity.values": "velocity",
    "gathers.members": "gathers",
    "mute": "mute",
    "datum": "datum or elevations",
    "pillars": "grid",
}


class Checkpoint:
    """A folder to keep a migration in, how often, and how to make it pause.

    Pass it, or just the folder, as ``migrate(..., checkpoint=)``. The same call later goes on where the first ended.
    Keeping takes at most about 3 % of the time: it waits longer than `seconds` where the image is large.

    Parameters
    ----------
    folder
        Made when missing. Needs about twice the bytes of image and fold, gathers included, until it is cleared.
    seconds
        Least time between two writings.
    blocks
        Write after every so many trace blocks instead, whatever it costs.
    resume
        None goes on with what the folder holds, if anything; True insists that there is something; False starts
        afresh, which removes what was kept.
    limit
        Seconds after which the run pauses by itself: the wall time of a batch queue, less a margin.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        seconds: float = 60.0,
        blocks: int | None = None,
        resume: bool | None = None,
        limit: float | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.seconds = number("Checkpoint", "seconds", seconds, low=0.0)
        self.blocks = None if blocks is None else count("Checkpoint", "blocks", blocks)
        self.resume = resume
        self.limit = None if limit is None else number("Checkpoint", "limit", limit, low=0.0, open_low=True)
        self._wanted = threading.Event()
        self._why = ""

    def pause(self, why: str = "it was asked to") -> None:
        """Let the run that uses this checkpoint finish its block, keep everything and end with ``Cancelled``.

        May be called from any thread and from a signal handler.
        """
        self._why = why
        self._wanted.set()

    def open(self, identity: Mapping[str, Any]) -> Session:
        """Lock the folder and check that what it holds belongs to this job.

        Raises
        ------
        InputError
            Another run works there, what is kept belongs to another job, is damaged, or is missing.
        """
        return Session(self, identity)

    def clear(self) -> None:
        """Remove what was kept, and the folder if nothing else is in it."""
        if not self.folder.is_dir():
            return
        with Lock(self.folder / "lock", f"checkpoint {self.folder}"):
            _remove(self.folder)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _remove(folder: Path) -> None:
    for file in folder.iterdir():
        if _OURS.fullmatch(file.name):
            file.unlink(missing_ok=True)


class Session:
    """A checkpoint in use. Close it, or use it as a context manager.

    Attributes
    ----------
    layout
        Block and tile sizes of the job that is gone on with; None for a new one.
    passes
        How many passes are finished and kept.
    previous
        Who worked here last and did not end properly (killed, cut off), or None.
    """

    def __init__(self, checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
        self.checkpoint = checkpoint
        self.folder = checkpoint.folder
        # As it will be read back: tuples become lists, numpy's numbers plain ones.
        self._identity: dict[str, Any] = json.loads(json.dumps(identity, default=_plain))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.folder / "lock", f"checkpoint {self.folder}")
        self._lock.acquire()
        try:
            self.previous = self._lock.previous
            (self.folder / "PAUSE").unlink(missing_ok=True)
            for left in self.folder.glob(".*.part"):  # of a run that was killed while it wrote
                left.unlink(missing_ok=True)
            if checkpoint.resume is False:
                _remove(self.folder)
            self.layout = self._read()
            self.passes = 0
            while self.layout is not None and self._pass(self.passes).exists():
                self.passes += 1
        except BaseException:
            self._lock.release()
            raise
        self._start = time.monotonic()
        self._pace: dict[int, _Pace] = {}

    def _read(self) -> Layout | None:
        """Return the layout of the job that is kept, after checking that it is this one."""
        file = self.folder / "job.json"
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            layout = Layout(**kept["layout"])
            made, version = kept["identity"], kept["format"]
        except FileNotFoundError:
            if self.checkpoint.resume:
                raise InputError(
                    f"checkpoint {self.folder}: there is nothing to go on with; start without resume (--resume)."
                ) from None
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(file, error) from error
        changed = ["the format of checkpoints"] if version != _FORMAT else _changes(made, self._identity)
        if changed:
            shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise InputError(
                f"checkpoint {self.folder} belongs to another job: {shown} changed; set it back, start afresh "
                "(resume=False, --restart), or use another folder."
            )
        return layout

    def _damaged(self, file: Path, error: object) -> InputError:
        return InputError(
            f"checkpoint {self.folder}: {file.name} is damaged ({error}); start afresh (resume=False, --restart)."
        )

    def begin(self, layout: Layout) -> None:
        """Write down what this job is; before the first block of a new one."""
        if self.layout is None:
            self.layout = layout
            kept = {"format": _FORMAT, "identity": self._identity, "layout": asdict(layout)}
            write_text(self.folder / "job.json", json.dumps(kept, indent=1) + "\n")

    # ---------------------------------------------------------------- keeping

    def due(self, lane: int, nbytes: int) -> bool:
        """Say whether a lane should be kept now; called once per block, `nbytes` is what would be written."""
        return self._pace_of(lane).due(nbytes)

    def keep_pass(self, step: int, image: NDArray[np.float32], fold: NDArray[np.int32]) -> None:
        """Keep a finished pass."""
        self._write(self._pass(step), image=image, fold=fold)
        self.passes = max(self.passes, step + 1)

    def keep_lane(self, lane: int, state: State) -> None:
        """Keep the pass that a lane is in; passes before it must have been kept."""
        begin = time.monotonic()
        arrays = {} if state.image is None else {"image": state.image, "fold": state.fold}
        self._write(self._lane(lane), at=np.array([state.step, state.blocks]), **arrays)
        self._pace_of(lane).spent(time.monotonic() - begin)

    def _pace_of(self, lane: int) -> _Pace:
        return self._pace.setdefault(lane, _Pace(self.checkpoint.seconds, self.checkpoint.blocks))

    def _write(self, path: Path, **arrays: Any) -> None:
        try:
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error

    def _pass(self, step: int) -> Path:
        return self.folder / f"pass-{step:04d}.npz"

    def _lane(self, number: int) -> Path:
        return self.folder / f"lane-{number}.npz"

    # ---------------------------------------------------------------- going on

    def read_pass(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Return image and fold of a finished pass."""
        found = self._load(self._pass(step))
        return found["image"], found["fold"]

    def read_lane(self, lane: int) -> State:
        """Return what was kept of a lane in the pass after the finished ones, its beginning when nothing was."""
        file = self._lane(lane)
        if self.layout is None or not file.exists():
            return State(self.passes)
        found = self._load(file)
        step, blocks = (int(i) for i in found["at"])
        if step > self.passes:
            raise self._damaged(self._pass(self.passes), "missing")
        if step < self.passes:  # that pass has been finished since
            return State(self.passes)
        return State(step, blocks, found.get("image"), found.get("fold"))

    def _load(self, file: Path) -> dict[str, NDArray[Any]]:
        try:
            with file.open("rb") as raw, np.load(raw) as data:
                return {name: data[name] for name in data.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise self._damaged(file, error) from error

    # ---------------------------------------------------------------- pausing, ending

    def pausing(self) -> str | None:
        """Return why the run should pause now, or None."""
        checkpoint = self.checkpoint
        if checkpoint._wanted.is_set():  # noqa: SLF001  (its other half)
            return checkpoint._why  # noqa: SLF001
        if (self.folder / "PAUSE").exists():
            (self.folder / "PAUSE").unlink(missing_ok=True)
            checkpoint.pause("there is a file PAUSE")
            return "there is a file PAUSE"
        if checkpoint.limit is not None and time.monotonic() - self._start >= checkpoint.limit:
            return f"its limit of {checkpoint.limit:g} s is over"
        return None

    def close(self) -> None:
        """Let others use the folder."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Pace:
    """When to write: at the least interval, later when writing is slow, or after so many blocks."""

    def __init__(self, seconds: float, blocks: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._blocks = blocks
        self._clock = clock
        self._last = clock()
        self._cost: float | None = None
        self._since = 0

    def due(self, nbytes: int) -> bool:
        self._since += 1
        if self._blocks is not None:
            return self._since >= self._blocks
        cost = nbytes / _DISK if self._cost is None else self._cost
        return self._clock() - self._last >= max(self._seconds, cost / _SHARE)

    def spent(self, seconds: float) -> None:
        self._cost, self._last, self._since = seconds, self._clock(), 0


# -------------------------------------------------------------------- what a job is


def fingerprint(survey: Survey) -> dict[str, Any]:
    """Return what tells whether a survey is still the same: its headers, its file, and a few of its samples."""
    live = np.flatnonzero(survey.live)
    looked = np.unique(live[np.linspace(0, len(live) - 1, _LOOKED_AT).astype(np.int64)])
    inner: Any = survey.traces
    while not hasattr(inner, "path") and hasattr(inner, "traces"):
        inner = inner.traces  # a selection
    path = Path(getattr(inner, "path", ""))
    facts = path.stat() if getattr(inner, "path", None) is not None and path.is_file() else None
    return {
        "traces": survey.n_traces,
        "samples": survey.n_samples,
        "dt": survey.dt,
        "headers": digest((survey.source, survey.receiver, survey.delay, survey.live)),
        "sampled": digest(survey.traces.read(looked)),
        "file": None if facts is None else {"bytes": facts.st_size, "modified_ns": facts.st_mtime_ns},
    }


def identity(
    options: Options, kernels: Sequence[Kernel], cut: Mapping[str, Any], workers: Workers | None = None
) -> dict[str, Any]:
    """Return everything the bits of an image depend on, as plain values.

    Parameters
    ----------
    options
        What was asked.
    kernels
        One per device.
    cut
        What the user said about how the work is cut up: memory budget, cluster shards.
    workers
        Of the cluster that does the work instead of those devices.
    """
    if workers is not None:
        made_by = ([f"{workers.version} on {workers.backend}"], [f"cluster of {workers.device}"])
    else:
        profiles = [kernel.device.profile for kernel in kernels]
        made_by = (
            sorted({f"{kernel.version} on {kernel.backend}{_settings(kernel)}" for kernel in kernels}),
            [" ".join([p.name, *(sorted(p.isa) if p.kind == "cpu" else ())]) for p in profiles],
        )
    return {
        "survey": fingerprint(options.survey),
        **options.identity(),
        "kernel": made_by[0],
        "devices": made_by[1],
        "limits": dict(cut),
        "libraries": {"elinvar": __version__, **{name: _version(name) for name in ("torch", "numpy", "numba")}},
    }


def _settings(kernel: Kernel) -> str:
    """Name a kernel's settings when they are not the usual ones: rounding depends on them."""
    if kernel.backend != "metal":
        return ""
    from .kernels.migrate.metal import Tuning, tuned_for

    used = tuned_for(kernel.version, kernel.device)
    return "" if used == Tuning() else f", {used.simdgroups} simdgroups of {used.samples} samples"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{name}.{key}" if name else key).items()}
    return {name: value}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Name what differs, with both values where a person can read them; nothing twice."""
    old, new = _flat(dict(before)), _flat(dict(after))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    plain = [name for name in names if name not in _LABELS]
    hidden = dict.fromkeys(_LABELS[name] for name in names if name in _LABELS)
    # "velocity" says nothing that "velocity.is (from 2500 m/s to 2600 m/s)" does not.
    found = [label for label in hidden if not any(name.startswith(f"{label}.") for name in plain)]
    return [f"{name} (from {_short(old.get(name))} to {_short(new.get(name))})" for name in plain] + found


def _short(value: Any) -> str:
    """Return a value short enough for a sentence."""
    text = "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def free_bytes(folder: Path) -> int:
    """Return the free space of the disk that a folder is or will be on."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
