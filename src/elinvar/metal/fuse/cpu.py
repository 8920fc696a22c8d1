"""A recorded program as one numba kernel: text, import, launch."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elinvar.metal.fuse.emit import Emitter, per_row_nodes, reduction_levels
from elinvar.metal.fuse.expression import Node, Program
from elinvar.metal.fuse.layout import STORAGE, Layout, reach
from elinvar.runtime.files import atomic_write, cache_dir
from elinvar.runtime.parallel import cpu_threads, parallel_for

__all__ = ["flat", "prepare", "text"]

_SHARED = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "neg": "-{0}",
    "abs": "abs({0})",
    "sqrt": "np.sqrt({0})",
    "floor": "np.floor({0})",
    "ceil": "np.ceil({0})",
    "sin": "np.sin({0})",
    "cos": "np.cos({0})",
    "maximum": "larger({0}, {1})",
    "minimum": "smaller({0}, {1})",
    "isnan": "{0} != {0}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "not": "not {0}",
    "where": "{1} if {0} else {2}",
    "to_truth": "({0} != 0)",
}
_SINGLE = {
    **_SHARED,
    "relu": "{0} if ({0} > f4(0.0) or {0} != {0}) else f4(0.0)",  # NaN stays NaN
    "rsqrt": "f4(1.0) / np.sqrt({0})",
    "reciprocal": "f4(1.0) / {0}",
    "to_number": "f4({0})",
    **{name: f"{name}_f4({{0}})" for name in ("exp", "log", "log1p", "tanh", "erf")},
    **{name: f"{name}_f4({{0}}, {{1}})" for name in ("tanh_of", "sigmoid", "silu", "gelu_tanh", "gelu_erf", "pow")},
    "fma": "fma_f4({0}, {1}, {2})",
    "fma_rest": "fma_rest_f4({0}, {1}, {2}, {3})",
    "add_rest": "add_rest_f4({0}, {1}, {2})",
    "mul_rest": "mul_rest_f4({0}, {1}, {2})",
    "div_rest": "div_rest_f4({0}, {1}, {2})",
}
_DOUBLE = {
    **_SHARED,
    "relu": "{0} if ({0} > 0.0 or {0} != {0}) else 0.0",
    "rsqrt": "1.0 / np.sqrt({0})",
    "reciprocal": "1.0 / {0}",
    "to_number": "float({0})",
    **{name: f"np.{name}({{0}})" for name in ("exp", "log", "log1p", "tanh")},
    "tanh_of": "np.tanh({0})",
    "sigmoid": "1.0 / (1.0 + np.exp(-{0}))",
    "silu": "{0} / (1.0 + np.exp(-{0}))",
    "gelu_tanh": "{0} / (1.0 + np.exp(-1.5957691216057308 * ({0} + 0.044715 * {0} * {0} * {0})))",
    "gelu_erf": "0.5 * {0} * math.erfc(-0.7071067811865476 * {0})",
    "fma": "{0} * {1} + {2}",
    **{f"{name}_rest": "0.0" for name in ("fma", "add", "mul", "div")},  # float64 has nothing to carry
    "erf": "math.erf({0})",
    "pow": "math.pow({0}, {1})",
}
_LOAD = {
    "f32": "{0}",
    "f64": "{0}",
    "f16": "half_to_float({0})",
    "bf16": "bfloat_to_float({0})",
    "bool": "{0} != 0",
}
_STORE = {"f32": "{0}", "f64": "{0}", "f16": "float_to_half({0})", "bf16": "float_to_bfloat({0})"}
_POINTER = {"f32": "float32_at", "f64": "float64_at", "f16": "int16_at", "bf16": "int16_at", "bool": "uint8_at"}
_START = {"sum": "{zero}", "amax": "-{inf}", "amin": "{inf}"}
_JOIN = {"sum": "accumulate({0}, {1})", "amax": "larger({1}, {0})", "amin": "smaller({1}, {0})"}
# Elements below which handing work to other threads costs more than it saves.
_SERIAL = 1 << 15


@dataclass(frozen=True)
class _Form:
    """Everything the text of a kernel depends on."""

    program: Program
    stored: tuple[str, ...]
    result: str
    wide: bool
    steps: tuple[int, ...]
    flat: bool


def _form(program: Program, inputs: list[torch.Tensor], outputs: list[torch.Tensor], layout: Layout) -> _Form:
    stored = tuple(STORAGE[x.dtype] for x in inputs)
    result = STORAGE[outputs[0].dtype]
    wide = result == "f64" or "f64" in stored
    steps = tuple(min(s, 2) for s in layout.steps)
    flat = program.axis is None and layout.rows == 1 and 2 not in steps
    return _Form(program, stored, result, wide, steps, flat)


def text(program: Program, inputs: list[torch.Tensor], outputs: list[torch.Tensor], layout: Layout) -> str:
    """Return the Python text of the kernel these arguments run, without the math in front of it."""
    return _Writer(_form(program, inputs, outputs, layout)).text().strip() + "\n"


class _Writer:
    def __init__(self, form: _Form) -> None:
        self.form = form
        self.outputs = len(form.program.outputs)
        self.emitter = Emitter(
            _DOUBLE if form.wide else _SINGLE,
            lambda name, expression, _truth: f"{name} = {expression}",
            self._constant,
            self._leaf,
            truths=frozenset(k for k, kind in enumerate(form.stored) if kind == "bool"),
        )

    def _constant(self, value: float | bool) -> str:
        if isinstance(value, bool):
            return str(value)
        text = {math.inf: "np.inf", -math.inf: "-np.inf"}.get(value, "np.nan" if math.isnan(value) else repr(value))
        return f"({text})" if self.form.wide else f"f4({text})"

    def _leaf(self, node: Node) -> str:
        cast = "" if self.form.wide else "f4"
        if node.op == "scalar":
            return f"{cast}(s{node.value})"
        if node.op == "length":
            return f"{cast}(columns - {node.value})" if node.value else f"{cast}(columns)"
        k = int(node.value or 0)
        step = self.form.steps[k]
        element = f"a{k}" if step == 0 else f"a{k}[c]" if step == 1 else f"a{k}[c * t{k}]"
        return _LOAD[self.form.stored[k]].format(element)

    def text(self) -> str:
        program = self.form.program
        arrays = [f"i{k}" for k in range(program.inputs)] + [f"o{k}" for k in range(self.outputs)]
        scalars = [f"s{k}" for k in range(program.scalars)]
        kinds = [*self.form.stored, *[self.form.result] * self.outputs]
        if self.form.flat:
            return self._flat(arrays, scalars, kinds)
        arguments = ["r0", "r1", "c0", "c1", "columns", "sizes", "strides", "steps", "reaches", *arrays, *scalars]
        body = self._offsets(len(arrays))
        views = [
            f"    m{name} = carray({_POINTER[kind]}({name}), (reaches[{k}],))"
            for k, (name, kind) in enumerate(zip(arrays, kinds, strict=True))
        ]
        names: dict[Node, str] = {}
        for level in reduction_levels(program.outputs):
            body += self._reduce(level, names)
        if program.per_row:
            body += self.emitter.block(program.outputs, names)
            body += self._store(names)
        else:
            body += self.emitter.block(per_row_nodes(program.outputs, names), names)
            inside = dict(names)
            loop = self.emitter.block(program.outputs, inside)
            body += ["for c in range(c1 - c0):", *_indented(loop), *_indented(self._store(inside))]
        head = [
            '@njit(nogil=True, error_model="numpy", fastmath=_CONTRACT, cache=True)',
            f"def kernel({', '.join(arguments)}):",
            *views,
            "    for r in range(r0, r1):",
        ]
        return "\n".join(["", "", *head, *_indented(_indented(body)), ""])

    def _flat(self, arrays: list[str], scalars: list[str], kinds: list[str]) -> str:
        """One loop over contiguous arrays: nothing to look up, so that a call costs next to nothing."""
        inputs = self.form.program.inputs
        rows = []
        for k, (name, kind, step) in enumerate(zip(arrays, kinds, self.form.steps, strict=True)):
            row = f"a{k}" if k < inputs else f"w{k - inputs}"
            memory = f"carray({_POINTER[kind]}({name}), ({'columns' if step else '1'},))"
            rows.append(f"    {row} = {memory}{'[c0:c1]' if step else '[0]' if k < inputs else ''}")
        names: dict[Node, str] = {}
        loop = self.emitter.block(self.form.program.outputs, names)
        head = [
            '@njit(nogil=True, error_model="numpy", fastmath=_CONTRACT, cache=True)',
            f"def kernel({', '.join(['c0', 'c1', 'columns', *arrays, *scalars])}):",
            *rows,
            "    for c in range(c1 - c0):",
        ]
        return "\n".join(["", "", *head, *_indented(_indented([*loop, *self._store(names)])), ""])

    def _offsets(self, arrays: int) -> list[str]:
        """Where every array's row starts; slices from 0 let numba drop its negative-index test inside the loop."""
        starts = [f"p{k}" for k in range(arrays)]
        lines = [f"{name} = 0" for name in starts]
        lines += [
            "rest = r",
            "for d in range(len(sizes) - 1, -1, -1):",
            "    at = rest % sizes[d]",
            "    rest //= sizes[d]",
        ]
        lines += [f"    {name} += at * strides[{k}, d]" for k, name in enumerate(starts)]
        inputs = self.form.program.inputs
        for k, step in enumerate(self.form.steps):
            array = f"mi{k}" if k < inputs else f"mo{k - inputs}"
            row = f"a{k}" if k < inputs else f"w{k - inputs}"
            if step == 0:
                lines.append(f"{row} = {array}[p{k}]" if k < inputs else f"{row} = {array}[p{k}:]")
            elif step == 1:
                lines.append(f"{row} = {array}[p{k} + c0 : p{k} + c1]")
            else:
                lines += [f"t{k} = steps[{k}]", f"{row} = {array}[p{k} + c0 * t{k} :]"]
        return lines

    def _reduce(self, level: list[Node], names: dict[Node, str]) -> list[str]:
        """One pass along the row computing every reduction of a level."""
        operands = [node.args[0] for node in level]
        lines = self.emitter.block(per_row_nodes(operands, names), names)
        inside = dict(names)
        loop = self.emitter.block(operands, inside)
        infinity, zero = ("np.inf", "0.0") if self.form.wide else ("f4(np.inf)", "f4(0.0)")
        for node in level:
            total = self.emitter.fresh()
            names[node] = total
            lines.append(f"{total} = {_START[node.op].format(zero=zero, inf=infinity)}")
            loop.append(f"{total} = {_JOIN[node.op].format(total, inside[node.args[0]])}")
        return [*lines, "for c in range(columns):", *_indented(loop)]

    def _store(self, names: dict[Node, str]) -> list[str]:
        lines = []
        for k, node in enumerate(self.form.program.outputs):
            step = self.form.steps[self.form.program.inputs + k]
            index = "0" if step == 0 else "c" if step == 1 else f"c * t{self.form.program.inputs + k}"
            lines.append(f"w{k}[{index}] = {_STORE[self.form.result].format(names[node])}")
        return lines


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


