"""Version v2 on the CPU: travel times at knots, window permutes instead of gathers.

Per pillar and trace, the travel time and the weight ``(t0/T)^2`` are evaluated every 8 output samples; each block of 16
samples between knots is a quadratic of either, so the inner loop knows nothing of the physics. The 16 samples of a block
read at most 31 neighbouring input samples, which two vector registers hold and one permute instruction picks from. Four
traces share a block's image samples; 64 traces stay in the second-level cache for all pillars of a chunk.

A block is evaluated exactly, sample by sample, where the third differences of the knots or a kink of the velocity say
that a quadratic is not good enough, and where it runs off an end of the trace. Blocks in the aperture's rim get taper
and fold per sample; of all others the fold is counted per block.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils
from numba.core.types import void
from numba.extending import intrinsic

from elinvar.runtime.parallel import parallel_for
from elinvar.seismic.kernels.migrate import simd
from elinvar.seismic.kernels.migrate.aperture import RadiusAperture
from elinvar.seismic.kernels.migrate.simd import F32, I32, I64, ISA, LANES, VI, Emit, Vector
from elinvar.seismic.kernels.migrate.tables import Tables, prepare

__all__ = ["ISA", "TOLERANCE", "migrate"]

BLOCK = LANES  # output samples sharing a quadratic: twice the knot spacing
CHUNK = 64  # blocks whose coefficients are kept at a time
GROUP = 4  # traces per visit of an image block
DEPTH = 64  # traces held in the second-level cache
REACH = 64  # samples behind the end of a trace that a window may touch (and never use)
ROWS = 7  # of coefficients per trace: c0 c1 c2 w0 w1 w2, and c0 from the window of the block's second half
WIDE = CHUNK + 2 * LANES  # length of a row of knots
TOLERANCE = 3e-4
"""Largest error of a block's quadratic: samples for the travel time, relative for the weight."""

f4 = np.float32
FAR = 1e30  # distance of a trace that takes no part
SPAN = 29.0 if ISA == "avx512" else 13.0  # input samples that a window serves with room for rounding


class _Row(NamedTuple):
    """Tables of one velocity row."""

    samples: Any  # [5, samples]: t0 / 2 and 1 / (V dt)^2 in input samples, radius, 1 / rim width, gain
    knots: Any  # [9, blocks + padding], block b in column b + 1: see _arrays
    furthest: Any  # [blocks] largest radius up to here
    fastest: Any  # [blocks] smallest 1 / (V dt)^2 from here on


class _Job(NamedTuple):
    """What holds for every trace and pillar."""

    ratio: Any  # dt_out / dt
    rim: Any  # (1 - taper) / taper
    last: Any  # last input sample
    latest: Any  # and its travel time in samples
    weighted: bool
    stride: int  # samples from trace to trace


# Working memory of one thread, a single float32 array (so that loops pass one thing around): where its parts begin.
COEF = 0  # [GROUP, ROWS, CHUNK]
BASE = COEF + GROUP * ROWS * CHUNK  # [GROUP, 2, CHUNK] int32: starts of the windows of a block's halves
STATE = BASE + GROUP * 2 * CHUNK  # [CHUNK] int32: bit n: trace n is live; bit 8 + n: in its rim; bit 16 + n: exact
KNOTS = STATE + CHUNK  # [4, WIDE]: moveout at even and odd knots, (t0 / T)^2 at even and odd knots
TRACE = KNOTS + 4 * WIDE  # [3, GROUP]: ds^2, dr^2, midpoint distance
TOTAL = TRACE + 3 * GROUP + 4  # [samples] image; then count [samples] int32 fold, and blocks [blocks] int32 fold


