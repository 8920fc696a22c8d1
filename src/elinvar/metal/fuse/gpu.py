"""A recorded program as one Metal kernel: text and launch, for Apple and NVIDIA GPUs and for the emulator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from elinvar.metal.fuse.emit import Emitter, per_row_nodes, reduction_levels
from elinvar.metal.fuse.expression import Node, Program
from elinvar.metal.fuse.layout import STORAGE, Layout

__all__ = ["prepare", "text"]

_TYPE = {"f32": "float", "f16": "half", "bf16": "bfloat", "bool": "uchar"}
_TEMPLATES = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "pow": "fused_pow({0}, {1})",
    "neg": "-{0}",
    "abs": "fabs({0})",
    "exp": "exp({0})",
    "log": "log({0})",
    "log1p": "fused_log1p({0})",
    "sqrt": "sqrt({0})",
    "rsqrt": "1.0f / sqrt({0})",
    "reciprocal": "1.0f / {0}",
    "sin": "sin({0})",
    "cos": "cos({0})",
    "tanh": "fused_tanh({0})",
    "sigmoid": "1.0f / (1.0f + exp(-{0}))",
    "erf": "fused_erf({0})",
    "floor": "floor({0})",
    "ceil": "ceil({0})",
    "relu": "({0} > 0.0f || {0} != {0}) ? {0} : 0.0f",
    "maximum": "fused_larger({0}, {1})",
    "minimum": "fused_smaller({0}, {1})",
    "isnan": "{0} != {0}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "and": "{0} && {1}",
    "or": "{0} || {1}",
    "not": "!{0}",
    "where": "{0} ? {1} : {2}",
    "to_truth": "({0} != 0.0f)",
    "to_number": "({0} ? 1.0f : 0.0f)",
}
# What Metal's library lacks, or treats differently at NaN. The erf coefficients are those of cpu_math.py.
_LIBRARY = """\
#include <metal_stdlib>
using namespace metal;

