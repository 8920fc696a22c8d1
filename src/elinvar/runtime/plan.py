"""Decide before running: precision, tiles, items in flight, memory, time.

``plan(profile, job)`` is a pure function of its arguments, printable, and round-trips through JSON, so it can be shown
to a user, written into a checkpoint and compared on resume. An engine describes its work as a `Job`; what it gets back
is fixed for the run.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elinvar.errors import BudgetExceeded, InputError

from . import placement
from .precision import Precision
from .tuning import Tuned, save_tuned, tuned

if TYPE_CHECKING:
    from .device import Device, DeviceProfile

__all__ = ["Job", "Plan", "Precision", "Preset", "Tuned", "placement", "plan", "preset", "save_tuned", "tuned"]

_GIB = 1 << 30
_MIB = 1 << 20
_COUNTS = {
    "rows": 1,
    "row_bytes": 0,
    "block_bytes": 0,
    "blocks": 0,
    "fixed_bytes": 0,
    "bytes_in": 0,
    "bytes_out": 0,
    "row_multiple": 1,
}
"""Whole-number fields of a Job and the least each may be."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """Settings that follow from a device alone.

    Attributes
    ----------
    pool_budget_bytes
        Budget of the device's pool.
    in_flight
        Items in a pipeline: one loads, one computes, one is stored or held; two where memory is short.
    block_bytes
        A good size for one streamed block: large enough to hide launches and copies, small enough to overlap.
    threads
        CPU threads for kernels; on a GPU, those that feed it.
    precision
        Storage unless the job allows less.
    """

    pool_budget_bytes: int
    in_flight: int
    block_bytes: int
    threads: int
    precision: str


def preset(profile: DeviceProfile) -> Preset:
    """Return the settings for a device; a pure function."""
    gpu = profile.kind != "cpu"
    roomy = profile.recommended_budget_bytes >= 4 * _GIB
    block = (64 if gpu else 16) * _MIB
    return Preset(
        pool_budget_bytes=profile.recommended_budget_bytes,
        in_flight=3 if roomy else 2,
        # Never more than a sixteenth of the budget: three blocks and the resident part must fit beside each other.
        block_bytes=max(_MIB, min(block, profile.recommended_budget_bytes // 16)),
        threads=2 if gpu else profile.compute_units,
        precision="fp32",
    )


@dataclasses.dataclass(frozen=True)
class Job:
    """What an engine wants done, in numbers.

    Memory on the device is ``fixed_bytes + rows_resident * row_bytes + in_flight * block_bytes``. When not all rows
    fit, they are cut into tiles, and all blocks are streamed once per tile.

    Attributes
    ----------
    name
        The operation, usually its main kernel: ``"seismic.migrate"``. Rates are tuned under it.
    work, unit
        How much there is to do, and of what: ``3e12, "contributions"``.
    rows, row_bytes
        Length of the axis that may be tiled (pillars, frames, images) and the resident bytes per row; 1 row: no tiling.
    block_bytes, blocks
        Device bytes of one item in flight, temporaries included, and how many items are streamed per tile.
    fixed_bytes
        Device bytes that are resident whatever the tiling: tables, weights.
    bytes_in, bytes_out
        Copied to the device per tile, and from it in all.
    row_multiple
        Tiles hold a multiple of this many rows.
    pooled
        Rows come from the pool, whose size classes are powers of two: count them rounded up.
    precisions
        Storage formats the job's tolerance allows, best first.
    kernels
        Kernel names to the versions chosen for this job.
    rate
        Units per second, when the engine knows better than the tuning.
    """

    name: str
    work: float
    unit: str = "items"
    rows: int = 1
    row_bytes: int = 0
    block_bytes: int = 0
    blocks: int = 1
    fixed_bytes: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    row_multiple: int = 1
    pooled: bool = True
    precisions: Sequence[str] = ("fp32",)
    kernels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rate: float | None = None

    def __post_init__(self) -> None:
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
                raise InputError(f"Job {self.name!r} got {name}={value!r}; it takes a whole number from {least}.")
            object.__setattr__(self, name, int(value))  # numpy's integers do not go into JSON
        if not 0 <= self.work < math.inf:
            raise InputError(f"Job {self.name!r} got work={self.work!r}; it takes an amount from 0.")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise InputError(f"Job {self.name!r} got rate={self.rate!r}; it takes units per second above 0, or None.")

    def resident_bytes(self, rows: int) -> int:
        """Return the device bytes of `rows` resident rows."""
        payload = rows * self.row_bytes
        return 1 << (payload - 1).bit_length() if self.pooled and payload > 1 else payload


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will happen: nothing in it changes during a run.

    Attributes
    ----------
    job, device
        The job's name; the device's name, and its kind or index in front.
    precision
        Formats.
    tiles, tile_rows
        How many parts the rows are cut into, and rows per part (the last may have fewer).
    in_flight
        Items that exist at a time.
    kernels
        Kernel name to version.
    memory_bytes, budget_bytes
        Estimated peak on the device, and what it may use.
    work, unit
        The job's.
    seconds
        Estimated time, or None when no rate is known.
    notes
        What the user should know about how this was decided, a sentence each.
    """

    job: str
    device: str
    precision: Precision
    tiles: int
    tile_rows: int
    in_flight: int
    kernels: Mapping[str, str]
    memory_bytes: int
    budget_bytes: int
    work: float
    unit: str
    seconds: float | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Rebuild a plan from ``to_json``'s text.

        Raises
        ------
        InputError
            If the text is not such a plan.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            data["precision"] = Precision(**data["precision"])
            data["notes"] = tuple(data["notes"])
            return cls(**data)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"Plan.from_json got text that is no plan ({error}); use what to_json wrote.") from error

    def __str__(self) -> str:
        rows = [
            ("work", f"{self.work:.3g} {self.unit}"),
            ("precision", str(self.precision)),
            ("memory", f"{_bytes(self.memory_bytes)} of {_bytes(self.budget_bytes)}, {self.in_flight} items in flight"),
            ("tiles", f"{self.tiles} of {self.tile_rows} rows" if self.tiles > 1 else "none, everything is resident"),
            ("time", "unknown" if self.seconds is None else f"about {_seconds(self.seconds)}"),
        ]
        if self.kernels:
            rows.insert(1, ("kernels", ", ".join(f"{name} {version}" for name, version in self.kernels.items())))
        lines = [f"{self.job} on {self.device}", *(f"  {name:<10}{text}" for name, text in rows)]
        return "\n".join([*lines, *(f"  - {note}" for note in self.notes)])


