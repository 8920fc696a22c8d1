"""The text of a chain as Metal: its values, what two pixels beside each other read, and the chain as a function."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Sequence

from elinvar.errors import InputError
from elinvar.video.shadecode import Chain, read, statements, value_lines

__all__ = ["metal_text"]

_NOISE = "w_value_noise"


def metal_text(chain: Chain, kernels: Sequence[str] = ()) -> str:
    """Return Metal source of a chain's kernels, by default all: ``shade_planes``, ``shade_yuv444``, ``shade_yuv``.

    Every kernel takes the frame, the extra inputs, the values, and the frame's size; see `elinvar.video.shade`. The
    first integer is the seed of the dither, the values follow. Macros choose how codes are made, see
    ``kernels.shade.text.DEFINES``.
    """
    from elinvar.video.kernels.shade import text as parts

    arrays = ["x0", *(f"x{i + 1}" for i in range(len(chain.places)))]
    parameters = [
        f"device const {'half' if stored == 'f16' else 'float'}* {name}"
        for name, stored in zip(arrays, chain.stored, strict=True)
    ]
    declared = ", ".join(parameters)
    numbered = ",\n    ".join(f"{p} [[buffer({i})]]" for i, p in enumerate(parameters))
    functions = [
        _value_struct(chain), _halves_text(chain, declared), _taken_text(chain, declared), *_pixel_texts(chain),
        _shaded_text(chain, declared),
    ]  # fmt: skip
    call, passes = ", ".join(arrays), len(chain.functions)
    made = [parts.kernel(name, numbered, call, len(arrays), passes) for name in kernels or parts.KERNELS]
    return "\n".join([parts.words(), *functions, *made])


def _value_struct(chain: Chain) -> str:
    """The struct of a chain's values, and the function that reads them."""
    named = [line.split(" = ") for line in value_lines(chain, ";", 1)]
    fields = "".join(f"    {declared.removeprefix('const ')};\n" for declared, _ in named)
    reads = "".join(f"    v.{declared.split()[-1]} = {value}\n" for declared, value in named)
    text = "".join(ast.unparse(statement) for f in chain.functions for statement in read(f).body)
    return (
        f"#define CELLS {max(1, text.count('value_noise('))}\n"
        f"struct Values {{\n{fields}    int none;\n}};\n\n"
        f"static inline Values values(constant float* F, constant int* I)\n{{\n"
        f"    Values v;\n    v.none = 0;\n{reads}    return v;\n}}\n"
    )


def _scaled(chain: Chain, wanted: str) -> list[int]:
    """Numbers of the extra inputs of one scale, from 1."""
    return [i + 1 for i, (_, scale) in enumerate(chain.places) if scale == wanted]


def _halves_text(chain: Chain, declared: str) -> str:
    """One row of every half-resolution input, doubled along x for a pair of pixels."""
    found = _scaled(chain, "half")
    fields = "".join(f"    float2 h{i}[3];\n" for i in found)
    reads = "".join(
        f"    for (int c = 0; c < 3; c++) q.h{i}[c] = across(x{i}, (c * rows + y) * columns, column, columns);\n"
        for i in found
    )
    return (
        f"struct Halves {{\n{fields}    int none;\n}};\n\n"
        f"static inline Halves halves({declared}, int column, int row, int w, int h)\n{{\n"
        f"    const int columns = (w + 1) / 2, rows = (h + 1) / 2, y = clamp(row, 0, rows - 1);\n"
        f"    Halves q;\n    q.none = columns + y;\n{reads}    return q;\n}}\n"
    )


