"""From point-wise passes to one kernel: the text of a chain, for numba and for Metal.

The passes are Python functions in the words of :mod:`elinvar.video.shading`. Their syntax trees are taken apart,
renamed so that nothing collides, and written one behind the other: on a CPU as loops over one row, which stays in the
cache, on a GPU as one function of a pixel.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import itertools
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from elinvar.errors import InputError
from elinvar.video.shading import WORDS

__all__ = ["Chain", "Op", "Reading", "numba_text", "read", "statements", "value_lines"]

PLACES = ("x", "y", "ix", "iy", "width", "height")
"""Arguments with a fixed meaning: position as float and as integer, and the frame's size."""
SCALES = ("full", "half", "table")
"""What an extra input may be: a frame, a frame of half the resolution, or a 3-D table [n, n, n, 4]."""


@dataclass(frozen=True)
class Op:
    """One point-wise pass with its values.

    Attributes
    ----------
    function
        ``f(r, g, b, ...) -> (r, g, b)`` in the words of `elinvar.video.shading`. Other arguments are, by name: places
        (`PLACES`), ``r1, g1, b1`` and so on for extra inputs, ``table`` for a table, and values.
    values
        The remaining arguments by name. An argument annotated ``int`` is an integer in the kernels too.
    extras
        Scale of each extra input, see `SCALES`.
    """

    function: Callable[..., Any]
    values: Mapping[str, float]
    extras: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", "op")


@dataclass(frozen=True)
class Reading:
    """What the text of a function says: its values in order, and its syntax tree."""

    floats: tuple[str, ...]
    integers: tuple[str, ...]
    body: tuple[ast.stmt, ...]
    text: str


@dataclass(frozen=True)
class Chain:
    """A run of ops as a kernel sees it, without values: everything its text depends on."""

    functions: tuple[Callable[..., Any], ...]
    extras: tuple[tuple[str, ...], ...]
    stored: tuple[str, ...]
    """Storage of the frame and of every extra input: "f32" or "f16"; "table" for tables."""
    strict: bool = False
    """No contraction of products and sums, so that every processor gives the same bits."""

    @property
    def places(self) -> list[tuple[int, str]]:
        """(op, scale) of every extra input, in order."""
        return [(k, scale) for k, scales in enumerate(self.extras) for scale in scales]