def plan(
    profile: DeviceProfile | Device,
    job: Job,
    *,
    precision: str | Precision = "auto",
    in_flight: int | None = None,
    budget_bytes: int | None = None,
    known: Tuned | None = None,
) -> Plan:
    """Decide how a job runs on a device.

    Parameters
    ----------
    profile
        A `DeviceProfile`, or a `Device`, whose name the plan then carries.
    job
        The work.
    precision
        A format, ``"auto"`` or a `Precision`.
    in_flight
        Items in flight; default the preset's, fewer when memory is short.
    budget_bytes
        Device memory it may use; default the profile's recommendation.
    known
        Measurements; default what ``elinvar tune`` stored on this machine. With `known` given this is a pure function.

    Raises
    ------
    BudgetExceeded
        If not even one row (or `row_multiple` of them) with one item in flight fits.
    InputError
        If an argument is out of range.
    """
    device = getattr(profile, "profile", None)
    if device is not None:
        where, facts = f"{profile} ({device.name})", device
    else:
        where, facts = f"{profile.kind} ({profile.name})", profile
    known = tuned(facts) if known is None else known
    settings = preset(facts)
    for name, value in (("in_flight", in_flight), ("budget_bytes", budget_bytes)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"plan got {name}={value!r} for {job.name}; it takes a whole number from 1, or None.")
    budget = settings.pool_budget_bytes if budget_bytes is None else budget_bytes
    notes: list[str] = []
    flight, tile_rows = _fit(job, budget, in_flight or settings.in_flight, notes, fixed_flight=in_flight is not None)
    tiles = -(-job.rows // tile_rows)
    if tiles > 1:
        notes.append(f"{job.rows} rows do not fit at once: all blocks are streamed {tiles} times.")
    formats = Precision.resolve(precision, facts, job.precisions)
    kernels = dict(job.kernels)
    if job.name in known.kernels:
        kernels.setdefault(job.name, known.kernels[job.name])
    seconds = _estimate(job, facts, known, tiles, notes)
    return Plan(
        job=job.name,
        device=where,
        precision=formats,
        tiles=tiles,
        tile_rows=tile_rows,
        in_flight=flight,
        kernels=kernels,
        memory_bytes=_memory(job, tile_rows, flight),
        budget_bytes=budget,
        work=float(job.work),
        unit=job.unit,
        seconds=seconds,
        notes=tuple(notes),
    )


def _memory(job: Job, rows: int, in_flight: int) -> int:
    return job.fixed_bytes + job.resident_bytes(rows) + min(in_flight, max(1, job.blocks)) * job.block_bytes


def _fit(job: Job, budget: int, in_flight: int, notes: list[str], *, fixed_flight: bool) -> tuple[int, int]:
    """Return (items in flight, rows per tile): as many items as wanted if any tile fits beside them."""
    smallest = min(job.rows, job.row_multiple)
    flight = in_flight
    while _memory(job, smallest, flight) > budget and flight > 1 and not fixed_flight:
        flight -= 1
    if _memory(job, smallest, flight) > budget:
        raise BudgetExceeded(
            f"{job.name} needs at least {_bytes(_memory(job, smallest, flight))} on the device ({smallest} of "
            f"{job.rows} rows, {flight} items in flight), and may use {_bytes(budget)}; raise budget_bytes, make "
            "blocks smaller, or use another device."
        )
    if flight < in_flight:
        notes.append(f"Memory allows {flight} instead of {in_flight} items in flight, so less is overlapped.")
    if _memory(job, job.rows, flight) <= budget:
        return flight, job.rows
    low, high = 1, -(-job.rows // job.row_multiple)  # in multiples: low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _memory(job, middle * job.row_multiple, flight) <= budget else (low, middle)
    tiles = -(-job.rows // (low * job.row_multiple))
    even = -(-job.rows // tiles)  # tiles of nearly one size finish together
    return flight, -(-even // job.row_multiple) * job.row_multiple


def _estimate(job: Job, profile: DeviceProfile, known: Tuned, tiles: int, notes: list[str]) -> float | None:
    """Return seconds: the slower of computing and copying, since they overlap."""
    rate = known.rates.get(job.name) if job.rate is None else job.rate
    if rate is None:
        notes.append(f"No rate of {job.name} is known on this machine; `elinvar tune` measures it.")
        return None
    compute = job.work / rate
    if profile.kind == "cpu":
        return compute
    if known.link_gbps is None:
        notes.append("Copies to the device are not measured (`elinvar tune`); the time leaves them out.")
        return compute
    copying = (job.bytes_in * tiles + job.bytes_out) / (known.link_gbps * 1e9)
    if copying > compute:
        notes.append(f"Copies ({_seconds(copying)}) take longer than computing ({_seconds(compute)}).")
    return max(compute, copying)


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.4g} {unit}"
        n /= 1024
    return f"{n:.4g} TiB"


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
