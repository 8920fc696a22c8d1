"""Code of version v2 on the CPU: four traces into the blocks of one pillar, as LLVM IR.

`cpu_v2` says what is computed and drives it; here is how, 16 knots, blocks or samples at a time.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from elinvar.seismic.kernels.migrate.lifted import Lift, lifting, raised_legs, raised_strength
from elinvar.seismic.kernels.migrate.physics import BENDS, FEW
from elinvar.seismic.kernels.migrate.simd import F32, I32, I64, ISA, LANES, VF, VI, Blend, Emit, Vector

__all__ = [
    "BLOCK",
    "CHUNK",
    "DEPTH",
    "FAR",
    "GENTLY",
    "GROUP",
    "KNOT_ROWS",
    "SAMPLE_ROWS",
    "TOLERANCE",
    "TOTAL",
    "TRACE",
    "Group",
    "deliver",
    "geometry",
]

BLOCK = LANES  # output samples sharing a quadratic: twice the knot spacing
CHUNK = 128  # blocks whose coefficients are kept at a time
GROUP = 4  # traces per visit of an image block
DEPTH = 64  # traces held in the second-level cache
# Coefficients per trace: c0 c1 c2 w0 w1 w2, c0 from the window of the block's second half, and of filtered copies the
# part that the next one has, and (int32) how far the first one lies behind the trace.
ROWS = 9
WIDE = CHUNK + 2 * LANES  # length of a row of knots
GENTLY = 3  # number of the physics "curved" where its polynomial serves
KNOT_ROWS, SAMPLE_ROWS = 9, 5  # of the tables of straight rays; behind them stands what other physics need
TOLERANCE = 3e-4
"""Largest error of a block's quadratic: samples for the travel time, relative for the weight."""
FAR = 3e38  # midpoint distance of a trace that takes no part: beyond any radius
MARGIN = 0.01  # samples from an end of the trace within which blocks are evaluated exactly

# Working memory of one thread, a single float32 array (so that loops pass one thing around): where its parts begin.
COEF = 0  # [GROUP, ROWS, CHUNK]
BASE = COEF + GROUP * ROWS * CHUNK  # [GROUP, 2, CHUNK] int32: starts of the windows of a block's halves
STATE = BASE + GROUP * 2 * CHUNK  # [CHUNK] int32: bit n: trace n is live; bit 8 + n: in its rim; bit 16 + n: exact
KNOTS = STATE + CHUNK  # [4, WIDE]: moveout at even and odd knots, (t0 / T)^2 at even and odd knots
# [11, DEPTH]: ds^2, dr^2, midpoint distance, (ds + dr)^2, what slopes need (see geometry), of bounded traces the weight
# that limits along the axes leave and the first sample that is not muted, and of raised ones how far above the datum
# source and receiver are
TRACE = KNOTS + 4 * WIDE
ACROSS, UNMUTED, ABOVE = TRACE + 7 * DEPTH, TRACE + 8 * DEPTH, TRACE + 9 * DEPTH
TOTAL = TRACE + 11 * DEPTH  # [samples] image; then count [samples] int32 fold, and blocks [blocks] int32 fold


# ---------------------------------------------------------------------------------------------------------------------
# Physics and preparation, 16 knots or blocks at a time.
# ---------------------------------------------------------------------------------------------------------------------
# Each is T - t0 in samples; the rest only asks for smoothness. Formulas: `physics`.
def _straight(tau: Vector, slow: Vector, ds: Any, dr: Any) -> Vector:
    legs: list[Vector] = [(tau * tau + slow * square).sqrt() - tau for square in (ds, dr)]
    return legs[0] + legs[1]


def _gently(tau: Vector, s: Vector, slow: Vector, kappa: Vector, ratio: Any, ds: Any, dr: Any) -> Vector:
    r2 = [s * s + slow * square for square in (ds, dr)]
    legs = ratio([x * (kappa * kappa) for x in r2])
    moved: Vector = (legs[0] * r2[0].sqrt() - tau) + (legs[1] * r2[1].sqrt() - tau)
    return moved