def _taken_text(chain: Chain, declared: str) -> str:
    """What two pixels beside each other read of frames; columns beyond an edge are the edge's."""
    found = [0, *_scaled(chain, "full")]
    fields = "".join(f"    float2 p{i}[3];\n" for i in found)
    reads = "".join(f"        t.p{i}[k] = get(x{i} + k * n + o, step);\n" for i in found)
    return (
        f"struct Taken {{\n{fields}}};\n\n"
        f"static inline Taken taken({declared}, int column, int iy, int w, int h)\n{{\n"
        "    const int n = w * h, ix = clamp(2 * column, 0, w - 1), step = clamp(2 * column + 1, 0, w - 1) - ix;\n"
        "    const int o = iy * w + (wide ? min(ix, w - 2) : ix);\n"
        f"    Taken t;\n    for (int k = 0; k < 3; k++) {{\n{reads}    }}\n    return t;\n}}\n"
    )


def _pixel_texts(chain: Chain) -> list[str]:
    """The lattice noises of one pixel as a function of its place, and the chain as a function of one pixel.

    Noises come first because they may branch; behind them, all pixels of a thread are one stretch of arithmetic.
    """
    text = _PixelText(chain)
    taken = "".join(
        f"device const float* t{i + 1}, " if scale == "table" else f"float3 e{i + 1}, "
        for i, (_, scale) in enumerate(chain.places)
    )
    place = ["    const float fx = float(ix), fy = float(iy), fw = float(w), fh = float(h);"]
    colours = ["    float r = from.x, g = from.y, b = from.z;"]
    colours += [
        f"    const float e{i}{c} = e{i}.{x};"
        for i in sorted(_scaled(chain, "full") + _scaled(chain, "half"))
        for c, x in zip("rgb", "xyz", strict=True)
    ]
    named = [line.split(" = ")[0] for line in value_lines(chain, ";", 1)]
    given = [f"    {declared} = v.{declared.split()[-1]};" for declared in named]
    fields = "".join(f"    float n{k};\n" for k in range(text.noises))
    values = "Values v, thread Cell* cells, int ix, int iy, int w, int h"
    early = "\n".join([*place, *given, "    Noises z;", "    z.none = ix + iy + w + h;", *text.early, "    return z;"])
    late = "\n".join([*place, *colours, *given, *text.late, "    return float3(r, g, b);"])
    return [
        f"struct Noises {{\n{fields}    int none;\n}};\n\nstatic inline Noises noises({values})\n{{\n{early}\n}}\n",
        f"static inline float3 pixel(float3 from, {taken}Noises z,\n    {values})\n{{\n{late}\n}}\n",
    ]


class _PixelText:
    """Lines of a pixel's arithmetic: `late` is all of it, `early` what depends on no colour, and noises of that."""

    def __init__(self, chain: Chain) -> None:
        self.noises = self._cells = 0
        self.early: list[str] = []
        self.late: list[str] = []
        self._places = {"fx", "fy", "fw", "fh", "ix", "iy"}
        self._places |= {line.split(" = ")[0].split()[-1] for line in value_lines(chain, ";", 1)}
        self._declared: set[str] = {"r", "g", "b"}
        for targets, value in itertools.chain.from_iterable(statements(chain, _constant, "w_")):
            self._statement([ast.unparse(t) for t in targets], value)

    def _statement(self, names: list[str], value: ast.expr) -> None:
        before = len(self.early)
        text, early = _c(value, self._noise), self._of_places(value)
        hoisted, self.early = self.early[before:], self.early[:before]
        lines = [f"auto {names[0]} = {text};"] if len(names) == 1 else [f"const float3 {names[0]}_all = {text};"]
        if len(names) > 1:
            lines += [f"auto {name} = {names[0]}_all.{c};" for name, c in zip(names, "xyz", strict=False)]
        for name in names:
            if name in self._declared:
                lines = [line.replace(f"auto {name} = ", f"{name} = ") for line in lines]
        self._declared.update(names)
        self.early += hoisted
        if early:
            self._places.update(names)
            self.early += [f"    {line}" for line in lines]
        else:
            self._places.difference_update(names)
        self.late += [f"    {line}" for line in lines]

    def _noise(self, call: ast.Call, arguments: list[str]) -> str:
        cell = f"cells[{self._cells}]"
        self._cells += 1
        text = f"{_NOISE}({', '.join(arguments)}, {cell})"
        if not self._of_places(call):
            return text
        self.early.append(f"    z.n{self.noises} = {text};")
        self.noises += 1
        return f"z.n{self.noises - 1}"

    def _of_places(self, value: ast.expr) -> bool:
        """Tell whether an expression depends on nothing but where a pixel is."""
        called = {id(n.func) for n in ast.walk(value) if isinstance(n, ast.Call)}
        names = {n.id for n in ast.walk(value) if isinstance(n, ast.Name) and id(n) not in called}
        return all(name in self._places or not name.isidentifier() for name in names)


