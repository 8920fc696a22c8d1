"""Version v2 on the CPU: travel times at knots, window permutes instead of gathers.

Per pillar and trace, the travel time and the weight ``(t0/T)^2`` are evaluated every 8 output samples; each block of 16
samples between knots is a quadratic of either, so the inner loop knows nothing of the physics. The 16 samples of a
block read at most 31 neighbouring input samples, which two vector registers hold and one permute instruction picks
from. Four traces share a block's image samples; 64 traces stay in the second-level cache for all pillars of a chunk.

A block is evaluated exactly, sample by sample, where the third differences of the knots or a kink of the velocity say
that a quadratic is not good enough, and where it runs off an end of the trace. Blocks in the aperture's rim get taper
and fold per sample; of all others the fold is counted per block. The vector code is in `blocks`.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numba
import numpy as np
import torch
from numba.core.types import UniTuple, void
from numba.extending import intrinsic
from numpy.typing import NDArray

from elinvar.runtime.parallel import parallel_for
from elinvar.seismic.kernels.migrate import blocks, lifted, simd
from elinvar.seismic.kernels.migrate import interpolation as reading
from elinvar.seismic.kernels.migrate import physics as rays
from elinvar.seismic.kernels.migrate.antialias import Bank
from elinvar.seismic.kernels.migrate.aperture import NARROWEST, RadiusAperture
from elinvar.seismic.kernels.migrate.blocks import BLOCK, CHUNK, DEPTH, FAR, GENTLY, GROUP, KNOT_ROWS, TOTAL, TRACE
from elinvar.seismic.kernels.migrate.interpolation import TAPS, padded
from elinvar.seismic.kernels.migrate.kept import kept_tables
from elinvar.seismic.kernels.migrate.limits import Limits
from elinvar.seismic.kernels.migrate.physics import PHYSICS, bending, longest_leg, stretched
from elinvar.seismic.kernels.migrate.relief import Relief
from elinvar.seismic.kernels.migrate.simd import ISA, LANES
from elinvar.seismic.kernels.migrate.tables import EARLIEST, Tables

__all__ = ["ISA", "migrate"]

f4 = np.float32
FEW_TRACES = 32  # instead of DEPTH where each trace comes with its copies
_LATE = 0.1  # seconds; see _gain
REACH = 64  # samples behind the end of a trace that a window may touch (and never use)


class _Row(NamedTuple):
    """Tables of one velocity row."""

    samples: Any  # [5 or 7, samples]: t0 / 2 and 1 / (V dt)^2 in input samples, radius, 1 / rim width, gain, bends
    knots: Any  # [9 or 13, blocks + padding], block b in column b + 1: see _arrays
    furthest: Any  # [blocks] largest radius up to here
    fastest: Any  # [blocks] smallest 1 / (V dt)^2 from here on


class _Job(NamedTuple):
    """What holds for every trace and pillar."""

    ratio: Any  # dt_out / dt
    rim: Any  # (1 - taper) / taper
    last: Any  # last input sample
    latest: Any  # and its travel time in samples, stretched for curved rays
    weighted: bool
    wide: bool  # output samples so far apart that the halves of a block need windows of their own
    stride: int  # samples from trace to trace
    physics: int
    kappa: Any
    bending: Any  # polynomial of GENTLY curved rays
    depth: int  # traces held in the second-level cache
    apart: int  # samples from copy to copy of a trace
    most: Any  # squared slope that the last copy but one is for, and just below that of the last
    wx: Any  # squared distances of neighbouring midpoints, 0 without a bank
    wy: Any
    filtered: Any  # a tuple of two where there is a bank, else of one
    bounded: Any  # a tuple of two where traces have mutes or limits along the axes, of three where ends have heights
    replaced: Any  # replacement velocity, metres per sample
    late: Any  # see _gain
    earliest: Any  # vertical time in samples from which there is energy
    levels: Any  # of the datum, for all pillars or each; one that nobody reads without heights
    limits: Any  # one over the largest distances along the axes, 1 / taper and (1 - taper) / taper
    taps: Any  # a tuple as long as the row of neighbours that interpolation reads
    first: int  # row of the knots that t0 / 2 in the bound of T stands in, or s for curved rays


def _intrinsic(arrays: int, emit: Callable[..., None]) -> Any:
    """A function for numba code, of one tuple that begins with ``arrays`` arrays; ``emit`` writes its instructions.

    A tuple inside the tuple is told to ``emit`` by its length: that is known when code is made, so each has its own.
    """

    def typed(typingctx: Any, values: Any) -> Any:
        del typingctx

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            given = [builder.extract_value(args[0], i) for i in range(len(sig.args[0]))]
            data = [context.make_array(sig.args[0][i])(context, builder, given[i]).data for i in range(arrays)]
            kinds = list(sig.args[0])
            lengths = [kind.count for kind in kinds if isinstance(kind, UniTuple)]
            scalars = [x for x, kind in zip(given, kinds, strict=True) if not isinstance(kind, UniTuple)]
            emit(builder, data, scalars[arrays:], *lengths)
            return context.get_dummy_value()

        return void(values), generate

    return cast("Any", intrinsic(typed))


def _code(*, wide: bool) -> Any:
    def emit(builder: Any, data: list[Any], rest: list[Any], taps: int, copies: int, bounded: int) -> None:
        blocks.Group(builder, data, rest, taps=taps, copies=copies, bounded=bounded, wide=wide).emit()

    return _intrinsic(5, emit)


_group, _group_wide = _code(wide=False), _code(wide=True)
_geometry = _intrinsic(2, blocks.geometry)
_deliver = _intrinsic(4, lambda b, data, rest: blocks.deliver(b, data, *rest))


def _jit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    # contract: multiply-add in one rounding. Nothing that may ignore NaN or infinity.
    made: Callable[[Callable[..., Any]], Callable[..., Any]]
    made = numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, **options)
    return made


@_jit()
def _padded(traces: Any) -> Any:
    """The last traces of all, with something to read behind them."""
    copy = np.zeros(traces.size + REACH, f4)
    copy[: traces.size] = traces.ravel()
    return copy


@_jit()
def _earliest(b: int, closest: Any, table: Any, row: int, fastest: Any) -> Any:
    """Square of a time, in samples, before which nothing of block b arrives."""
    t0 = f4(2) * table[row, b + 1]
    return t0 * t0 + closest * fastest[b]


@_jit()
def _pillar(
    pillar: Any, level: Any, first: int, depth: int, ends: Any, traces: Any, job: Any, r: Any, work: Any
) -> None:
    """Migrate traces first to first + depth, which begin ``traces``, into the total, count and blocks of ``work``."""
    # Names, not attributes, inside loops: numba counts references at every attribute.
    furthest, fastest, table, samples = r.furthest, r.fastest, r.knots, r.samples
    one, other, slope, rim = job.limits
    place = (ends.shape[1], first, depth, pillar[0], pillar[1], job.wx, job.wy)
    _geometry((work, ends, *place, one, other, slope, rim, level, job.bounded))
    lo = hi = 0
    n, limit, row, polynomial = len(furthest), job.latest * job.latest, job.first, job.bending
    for k in range(0, depth, GROUP):
        nearest = closest = f4(FAR)
        for i in range(k, k + GROUP):
            nearest = min(nearest, work[TRACE + 2 * DEPTH + i])
            closest = min(closest, work[TRACE + 3 * DEPTH + i])
        # The first block whose radius reaches the nearest trace, the last that begins before all traces end (T^2 is at
        # least t0^2 + (ds + dr)^2 / V^2): neighbouring traces differ little, so walk there from the last answer.
        while lo > 0 and furthest[lo - 1] >= nearest:
            lo -= 1
        while lo < n and furthest[lo] < nearest:
            lo += 1
        while hi < n and _earliest(hi, closest, table, row, fastest) <= limit:
            hi += 1
        while hi > 0 and _earliest(hi - 1, closest, table, row, fastest) > limit:
            hi -= 1
        for begin in range(lo, hi, CHUNK):
            what = (
                work, traces, samples, table, polynomial, samples.shape[1], table.shape[1], k, k * job.stride,
                job.stride, begin, min(begin + CHUNK, hi), job.ratio, job.rim, job.last, job.weighted, job.physics,
                job.kappa, job.apart, job.most, job.replaced, job.late, job.earliest, job.taps, job.filtered,
                job.bounded,
            )  # fmt: skip
            if job.wide:
                _group_wide(what)
            else:
                _group(what)


def _cache() -> bool:
    """Whether numba has a place to keep compiled code: it refuses to decorate otherwise."""
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parent / "__pycache__")
    return os.access(folder if folder.exists() else folder.parent, os.W_OK)


def _compile(stamp: str) -> Callable[..., Any]:
    """``stamp`` is part of numba's cache key, which would otherwise miss changes in other files."""

    @_jit(cache=_cache())
    def rows(
        image: Any, fold: Any, traces: Any, ends: Any, pillars: Any, tables: Any, job: Any, first: int, end: int
    ) -> str:
        """Migrate all traces into pillars first to end."""
        (ntr, ns), nt = traces.shape, image.shape[1]
        length, number = tables.samples.shape[2], tables.furthest.shape[1]
        work = np.zeros(TOTAL + 2 * length + number, f4)
        counts = work.view(np.int32)
        full = nt // BLOCK
        for k in range(0, ntr, job.depth):
            depth = min(job.depth, ntr - k)
            here = traces[k:].ravel() if (ntr - k - depth) * ns >= REACH else _padded(traces[k:])
            for p in range(first, end):
                i = min(p, len(tables.samples) - 1)
                r = _Row(tables.samples[i], tables.knots[i], tables.furthest[i], tables.fastest[i])
                work[TOTAL:] = 0
                _pillar(pillars[p], job.levels[min(p, len(job.levels) - 1)], k, depth, ends, here, job, r, work)
                counted = len(fold) > 0
                row = fold[p] if counted else counts
                _deliver((work, image[p], row, r.samples, length, full, counted))
                for t in range(full * BLOCK, nt):
                    image[p, t] += r.samples[4, t] * work[TOTAL + t]
                    if counted:
                        row[t] += counts[TOTAL + length + t] + counts[TOTAL + 2 * length + full]
        return stamp

    return rows


