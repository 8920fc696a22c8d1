"""Vectors of 16 lanes inside numba functions: LLVM IR with Python operators, for what the auto-vectoriser cannot find.

Everything is portable LLVM but the picking of samples from a window, which has a version for AVX-512 and one for AVX2.
Which of them runs is read from numba's target, so that ``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` are honoured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core.registry import cpu_target

from elinvar.seismic.kernels.migrate.interpolation import pairs

__all__ = ["F32", "I32", "I64", "ISA", "LANES", "VF", "VI", "Blend", "Emit", "Vector"]

LANES = 16
# log(1 + f) = f - f^2/2 + f^3 p(f) on [sqrt(1/2) - 1, sqrt 2 - 1]: the fit of elinvar.metal.fuse.cpu_math.
LOG = (
    0.0733243733, -0.116598872, 0.116346772, -0.123967073, 0.142511549, -0.166691507, 0.200006881, -0.249999812,
    0.333333313,
)  # fmt: skip
F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VF, VI = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)


def _instruction_set() -> str:
    features = set(cpu_target.target_context.codegen().magic_tuple()[2].split(","))
    if "+avx512f" in features:
        return "avx512"
    return "avx2" if {"+avx2", "+fma"} <= features else "portable"


ISA = _instruction_set()
"""``"avx512"``, ``"avx2"`` or ``"portable"``: the code this process runs."""


class Vector:
    """An LLVM vector (or scalar) value with operators; numbers and scalars are broadcast."""

    def __init__(self, emit: Emit, value: Any) -> None:
        self.e, self.value = emit, value

    def _binary(self, other: Any, floating: str, integer: str | None, *, swap: bool = False) -> Vector:
        a, b = self.value, self.e.like(other, self.value.type)
        if swap:
            a, b = b, a
        if isinstance(getattr(a.type, "element", a.type), ir.FloatType):
            return Vector(self.e, getattr(self.e.b, floating)(a, b, flags=("contract",)))
        assert integer is not None
        return Vector(self.e, getattr(self.e.b, integer)(a, b))

    def __add__(self, other: Any) -> Vector:
        return self._binary(other, "fadd", "add")

    def __sub__(self, other: Any) -> Vector:
        return self._binary(other, "fsub", "sub")

    def __rsub__(self, other: Any) -> Vector:
        return self._binary(other, "fsub", "sub", swap=True)

    def __mul__(self, other: Any) -> Vector:
        return self._binary(other, "fmul", "mul")

    def __truediv__(self, other: Any) -> Vector:
        return self._binary(other, "fdiv", None)

    def __and__(self, other: Vector) -> Vector:
        return Vector(self.e, self.e.b.and_(self.value, other.value))

    def __or__(self, other: Vector) -> Vector:
        return Vector(self.e, self.e.b.or_(self.value, other.value))

    def __invert__(self) -> Vector:
        return Vector(self.e, self.e.b.not_(self.value))

    def compare(self, how: str, other: Any) -> Vector:
        """Ordered comparison: false where either side is NaN."""
        return Vector(self.e, self.e.b.fcmp_ordered(how, self.value, self.e.like(other, self.value.type)))

    def __le__(self, other: Any) -> Vector:
        return self.compare("<=", other)

    def __ge__(self, other: Any) -> Vector:
        return self.compare(">=", other)

    def __lt__(self, other: Any) -> Vector:
        return self.compare("<", other)

    def __gt__(self, other: Any) -> Vector:
        return self.compare(">", other)

    def where(self, other: Any) -> Vector:
        """Call on a mask: ``mask.where((a, b))`` is a where it is set, else b."""
        a = other[0]
        return Vector(self.e, self.e.b.select(self.value, a.value, self.e.like(other[1], a.value.type)))

    def unary(self, name: str, *others: Any) -> Vector:
        """``llvm.<name>`` of this and others."""
        rest = [self.e.like(x, self.value.type) for x in others]
        return Vector(self.e, self.e.call(f"llvm.{name}.v{LANES}f32", VF, self.value, *rest))

    def max(self, other: Any) -> Vector:
        """Larger of the two."""
        return self.unary("maxnum", other)

    def min(self, other: Any) -> Vector:
        """Smaller of the two."""
        return self.unary("minnum", other)

    def sqrt(self) -> Vector:
        """Square root of values >= 0, to about one unit in the last place."""
        if ISA != "avx512":
            return self.unary("sqrt")
        # vsqrtps takes ten times as long as an estimate of 14 bits and one Newton step.
        a = self.max(1e-30)
        zero, mask = Vector(self.e, ir.Constant(VF, [0.0] * LANES)), ir.Constant(ir.IntType(16), -1)
        y = Vector(self.e, self.e.call("llvm.x86.avx512.rsqrt14.ps.512", VF, a.value, zero.value, mask))
        root = a * y
        return (a - root * root) * (y * 0.5) + root

    def rsqrt(self) -> Vector:
        """1 / square root of values > 0, to about one unit in the last place."""
        if ISA != "avx512":
            return Vector(self.e, ir.Constant(VF, [1.0] * LANES)) / self.unary("sqrt")
        zero, mask = Vector(self.e, ir.Constant(VF, [0.0] * LANES)), ir.Constant(ir.IntType(16), -1)
        y = Vector(self.e, self.e.call("llvm.x86.avx512.rsqrt14.ps.512", VF, self.value, zero.value, mask))
        return (1.0 - self * y * y) * (y * 0.5) + y

    def split(self) -> tuple[Vector, Vector]:
        """Exponent, as int32, and fraction in [0, 1), of values >= 1: ``2 ** exponent * (1 + fraction)``."""
        b, bits = self.e.b, self.e.b.bitcast(self.value, VI)
        exponent = Vector(self.e, b.sub(b.ashr(bits, self.e.like(23, VI)), self.e.like(127, VI)))
        fraction = b.or_(b.and_(bits, self.e.like(0x7FFFFF, VI)), self.e.like(0x3F800000, VI))
        return exponent, Vector(self.e, b.bitcast(fraction, VF)) - 1.0

    def reciprocal(self) -> Vector:
        """1 / x for x > 0, to about one unit in the last place."""
        if ISA != "avx512":
            return Vector(self.e, ir.Constant(VF, [1.0] * LANES)) / self
        zero, mask = Vector(self.e, ir.Constant(VF, [0.0] * LANES)), ir.Constant(ir.IntType(16), -1)
        y = Vector(self.e, self.e.call("llvm.x86.avx512.rcp14.ps.512", VF, self.value, zero.value, mask))
        return (1.0 - self * y) * y + y

    def log1p(self) -> Vector:
        """log(1 + x) for x >= 0, to about two units in the last place of the result, however small x is."""
        b, bits = self.e.b, self.e.b.bitcast((self + 1.0).value, VI)
        # 1 + x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt 2): f from x itself, so that k = 0 loses nothing.
        k = b.ashr(b.sub(bits, self.e.like(0x3F3504F3, VI)), self.e.like(23, VI))
        scale = Vector(self.e, b.bitcast(b.shl(b.sub(self.e.like(127, VI), k), self.e.like(23, VI)), VF))
        f, n = self * scale + (scale - 1.0), Vector(self.e, b.sitofp(k, VF))
        p = f * LOG[0] + LOG[1]
        for c in LOG[2:]:
            p = p * f + c
        s = f * f
        result: Vector = (f + (p * f * s + n * -2.12194440e-4 - s * 0.5)) + n * 0.693359375
        return result

    def integer(self) -> Vector:
        """Truncate to int32."""
        return Vector(self.e, self.e.b.fptosi(self.value, VI))

    def floating(self) -> Vector:
        """Convert int32 to float32."""
        return Vector(self.e, self.e.b.sitofp(self.value, VF))

    def ones(self) -> Vector:
        """A mask as integers 1 and 0."""
        return Vector(self.e, self.e.b.zext(self.value, VI))

    def lane(self, i: int) -> Any:
        """One element, as an LLVM value."""
        return self.e.b.extract_element(self.value, ir.Constant(I32, i))


@dataclass(frozen=True)
class Blend:
    """A window over a mixture of two rows of samples ``apart`` in memory: ``part``, one for all lanes, of the next."""

    pointer: Any
    apart: Any
    part: Vector


class Emit:
    """Writes vector code into a numba function."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def like(self, x: Any, kind: Any) -> Any:
        """Bring a number, scalar or vector to an LLVM type."""
        if isinstance(x, Vector):
            x = x.value
        if isinstance(x, (int, float)):
            return ir.Constant(kind, [x] * LANES if isinstance(kind, ir.VectorType) else x)
        return x if x.type == kind else self.splat(x)

    def splat(self, scalar: Any) -> Any:
        """All lanes the same."""
        kind = ir.VectorType(scalar.type, LANES)
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
        return self.b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(VI, [0] * LANES))

    def call(self, name: str, result: Any, *args: Any) -> Any:
        """Call an LLVM intrinsic."""
        functions = self.b.module.globals
        fn = functions.get(name) or ir.Function(self.b.module, ir.FunctionType(result, [a.type for a in args]), name)
        return self.b.call(fn, args)

    def at(self, pointer: Any, *offsets: Any) -> Any:
        """Pointer moved by offsets in elements."""
        for offset in offsets:
            pointer = self.b.gep(pointer, [ir.Constant(I64, offset) if isinstance(offset, int) else offset])
        return pointer

    def vector(self, pointer: Any, *offsets: Any, kind: Any = VF) -> Vector:
        """Load 16 elements."""
        place = self.b.bitcast(self.at(pointer, *offsets), kind.as_pointer())
        return Vector(self, self.b.load(place, align=4))

    def broadcast(self, pointer: Any, *offsets: Any) -> Vector:
        """Load one element into all lanes."""
        return Vector(self, self.splat(self.b.load(self.at(pointer, *offsets))))

    def floats(self, value: float) -> Vector:
        """Float constant."""
        return Vector(self, self.like(value, VF))

    def integers(self, value: int) -> Vector:
        """Integer constant."""
        return Vector(self, self.like(value, VI))

    def every(self, mask: Vector) -> Any:
        """Whether all lanes of a mask are set, as one bit."""
        return self.b.icmp_signed(
            "==", self.b.bitcast(mask.value, ir.IntType(LANES)), ir.Constant(ir.IntType(LANES), -1)
        )

    def scalar(self, value: Any) -> Vector:
        """LLVM scalar in all lanes."""
        return Vector(self, self.splat(value))

    def store(self, value: Vector, pointer: Any, *offsets: Any) -> None:
        """Store 16 elements."""
        place = self.b.bitcast(self.at(pointer, *offsets), value.value.type.as_pointer())
        self.b.store(value.value, place, align=4)

    def ramp(self) -> Vector:
        """0, 1, ... 15."""
        return Vector(self, ir.Constant(VF, [float(i) for i in range(LANES)]))

    # -- windows -----------------------------------------------------------------------------------------------------

    def half(self, x: Any, part: int) -> Any:
        """Lower (0) or upper (1) eight lanes."""
        lanes = ir.Constant(ir.VectorType(I32, 8), list(range(8 * part, 8 * part + 8)))
        return self.b.shuffle_vector(x, x, lanes)

    def join(self, low: Any, high: Any) -> Any:
        """Sixteen lanes of two halves."""
        return self.b.shuffle_vector(low, high, ir.Constant(VI, list(range(16))))

    def neighbours(self, windows: list[Any], index: Any, taps: int = 2, *, scattered: bool = False) -> list[Any]:
        """``taps`` samples from ``index`` on of the window; with two windows the upper lanes have the second.

        A window serves samples 0 to 31 on AVX-512 and, one for each half, 0 to 15 on AVX2; any if ``scattered``, when
        samples are loaded one by one, as they are where nothing permutes registers.
        """
        if ISA == "avx512" and not scattered:
            found = [self._neighbours16(window, index, taps) for window in windows]
            if len(found) == 1:
                return found[0]
        elif ISA == "avx2" and not scattered:
            found = [self._neighbours8(windows[k], self.half(index, k), taps) for k in range(2)]
            return [self.join(found[0][k], found[1][k]) for k in range(taps)]
        else:
            return self._neighbours1(windows, index, taps)
        return [self.join(self.half(found[0][k], 0), self.half(found[1][k], 1)) for k in range(taps)]

    def _load(self, window: Any, offset: Any, kind: Any) -> Any:
        """Elements of a window from ``offset`` on: a vector of ``kind``, or one float."""
        if isinstance(window, Blend):
            one, other = (self._load(p, offset, kind) for p in (window.pointer, self.at(window.pointer, window.apart)))
            part = window.part.value
            if kind != VF:
                part = window.part.lane(0) if kind == F32 else self.half(part, 0)
            return (Vector(self, part) * (Vector(self, other) - Vector(self, one)) + Vector(self, one)).value
        place = self.at(window, offset)
        if kind == F32:
            return self.b.load(place)
        return self.b.load(self.b.bitcast(place, kind.as_pointer()), align=4)

    def _neighbours1(self, windows: list[Any], index: Any, taps: int) -> list[Any]:
        found = [ir.Constant(VF, ir.Undefined)] * taps
        for i in range(LANES):
            lane = ir.Constant(I32, i)
            window, place = windows[i * len(windows) // LANES], self.b.sext(self.b.extract_element(index, lane), I64)
            for k in range(taps):
                one = self._load(window, self.b.add(place, ir.Constant(I64, k)), F32)
                found[k] = self.b.insert_element(found[k], one, lane)
        return found

    def _neighbours16(self, window: Any, index: Any, taps: int) -> list[Any]:
        low, high = (self._load(window, 16 * k, VF) for k in range(2))
        pick = "llvm.x86.avx512.vpermi2var.ps.512"
        places = [index, *(self.b.add(index, ir.Constant(VI, [k] * 16)) for k in range(1, taps))]
        return [self.call(pick, VF, low, place, high) for place in places]

    def _neighbours8(self, window: Any, index: Any, taps: int) -> list[Any]:
        floats, ints = ir.VectorType(F32, 8), ir.VectorType(I32, 8)
        low, high = (self._load(window, 8 * k, floats) for k in range(2))

        def pick(i: Any) -> Any:
            a, b = (self.call("llvm.x86.avx2.permps", floats, register, i) for register in (low, high))
            return self.b.select(self.b.icmp_signed(">", i, ir.Constant(ints, [7] * 8)), b, a)

        return [pick(self.b.add(index, ir.Constant(ints, [k] * 8)) if k else index) for k in range(taps)]

    def interpolate(self, windows: list[Any], x: Vector, taps: int = 2, *, scattered: bool = False) -> Vector:
        """Value at ``x`` >= 0, counted from the first sample of the window.

        Linear between two samples; with 4 or 8 taps, between the middle two of those from ``int(x)`` on.
        """
        index = x.integer()
        near = [Vector(self, v) for v in self.neighbours(windows, index.value, taps, scattered=scattered)]
        f = x - index.floating()
        if taps == 2:
            return f * (near[1] - near[0]) + near[0]
        g = f - 0.5
        q, total = g * g, self.floats(0.0)
        for i, (even, odd) in enumerate(pairs(taps)):
            one, other = near[i], near[taps - 1 - i]
            total = (one + other) * self.horner(even, q) + total
            total = (one - other) * (self.horner(odd, q) * g) + total
        return total

    def horner(self, coefficients: Sequence[float | Vector], x: Vector) -> Vector:
        """Polynomial, lowest power first."""
        top = coefficients[-1]
        p = top if isinstance(top, Vector) else self.floats(top)
        for c in coefficients[-2::-1]:
            p = p * x + c
        return p