static inline float fused_larger(float a, float b) { return (a > b || a != a) ? a : b; }
static inline float fused_smaller(float a, float b) { return (a < b || a != a) ? a : b; }
static inline float fused_pow(float a, float b) {
    // Metal's pow is undefined for a negative base; a whole exponent decides the sign as in C.
    if (a >= 0.0f || a != a) return pow(a, b);
    if (b != floor(b)) return NAN;
    float size = pow(-a, b);
    return fabs(fmod(b, 2.0f)) == 1.0f ? -size : size;
}
static inline float fused_log1p(float x) {
    float u = 1.0f + x;
    if (!(u > 0.0f) || u > 3.0e38f) return log(u);
    return fabs(x) < 1.0e-7f ? x : log(u) + (x - (u - 1.0f)) / u;
}
static inline float fused_tanh(float x) {
    float a = fabs(x), s = x * x;
    float p = fma(s, fma(s, fma(s, fma(s, -0.00611318939f, 0.0210100799f), -0.0538540695f), 0.133327945f),
                  -0.333333292f);
    float size = 1.0f - 2.0f / (exp(a + a) + 1.0f);
    return a < 0.625f ? fma(x * s, p, x) : (x < 0.0f ? -size : size);
}
static inline float fused_erf(float x) {
    float a = fabs(x), s = x * x;
    float p = fma(s, -9.6801369e-06f, 0.000112705447f);
    p = fma(s, p, -0.00084847115f);
    p = fma(s, p, 0.00522107488f);
    p = fma(s, p, -0.0268654458f);
    p = fma(s, p, 0.112837827f);
    p = fma(s, p, -0.376126385f);
    p = fma(s, p, 0.12837917f);
    float b = a > 4.1f ? 4.1f : a;
    float q = fma(b, 1.55722587e-06f, -4.44646641e-05f);
    q = fma(b, q, 0.000583251469f);
    q = fma(b, q, -0.00469546465f);
    q = fma(b, q, 0.0262369061f);
    q = fma(b, q, -0.109751703f);
    q = fma(b, q, -0.632180074f);
    q = fma(b, q, -1.13002269f);
    q = fma(b, q, 0.000267154358f);
    float size = 1.0f - exp(q);
    return x != x ? x : (a < 1.0f ? fma(x, p, x) : (x < 0.0f ? -size : size));
}
"""
_GROUP = 256
_START = {"sum": "0.0f", "amax": "-INFINITY", "amin": "INFINITY"}
_JOIN = {"sum": "{0} + {1}", "amax": "fused_larger({1}, {0})", "amin": "fused_smaller({1}, {0})"}


@dataclass(frozen=True)
class _Form:
    """Everything the text of a kernel depends on."""

    program: Program
    stored: tuple[str, ...]
    result: str
    steps: tuple[int, ...]
    dims: int
    width: int


class _Writer:
    def __init__(self, form: _Form) -> None:
        self.form = form
        self.program = form.program
        self.inputs = form.program.inputs
        self.outputs = len(form.program.outputs)
        self.emitter = Emitter(
            _TEMPLATES,
            lambda name, expression, truth: f"{'bool' if truth else 'float'} {name} = {expression};",
            _constant,
            self._leaf,
            truths=frozenset(k for k, kind in enumerate(form.stored) if kind == "bool"),
        )

    def _leaf(self, node: Node) -> str:
        if node.op == "scalar":
            return f"s{node.value}"
        if node.op == "length":
            return "float(columns)"
        k = int(node.value or 0)
        if self.program.axis is None:  # inside compute(), which receives values
            return f"x{k}"
        element = f"i{k}[p{k} + {self._index(k)}]"
        return f"{element} != 0" if self.form.stored[k] == "bool" else f"float({element})"

    def _index(self, array: int) -> str:
        step = self.form.steps[array]
        return "0" if step == 0 else "c" if step == 1 else f"ulong(c) * t{array}"

    def text(self) -> str:
        body = self._elementwise() if self.program.axis is None else self._rows()
        return f"{_LIBRARY}\n{body}"

    # --- parts both kernels share ------------------------------------------------------------------------------
    def _arguments(self) -> list[str]:
        kinds = [*self.form.stored, *[self.form.result] * self.outputs]
        names = [f"i{k}" for k in range(self.inputs)] + [f"o{k}" for k in range(self.outputs)]
        lines = [
            f"device {'const ' if k < self.inputs else ''}{_TYPE[kind]}* {name}"
            for k, (kind, name) in enumerate(zip(kinds, names, strict=True))
        ]
        lines += ["constant uint& columns", "constant ulong& total"]
        lines += [f"constant uint& n{d}" for d in range(self.form.dims)]
        for k, step in enumerate(self.form.steps):
            lines += [f"constant ulong& q{k}_{d}" for d in range(self.form.dims)]
            lines += [f"constant ulong& t{k}"] if step == 2 else []
        lines += [f"constant float& s{k}" for k in range(self.program.scalars)]
        return [f"{line} [[buffer({k})]]" for k, line in enumerate(lines)]

    def _offsets(self) -> list[str]:
        arrays = self.inputs + self.outputs
        lines = [f"ulong p{k} = 0;" for k in range(arrays)]
        if self.form.dims:
            lines.append("ulong rest = row;")
        for d in reversed(range(self.form.dims)):
            lines.append(f"{{ ulong at = rest % n{d}; rest /= n{d};")
            lines += [f"  p{k} += at * q{k}_{d};" for k in range(arrays)]
            lines.append("}")
        return lines

    # --- one thread for `width` neighbouring columns --------------------------------------------------------------
    def _elementwise(self) -> str:
        form, width = self.form, self.form.width
        names: dict[Node, str] = {}
        lines = self.emitter.block(self.program.outputs, names)
        values = [f"{'bool' if kind == 'bool' else 'float'} x{k}" for k, kind in enumerate(form.stored)]
        scalars = [f"float s{k}" for k in range(self.program.scalars)]
        results = [f"thread float& w{k}" for k in range(self.outputs)]
        assigned = [f"w{k} = {names[node]};" for k, node in enumerate(self.program.outputs)]
        compute = _function(f"static inline void compute({', '.join([*values, *scalars, *results])})", lines + assigned)
        across = f"(columns / {width})" if width > 1 else "columns"
        head = [
            f"ulong row = id / {across};" if form.dims else "",
            f"ulong c = {f'(id % {across})' if form.dims else 'ulong(id)'}{f' * {width}' if width > 1 else ''};",
            *self._offsets(),
        ]
        body = [*filter(None, head), *(self._wide(width) if width > 1 else self._single())]
        arguments = ",\n    ".join([*self._arguments(), "uint id [[thread_position_in_grid]]"])
        guard = ["if (ulong(id) >= total) return;"]
        return compute + "\n" + _kernel(arguments, guard + body)

    def _call(self, values: list[str]) -> str:
        scalars = [f"s{k}" for k in range(self.program.scalars)]
        return f"compute({', '.join([*values, *scalars, *(f'w{k}' for k in range(self.outputs))])});"

    def _single(self) -> list[str]:
        values = []
        for k, kind in enumerate(self.form.stored):
            element = f"i{k}[p{k} + {self._index(k)}]"
            values.append(f"{element} != 0" if kind == "bool" else f"float({element})")
        declare = [f"float w{k};" for k in range(self.outputs)]
        stores = [
            f"o{k}[p{self.inputs + k} + {self._index(self.inputs + k)}] = {_TYPE[self.form.result]}(w{k});"
            for k in range(self.outputs)
        ]
        return [*declare, self._call(values), *stores]

    def _wide(self, width: int) -> list[str]:
        """Loads and stores of up to 16 bytes at a time; alignment was checked by the caller."""
        form = self.form
        lines = []
        for k, kind in enumerate(self.form.stored):
            vector = f"{_TYPE[kind]}4"
            if self.form.steps[k] == 0:
                one = f"i{k}[p{k}]"
                lines.append(f"bool b{k} = {one} != 0;" if kind == "bool" else f"float b{k} = float({one});")
                continue
            if width == 8 and kind in ("f16", "bf16"):  # one load of 16 bytes instead of two of 8
                lines.append(f"uint4 r{k} = *(device const uint4*)(i{k} + p{k} + c);")
                lines.append(f"{vector} l{k}_0 = as_type<{vector}>(uint2(r{k}.x, r{k}.y));")
                lines.append(f"{vector} l{k}_1 = as_type<{vector}>(uint2(r{k}.z, r{k}.w));")
                continue
            lines += [
                f"{vector} l{k}_{j} = *(device const {vector}*)(i{k} + p{k} + c + {4 * j});" for j in range(width // 4)
            ]
        out = f"{_TYPE[self.form.result]}4"
        lines += [f"{out} y{k}_{j};" for k in range(self.outputs) for j in range(width // 4)]
        lines += [f"float w{k};" for k in range(self.outputs)]
        for lane in range(width):
            j, part = divmod(lane, 4)
            letter = "xyzw"[part]
            values = []
            for k, kind in enumerate(self.form.stored):
                if self.form.steps[k] == 0:
                    values.append(f"b{k}")
                else:
                    element = f"l{k}_{j}.{letter}"
                    values.append(f"{element} != 0" if kind == "bool" else f"float({element})")
            lines.append(self._call(values))
            lines += [f"y{k}_{j}.{letter} = {_TYPE[self.form.result]}(w{k});" for k in range(self.outputs)]
        for k in range(self.outputs):
            place = f"o{k} + p{self.inputs + k} + c"
            if width == 8 and form.result in ("f16", "bf16"):
                lines += [f"uint2 z{k}_{j} = as_type<uint2>(y{k}_{j});" for j in range(2)]
                lines.append(f"*(device uint4*)({place}) = uint4(z{k}_0.x, z{k}_0.y, z{k}_1.x, z{k}_1.y);")
            else:
                lines += [f"*(device {out}*)({place} + {4 * j}) = y{k}_{j};" for j in range(width // 4)]
        return lines

    # --- one threadgroup for a row ----------------------------------------------------------------------------------
    def _rows(self) -> str:
        names: dict[Node, str] = {}
        body = [*self._offsets()]
        levels = reduction_levels(self.program.outputs)
        for k, level in enumerate(levels):
            body += self._reduce(level, names, again=k > 0)
        if self.program.per_row:
            final = self.emitter.block(self.program.outputs, names)
            store = [f"if (lane == 0) {{ {' '.join(self._stores(names, '0'))} }}"]
            body += [*final, *store]
        else:
            body += self.emitter.block(per_row_nodes(self.program.outputs, names), names)
            inside = dict(names)
            loop = self.emitter.block(self.program.outputs, inside)
            loop += self._stores(inside, None)
            body += [f"for (uint c = lane; c < columns; c += {_GROUP}) {{", *_indented(loop), "}"]
        attributes = [
            "uint row [[threadgroup_position_in_grid]]",
            "uint lane [[thread_index_in_threadgroup]]",
            "uint simd_lane [[thread_index_in_simdgroup]]",
            "uint simd_group [[simdgroup_index_in_threadgroup]]",
        ]
        arguments = ",\n    ".join([*self._arguments(), *attributes])
        reductions = max(len(level) for level in levels)
        shared = [f"threadgroup float partial[{reductions}][{_GROUP // 32}];"]
        return _kernel(arguments, shared + body)

    def _reduce(self, level: list[Node], names: dict[Node, str], *, again: bool) -> list[str]:
        """Each thread along the row, then each simdgroup, then all simdgroups."""
        operands = [node.args[0] for node in level]
        before = self.emitter.block(per_row_nodes(operands, names), names)
        inside = dict(names)
        loop = self.emitter.block(operands, inside)
        totals = [self.emitter.fresh() for _ in level]
        lines = [f"float {t} = {_START[node.op]};" for t, node in zip(totals, level, strict=True)]
        loop += [
            f"{t} = {_JOIN[node.op].format(t, inside[node.args[0]])};" for t, node in zip(totals, level, strict=True)
        ]
        lines += [f"for (uint c = lane; c < columns; c += {_GROUP}) {{", *_indented(loop), "}"]
        for t, node in zip(totals, level, strict=True):
            join = _JOIN[node.op].format(t, f"simd_shuffle_xor({t}, ushort(d))")
            lines.append(f"for (ushort d = 16; d > 0; d /= 2) {t} = {join};")
        if again:  # the previous level's partial sums have been read by everyone
            lines.append("threadgroup_barrier(mem_flags::mem_threadgroup);")
        stores = " ".join(f"partial[{k}][simd_group] = {t};" for k, t in enumerate(totals))
        lines += [f"if (simd_lane == 0) {{ {stores} }}", "threadgroup_barrier(mem_flags::mem_threadgroup);"]
        for k, (t, node) in enumerate(zip(totals, level, strict=True)):
            lines.append(f"{t} = partial[{k}][0];")
            join = _JOIN[node.op].format(t, f"partial[{k}][g]")
            lines.append(f"for (uint g = 1; g < {_GROUP // 32}; g++) {t} = {join};")
            names[node] = t
        return [*before, *lines]

    def _stores(self, names: dict[Node, str], index: str | None) -> list[str]:
        return [
            f"o{k}[p{self.inputs + k} + {index or self._index(self.inputs + k)}] = "
            f"{_TYPE[self.form.result]}({names[node]});"
            for k, node in enumerate(self.program.outputs)
        ]


def _constant(value: float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    return (
        "NAN" if math.isnan(value) else f"({value!r}f)" if "." in repr(value) or "e" in repr(value) else f"({value}.0f)"
    )


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _function(head: str, lines: list[str]) -> str:
    return "\n".join([f"{head} {{", *_indented(lines), "}", ""])


def _kernel(arguments: str, lines: list[str]) -> str:
    return _function(f"kernel void fused(\n    {arguments})", lines)


def _width(inputs: list[torch.Tensor], outputs: list[torch.Tensor], layout: Layout) -> int:
    """Neighbouring columns per thread: 16 bytes of the narrowest array where every row starts aligned."""
    arrays = [*inputs, *outputs]
    for width in (8, 4) if min(a.element_size() for a in arrays) < 4 else (4,):
        fits = layout.columns % width == 0
        for array, step, strides in zip(arrays, layout.steps, layout.strides, strict=True):
            size = array.element_size()
            load = min(16, width * size)  # bytes
            aligned = step == 1 and array.data_ptr() % load == 0 and all(s % (load // size) == 0 for s in strides)
            fits = fits and (step == 0 or aligned)
        if fits:
            return width
    return 1


def _form(program: Program, inputs: list[torch.Tensor], outputs: list[torch.Tensor], layout: Layout) -> _Form:
    width = 1 if program.axis is not None else _width(inputs, outputs, layout)
    stored = tuple(STORAGE[x.dtype] for x in inputs)
    steps = tuple(min(s, 2) for s in layout.steps)
    return _Form(program, stored, STORAGE[outputs[0].dtype], steps, len(layout.sizes), width)


def text(program: Program, inputs: list[torch.Tensor], outputs: list[torch.Tensor], layout: Layout) -> str:
    """Return the Metal text of the kernel these arguments run."""
    return _Writer(_form(program, inputs, outputs, layout)).text()


@cache
def _library(form: _Form, device: str) -> Any:
    from elinvar.metal import compile as compile_metal

    return compile_metal(_Writer(form).text(), device)


def prepare(
    program: Program, inputs: list[torch.Tensor], outputs: list[torch.Tensor], layout: Layout
) -> Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor], Sequence[float]], None]:
    """Return the call for GPU tensors laid out like these (or, for verification, CPU tensors in the emulator)."""
    form = _form(program, inputs, outputs, layout)
    kernel = _library(form, str(outputs[0].device)).fused
    geometry: list[int] = [*layout.sizes]
    for strides, step in zip(layout.strides, layout.steps, strict=True):
        geometry += strides
        geometry += [step] if step > 1 else []
    total = layout.rows * (layout.columns // form.width)
    threads, group = (total, None) if program.axis is None else (layout.rows * _GROUP, _GROUP)
    fixed = (layout.columns, total, *geometry)

    def launch(inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor], scalars: Sequence[float]) -> None:
        arrays = [_memory(x) for x in (*inputs, *outputs)]
        kernel(*arrays, *fixed, *scalars, threads=threads, group_size=group)

    return launch


def _memory(x: torch.Tensor) -> torch.Tensor:
    """What a kernel may be given: contiguous memory, truth values as bytes."""
    x = x.detach()
    if not x.is_contiguous():
        reach = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
        x = x.as_strided((reach,), (1,), x.storage_offset())
    return x.view(torch.uint8) if x.dtype == torch.bool else x
