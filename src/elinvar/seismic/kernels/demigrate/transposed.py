"""What differs between a migration and its adjoint on the CPU: samples are scattered where they were gathered.

Everything else is the code of ``seismic.migrate`` v2, instruction for instruction: the same travel times and weights in
the same roundings, so that the pair passes a dot test far below either one's distance from float64.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from elinvar.seismic.kernels.migrate.blocks import TOTAL, Group
from elinvar.seismic.kernels.migrate.simd import F32, I32, I64, ISA, LANES, VI, Emit, Vector

__all__ = ["Transposed", "weigh"]

_PAIR = ir.VectorType(F32, 2)
_PAIRS = ir.VectorType(F32, 2 * LANES)


class _Scatter(Emit):
    """Vector code in which a weighted interpolation hands out instead of taking in.

    ``window`` pointers point to pairs: what belongs to a sample, and what belongs to the next one. So one addition of
    two floats serves a contribution, and neighbouring contributions rarely wait for each other's.
    """

    def __init__(self, builder: Any) -> None:
        super().__init__(builder)
        self.given: Vector  # image samples of the block
        self.pairs = cgutils.alloca_once(builder, _PAIRS)  # type: ignore[no-untyped-call]
        self.places = cgutils.alloca_once(builder, VI)  # type: ignore[no-untyped-call]

    def interpolate(self, windows: list[Any], x: Vector, taps: int = 2, *, scattered: bool = False) -> Any:
        """Return what, multiplied by a weight, adds the weighted image samples at ``x`` of the windows."""
        assert taps == 2, "the adjoint interpolates linearly"
        return _Share(self, windows, x, bounded=not scattered and ISA != "portable")


class _Share:
    """Stands where the interpolated samples would."""

    def __init__(self, emit: _Scatter, windows: list[Any], x: Vector, *, bounded: bool) -> None:
        self.e, self.windows, self.x = emit, windows, x
        # Registers are picked from by the low bits of any index; traces that take no part rely on it.
        self.bounded = bounded

    def __mul__(self, weight: Vector) -> Vector:
        """Scatter; the image itself gets nothing."""
        e, b = self.e, self.e.b
        index = self.x.integer()
        value = e.given * weight
        right = (self.x - index.floating()) * value
        left = value - right
        lanes = [i // 2 + LANES * (i % 2) for i in range(2 * LANES)]
        mixed = b.shuffle_vector(left.value, right.value, ir.Constant(ir.VectorType(I32, 2 * LANES), lanes))
        b.store(mixed, e.pairs)
        b.store((index & e.integers(31)).value if self.bounded else index.value, e.places)
        pairs = b.bitcast(e.pairs, _PAIR.as_pointer())
        places = b.bitcast(e.places, I32.as_pointer())
        for i in range(LANES):
            place = e.at(self.windows[i * len(self.windows) // LANES], b.sext(b.load(e.at(places, i)), I64))
            pair = b.bitcast(place, _PAIR.as_pointer())
            share = b.load(e.at(pairs, i), align=4)
            b.store(b.fadd(b.load(pair, align=4), share), pair, align=4)
        return e.floats(0.0)


class Transposed(Group):
    """Code for the blocks of one pillar, already weighted in time, into four traces of pairs."""

    def __init__(self, builder: Any, pointers: list[Any], scalars: list[Any], *, wide: bool) -> None:
        super().__init__(builder, pointers, scalars, wide=wide)
        self.e = self.scatter = _Scatter(builder)

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