def _curved(s: Vector, c: Vector, slow: Vector, kappa: Vector, ds: Any, dr: Any) -> Vector:
    growth, g = [], s * kappa + c
    for square in (ds, dr):
        b = slow * square
        r2 = s * s + b
        m, d = r2.sqrt() + s, (r2 * (kappa * kappa) + 1.0).sqrt() + c
        growth.append(b * kappa * (m * kappa + d) * (m * d * g).max(1e-20).reciprocal())
    z = growth[0] * growth[1] + growth[0] + growth[1]
    moved: Vector = z.log1p() / kappa
    return moved


def _vti(tau: Vector, p: Vector, slow: Vector, ds: Any, dr: Any) -> Vector:
    legs, t2 = [], tau * tau
    for square in (ds, dr):
        a = slow * square
        a = a * (t2 + a) * (p * a + t2).max(1e-20).reciprocal()
        legs.append((t2 + a).sqrt() - tau)
    moved: Vector = legs[0] + legs[1]
    return moved


def _obliquity(tau: Vector, moved: Vector) -> Vector:
    """(t0 / T)^2, 0 at t0 = 0."""
    ratio: Vector = (tau + tau) * (tau + tau + moved).max(1e-20).reciprocal()
    square: Vector = ratio * ratio
    return square


def _taper(reach: Any, slope: Vector, rim: Any) -> Vector:
    """(1 + cos(pi u)) / 2 for u from 0 to 1 across the rim: an odd polynomial about its middle, error below 1e-6."""
    s = (slope * reach - rim).max(0.0).min(1.0) - 0.5
    q: Vector = s * s
    weight: Vector = (((q * 0.2773181 - 1.27094951) * q + 2.5835714) * q - 1.57079101) * s + 0.5
    return weight


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