# ---------------------------------------------------------------------------------------------------------------------
# Physics and preparation, 16 knots or blocks at a time.
# ---------------------------------------------------------------------------------------------------------------------
def _moveout(tau: Vector, slow: Vector, ds: Any, dr: Any) -> Vector:
    """T - t0 in samples. Any other travel time may stand here: the rest only asks for smoothness."""
    legs = [(tau * tau + slow * square).sqrt() - tau for square in (ds, dr)]
    return legs[0] + legs[1]


def _obliquity(tau: Vector, moved: Vector) -> Vector:
    """(t0 / T)^2, 0 at t0 = 0."""
    ratio = (tau + tau) * (tau + tau + moved).max(1e-20).reciprocal()
    return ratio * ratio


def _taper(reach: Any, slope: Vector, rim: Any) -> Vector:
    """(1 + cos(pi u)) / 2 for u from 0 to 1 across the rim: an odd polynomial about its middle, error below 1e-6."""
    s = (slope * reach - rim).max(0.0).min(1.0) - 0.5
    q = s * s
    return (((q * 0.2773181 - 1.27094951) * q + 2.5835714) * q - 1.57079101) * s + 0.5


class _Group:
    """Code for four traces, copies ``row`` and following, into blocks lo to hi (at most CHUNK) of a pillar."""

    def __init__(self, e: Emit, pointers: list[Any], scalars: list[Any]) -> None:
        self.e, self.b = e, e.b
        self.work, self.traces, self.samples, self.table = pointers
        self.length, self.columns, self.row, self.stride, self.lo, self.hi = scalars[:6]
        self.ratio, self.rim, self.last, self.weighted = scalars[6:]
        self.total = e.at(self.work, TOTAL)
        self.count = e.at(self.total, self.length)
        self.blocks = e.at(self.count, self.length)

    def times(self, x: Any, k: int) -> Any:
        return self.b.mul(x, ir.Constant(I64, k))

    def of_trace(self, n: Any) -> list[Any]:
        """ds^2, dr^2 and midpoint distance of trace n of the group, and where it begins."""
        scalars = [self.b.load(self.e.at(self.work, TRACE + q * GROUP, n)) for q in range(3)]
        return [*scalars, self.b.add(self.row, self.b.mul(n, self.stride))]

    def whole(self, pointer: Any, *offsets: Any) -> Any:
        """An int32 from the working memory."""
        return self.b.load(self.b.bitcast(self.e.at(pointer, *offsets), I32.as_pointer()))

    def emit(self) -> None:
        """Prepare all four traces, then migrate block by block."""
        number = self.b.sub(self.hi, self.lo)
        with cgutils.for_range(self.b, ir.Constant(I64, CHUNK // LANES)) as loop:
            self.e.store(self.e.integers(0), self.work, STATE, self.times(loop.index, LANES))
        with cgutils.for_range(self.b, ir.Constant(I64, GROUP)) as loop:
            ds, dr, reach, row = self.of_trace(loop.index)
            with cgutils.for_range_slice(self.b, *self._range(self.b.add(number, ir.Constant(I64, 2)))) as (c, _):
                self.knots(c, ds, dr)
            with cgutils.for_range_slice(self.b, *self._range(number)) as (c, _):
                self.coefficients(c, loop.index, reach, self.b.trunc(row, I32))
        with cgutils.for_range(self.b, number) as loop:
            self.block(loop.index)

    def _range(self, stop: Any) -> tuple[Any, Any, Any]:
        return ir.Constant(I64, 0), stop, ir.Constant(I64, LANES)

    def knots(self, c: Any, ds: Any, dr: Any) -> None:
        """Even and odd knots of 16 blocks, from block lo + c - 1 into column c."""
        e = self.e
        for parity in range(2):
            tau, slow = (e.vector(self.table, self.times(self.columns, q), self.lo, c) for q in (parity, 2 + parity))
            moved = _moveout(tau, slow, ds, dr)
            e.store(moved, self.work, KNOTS + parity * WIDE, c)
            e.store(_obliquity(tau, moved), self.work, KNOTS + (2 + parity) * WIDE, c)

    def coefficients(self, c: Any, n: Any, reach: Any, row: Any) -> None:
        """Turn the knots of 16 blocks into coefficients of trace n, and say what to do with each block."""
        e, work = self.e, self.work
        outer, inner, rough, whole, part = (
            e.vector(self.table, self.times(self.columns, q), self.lo, c, 1) for q in range(4, 9)
        )
        # Odd knot before the block, its own even, odd and even, and the odd one behind.
        places = ((1, 0), (0, 1), (1, 1), (0, 2), (1, 2))
        m = [e.vector(work, KNOTS + parity * WIDE + on, c) for parity, on in places]
        w = [e.vector(work, KNOTS + (2 + parity) * WIDE + on, c) for parity, on in places[1:4]]
        # Where 1 / V^2 leaves its quadratic by a part of itself, T leaves its own by less than that part of the moveout.
        # The weight needs no bound of its own: a test shows that it is the smoother of the two.
        good = _bend(m) + rough * m[1].max(m[3]) <= TOLERANCE
        plain = e.scalar(self.b.not_(self.weighted))
        w0, w1, w2 = (plain.where((e.floats(1.0), x)) for x in w)
        eighth = e.scalar(self.ratio) * float(BLOCK // 2)
        x0, x1, x2 = part + m[1], part + eighth + m[2], part + eighth + eighth + m[3]
        low, high = e.floats(0.0) - whole, e.scalar(self.last) - whole
        f0, f1, fits, least, most = self._windows(x0, x1, x2)
        good = good & fits
        off = good & ((least > high + 0.01) | (most < low - 0.01))
        fast = good & (least >= low + 0.01) & (most <= high - 0.01)
        near = (outer >= reach) & ~off
        self._sort(c, n, near, fast, inner >= reach)
        live = near & fast
        coef = e.at(work, COEF, self.times(n, ROWS * CHUNK), c)
        rows = [x0 - f0, *_quadratic(m[1], m[2], m[3]), w0, *_quadratic(w0, w1, w2), x0 - f1]
        rows[1] = rows[1] + self.ratio
        halves = 1 if ISA == "avx512" else 2
        for q, value in enumerate(rows[: 5 + halves]):
            # Registers are picked from by the low bits of any index, memory is not.
            idle = ISA != "portable" and q not in (3, 4, 5)
            e.store(value if idle else live.where((value, 0.0)), coef, q * CHUNK)
        for q, first in enumerate((f0, f1)[:halves]):
            start = live.where((first + whole, 0.0)).integer() + row
            e.store(start, work, BASE + q * CHUNK, self.times(n, 2 * CHUNK), c)

    def _windows(self, x0: Vector, x1: Vector, x2: Vector) -> tuple[Vector, Vector, Vector, Vector, Vector]:
        """First samples of the windows of both halves, whether they suffice, and the range of the block."""
        sag = (x0 - x1 * 2.0 + x2).unary("fabs") * 0.125  # how far a parabola may leave the range of its knots
        first, second = x0.min(x1) - sag, x1.min(x2) - sag
        top_first, top_second = x0.max(x1) + sag, x1.max(x2) + sag
        least, most = first.min(second), top_first.max(top_second)
        if ISA == "avx512":  # one window for both halves
            first, top_first = least, most
        f0, f1 = first.unary("floor"), second.unary("floor")
        return f0, f1, (top_first - f0 <= SPAN) & (top_second - f1 <= SPAN), least, most

    def _sort(self, c: Any, n: Any, near: Vector, fast: Vector, flat: Vector) -> None:
        e = self.e
        kind = near.where((fast.where((flat.where((e.integers(1), 0x101)), 0x10000)), 0))
        shifted = Vector(e, self.b.shl(kind.value, e.splat(self.b.trunc(n, I32))))
        e.store(Vector(e, self.b.or_(e.vector(self.work, STATE, c, kind=VI).value, shifted.value)), self.work, STATE, c)

    # -- one block ------------------------------------------------------------------------------------------------------

    def block(self, c: Any) -> None:
        """Migrate what the state of the block in column c asks for."""
        b, state = self.b, self.whole(self.work, STATE, c)
        block = b.add(self.lo, c)
        t = self.times(block, BLOCK)

        def has(mask: int) -> Any:
            return b.icmp_signed("!=", b.and_(state, ir.Constant(I32, mask)), ir.Constant(I32, 0))

        with b.if_then(has(0xF)), b.if_else(has(0xF00)) as (rim, smooth):
            with rim:
                self.four(c, t, state)
            with smooth:
                self.four(c, t, None)
                place = b.bitcast(self.e.at(self.blocks, block), I32.as_pointer())
                live = b.ctpop(b.and_(state, ir.Constant(I32, 0xF)))
                b.store(b.add(b.load(place), live), place)
        with b.if_then(has(0xF0000), likely=False):
            for n in range(GROUP):
                with b.if_then(has(0x10000 << n), likely=False):
                    self.exact(block, t, *self.of_trace(ir.Constant(I64, n)))

    def four(self, c: Any, t: Any, state: Any | None) -> None:
        """Add the four traces; with their state given, look at the aperture and count the fold sample by sample."""
        e, j = self.e, self.e.ramp()
        sums = [e.vector(self.total, t), e.floats(0.0)]
        radius, slope = (e.vector(self.samples, t, self.times(self.length, q)) for q in (2, 3))
        count = e.vector(self.count, t, kind=VI)
        for n in range(GROUP):
            rows = 6 if ISA == "avx512" else 7
            c0, c1, c2, w0, w1, w2, *other = (
                e.broadcast(self.work, COEF + (n * ROWS + q) * CHUNK, c) for q in range(rows)
            )
            starts = [self.b.sext(self.whole(self.work, BASE + (n * 2 + k) * CHUNK, c), I64) for k in range(rows - 5)]
            if other:
                c0 = Vector(e, e.join(e.half(c0.value, 0), e.half(other[0].value, 1)))
            value = e.interpolate([e.at(self.traces, s) for s in starts], (c2 * j + c1) * j + c0)
            weight = (w2 * j + w1) * j + w0
            if state is not None:
                live = self.b.trunc(self.b.lshr(state, ir.Constant(I32, n)), ir.IntType(1))
                distance = self.b.load(e.at(self.work, TRACE + 2 * GROUP + n))
                reach = e.scalar(self.b.select(live, distance, ir.Constant(F32, FAR)))
                inside = radius >= reach
                weight = inside.where((weight * _taper(reach, slope, self.rim), 0.0))
                count = count + inside.ones()
            sums[n & 1] = value * weight + sums[n & 1]
        e.store(sums[0] + sums[1], self.total, t)
        if state is not None:
            e.store(count, self.count, t)

    def exact(self, block: Any, t: Any, ds: Any, dr: Any, reach: Any, row: Any) -> None:
        """Add one trace, every sample with its own travel time."""
        e, b = self.e, self.b
        tau, slow, radius, slope = (e.vector(self.samples, t, self.times(self.length, q)) for q in range(4))
        whole, part = (b.load(e.at(self.table, self.times(self.columns, q), block, 1)) for q in (7, 8))
        moved = _moveout(tau, slow, ds, dr)
        x = e.ramp() * self.ratio + part + moved  # from the whole sample where the block begins at zero offset
        low, high = e.floats(0.0) - whole, e.scalar(self.last) - whole
        inside = (radius >= reach) & (x >= low) & (x <= high)
        weight = e.scalar(self.weighted).where((_obliquity(tau, moved), 1.0)) * _taper(reach, slope, self.rim)
        weight = inside.where((weight, 0.0))
        e.store(e.vector(self.count, t, kind=VI) + inside.ones(), self.count, t)
        x = x.max(low).min(high)
        halves = [(0, 15)] * 2 if ISA == "avx512" else [(0, 7), (8, 15)]
        firsts = [
            e.call("llvm.floor.f32", F32, e.call("llvm.minnum.f32", F32, x.lane(i), x.lane(k))) for i, k in halves
        ]
        origin = e.join(e.half(e.splat(firsts[0]), 0), e.half(e.splat(firsts[1]), 1))
        y = x - Vector(e, origin)
        here = e.at(self.traces, row, b.fptosi(whole, I64))
        windows = [e.at(here, b.fptosi(first, I64)) for first in firsts]
        with b.if_else(e.every((y >= 0.0) & (y < SPAN + 2.0))) as (near, far):
            with near:
                e.store(e.interpolate(windows, y) * weight + e.vector(self.total, t), self.total, t)
            with far:  # the samples lie too far apart for a window: one by one
                value = e.interpolate([e.at(self.traces, row)] * 2, x - low, scattered=True)
                e.store(value * weight + e.vector(self.total, t), self.total, t)


def _bend(m: list[Vector]) -> Vector:
    """Error bound of the quadratic through the middle three of five knots: from both third differences it touches."""
    return (
        ((m[3] - m[0]) - (m[2] - m[1]) * 3.0).unary("fabs") + ((m[4] - m[1]) - (m[3] - m[2]) * 3.0).unary("fabs")
    ) * (
        0.0642  # 1 / (9 sqrt(3))
    )


def _quadratic(m0: Vector, m1: Vector, m2: Vector) -> tuple[Vector, Vector]:
    """Linear and square coefficient, per sample, through knots 8 samples apart."""
    return (m1 * 4.0 - m0 * 3.0 - m2) * (1 / BLOCK), (m0 - m1 * 2.0 + m2) * (1 / 128)


@intrinsic
def _group(
    typingctx: Any, work: Any, traces: Any, samples: Any, table: Any, length: Any, columns: Any, row: Any, stride: Any,
    lo: Any, hi: Any, ratio: Any, rim: Any, last: Any, weighted: Any,
) -> Any:  # fmt: skip
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointers = [context.make_array(sig.args[i])(context, builder, args[i]).data for i in range(4)]
        _Group(Emit(builder), pointers, list(args[4:])).emit()
        return context.get_dummy_value()

    arrays, integers = (work, traces, samples, table), (length, columns, row, stride, lo, hi)
    return void(*arrays, *integers, ratio, rim, last, weighted), generate


# ---------------------------------------------------------------------------------------------------------------------
# Loops.
# ---------------------------------------------------------------------------------------------------------------------
def _jit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    # contract: multiply-add in one rounding. Nothing that may ignore NaN or infinity.
    return cast("Any", numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, **options))


@_jit()
def _padded(traces: Any) -> Any:
    """The last traces of all, with something to read behind them."""
    copy = np.zeros(traces.size + REACH, f4)
    copy[: traces.size] = traces.ravel()
    return copy


@_jit()
def _locate(k: int, end: int, pillar: Any, source: Any, receiver: Any, work: Any) -> tuple[Any, Any]:
    """Note the geometry of traces k to k + 3; return the smallest midpoint distance and (ds + dr)^2."""
    nearest = closest = f4(FAR)
    for n in range(GROUP):
        q = min(k + n, end - 1)
        sx, sy = source[q, 0] - pillar[0], source[q, 1] - pillar[1]
        rx, ry = receiver[q, 0] - pillar[0], receiver[q, 1] - pillar[1]
        mx = f4(0.5) * (source[q, 0] + receiver[q, 0]) - pillar[0]
        my = f4(0.5) * (source[q, 1] + receiver[q, 1]) - pillar[1]
        ds, dr = sx * sx + sy * sy, rx * rx + ry * ry
        reach = np.sqrt(mx * mx + my * my) if k + n < end else f4(FAR)
        work[TRACE + n], work[TRACE + GROUP + n], work[TRACE + 2 * GROUP + n] = ds, dr, reach
        nearest = min(nearest, reach)
        closest = min(closest, ds + dr + f4(2) * np.sqrt(ds * dr))
    return nearest, closest


@_jit()
def _earliest(b: int, closest: Any, table: Any, fastest: Any) -> Any:
    t0 = f4(2) * table[0, b + 1]
    return t0 * t0 + closest * fastest[b]


@_jit()
def _pillar(
    pillar: Any, first: int, depth: int, source: Any, receiver: Any, traces: Any, job: Any, r: Any, work: Any
) -> None:
    """Migrate traces first to first + depth, which begin ``traces``, into the total, count and blocks of ``work``."""
    # Names, not attributes, inside loops: numba counts references at every attribute.
    furthest, fastest, table, samples = r.furthest, r.fastest, r.knots, r.samples
    lo = hi = 0
    n, limit = len(furthest), job.latest * job.latest
    for k in range(0, depth, GROUP):
        nearest, closest = _locate(first + k, first + depth, pillar, source, receiver, work)
        # The first block whose radius reaches the nearest trace, the last that begins before all traces end (T^2 is at
        # least t0^2 + (ds + dr)^2 / V^2): neighbouring traces differ little, so walk there from the last answer.
        while lo > 0 and furthest[lo - 1] >= nearest:
            lo -= 1
        while lo < n and furthest[lo] < nearest:
            lo += 1
        while hi < n and _earliest(hi, closest, table, fastest) <= limit:
            hi += 1
        while hi > 0 and _earliest(hi - 1, closest, table, fastest) > limit:
            hi -= 1
        for begin in range(lo, hi, CHUNK):
            _group(
                work, traces, samples, table, samples.shape[1], table.shape[1], k * job.stride, job.stride,
                begin, min(begin + CHUNK, hi), job.ratio, job.rim, job.last, job.weighted,
            )  # fmt: skip


@intrinsic
def _deliver(
    typingctx: Any, work: Any, image: Any, fold: Any, samples: Any, length: Any, blocks: Any, counted: Any
) -> Any:
    """Add the first ``blocks`` blocks of a pillar's total and fold to its rows."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        e = Emit(builder)
        work, image, fold, samples = (context.make_array(sig.args[i])(context, builder, args[i]).data for i in range(4))
        length, blocks, counted = args[4:]
        with cgutils.for_range(builder, blocks) as loop:
            t = builder.mul(loop.index, ir.Constant(I64, BLOCK))
            gain = e.vector(samples, t, builder.mul(length, ir.Constant(I64, 4)))
            e.store(gain * e.vector(work, TOTAL, t) + e.vector(image, t), image, t)
            with builder.if_then(counted):
                each = e.vector(work, TOTAL, length, t, kind=VI)
                whole = e.at(work, TOTAL, length, length, loop.index)
                all_of_it = e.scalar(builder.load(builder.bitcast(whole, I32.as_pointer())))
                e.store(e.vector(fold, t, kind=VI) + each + all_of_it, fold, t)
        return context.get_dummy_value()

    return void(work, image, fold, samples, length, blocks, counted), generate


def _cache() -> bool:
    """Whether numba has a place to keep compiled code: it refuses to decorate otherwise."""
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parent / "__pycache__")
    return os.access(folder if folder.exists() else folder.parent, os.W_OK)


def _compile(stamp: str) -> Callable[..., None]:
    """``stamp`` is part of numba's cache key, which would otherwise miss changes in other files."""

    @_jit(cache=_cache())
    def rows(
        image: Any, fold: Any, traces: Any, source: Any, receiver: Any, pillars: Any, tables: Any, job: Any, first: int,
        end: int,
    ) -> str:  # fmt: skip
        """Migrate all traces into pillars first to end."""
        (ntr, ns), nt = traces.shape, image.shape[1]
        length, blocks = tables.samples.shape[2], tables.furthest.shape[1]
        work = np.zeros(TOTAL + 2 * length + blocks, f4)
        counts = work.view(np.int32)
        full = nt // BLOCK
        for k in range(0, ntr, DEPTH):
            depth = min(DEPTH, ntr - k)
            here = traces[k:].ravel() if (ntr - k - depth) * ns >= REACH else _padded(traces[k:])
            for p in range(first, end):
                i = min(p, len(tables.samples) - 1)
                r = _Row(tables.samples[i], tables.knots[i], tables.furthest[i], tables.fastest[i])
                work[TOTAL:] = 0
                _pillar(pillars[p], k, depth, source, receiver, here, job, r, work)
                counted = len(fold) > 0
                row = fold[p] if counted else counts
                _deliver(work, image[p], row, r.samples, length, full, counted)
                for t in range(full * BLOCK, nt):
                    image[p, t] += r.samples[4, t] * work[TOTAL + t]
                    if counted:
                        row[t] += counts[TOTAL + length + t] + counts[TOTAL + 2 * length + full]
        return stamp

    return rows


_rows = _compile(hashlib.sha256(Path(simd.__file__).read_bytes()).hexdigest())


def _arrays(t: Tables) -> _Row:
    """Lay the tables out for vector loads, all velocity rows at once.

    ``knots`` has t0 / 2 at even and odd knots, 1 / (V dt)^2 at even and odd knots, and per block the largest radius, the
    smallest inner radius, the roughness of 1 / V^2, and the whole and fractional input sample where it begins. Its first
    column is NaN: nothing is known of the curvature before the first knot, and NaN makes the first block exact.
    """
    rows, blocks = t.blocks.shape[:2]
    legs = t.legs.permute(0, 2, 1)
    knots = torch.full((rows, 9, blocks + 2 + 2 * LANES), torch.nan)
    spaced = legs[:, :2, :: BLOCK // 2]
    for parity in range(2):
        some = spaced[:, :, parity::2][:, :, : blocks + 1 + LANES]
        knots[:, parity:4:2, 1 : 1 + some.shape[2]] = some
    knots[:, 4:7, 1 : 1 + blocks] = t.blocks.permute(0, 2, 1)[:, :3]
    knots[:, 7:9, 1 : 1 + blocks] = t.centres.T
    samples = torch.cat([legs, t.gain[:, None]], 1)
    furthest = t.blocks[..., 0].cummax(-1).values
    fastest = t.blocks[..., 3].flip(-1).cummin(-1).values.flip(-1)
    return _Row(*(x.contiguous().numpy() for x in (samples, knots, furthest, fastest)))


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
) -> None:
    """Add the migrated traces to ``image``; arguments as ``migrate.run``."""
    axes = {"dt": dt, "start": start, "dt_out": dt_out, "t0_out": t0_out}
    options: dict[str, Any] = {"amplitude": amplitude, "aperture": aperture, "area": area, **axes}
    tables = prepare(vrms, **options, block=BLOCK, nodes=(0, BLOCK // 2, BLOCK), tail=2 * BLOCK, origin=0)
    last = traces.shape[1] - 1
    job = _Job(
        ratio=f4(dt_out / dt),
        rim=f4(tables.rim),
        last=f4(last),
        latest=f4(max(last + tables.shift, 0.0) + 0.1),
        weighted=amplitude == "true",
        stride=traces.shape[1],
    )
    rows = _arrays(tables)
    count = np.zeros((0, 0), np.int32) if fold is None else fold.numpy()
    arrays = [x.numpy() for x in (traces, source, receiver, pillars)]

    def run(first: int, end: int) -> None:
        _rows(image.numpy(), count, *arrays, rows, job, first, end)

    # Every chunk brings each trace into its cache once: enough pillars to make that cheap.
    parallel_for(len(pillars), run, chunk=max(8, -(-len(pillars) // 128)))