_SOURCES = (Path(str(module.__file__)).read_bytes() for module in (simd, lifted, blocks, reading, rays))
_rows = _compile(hashlib.sha256(b"".join(_SOURCES)).hexdigest())


class _Axes(NamedTuple):
    """What holds for every velocity row."""

    shift: float
    rim: float
    kappa: float


@dataclass(frozen=True)
class _Laid:
    """Makes arrays of tables; with `raised`, midpoint area and interval, their weight is that of raised ends."""

    raised: tuple[float, float] | None

    def __call__(self, tables: Tables) -> tuple[_Row, _Axes]:
        if self.raised is not None:
            tables = replace(tables, gain=_gain(tables, *self.raised))
        return _arrays(tables), _Axes(tables.shift, tables.rim, tables.kappa)


def _arrays(t: Tables) -> _Row:
    """Lay the tables out for vector loads, all velocity rows at once.

    ``knots`` has t0 / 2 at even and odd knots, 1 / (V dt)^2 at even and odd knots, and per block the largest radius,
    the smallest inner radius, the roughness of 1 / V^2, and the whole and fractional input sample where it begins; then
    both of the physics' own at even and odd knots, if it has any (`Tables.bends`). Its
    first column is NaN: nothing is known of the curvature before the first knot, and NaN makes the first block exact.
    """
    rows, number = t.blocks.shape[:2]
    legs = t.legs.permute(0, 2, 1)
    own = legs[:, :0] if t.bends is None else t.bends.permute(0, 2, 1)
    knots = torch.full((rows, KNOT_ROWS + 2 * own.shape[1], number + 2 + 2 * LANES), torch.nan)
    spaced = torch.cat([legs[:, :2], own], 1)[:, :, :: BLOCK // 2]
    for parity in range(2):
        some = spaced[:, :, parity::2][:, :, : number + 1 + LANES]
        knots[:, parity:4:2, 1 : 1 + some.shape[2]] = some[:, :2]
        knots[:, KNOT_ROWS + parity :: 2, 1 : 1 + some.shape[2]] = some[:, 2:]
    knots[:, 4:7, 1 : 1 + number] = t.blocks.permute(0, 2, 1)[:, :3]
    knots[:, 7:9, 1 : 1 + number] = t.centres.T
    samples = torch.cat([legs, t.gain[:, None], own], 1)
    furthest = t.blocks[..., 0].cummax(-1).values
    fastest = t.blocks[..., 3].flip(-1).cummin(-1).values.flip(-1)
    return _Row(*(x.contiguous().numpy() for x in (samples, knots, furthest, fastest)))


def _inputs(
    n_samples: int,
    source: torch.Tensor,
    receiver: torch.Tensor,
    vrms: torch.Tensor,
    *,
    amplitude: str = "true",
    aperture: RadiusAperture | None = None,
    area: float = 1.0,
    physics: str = "straight",
    medium: tuple[float, float] | None = None,
    eta: torch.Tensor | None = None,
    interpolation: str = "linear",
    bank: Bank | None = None,
    limits: Limits | None = None,
    mute: torch.Tensor | None = None,
    relief: Relief | None = None,
    **options: Any,
) -> tuple[_Row, _Job, NDArray[np.float32]]:
    """Return tables, what holds for every trace and pillar, and ends of traces, as the compiled loops take them."""
    whole: dict[str, Any] = {"block": BLOCK, "nodes": (0, BLOCK // 2, BLOCK), "tail": 2 * BLOCK, "origin": 0}
    weight: dict[str, Any] = {"amplitude": amplitude, "aperture": aperture, "area": area}
    dt, dt_out = options["dt"], options["dt_out"]
    laid = _Laid((area, dt) if relief is not None and amplitude == "true" else None)
    rows, tables = kept_tables(vrms, laid, **options, **weight, **whole, medium=medium, eta=eta)
    last, taps = n_samples - 1, TAPS[interpolation]
    latest = max(last + tables.shift, 0.0) + 0.1
    polynomial = None
    if relief is not None:
        latest = 1e15  # an end below the datum is early
    elif medium is not None:
        offset = float((source - receiver).norm(dim=1).max())
        polynomial = bending(longest_leg(latest, offset, medium[0], dt), tables.kappa)
    apart = n_samples + (taps - 1 if taps > 2 else 0)
    chosen = bank or Bank(1, 0.0, 0.0)
    job = _Job(
        ratio=f4(dt_out / dt),
        rim=f4(tables.rim),
        last=f4(last),
        latest=f4(stretched(latest, tables.kappa)),
        weighted=amplitude == "true",
        wide=dt_out > 1.5 * dt,
        stride=chosen.copies * apart,
        physics=PHYSICS.index(physics) if polynomial is None else GENTLY,
        kappa=f4(tables.kappa),
        bending=np.zeros(1, f4) if polynomial is None else polynomial,
        depth=DEPTH if bank is None else FEW_TRACES,
        apart=apart,
        most=np.nextafter(f4(2.0 ** (chosen.copies - 1)), f4(0)),
        wx=f4(chosen.dx**2),
        wy=f4(chosen.dy**2),
        filtered=(0,) if bank is None else (0, 0),
        bounded=(0,) if limits is None and mute is None and relief is None else (0, 0) if relief is None else (0,) * 3,
        replaced=f4(1.0 if relief is None or relief.replacement is None else relief.replacement * dt),
        late=f4(_LATE / dt),
        earliest=f4(EARLIEST / dt),
        levels=np.zeros(1, f4) if relief is None else relief.level.float().numpy(),
        limits=_rims(limits or Limits()),
        taps=(0,) * taps,
        first=KNOT_ROWS if physics == "curved" else 0,
    )
    # Each group of 64 is read whole: repeat the last trace for those that are not there.
    given = [source.T, receiver.T]
    if limits is not None or mute is not None or relief is not None:
        given.append(_unmuted(mute, dt, options["start"], len(source))[None])
    if relief is not None:
        given.append(relief.heights.float().T)
    ends = torch.cat(given).contiguous()
    return rows, job, torch.cat([ends, ends[:, -1:].expand(-1, DEPTH)], 1).numpy()


def _gain(tables: Tables, area: float, dt: float) -> torch.Tensor:
    """Return what the weight of raised traces shares: ``2 area / (pi V^2 (t0 + late))``, smooth also at t0 = 0.

    The rest, ``(vertical / T)^2 V^2 (t0 + late) / second`` (`relief`), is that of each pair.
    """
    tau, slow = tables.legs[..., 0].double(), tables.legs[..., 1].double()
    return (2 * area * dt / math.pi * slow / (2 * tau + _LATE / dt)).float().contiguous()


def _rims(limits: Limits) -> tuple[Any, ...]:
    taper = limits.taper if limits.taper >= NARROWEST else 0.0
    rim = (1 / taper, (1 - taper) / taper) if taper else (0.0, 0.0)
    return tuple(f4(value) for value in (1 / limits.x, 1 / limits.y, *rim))


def _unmuted(mute: torch.Tensor | None, dt: float, start: float, traces: int) -> torch.Tensor:
    """Return the first sample of each trace, (traces,), that its mute leaves: 0 for none."""
    if mute is None:
        return torch.zeros(traces)
    begin, end = mute.double().unbind(1)
    first = torch.where(begin < end, (end - start) / dt, torch.zeros_like(end))
    return first.clamp(0.0, 1e9).float()


def migrate(
    image: torch.Tensor,
    fold: torch.Tensor | None,
    traces: torch.Tensor,
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillars: torch.Tensor,
    vrms: torch.Tensor,
    *,
    dt: float,
    start: float,
    dt_out: float,
    t0_out: float,
    amplitude: str = "true",
    aperture: RadiusAperture | None = None,
    area: float = 1.0,
    physics: str = "straight",
    medium: tuple[float, float] | None = None,
    eta: torch.Tensor | None = None,
    interpolation: str = "linear",
    bank: Bank | None = None,
    limits: Limits | None = None,
    mute: torch.Tensor | None = None,
    relief: Relief | None = None,
) -> None:
    """Add the migrated traces to ``image``; arguments as ``migrate.run``."""
    axes: dict[str, Any] = {"dt": dt, "start": start, "dt_out": dt_out, "t0_out": t0_out}
    options: dict[str, Any] = {"amplitude": amplitude, "aperture": aperture, "area": area, "eta": eta}
    rays: dict[str, Any] = {"physics": physics, "medium": medium, "interpolation": interpolation, "bank": bank}
    rays |= {"limits": limits, "mute": mute, "relief": relief}
    copies = 1 if bank is None else bank.copies
    rows, job, ends = _inputs(traces.shape[1] // copies, source, receiver, vrms, **axes, **options, **rays)
    count = np.zeros((0, 0), np.int32) if fold is None else fold.numpy()
    data = padded(traces.view(len(traces), copies, -1), TAPS[interpolation]).flatten(1)
    arrays = (image.numpy(), count, data.numpy(), ends, pillars.numpy(), rows, job)
    # Every chunk brings each trace into its cache once: enough pillars to make that cheap.
    parallel_for(len(pillars), lambda first, end: _rows(*arrays, first, end), chunk=max(8, -(-len(pillars) // 128)))