class Group:
    """Code for four traces, copies ``row`` and following, into blocks lo to hi (at most CHUNK) of a pillar."""

    def __init__(
        self,
        builder: Any,
        pointers: list[Any],
        scalars: list[Any],
        *,
        taps: int = 2,
        copies: int = 1,
        bounded: int = 1,
        wide: bool,
    ) -> None:
        self.e, self.b = Emit(builder), builder
        e = self.e
        self.work, self.traces, self.samples, self.table, self.bending = pointers
        self.length, self.columns, self.first, self.row, self.stride, self.lo, self.hi = scalars[:7]
        self.ratio, self.rim, self.last, self.weighted, self.physics, self.kappa, self.apart, self.most = scalars[7:15]
        self.replaced, self.late, self.earliest = scalars[15:]
        self.filtered, self.bounded, self.raised = copies > 1, bounded > 1, bounded > 2
        self.lift: Lift | None = None  # of the trace at hand
        self.share: tuple[Vector, Any] | None = (
            None  # part of the next copy, and how far the copy lies behind the trace
        )
        self.total = e.at(self.work, TOTAL)
        self.count = e.at(self.total, self.length)
        self.blocks = e.at(self.count, self.length)
        self.wide, self.taps = wide, taps
        self.split = wide or ISA != "avx512"  # the halves of a block have windows of their own
        # Input samples that a window serves, the last neighbour included; blocks are given it with room for rounding.
        self.reach = 33.0 - taps if ISA == "avx512" else 1e6 if wide or ISA == "portable" else 17.0 - taps
        self.span = self.reach - (2.0 if taps == 2 else 0.5)

    def times(self, x: Any, k: int) -> Any:
        """Multiply an index by a constant."""
        return self.b.mul(x, ir.Constant(I64, k))

    def of_trace(self, n: Any) -> list[Any]:
        """ds^2, dr^2 and midpoint distance of trace n of the group, where it begins, and n."""
        scalars = [self.b.load(self.e.at(self.work, TRACE + q * DEPTH, self.first, n)) for q in range(3)]
        return [*scalars, self.b.add(self.row, self.b.mul(n, self.stride)), n]

    def lift_of(self, n: Any) -> Lift | None:
        """What heights of the ends of trace n add, if they have any."""
        if not self.raised:
            return None
        return lifting(self.b, [self.bound(ABOVE + k * DEPTH, n) for k in range(2)], self.replaced)

    def bound(self, place: int, n: Any) -> Any:
        """One of a bounded trace's own numbers."""
        return self.b.load(self.e.at(self.work, place, self.first, n))

    def whole(self, pointer: Any, *offsets: Any) -> Any:
        """An int32 from the working memory."""
        return self.b.load(self.b.bitcast(self.e.at(pointer, *offsets), I32.as_pointer()))

    def emit(self) -> None:
        """Prepare all four traces, then migrate block by block."""
        number = self.b.sub(self.hi, self.lo)
        with cgutils.for_range(self.b, ir.Constant(I64, CHUNK // LANES)) as loop:
            self.e.store(self.e.integers(0), self.work, STATE, self.times(loop.index, LANES))
        with cgutils.for_range(self.b, ir.Constant(I64, GROUP)) as loop:
            ds, dr, reach, row, _ = self.of_trace(loop.index)
            self.lift = self.lift_of(loop.index)
            with cgutils.for_range_slice(self.b, *self._range(self.b.add(number, ir.Constant(I64, 2)))) as (c, _):
                self.knots(c, ds, dr)
            with cgutils.for_range_slice(self.b, *self._range(number)) as (c, _):
                self.coefficients(c, loop.index, reach, self.b.trunc(row, I32))
        with cgutils.for_range(self.b, number) as loop:
            self.block(loop.index)

    def _range(self, stop: Any) -> tuple[Any, Any, Any]:
        return ir.Constant(I64, 0), stop, ir.Constant(I64, LANES)

    def variable(self) -> Any:
        """Room for a vector that branches write to; becomes a register."""
        return cgutils.alloca_once(self.b, VF)  # type: ignore[no-untyped-call]

    def moveout(self, places: list[Any], ds: Any, dr: Any, *, gently: bool = True) -> tuple[Vector, Vector]:
        """T - t0 of 16 knots or samples, and t0 / 2, from places in the tables: the physics is chosen here.

        The polynomial's error is below a knot's tolerance, but it is absolute: with ``gently`` unset it is not taken.
        """
        tau, slow, first, second = places
        e, b = self.e, self.b
        result = self.variable()
        t, slowness = e.vector(*tau), e.vector(*slow)

        def physics(number: int) -> Any:
            return b.icmp_signed("==", self.physics, ir.Constant(I64, number))

        if self.lift is not None:
            with b.if_else(physics(0)) as (straight, vti):
                with straight:
                    b.store(raised_legs(e, self.lift, t, slowness, None, (ds, dr)).value, result)
                with vti:
                    b.store(raised_legs(e, self.lift, t, slowness, e.vector(*first), (ds, dr)).value, result)
            return Vector(e, b.load(result)), t
        with b.if_else(physics(0)) as (straight, other):
            with straight:
                b.store(_straight(t, slowness, ds, dr).value, result)
            with other, b.if_else(physics(2)) as (vti, curved):
                with vti:
                    b.store(_vti(t, e.vector(*first), slowness, ds, dr).value, result)
                with curved:
                    s, kappa = e.vector(*first), e.scalar(self.kappa)
                    with b.if_else(physics(GENTLY) if gently else ir.Constant(ir.IntType(1), 0)) as (few, sharply):
                        with few:
                            b.store(_gently(t, s, slowness, kappa, self.ratio_of_leg, ds, dr).value, result)
                        with sharply:
                            b.store(_curved(s, e.vector(*second), slowness, kappa, ds, dr).value, result)
        return Vector(e, b.load(result)), t

    def ratio_of_leg(self, v: list[Vector]) -> list[Vector]:
        """The polynomial `physics.bending` of both legs; its high powers only where they are not zero."""
        e, b = self.e, self.b
        c = [e.broadcast(self.bending, i) for i in range(FEW)]
        v = [x.min(e.broadcast(self.bending, BENDS)) for x in v]
        upper = [self.variable(), self.variable()]
        for place in upper:
            b.store(c[-1].value, place)
        with b.if_then(b.fcmp_ordered("!=", b.load(e.at(self.bending, FEW)), ir.Constant(F32, 0.0))):
            rest = [c[-1], *(e.broadcast(self.bending, i) for i in range(FEW, BENDS))]
            for x, place in zip(v, upper, strict=True):
                b.store(e.horner(rest, x).value, place)
        return [e.horner([*c[:-1], Vector(e, b.load(place))], x) for x, place in zip(v, upper, strict=True)]

    def knots(self, c: Any, ds: Any, dr: Any) -> None:
        """Even and odd knots of 16 blocks, from block lo + c - 1 into column c."""
        e = self.e
        for parity in range(2):
            places = [
                (self.table, self.times(self.columns, q + parity), self.lo, c) for q in (0, 2, KNOT_ROWS, KNOT_ROWS + 2)
            ]
            moved, tau = self.moveout(places, ds, dr)
            e.store(moved, self.work, KNOTS + parity * WIDE, c)
            e.store(self.strength(places, tau, moved), self.work, KNOTS + (2 + parity) * WIDE, c)

    def strength(self, places: list[Any], tau: Vector, moved: Vector) -> Vector:
        """(t0 / T)^2, or of raised traces what its like leaves of their weight (`cpu_v2._gain`)."""
        if self.lift is None:
            return _obliquity(tau, moved)
        return raised_strength(self.e, self.lift, tau, self.e.vector(*places[1]), moved, (self.late, self.earliest))

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
        # Where 1 / V^2 leaves its quadratic by a part of itself, T leaves its own by less than this part of moveout.
        # The weight needs no bound of its own: it is the smoother of the two (a test holds it to that).
        good = _bend(m) + rough * m[1].max(m[3]) <= TOLERANCE
        plain = e.scalar(self.b.not_(self.weighted))
        if self.raised:  # what heights do to the weight of shallow points is not smooth
            every = [e.vector(work, KNOTS + (2 + parity) * WIDE + on, c) for parity, on in places]
            good = good & (plain | (_bend(every) <= every[1].max(every[3]) * TOLERANCE))
        w0, w1, w2 = (plain.where((e.floats(1.0), x)) for x in w)
        eighth = e.scalar(self.ratio) * float(BLOCK // 2)
        x0, x1, x2 = part + m[1], part + eighth + m[2], part + eighth + eighth + m[3]
        low, high = e.floats(0.0) - whole, e.scalar(self.last) - whole
        if self.lift is not None:
            x0, x1, x2 = (x + e.scalar(self.lift.time) for x in (x0, x1, x2))
        if self.bounded:
            low = low + e.scalar(self.bound(UNMUTED, n))
            w0, w1, w2 = (w * self.bound(ACROSS, n) for w in (w0, w1, w2))
        f0, f1, fits, least, most = self._windows(x0, x1, x2)
        good = good & fits
        off = good & ((least > high + MARGIN) | (most < low - MARGIN))
        fast = good & (least >= low + MARGIN) & (most <= high - MARGIN)
        near = (outer >= reach) & ~off
        self._sort(c, n, near, fast, inner >= reach)
        live = near & fast
        coef = e.at(work, COEF, self.times(n, ROWS * CHUNK), c)
        slope, bend = _quadratic(m[1], m[2], m[3])
        rows = [x0 - f0, slope + self.ratio, bend, w0, *_quadratic(w0, w1, w2), x0 - f1]
        for q, value in enumerate(rows if self.split else rows[:6]):
            # Registers are picked from by the low bits of any index, memory is not.
            harmless = q not in (3, 4, 5) and ISA != "portable" and not (self.wide or self.raised)
            e.store(value if harmless else live.where((value, 0.0)), coef, q * CHUNK)
        behind = self.copies(c, n, coef) if self.filtered else e.integers(0)
        for q, first in enumerate((f0, f1) if self.split else (f0,)):
            start = (first + whole).integer() + row + behind
            e.store(live.where((start, 0)), work, BASE + q * CHUNK, self.times(n, 2 * CHUNK), c)

    def copies(self, c: Any, n: Any, coef: Any) -> Vector:
        """Choose the copies of trace n for 16 blocks (`antialias`); return how far the first lies behind the trace."""
        e = self.e
        tau, slow = (e.vector(self.table, self.times(self.columns, q), self.lo, c, 1) for q in (1, 3))
        at = [e.scalar(self.b.load(e.at(self.work, TRACE + q * DEPTH, self.first, n))) for q in (0, 1, 4, 5, 6)]
        one, other = ((tau * tau + slow * square).max(1e-20).rsqrt() for square in at[:2])
        source, receiver, both = at[2:]
        along = source * one * one + receiver * other * other + both * one * other
        copy, part = (slow * slow * along).max(1.0).min(e.scalar(self.most)).split()
        behind = Vector(e, self.b.mul(copy.value, e.splat(self.b.trunc(self.apart, I32))))
        e.store(part, coef, 7 * CHUNK)
        e.store(behind, coef, 8 * CHUNK)
        return behind

    def window(self, pointer: Any, part: Any) -> Any:
        """What reads samples at a pointer, or with ``part`` given from there and from the next copy."""
        return pointer if part is None else Blend(pointer, self.apart, part)

    def _windows(self, x0: Vector, x1: Vector, x2: Vector) -> tuple[Vector, Vector, Vector, Vector, Vector]:
        """First samples of the windows of both halves, whether they suffice, and the range of the block."""
        sag = (x0 - x1 * 2.0 + x2).unary("fabs") * 0.125  # how far a parabola may leave the range of its knots
        first, second = x0.min(x1) - sag, x1.min(x2) - sag
        top_first, top_second = x0.max(x1) + sag, x1.max(x2) + sag
        least, most = first.min(second), top_first.max(top_second)
        if not self.split:
            f0 = least.unary("floor")
            return f0, f0, most - f0 <= self.span, least, most
        f0, f1 = first.unary("floor"), second.unary("floor")
        return f0, f1, (top_first - f0 <= self.span) & (top_second - f1 <= self.span), least, most

    def _sort(self, c: Any, n: Any, near: Vector, fast: Vector, flat: Vector) -> None:
        """Note in the state of 16 blocks what trace n is to each."""
        e = self.e
        kind = near.where((fast.where((flat.where((e.integers(1), 0x101)), 0x10000)), 0))
        shifted = Vector(e, self.b.shl(kind.value, e.splat(self.b.trunc(n, I32))))
        state = e.vector(self.work, STATE, c, kind=VI)
        e.store(state | shifted, self.work, STATE, c)

    # -- one block ---------------------------------------------------------------------------------------------------

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
                    if self.filtered:
                        part, behind = (COEF + (n * ROWS + q) * CHUNK for q in (7, 8))
                        self.share = self.e.broadcast(self.work, part, c), b.sext(self.whole(self.work, behind, c), I64)
                    self.exact(block, t, *self.of_trace(ir.Constant(I64, n)))

    def four(self, c: Any, t: Any, state: Any | None) -> None:
        """Add the four traces; with their state given, look at the aperture and count the fold sample by sample."""
        e, j = self.e, self.e.ramp()
        sums = [e.vector(self.total, t), e.floats(0.0)]
        radius, slope = (e.vector(self.samples, t, self.times(self.length, q)) for q in (2, 3))
        count = e.vector(self.count, t, kind=VI)
        for n in range(GROUP):
            halves = 2 if self.split else 1
            c0, c1, c2, w0, w1, w2, *other = (
                e.broadcast(self.work, COEF + (n * ROWS + q) * CHUNK, c) for q in range(5 + halves)
            )
            starts = [self.b.sext(self.whole(self.work, BASE + (n * 2 + k) * CHUNK, c), I64) for k in range(halves)]
            if self.split:
                c0 = Vector(e, e.join(e.half(c0.value, 0), e.half(other[0].value, 1)))
            part = e.broadcast(self.work, COEF + (n * ROWS + 7) * CHUNK, c) if self.filtered else None
            value = self.interpolate([self.window(e.at(self.traces, s), part) for s in starts], (c2 * j + c1) * j + c0)
            weight = (w2 * j + w1) * j + w0
            if state is not None:
                live = self.b.trunc(self.b.lshr(state, ir.Constant(I32, n)), ir.IntType(1))
                distance = self.b.load(e.at(self.work, TRACE + 2 * DEPTH + n, self.first))
                reach = e.scalar(self.b.select(live, distance, ir.Constant(F32, FAR)))
                inside = radius >= reach
                weight = inside.where((weight * _taper(reach, slope, self.rim), 0.0))
                count = count + inside.ones()
            sums[n & 1] = value * weight + sums[n & 1]
        e.store(sums[0] + sums[1], self.total, t)
        if state is not None:
            e.store(count, self.count, t)

    def interpolate(self, windows: list[Any], x: Vector) -> Vector:
        """Samples at ``x`` of the windows, whatever reads them best."""
        return self.e.interpolate(windows, x, self.taps, scattered=self.wide and ISA != "avx512")

    def exact(self, block: Any, t: Any, ds: Any, dr: Any, reach: Any, row: Any, n: Any) -> None:
        """Add one trace, every sample with its own travel time."""
        e, b = self.e, self.b
        places = [(self.samples, t, self.times(self.length, q)) for q in (0, 1, SAMPLE_ROWS, SAMPLE_ROWS + 1)]
        radius, slope = (e.vector(self.samples, t, self.times(self.length, q)) for q in (2, 3))
        whole, part = (b.load(e.at(self.table, self.times(self.columns, q), block, 1)) for q in (7, 8))
        begin, high, start = e.floats(0.0) - whole, e.scalar(self.last) - whole, e.ramp() * self.ratio + part
        low = begin + e.scalar(self.bound(UNMUTED, n)) if self.bounded else begin
        self.lift = self.lift_of(n)
        if self.lift is not None:
            start = start + e.scalar(self.lift.time)
        moved, tau = self.moveout(places, ds, dr)
        result = self.variable()
        b.store(moved.value, result)
        x = start + moved
        ending = ((x - low).unary("fabs") <= MARGIN) | ((x - high).unary("fabs") <= MARGIN)
        gently = b.icmp_signed("==", self.physics, ir.Constant(I64, GENTLY))
        with b.if_then(b.and_(gently, b.not_(e.every(~ending))), likely=False):
            b.store(self.moveout(places, ds, dr, gently=False)[0].value, result)
        moved = Vector(e, b.load(result))
        x = start + moved  # from the whole sample where the block begins at zero offset
        inside = (radius >= reach) & (x >= low) & (x <= high)
        weight = e.scalar(self.weighted).where((self.strength(places, tau, moved), 1.0)) * _taper(
            reach, slope, self.rim
        )
        if self.bounded:
            weight = weight * self.bound(ACROSS, n)
        weight = inside.where((weight, 0.0))
        e.store(e.vector(self.count, t, kind=VI) + inside.ones(), self.count, t)
        x = x.max(begin).min(high)
        lanes = [(0, 7), (8, 15)] if self.split else [(0, 15)]
        firsts = [e.call("llvm.floor.f32", F32, e.call("llvm.minnum.f32", F32, x.lane(i), x.lane(k))) for i, k in lanes]
        origin = e.join(e.half(e.splat(firsts[0]), 0), e.half(e.splat(firsts[-1]), 1))
        y = x - Vector(e, origin)
        part, behind = self.share or (None, ir.Constant(I64, 0))
        trace = e.at(self.traces, row, behind)
        here = e.at(trace, b.fptosi(whole, I64))
        windows = [self.window(e.at(here, b.fptosi(first, I64)), part) for first in firsts]
        with b.if_else(e.every((y >= 0.0) & (y < self.reach))) as (near, far):
            with near:
                e.store(self.interpolate(windows, y) * weight + e.vector(self.total, t), self.total, t)
            with far:  # the samples lie too far apart for a window: one by one
                value = e.interpolate([self.window(trace, part)], x - begin, self.taps, scattered=True)
                e.store(value * weight + e.vector(self.total, t), self.total, t)


def geometry(builder: Any, pointers: list[Any], scalars: list[Any], bounded: int) -> None:
    """Fill TRACE for up to DEPTH traces from ``first`` on: ``ends`` is [4, ntr + DEPTH], rows ``columns`` apart.

    Of bounded traces a fifth row is the first sample that is not muted, and ``limits`` are one over the largest
    midpoint distances along the axes, and the two numbers of their rim (`_taper`). Of raised ones two more rows are the
    heights of their ends, and ``level`` is the datum's.

    With the distances (x, y) of source and receiver, squared slopes need sums of ``wx x x + wy y y``: of the source
    with itself, of the receiver with itself, and twice of one with the other.
    """
    e = Emit(builder)
    work, ends = pointers
    columns, first, number, x, y, wx, wy, *limits, level = scalars
    for part in range(DEPTH // LANES):
        sx, sy, rx, ry = (
            e.vector(ends, first, builder.mul(columns, ir.Constant(I64, q)), part * LANES) for q in range(4)
        )
        mx, my = (sx + rx) * 0.5 - x, (sy + ry) * 0.5 - y
        sx, sy, rx, ry = sx - x, sy - y, rx - x, ry - y
        ds, dr = sx * sx + sy * sy, rx * rx + ry * ry
        reach = (mx * mx + my * my).unary("sqrt")
        exists = e.ramp() + float(part * LANES) < builder.sitofp(number, F32)
        if bounded > 1:
            one, other, slope, rim = limits
            ratios = [(mx * one).unary("fabs"), (my * other).unary("fabs")]
            exists = exists & (ratios[0] <= 1.0) & (ratios[1] <= 1.0)
            e.store(_taper(slope, ratios[0], rim) * _taper(slope, ratios[1], rim), work, ACROSS + part * LANES)
            muted = e.vector(ends, first, builder.mul(columns, ir.Constant(I64, 4)), part * LANES)
            e.store(muted, work, UNMUTED + part * LANES)
        for k in range(2 if bounded > 2 else 0):
            height = e.vector(ends, first, builder.mul(columns, ir.Constant(I64, 5 + k)), part * LANES)
            e.store(height - e.scalar(level), work, ABOVE + k * DEPTH + part * LANES)
        values = [ds, dr, exists.where((reach, FAR)), ds + dr + (ds * dr).unary("sqrt") * 2.0]
        values += [sx * sx * wx + sy * sy * wy, rx * rx * wx + ry * ry * wy, (sx * rx * wx + sy * ry * wy) * 2.0]
        for q, value in enumerate(values):
            e.store(value, work, TRACE + q * DEPTH + part * LANES)


def deliver(builder: Any, pointers: list[Any], length: Any, blocks: Any, counted: Any) -> None:
    """Add the first ``blocks`` blocks of a pillar's total and fold to its rows of image and fold."""
    e = Emit(builder)
    work, image, fold, samples = pointers
    with cgutils.for_range(builder, blocks) as loop:
        t = builder.mul(loop.index, ir.Constant(I64, BLOCK))
        gain = e.vector(samples, t, builder.mul(length, ir.Constant(I64, 4)))
        e.store(gain * e.vector(work, TOTAL, t) + e.vector(image, t), image, t)
        with builder.if_then(counted):
            each = e.vector(work, TOTAL, length, t, kind=VI)
            whole = e.at(work, TOTAL, length, length, loop.index)
            block = e.scalar(builder.load(builder.bitcast(whole, I32.as_pointer())))
            e.store(e.vector(fold, t, kind=VI) + each + block, fold, t)
