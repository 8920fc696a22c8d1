"""What differs between a migration and its adjoint on the CPU: samples are scattered where they were gathered.

Everything else is the code of ``seismic.migrate`` v2, instruction for instruction: the same travel times and weights in
the same roundings, so that the pair passes a dot test far below either one's distance from float64.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from elinvar.seismic.kernels.migrate.blocks import TOTAL, Group
from elinvar.seismic.kernels.migrate.interpolation import pairs
from elinvar.seismic.kernels.migrate.simd import F32, I32, I64, ISA, LANES, VF, VI, Blend, Emit, Vector

__all__ = ["Transposed", "weigh"]


class _Scatter(Emit):
    """Vector code in which a weighted interpolation hands out instead of taking in.

    ``window`` pointers point to cells, one for each sample: what belongs to the neighbours that an interpolation from
    there reads, side by side. So one addition of a short vector serves a contribution, and neighbouring contributions
    rarely wait for each other's.
    """

    def __init__(self, builder: Any, taps: int) -> None:
        super().__init__(builder)
        self.given: Vector  # image samples of the block
        self.shares = cgutils.alloca_once(builder, ir.VectorType(F32, taps * LANES))  # type: ignore[no-untyped-call]
        self.places = cgutils.alloca_once(builder, VI)  # type: ignore[no-untyped-call]

    def interpolate(self, windows: list[Any], x: Vector, taps: int = 2, *, scattered: bool = False) -> Any:
        """Return what, multiplied by a weight, adds the weighted image samples at ``x`` of the windows."""
        return _Share(self, windows, x, taps, bounded=not scattered and ISA != "portable")


class _Steps:
    """How 16 cells follow each other: from one lane to the next by 0 or 1, as they do where times grow with depth.

    At most four lanes may share a cell.
    """

    def __init__(self, emit: _Scatter, index: Vector) -> None:
        self.e, b = emit, emit.b
        self.first = index.lane(0)
        before = [self.behind(index, n) for n in (1, 2, 4)]
        step = b.sub(index.value, before[0].value)
        fits = b.icmp_unsigned("<=", step, emit.integers(1).value)
        short = b.icmp_signed("!=", index.value, before[2].value)
        # Lanes that have no lane so far before them compare with themselves, or stand for it.
        short = b.or_(short, ir.Constant(short.type, [i < 4 for i in range(LANES)]))
        self.regular = emit.every(Vector(emit, b.and_(fits, short)))
        self.same = []
        for n, other in zip((1, 2), before, strict=False):
            same = b.icmp_signed("==", index.value, other.value)
            self.same.append(b.and_(same, ir.Constant(same.type, [i >= n for i in range(LANES)])))
        after = Vector(emit, b.shuffle_vector(index.value, index.value, ir.Constant(VI, [*range(1, LANES), LANES - 1])))
        last = b.icmp_signed("!=", index.value, after.value)
        self.last = b.or_(last, ir.Constant(last.type, [i == LANES - 1 for i in range(LANES)]))

    def behind(self, x: Vector, n: int) -> Vector:
        """The value ``n`` lanes before, that of lane 0 where there is none."""
        lanes = ir.Constant(VI, [max(0, i - n) for i in range(LANES)])
        return Vector(self.e, self.e.b.shuffle_vector(x.value, x.value, lanes))

    def gather(self, x: Vector) -> Vector:
        """Sums of the lanes of each cell, cell after cell from lane 0 on, zeros behind."""
        for n, same in zip((1, 2), self.same, strict=True):
            x = x + Vector(self.e, same).where((self.behind(x, n), 0.0))
        zero = self.e.floats(0.0).value
        return Vector(self.e, self.e.call("llvm.x86.avx512.mask.compress.v16f32", VF, x.value, zero, self.last))


class _Share:
    """Stands where the interpolated samples would."""

    def __init__(self, emit: _Scatter, windows: list[Any], x: Vector, taps: int, *, bounded: bool) -> None:
        self.e, self.windows, self.x, self.taps = emit, windows, x, taps
        # Registers are picked from by the low bits of any index; traces that take no part rely on it.
        self.bounded = bounded

    def __mul__(self, weight: Vector) -> Vector:
        """Scatter; the image itself gets nothing."""
        e, b = self.e, self.e.b
        index = self.x.integer()
        value, part = e.given * weight, self.x - index.floating()
        if self.bounded:
            index = index & e.integers(31)
        b.store(index.value, e.places)
        first = self.windows[0]
        if isinstance(first, Blend):
            beyond = value * first.part
            self._add([w.pointer for w in self.windows], value - beyond, part, index)
            self._add([e.at(w.pointer, w.apart) for w in self.windows], beyond, part, index)
        else:
            self._add(self.windows, value, part, index)
        return e.floats(0.0)

    def _add(self, windows: list[Any], value: Vector, part: Vector, index: Vector) -> None:
        """Add shares of 16 values to the cells that the windows and the index name."""
        shares = self._shares(value, part)
        if self.taps > 2 or len(windows) > 1 or not self.bounded or ISA != "avx512":
            self._one_by_one(windows, shares)
            return
        steps = _Steps(self.e, index)
        with self.e.b.if_else(steps.regular, likely=True) as (regular, odd):
            with regular:
                self._together(windows[0], shares, steps)
            with odd:
                self._one_by_one(windows, shares)

    def _together(self, window: Any, shares: list[Any], steps: _Steps) -> None:
        """Sum what goes to the same cell in registers; the cells follow each other without a gap."""
        e, b = self.e, self.e.b
        left, right = (steps.gather(Vector(e, share)).value for share in shares)
        cells = b.bitcast(e.at(window, b.sext(steps.first, I64)), F32.as_pointer())
        for half in range(2):
            lanes = [i // 2 + LANES * (i % 2) + half * LANES // 2 for i in range(LANES)]
            mixed = Vector(e, b.shuffle_vector(left, right, ir.Constant(VI, lanes)))
            e.store(e.vector(cells, half * LANES) + mixed, cells, half * LANES)

    def _one_by_one(self, windows: list[Any], rows: list[Any]) -> None:
        """Add each value's shares to its cell."""
        e, b, n = self.e, self.e.b, self.taps
        while len(rows) > 1:  # side by side, then transposed: the shares of a lane together
            lanes = list(range(2 * rows[0].type.count))
            kind = ir.VectorType(I32, len(lanes))
            rows = [b.shuffle_vector(*rows[i : i + 2], ir.Constant(kind, lanes)) for i in range(0, len(rows), 2)]
        lanes = [tap * LANES + lane for lane in range(LANES) for tap in range(n)]
        b.store(b.shuffle_vector(rows[0], rows[0], ir.Constant(ir.VectorType(I32, n * LANES), lanes)), e.shares)
        kind = ir.VectorType(F32, n)
        shares, places = b.bitcast(e.shares, kind.as_pointer()), b.bitcast(e.places, I32.as_pointer())
        for i in range(LANES):
            cell = e.at(windows[i * len(windows) // LANES], b.sext(b.load(e.at(places, i)), I64))
            share = b.load(e.at(shares, i), align=4)
            b.store(b.fadd(b.load(cell, align=4), share), cell, align=4)

    def _shares(self, value: Vector, part: Vector) -> list[Any]:
        """What each neighbour gets of 16 values, leftmost first: the weights of `Emit.interpolate`."""
        n, e = self.taps, self.e
        if n == 2:
            right = part * value
            return [(value - right).value, right.value]
        g = part - 0.5
        q = g * g
        found: list[Any] = [None] * n
        for i, (even, odd) in enumerate(pairs(n)):
            both, apart = e.horner(even, q), e.horner(odd, q) * g
            found[i], found[n - 1 - i] = ((both + apart) * value).value, ((both - apart) * value).value
        return found


class Transposed(Group):
    """Code for the blocks of one pillar, already weighted in time, into four traces of cells."""

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
        super().__init__(builder, pointers, scalars, taps=taps, copies=copies, bounded=bounded, wide=wide)
        self.e = self.scatter = _Scatter(builder, taps)
        self.traces = builder.bitcast(self.traces, ir.VectorType(F32, taps).as_pointer())

    def four(self, c: Any, t: Any, state: Any | None) -> None:
        """Hand a block of the image out to four traces."""
        self.scatter.given = self.e.vector(self.total, t)
        super().four(c, t, state)

    def exact(self, block: Any, t: Any, ds: Any, dr: Any, reach: Any, row: Any, n: Any) -> None:
        """Hand a block of the image out to one trace, every sample at its own travel time."""
        self.scatter.given = self.e.vector(self.total, t)
        super().exact(block, t, ds, dr, reach, row, n)


def weigh(builder: Any, pointers: list[Any], length: Any, blocks: Any) -> None:
    """Put the first ``blocks`` blocks of a pillar's image, times gain, where the group's code looks for them."""
    e = Emit(builder)
    work, image, samples = pointers
    with cgutils.for_range(builder, blocks) as loop:
        t = builder.mul(loop.index, ir.Constant(I64, LANES))
        gain = e.vector(samples, t, builder.mul(length, ir.Constant(I64, 4)))
        e.store(gain * e.vector(image, t), work, TOTAL, t)
