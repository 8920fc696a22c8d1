"""The text of a chain as Metal: its values, what two pixels beside each other read, and the chain as a function."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Sequence

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
    functions = [_value_struct(chain), _halves_text(chain, declared), _pixel_text(chain), _shaded_text(chain, declared)]
    made = [parts.kernel(name, numbered, ", ".join(arrays), len(arrays)) for name in kernels or parts.KERNELS]
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
        f"    for (int c = 0; c < 3; c++) q.h{i}[c] = across(x{i} + (c * rows + y) * columns, column, columns);\n"
        for i in found
    )
    return (
        f"struct Halves {{\n{fields}    int none;\n}};\n\n"
        f"static inline Halves halves({declared}, int column, int row, int w, int h)\n{{\n"
        f"    const int columns = (w + 1) / 2, rows = (h + 1) / 2, y = clamp(row, 0, rows - 1);\n"
        f"    Halves q;\n    q.none = columns + y;\n{reads}    return q;\n}}\n"
    )


def _pixel_text(chain: Chain) -> str:
    """The chain as a function of one pixel."""

    def constant(value: float) -> ast.expr:
        return ast.Name(f"{value!r}f".replace("inf", "INFINITY"), ast.Load())

    taken = "".join(
        f"device const float* t{i + 1}, " if scale == "table" else f"float3 e{i + 1}, "
        for i, (_, scale) in enumerate(chain.places)
    )
    body = ["    const float fx = float(ix), fy = float(iy), fw = float(w), fh = float(h);"]
    body += ["    float r = from.x, g = from.y, b = from.z;"]
    body += [
        f"    const float e{i}{c} = e{i}.{x};"
        for i in sorted(_scaled(chain, "full") + _scaled(chain, "half"))
        for c, x in zip("rgb", "xyz", strict=True)
    ]
    body += [
        f"    {line.split(' = ')[0]} = v.{line.split(' = ')[0].split()[-1]};" for line in value_lines(chain, ";", 1)
    ]
    known: set[str] = {"r", "g", "b"}
    cells = itertools.count()
    for targets, value in itertools.chain.from_iterable(statements(chain, constant, "w_")):
        names = [ast.unparse(t) for t in targets]
        if len(names) > 1:
            body.append(f"    const float3 {names[0]}_all = {_c(value, cells)};")
            values = [f"{names[0]}_all.{c}" for c in "xyz"]
        else:
            values = [_c(value, cells)]
        for name, text in zip(names, values, strict=True):
            body.append(f"    {'' if name in known else 'auto '}{name} = {text};")
            known.add(name)
    lines = "\n".join(body)
    return (
        f"static inline float3 pixel(float3 from, {taken}Values v, thread Cell* cells, int ix, int iy, int w, int h)\n"
        f"{{\n{lines}\n    return float3(r, g, b);\n}}\n"
    )


def _shaded_text(chain: Chain, declared: str) -> str:
    """The chain on two pixels beside each other: what they read, and two calls of ``pixel``.

    Columns beyond an edge are the edge's; `other` is the half-resolution row on the far side of row `iy`.
    """
    lines = [
        "    const int n = w * h, ix = clamp(2 * column, 0, w - 1), step = clamp(2 * column + 1, 0, w - 1) - ix;",
        "    const int o = iy * w + (wide ? min(ix, w - 2) : ix);",
    ]
    ends = ("a", "b")
    places = [(0, "full"), *((i + 1, scale) for i, (_, scale) in enumerate(chain.places))]
    for i, scale in places:
        for k in range(3):
            if scale == "full":
                lines.append(f"    const float2 p{i}_{k} = get(x{i} + {k} * n + o, step);")
            elif scale == "half":
                lines.append(f"    const float2 p{i}_{k} = 3.0f * here.h{i}[{k}] + other.h{i}[{k}];")
    calls = []
    for end, axis, place in zip(ends, ("x", "y"), ("ix", "ix + step"), strict=True):
        given = "".join(
            f"x{i}, " if scale == "table" else f"float3({', '.join(f'p{i}_{k}.{axis}' for k in range(3))}), "
            for i, scale in places
        )
        calls.append(f"    c.{end} = pixel({given}v, cells, {place}, iy, w, h);")
    # With pairs, the pair on the left of the frame is the first pair: its pixels are both the first.
    body = "\n".join([*lines, "    Pair c;", *calls, "    if (wide && column < 0) c.b = c.a;", "    return c;"])
    return (
        f"static inline Pair shaded({declared}, Halves here, Halves other, Values v, thread Cell* cells,\n"
        f"    int column, int iy, int w, int h)\n{{\n{body}\n}}\n"
    )


def _c(node: ast.expr, cells: Iterator[int]) -> str:
    """Write an expression in C's syntax; every call of the lattice noise gets a cell of its own."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        given = [_c(a, cells) for a in node.args]
        if node.func.id == _NOISE:
            given.append(f"cells[{next(cells)}]")
        return f"{node.func.id}({', '.join(given)})"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return f"w_divide({_c(node.left, cells)}, {_c(node.right, cells)})"
    if isinstance(node, ast.BinOp):
        return f"({_c(node.left, cells)} {_OPERATORS[type(node.op)]} {_c(node.right, cells)})"
    if isinstance(node, ast.UnaryOp):
        return f"({_OPERATORS[type(node.op)]}{_c(node.operand, cells)})"
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return f"({_c(node.left, cells)} {_OPERATORS[type(node.ops[0])]} {_c(node.comparators[0], cells)})"
    raise InputError(f"point-wise pass: {ast.unparse(node)} cannot be written in Metal; use simpler expressions.")


_OPERATORS: dict[type, str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.USub: "-", ast.UAdd: "+", ast.Not: "!",
    ast.BitAnd: "&&", ast.BitOr: "||", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==",
    ast.NotEq: "!=",
}  # fmt: skip
