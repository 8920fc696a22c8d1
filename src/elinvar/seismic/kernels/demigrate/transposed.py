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
from elinvar.seismic.kernels.migrate.simd import F32, I32, I64, ISA, LANES, VI, Blend, Emit, Vector

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
        b.store((index & e.integers(31)).value if self.bounded else index.value, e.places)
        value, part = e.given * weight, self.x - index.floating()
        first = self.windows[0]
        if isinstance(first, Blend):
            beyond = value * first.part
            self._add([w.pointer for w in self.windows], value - beyond, part)
            self._add([e.at(w.pointer, w.apart) for w in self.windows], beyond, part)
        else:
            self._add(self.windows, value, part)
        return e.floats(0.0)

    def _add(self, windows: list[Any], value: Vector, part: Vector) -> None:
        """Add shares of 16 values to the cells that the windows and places name."""
        e, b, n = self.e, self.e.b, self.taps
        rows = self._shares(value, part)
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
        self, builder: Any, pointers: list[Any], scalars: list[Any], *, taps: int = 2, copies: int = 1, wide: bool
    ) -> None:
        super().__init__(builder, pointers, scalars, taps=taps, copies=copies, wide=wide)
        self.e = self.scatter = _Scatter(builder, taps)
        self.traces = builder.bitcast(self.traces, ir.VectorType(F32, taps).as_pointer())

    def four(self, c: Any, t: Any, state: Any | None) -> None:
        """Hand a block of the image out to four traces."""
        self.scatter.given = self.e.vector(self.total, t)
        super().four(c, t, state)

    def exact(self, block: Any, t: Any, ds: Any, dr: Any, reach: Any, row: Any) -> None:
        """Hand a block of the image out to one trace, every sample at its own travel time."""
        self.scatter.given = self.e.vector(self.total, t)
        super().exact(block, t, ds, dr, reach, row)


def weigh(builder: Any, pointers: list[Any], length: Any, blocks: Any) -> None:
    """Put the first ``blocks`` blocks of a pillar's image, times gain, where the group's code looks for them."""
    e = Emit(builder)
    work, image, samples = pointers
    with cgutils.for_range(builder, blocks) as loop:
        t = builder.mul(loop.index, ir.Constant(I64, LANES))
        gain = e.vector(samples, t, builder.mul(length, ir.Constant(I64, 4)))
        e.store(gain * e.vector(image, t), work, TOTAL, t)