@cache
def _kernel(form: _Form) -> Callable[..., None]:
    """Write the module beside numba's own cache and import it; the file is what numba's cache is keyed on."""
    text = Path(__file__).with_name("cpu_math.py").read_text(encoding="utf-8") + _Writer(form).text()
    digest = hashlib.sha256(text.encode()).hexdigest()[:24]
    name = f"elinvar_fused_{digest}"
    path = cache_dir() / "fuse" / f"{name}.py"
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # numba's cache looks its functions up by module name
    spec.loader.exec_module(module)
    kernel: Callable[..., None] = module.kernel
    return kernel


@cache
def flat(program: Program, dtype: torch.dtype) -> Callable[..., None]:
    """Return ``kernel(start, stop, count, *addresses, *numbers)`` for contiguous arrays of one length and dtype."""
    inputs, outputs = program.inputs, len(program.outputs)
    kind = STORAGE[dtype]
    return _kernel(_Form(program, (kind,) * inputs, kind, kind == "f64", (1,) * (inputs + outputs), flat=True))


def prepare(
    program: Program, inputs: list[torch.Tensor], outputs: list[torch.Tensor], layout: Layout
) -> Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor], Sequence[float]], None]:
    """Return the call for CPU tensors laid out like these; it takes tensors over the same kind of memory."""
    form = _form(program, inputs, outputs, layout)
    kernel = _kernel(form)
    number = float if form.wide else np.float32
    if form.flat:
        return _flat_launch(kernel, layout.columns, number)
    reaches = np.array([reach(x) for x in (*inputs, *outputs)], dtype=np.int64)
    sizes = np.array(layout.sizes, dtype=np.int64)
    strides = np.array(layout.strides, dtype=np.int64).reshape(len(reaches), len(layout.sizes))
    steps = np.array(layout.steps, dtype=np.int64)
    rows, columns = layout.rows, layout.columns
    fixed = (columns, sizes, strides, steps, reaches)
    chunk = max(1, _SERIAL * 4 // max(1, columns))

    def launch(inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor], scalars: Sequence[float]) -> None:
        rest = (*fixed, *[x.data_ptr() for x in inputs], *[x.data_ptr() for x in outputs], *map(number, scalars))
        if rows * columns <= _SERIAL:
            kernel(0, rows, 0, columns, *rest)
        elif rows == 1 and program.axis is None:
            parallel_for(columns, lambda c0, c1: kernel(0, 1, c0, c1, *rest), chunk=_SERIAL * 4)
        else:
            parallel_for(rows, lambda r0, r1: kernel(r0, r1, 0, columns, *rest), chunk=chunk)

    return launch


def _flat_launch(
    kernel: Callable[..., None], columns: int, number: Any
) -> Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor], Sequence[float]], None]:
    def launch(inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor], scalars: Sequence[float]) -> None:
        addresses = [x.data_ptr() for x in inputs]
        addresses += [x.data_ptr() for x in outputs]
        rest = (columns, *addresses, *map(number, scalars)) if scalars else (columns, *addresses)
        if columns <= _SERIAL or cpu_threads() == 1:
            kernel(0, columns, *rest)
        else:
            parallel_for(columns, lambda c0, c1: kernel(c0, c1, *rest), chunk=_SERIAL * 4)

    return launch