@functools.lru_cache(maxsize=512)
def read(function: Callable[..., Any]) -> Reading:
    """Take a point-wise function apart.

    Raises
    ------
    InputError
        Its source cannot be found, or uses something kernels cannot say.
    """
    name = getattr(function, "__name__", repr(function))
    try:
        text = textwrap.dedent(inspect.getsource(function))
        tree = ast.parse(text).body[0]
    except (OSError, TypeError, SyntaxError) as error:
        raise InputError(
            f"point-wise pass {name}: its source cannot be read ({error}); define it with def in a file."
        ) from error
    if not isinstance(tree, ast.FunctionDef):
        raise InputError(f"point-wise pass {name}: it is no plain function; define it with def.")
    arguments = [a.arg for a in (*tree.args.args, *tree.args.kwonlyargs)]
    if arguments[:3] != ["r", "g", "b"]:
        raise InputError(f"point-wise pass {name}: its arguments start {arguments[:3]}; start them with r, g, b.")
    whole = {a.arg for a in (*tree.args.args, *tree.args.kwonlyargs) if _is_int(a.annotation)}
    values = [a for a in arguments[3:] if a not in PLACES and a != "table" and not _is_extra(a)]
    body = [s for s in tree.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    _check(name, body)
    floats = tuple(a for a in values if a not in whole)
    integers = tuple(a for a in values if a in whole)
    return Reading(floats, integers, tuple(body), ast.unparse(tree))


def _is_int(annotation: ast.expr | None) -> bool:
    return (isinstance(annotation, ast.Name) and annotation.id == "int") or (
        isinstance(annotation, ast.Constant) and annotation.value == "int"
    )


def _is_extra(name: str) -> bool:
    return len(name) == 2 and name[0] in "rgb" and name[1] in "123"


def _check(name: str, body: list[ast.stmt]) -> None:
    if not body or not isinstance(body[-1], ast.Return) or not isinstance(body[-1].value, ast.Tuple):
        raise InputError(f"point-wise pass {name}: it must end with return red, green, blue.")
    for statement in body[:-1]:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            raise InputError(
                f"point-wise pass {name}: line {statement.lineno} is a {type(statement).__name__}; only assignments "
                "and one return are understood, choose between values with where(condition, a, b)."
            )
    for node in ast.walk(ast.Module(body=body, type_ignores=[])):
        if isinstance(node, ast.Call) and (not isinstance(node.func, ast.Name) or node.func.id not in WORDS):
            raise InputError(
                f"point-wise pass {name}: it calls {ast.unparse(node.func)}; known are {', '.join(sorted(WORDS))}."
            )
        if isinstance(node, (ast.Attribute, ast.Subscript, ast.IfExp, ast.BoolOp, ast.Pow)):
            raise InputError(
                f"point-wise pass {name}: {type(node).__name__} is not understood; use powr(x, y), where(condition, "
                f"a, b)."
            )


class _Rename(ast.NodeTransformer):
    """Give every name of one op its place in the chain."""

    def __init__(self, names: dict[str, str], constant: Callable[[float], ast.expr], word: str, scope: Any) -> None:
        self.names, self.constant, self.word, self.scope = names, constant, word, scope

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.names:
            return ast.Name(self.names[node.id], node.ctx)
        if isinstance(node.ctx, ast.Load) and isinstance(self.scope.get(node.id), (int, float)):
            return self.constant(float(self.scope[node.id]))
        raise InputError(f"point-wise pass: the name {node.id} is neither an argument nor a number of its module.")

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return self.constant(float(node.value))  # type: ignore[arg-type]

    def visit_Call(self, node: ast.Call) -> ast.expr:
        assert isinstance(node.func, ast.Name)
        arguments = [self.visit(a) for a in node.args]
        return ast.Call(ast.Name(self.word + node.func.id, ast.Load()), arguments, [])


def statements(
    chain: Chain, constant: Callable[[float], ast.expr], word: str
) -> list[list[tuple[list[ast.expr], ast.expr]]]:
    """Every op's assignments as (targets, value), names made unique; r, g, b carry the pixel."""
    result: list[list[tuple[list[ast.expr], ast.expr]]] = []
    extra = 0
    for k, function in enumerate(chain.functions):
        lines: list[tuple[list[ast.expr], ast.expr]] = []
        result.append(lines)
        reading = read(function)
        names = {n: n for n in ("r", "g", "b", *PLACES)} | {"x": "fx", "y": "fy", "width": "fw", "height": "fh"}
        names |= {n: f"v{k}_{n}" for n in (*reading.floats, *reading.integers)}
        for j, scale in enumerate(chain.extras[k]):
            extra += 1
            if scale == "table":
                names |= {"table": f"t{extra}"}
            else:
                names |= {f"{c}{j + 1}": f"e{extra}{c}" for c in "rgb"}
        # Locals may hide arguments: the pixel itself is only replaced by the return.
        stored = {n.id for s in reading.body for n in ast.walk(s) if isinstance(n, ast.Name) and _stores(n)}
        fresh = {n: f"l{k}_{n}" for n in sorted(stored)}
        known = dict(names)
        for statement in reading.body:
            value = _Rename(known, constant, word, function.__globals__).visit(_copy(_value(statement)))
            if isinstance(statement, ast.Return):
                parts = [ast.Name(f"n{k}{c}", ast.Store()) for c in "rgb"]
                assert isinstance(value, ast.Tuple)
                lines += [([p], v) for p, v in zip(parts, value.elts, strict=True)]
                lines += [([ast.Name(c, ast.Store())], ast.Name(f"n{k}{c}", ast.Load())) for c in "rgb"]
                continue
            assert isinstance(statement, ast.Assign)
            target = statement.targets[0]
            targets = target.elts if isinstance(target, ast.Tuple) else [target]
            for one in targets:
                assert isinstance(one, ast.Name)
                known[one.id] = fresh[one.id]
            named: list[ast.expr] = [
                ast.Name(fresh[one.id], ast.Store()) for one in targets if isinstance(one, ast.Name)
            ]
            if isinstance(value, ast.Tuple):
                temporary: list[ast.expr] = [ast.Name(f"m{k}_{len(lines)}_{i}", ast.Store()) for i in range(len(named))]
                lines += [([t], v) for t, v in zip(temporary, value.elts, strict=True)]
                lines += [([n], t) for n, t in zip(named, temporary, strict=True)]
            else:
                lines.append((named, value))
    return result


def _stores(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def _value(statement: ast.stmt) -> ast.expr:
    assert isinstance(statement, (ast.Assign, ast.Return))
    assert statement.value is not None
    return statement.value


def _copy(node: Any) -> Any:
    return ast.parse(ast.unparse(node), mode="eval").body


# -- numba -----------------------------------------------------------------------------------------------------------


def numba_text(chain: Chain) -> str:
    """Return the Python text of ``shade_row`` for a chain: one row of pixels into three rows."""

    def constant(value: float) -> ast.expr:
        return ast.parse(f"f4({value!r})", mode="eval").body

    places = chain.places
    extras = [f"x{i + 1}" for i in range(len(places))]
    flags = "set()" if chain.strict else "_CONTRACT"
    lines = [
        f'@njit(nogil=True, error_model="numpy", fastmath={flags}, cache=True)',
        f"def shade_row(y, width, height, x0, {''.join(e + ', ' for e in extras)}F, I, s, d, at, held, a):",
        "    fw, fh, fy, iy = f4(width), f4(height), f4(y), i4(y)",
    ]
    loads: list[list[str]] = [[] for _ in chain.functions]
    row = 0
    for i, (k, scale) in enumerate(places):
        if scale == "table":
            lines.append(f"    t{i + 1} = x{i + 1}.reshape(-1)")
            continue
        if scale == "half":
            lines += [f"    up_row(x{i + 1}, i8({c}), y, s, i8({row + c}))" for c in range(3)]
            loads[k] += [f"e{i + 1}{n} = s[{row + c}, i]" for c, n in enumerate("rgb")]
            row += 3
            continue
        loads[k] += [f"e{i + 1}{n} = {_load(f'x{i + 1}[{c}, y, i]', chain.stored[i + 1])}" for c, n in enumerate("rgb")]
    lines += [f"    {line}" for line in value_lines(chain, "")]
    # One loop per pass over a row that stays in the first-level cache: a single loop over all of them runs out of
    # registers and is slower. The busiest loop brings the next row along, so that memory works while it computes.
    written = statements(chain, constant, "w_")
    count = max(1, len(written))
    busy = _busiest(written)
    if busy:
        lines += ["    below = min(y + 1, height - 1)", "    if held != y:", "        for i in range(width):"]
        lines += [f"            a[{c}, i] = x0[{c}, y, i]" for c in range(3)]
    halves = [f"x{i + 1}" for i, (_, scale) in enumerate(places) if scale == "half"]
    for k in range(count):
        stored = chain.stored[0] if k == 0 else "f32"
        rows = ("a[{}, i]" if busy else "x0[{}, y, i]") if k == 0 else "d[{}, at, i]"
        lines += [f"    fetch_row({x}, (y >> 1) + 2, {k} + (y & 1) * {count}, {2 * count})" for x in halves]
        lines += ["    for i in range(width):", "        ix = i4(i)", "        fx = f4(ix)"]
        lines += [f"        {n} = {_load(rows.format(c), stored)}" for c, n in enumerate("rgb")]
        lines += [f"        {line}" for line in (loads[k] if loads else [])]
        for targets, value in written[k] if written else []:
            lines.append(f"        {', '.join(ast.unparse(t) for t in targets)} = {ast.unparse(value)}")
        lines += [f"        d[{c}, at, i] = {n}" for c, n in enumerate("rgb")]
        if busy == k > 0:
            lines += [f"        a[{c}, i] = x0[{c}, below, i]" for c in range(3)]
    lines.append("    return below" if busy else "    return y")
    arguments = f"x0, {''.join(e + ', ' for e in extras)}"
    # Without passes there is nothing to copy: the rows are read where they are.
    direct = not chain.functions and chain.stored[0] == "f32"
    loops = _LOOPS
    for name, text in _DIRECT.items() if direct else _SHADED.items():
        loops = loops.replace(name, text)
    loops = loops.replace("ENLARGED", "row_memory(i8(9), width, i8(0))" if halves else "np.empty((1, 1), f4)")
    loops = loops.replace("EXTRAS, ", arguments)
    return "\n".join(lines) + "\n\n\n" + loops + ("" if chain.functions else _CONVERT)


_COSTS = {"w_powr": 40, "w_root": 40, "w_log2": 20, "w_exp2": 20, "w_tetrahedral": 60, "w_value_noise": 60}


def _busiest(written: list[list[tuple[list[ast.expr], ast.expr]]]) -> int:
    """Return which pass computes most, by its powers and noises; the first one when none has any."""
    costs = [0]
    for lines in written:
        nodes = itertools.chain.from_iterable(ast.walk(value) for _, value in lines)
        names = [n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        costs.append(sum(_COSTS.get(name, 0) for name in names))
    return max(costs.index(max(costs)) - 1, 0)


def _load(element: str, stored: str) -> str:
    return f"half_to_float({element})" if stored == "f16" else element


def value_lines(chain: Chain, semicolon: str, first: int = 0) -> list[str]:
    """Return assignments of every op's values from ``F`` and, from its element `first` on, ``I``."""
    lines, floats, integers = [], 0, first
    for k, function in enumerate(chain.functions):
        reading = read(function)
        for name in reading.floats:
            lines.append(f"{'const float ' if semicolon else ''}v{k}_{name} = F[{floats}]{semicolon}")
            floats += 1
        for name in reading.integers:
            lines.append(f"{'const int ' if semicolon else ''}v{k}_{name} = I[{integers}]{semicolon}")
            integers += 1
    return lines


# Numba compiles a function once more for every constant that it is called with: i8(0) is a number like any other.
_SHADE = "held = shade_row({}, width, height, EXTRAS, F, I, s, pixels, {}, held, a)"
_SHADED = {
    "SHADE_UPPER": _SHADE.format("y", "i8(0)"),
    "SHADE_LOWER": f"if z > y:\n            {_SHADE.format('z', 'i8(1)')}",
    "PIXELS": "pixels", "UPPER": "i8(0)", "LOWER": "z - y", "AHEAD": "i8(0)", "PAST": "False",
}  # fmt: skip
_DIRECT = {
    "SHADE_UPPER": "pass", "SHADE_LOWER": "pass", "PIXELS": "x0", "UPPER": "y", "LOWER": "z",
    "AHEAD": "3 * width // 2", "PAST": "whole_vectors(luma_out, cb_out)",
}  # fmt: skip
_LOOPS = '''
@njit(nogil=True, error_model="numpy", cache=True)
def shade_planes(first, last, EXTRAS, F, I, out):
    """Rows first to last of a frame, as planes."""
    height, width = out.shape[1], out.shape[2]
    s = ENLARGED
    held, a = i8(-1), np.empty((3, width), x0.dtype)
    for y in range(first, last):
        held = shade_row(y, width, height, EXTRAS, F, I, s, out, y, held, a)


@njit(nogil=True, error_model="numpy", cache=True)
def shade_yuv(first, last, EXTRAS, F, I, k, across, down, siting, seed, shift, paired, luma_out, cb_out, cr_out):
    """Chroma rows first to last of a frame with their luma rows, as codes."""
    height, width = luma_out.shape
    s = ENLARGED
    held, a = i8(-1), np.empty((3, width), x0.dtype)
    pixels = row_memory(i8(6), width, i8(0))
    pixels = pixels.reshape(3, 2, pixels.shape[1])
    noise = row_memory(i8(4), width + 16, i8(0))
    dithered = k[6] > f4(0.0)
    if dithered or across == 1:
        noise[:] = f4(0.0)
    half = f4(0.0) if dithered else f4(0.5)  # rounds; noise does, too
    coding = (k[0], k[1], k[2], k[3], k[4] + half, k[5], k[7], k[8], k[9] + half)
    if across == 1:
        cb, cr = row_memory(i8(1), width, i8(0)), row_memory(i8(1), width, i8(0))
        for y in range(first, last):
            SHADE_UPPER
            if dithered:
                for c in range(3):
                    noise_row(noise, c, width, y, i4(seed + c))
            luma_row(PIXELS, UPPER, coding, noise, shift, luma_out, y, cb, cr)
            whole_row(cb, coding[6], coding[8], coding[5], noise, i8(1), shift, cb_out, y)
            whole_row(cr, coding[7], coding[8], coding[5], noise, i8(2), shift, cr_out, y)
        return
    above = siting == 2 and down == 2  # chroma sits on the upper row: it reads the row above, too
    past = PAST
    flags = (i4(siting == 1), i4(paired), i4(past), i4(dithered), i4(above))
    kept = row_memory(i8(3), width + 16, i8(0))
    spare, codes = np.empty((3, 2, 32), f4), np.empty((4, 32), luma_out.dtype)
    if above:
        y = max(2 * first - 1, 0)
        SHADE_UPPER
        keep_row(PIXELS, UPPER, width, coding, kept)
    for unit in range(first, last):
        y = unit * down
        z = min(y + down - 1, height - 1)
        SHADE_UPPER
        SHADE_LOWER
        if dithered:
            noise_row(noise, i8(0), width, y, seed)
            noise_row(noise, i8(1), width, z, seed)
            noise_row(noise, i8(2), (width + 1) // 2, unit, i4(seed + 1))
            noise_row(noise, i8(3), (width + 1) // 2, unit, i4(seed + 2))
        code_pair(PIXELS, UPPER, LOWER, AHEAD, noise, kept, coding, shift, flags, y, z, unit, luma_out, cb_out, cr_out,
                  spare, codes)
    if past:
        settle()
'''


_CONVERT = '''

@njit(nogil=True, error_model="numpy", cache=True)
def convert(first, last, memory, size, kinds, F, I, k, across, down, siting, seed, shift, paired):
    """`shade_yuv` of contiguous memory at four addresses; `kinds` are arrays of the types of pixels and of codes."""
    height, width = size
    rows, columns = (height + down - 1) // down, (width + across - 1) // across
    pitch = 2 * columns if paired else columns
    frame, luma = placed(memory[0], kinds[0], (i8(3), height, width)), placed(memory[1], kinds[1], (height, width))
    cb, cr = placed(memory[2], kinds[1], (rows, pitch)), placed(memory[3], kinds[1], (rows, pitch))
    shade_yuv(first, last, frame, F, I, k, across, down, siting, seed, shift, paired, luma, cb, cr)
'''


def digest(text: str) -> str:
    """Name a text by its content."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]