def _constant(value: float) -> ast.expr:
    return ast.Name(f"{value!r}f".replace("inff", "INFINITY"), ast.Load())


def _shaded_text(chain: Chain, declared: str) -> str:
    """The chain on two pixels beside each other; `other` is the half-resolution row on the far side of row `iy`."""
    lines = ["    const int ix = clamp(2 * column, 0, w - 1), step = clamp(2 * column + 1, 0, w - 1) - ix;"]
    lines += [
        f"    const float2 p{i}_{k} = 3.0f * here.h{i}[{k}] + other.h{i}[{k}];"
        for i in _scaled(chain, "half")
        for k in range(3)
    ]
    calls = []
    for end, axis, place in zip("ab", "xy", ("ix", "ix + step"), strict=True):
        given = ""
        for i, scale in [(0, "full"), *((i + 1, scale) for i, (_, scale) in enumerate(chain.places))]:
            samples = ", ".join(f"t.p{i}[{k}].{axis}" if scale == "full" else f"p{i}_{k}.{axis}" for k in range(3))
            given += f"x{i}, " if scale == "table" else f"float3({samples}), "
        calls.append(f"    c.{end} = pixel({given}s.{end}, v, cells, {place}, iy, w, h);")
    body = "\n".join([*lines, "    Pair c;", *calls, "    return c;"])
    spotted = (
        "struct Spots {\n    Noises a, b;\n};\n\n"
        "static inline Spots spotted(Values v, thread Cell* cells, int column, int iy, int w, int h)\n{\n"
        "    const int ix = clamp(2 * column, 0, w - 1), step = clamp(2 * column + 1, 0, w - 1) - ix;\n    Spots s;\n"
        "    s.a = noises(v, cells, ix, iy, w, h);\n    s.b = noises(v, cells, ix + step, iy, w, h);\n"
        "    return s;\n}\n\n"
    )
    return (
        f"{spotted}static inline Pair shaded({declared}, Taken t, Spots s, Halves here, Halves other, Values v,\n"
        f"    thread Cell* cells, int column, int iy, int w, int h)\n{{\n{body}\n}}\n"
    )


def _c(node: ast.expr, noise: Callable[[ast.Call, list[str]], str]) -> str:
    """Write an expression in C's syntax; `noise` writes calls of the lattice noise."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        given = [_c(a, noise) for a in node.args]
        return noise(node, given) if node.func.id == _NOISE else f"{node.func.id}({', '.join(given)})"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return f"w_divide({_c(node.left, noise)}, {_c(node.right, noise)})"
    if isinstance(node, ast.BinOp):
        return f"({_c(node.left, noise)} {_OPERATORS[type(node.op)]} {_c(node.right, noise)})"
    if isinstance(node, ast.UnaryOp):
        return f"({_OPERATORS[type(node.op)]}{_c(node.operand, noise)})"
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return f"({_c(node.left, noise)} {_OPERATORS[type(node.ops[0])]} {_c(node.comparators[0], noise)})"
    raise InputError(f"point-wise pass: {ast.unparse(node)} cannot be written in Metal; use simpler expressions.")


_OPERATORS: dict[type, str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.USub: "-", ast.UAdd: "+", ast.Not: "!",
    ast.BitAnd: "&&", ast.BitOr: "||", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==",
    ast.NotEq: "!=",
}  # fmt: skip
