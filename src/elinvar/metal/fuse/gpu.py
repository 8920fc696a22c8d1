"""A recorded program as one Metal kernel: text and launch, for Apple and NVIDIA GPUs and for the emulator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from elinvar.metal.fuse.emit import Emitter, per_row_nodes, reduction_levels
from elinvar.metal.fuse.expression import Node, Program, topological
from elinvar.metal.fuse.gpu_activations import CHEAP, CHEAP_TEMPLATES, EXACT, EXACT_TEMPLATES
from elinvar.metal.fuse.gpu_form import GROUP, Form, Places, form_of
from elinvar.metal.fuse.gpu_words import LIBRARY, TEMPLATES, TYPE
from elinvar.metal.fuse.layout import Layout

__all__ = ["prepare", "text"]

_EACH = "for (uint u = 0; u < U; u++) {"
_START = {"sum": "0.0f", "amax": "-INFINITY", "amin": "INFINITY"}
_JOIN = {"sum": "{0} + {1}", "amax": "fused_larger({1}, {0})", "amin": "fused_smaller({1}, {0})"}


class _Writer:
    def __init__(self, form: Form, places: str) -> None:
        self.form = form
        self.places = places
        self.program = form.program
        self.inputs = form.program.inputs
        self.outputs = len(form.program.outputs)
        cheap = all(kind in ("f16", "bf16") for kind in form.kinds[self.inputs :])
        templates, text = (CHEAP_TEMPLATES, CHEAP) if cheap else (EXACT_TEMPLATES, EXACT)
        used = any(node.op in templates for node in topological(self.program.outputs))
        self.library = f"{LIBRARY}\n{text}" if used else LIBRARY
        self.emitter = Emitter(
            {**TEMPLATES, **templates},
            lambda name, expression, truth: f"{'bool' if truth else 'float'} {name} = {expression};",
            _constant,
            self._leaf,
            truths=frozenset(k for k, kind in enumerate(form.stored) if kind == "bool"),
        )

    def _leaf(self, node: Node) -> str:
        if node.op == "scalar":
            return f"s{node.value}"
        if node.op == "length":
            return "float(a.columns)"
        k = int(node.value or 0)
        if self.program.axis is None:  # inside compute(), which receives values
            return f"x{k}"
        return self._read(k, f"i{k}[p{k} + {self._index(k)}]")

    def _read(self, array: int, element: str) -> str:
        return f"{element} != 0" if self.form.stored[array] == "bool" else f"float({element})"

    def _index(self, array: int) -> str:
        step = self.form.steps[array]
        return "0" if step == 0 else "c" if step == 1 else f"c * a.t{array}"

    def text(self) -> str:
        body = self._elementwise() if self.program.axis is None else self._rows()
        return f"{self.library}\n{self.places}\n{body}"

    # --- parts both kernels share ------------------------------------------------------------------------------
    @property
    def _names(self) -> list[str]:
        return [f"i{k}" for k in range(self.inputs)] + [f"o{k}" for k in range(self.outputs)]

    def _parameters(self) -> list[str]:
        kinds = zip(self.form.kinds, self._names, strict=True)
        lines = [f"device {'const ' if n[0] == 'i' else ''}{TYPE[kind]}* {n}" for kind, n in kinds]
        return [*lines, *(f"constant float& s{k}" for k in range(self.program.scalars)), "constant Places& a"]

    def _arguments(self) -> list[str]:
        return [f"{line} [[buffer({k})]]" for k, line in enumerate(self._parameters())]

    @property
    def _place(self) -> str:
        return "ulong" if self.form.wide else "uint"

    def _quotient(self, of: str, by: str) -> str:
        return f"quotient({of}, a.{by}_m, a.{by}_s)" if self.form.counted else f"{of} / a.{by}"

    def _offsets(self, row: str, arrays: Sequence[int]) -> list[str]:
        """Statements for where the arrays' row begins, ``p0``, ``p1``, ..."""
        moving = [k for k in arrays if self.form.moves[k]]
        lines = [f"{self._place} p{k} = 0;" for k in arrays]
        if self.form.dims == 1:
            return lines + [f"p{k} = {row} * a.q{k}_0;" for k in moving]
        if self.form.dims and moving:
            lines.append(f"{'uint' if self.form.counted else 'ulong'} rest = {row};")
        for d in reversed(range(self.form.dims)):
            if d == 0:
                lines += [f"p{k} += rest * a.q{k}_0;" for k in moving]
            elif moving:
                whole = self._quotient("rest", f"n{d}")
                lines.append(f"{{ const auto whole = {whole}; const {self._place} at = rest - whole * a.n{d};")
                lines += [f"  p{k} += at * a.q{k}_{d};" for k in moving]
                lines.append("  rest = whole; }")
        return lines

    # --- element-wise: `units` vectors of `width` neighbouring columns for one thread --------------------------
    def _elementwise(self) -> str:
        names: dict[Node, str] = {}
        lines = self.emitter.block(self.program.outputs, names)
        values = [f"{'bool' if kind == 'bool' else 'float'} x{k}" for k, kind in enumerate(self.form.stored)]
        scalars = [f"float s{k}" for k in range(self.program.scalars)]
        results = [f"thread float& w{k}" for k in range(self.outputs)]
        assigned = [f"w{k} = {names[node]};" for k, node in enumerate(self.program.outputs)]
        compute = _function(f"static inline void compute({', '.join([*values, *scalars, *results])})", lines + assigned)
        divide = "static inline uint quotient(uint n, uint m, uint s) { return mulhi(n + n, m) >> s; }\n"
        kernel = self._kernel_by_rows() if self.form.dims else self._kernel_by_columns()
        return "\n".join([divide if self.form.counted else "", compute, self._work(), kernel])

    def _compute(self, values: list[str]) -> str:
        scalars = [f"s{k}" for k in range(self.program.scalars)]
        return f"compute({', '.join([*values, *scalars, *(f'w{k}' for k in range(self.outputs))])});"

    @property
    def _passed(self) -> str:
        return ", ".join([*self._names, *(f"s{k}" for k in range(self.program.scalars)), "a"])

    def _kernel_by_columns(self) -> str:
        form = self.form
        reach = form.units * GROUP
        column = f"{self._place}(id / {GROUP}) * {reach} + id % {GROUP}" if form.units > 1 else "id"
        lines = [f"const {self._place} row = 0;", f"const {self._place} c = {column};"]
        if form.units > 1:
            lines += [
                f"if (c + {reach - GROUP} < a.columns) {{",
                f"    work<{form.units}>({self._passed}, row, c);",
                "} else {",
                f"    for ({self._place} k = c; k < a.columns; k += {GROUP}) work<1>({self._passed}, row, k);",
                "}",
            ]
        else:
            lines.append(f"if (c < a.columns) work<1>({self._passed}, row, c);")
        if form.tail:
            offsets = self._offsets("row", range(self.inputs + self.outputs))
            column = f"const {self._place} c = a.columns * {form.width} + id;"
            lines += ["if (id < a.tail) {", *_indented([column, *offsets, *self._single()]), "}"]
        return _kernel([*self._arguments(), "uint id [[thread_position_in_grid]]"], lines)

    def _kernel_by_rows(self) -> str:
        form = self.form
        lines = [
            f"const auto row = {self._quotient('id', 'columns')};",
            f"const {self._place} c = id - row * a.columns;",
        ]
        if form.units > 1:
            lines += [
                f"if (row + {form.units - 1} * a.step < a.rows) {{",
                f"    work<{form.units}>({self._passed}, row, c);",
                "} else {",
                f"    for ({self._place} r = row; r < a.rows; r += a.step) work<1>({self._passed}, r, c);",
                "}",
            ]
        else:
            lines.append(f"work<1>({self._passed}, row, c);")
        return _kernel([*self._arguments(), "uint id [[thread_position_in_grid]]"], lines)

    def _work(self) -> str:
        """The function that loads, computes and stores ``U`` vectors, from vector ``first`` of row ``row`` on."""
        form = self.form
        by_rows = form.dims > 0
        arrays = range(self.inputs + self.outputs)
        fixed = [k for k in arrays if by_rows and not form.moves[k]]  # what all rows share, or one value for all
        once = [k for k in range(self.inputs) if k in fixed or not (by_rows or form.steps[k])]
        each = [k for k in range(self.inputs) if k not in once]
        parameters = [*self._parameters(), f"{self._place} row", f"{self._place} first"]
        head = f"template <uint U>\nstatic inline void work({', '.join(parameters)})"
        width = f" * {form.width}" if form.width > 1 else ""
        column = f"const {self._place} c = first{width};"
        here = [f"const {self._place} c = (first + u * {GROUP}){width};"]
        start = self._offsets("row", arrays)
        if by_rows:
            start = [column, *(f"const {self._place} p{k} = 0;" for k in fixed)]
            here = self._offsets("(row + u * a.step)", [k for k in arrays if k not in fixed])
        lines = [*start]
        for k in once:
            lines += [*self._declare(k, ""), *self._load(k, "")]
        lines += [line for k in each for line in self._declare(k, "[U]")]
        if each:
            lines += [_EACH, *_indented([*here, *(line for k in each for line in self._load(k, "[u]"))]), "}"]
        unpacked = [line for k in range(self.inputs) for line in self._unpack(k, "" if k in once else "[u]")]
        lines += [_EACH, *_indented([*here, *unpacked, *self._results()]), "}"]
        return _function(head, lines)

    def _packed(self, array: int) -> bool:
        """Whether eight halves are moved as one vector of 16 bytes instead of two of 8."""
        return self.form.width == 8 and self.form.kinds[array] in ("f16", "bf16")

    def _parts(self, array: int) -> range:
        return range(1 if self._packed(array) or not self._wide(array) else self.form.width // 4)

    def _wide(self, array: int) -> bool:
        return self.form.width > 1 and self.form.steps[array] != 0

    def _raw(self, array: int) -> str:
        """Type in which an array's elements are moved."""
        kind = TYPE[self.form.kinds[array]]
        return "uint4" if self._packed(array) and self._wide(array) else f"{kind}4" if self._wide(array) else kind

    def _declare(self, k: int, many: str) -> list[str]:
        return [f"{self._raw(k)} r{k}_{j}{many};" for j in self._parts(k)]

    def _load(self, k: int, at: str) -> list[str]:
        if not self._wide(k):
            return [f"r{k}_0{at} = i{k}[p{k} + {self._index(k)}];"]
        raw = self._raw(k)
        return [
            f"r{k}_{j}{at} = *(device const {raw}*)(i{k} + (p{k} + c{f' + {4 * j}' if j else ''}));"
            for j in self._parts(k)
        ]

    def _unpack(self, k: int, at: str) -> list[str]:
        """Statements naming the elements ``l0_0`` (a scalar, or the first four of them), ``l0_1``."""
        if not self._wide(k):
            return [
                f"const {'bool' if self.form.stored[k] == 'bool' else 'float'} l{k} = {self._read(k, f'r{k}_0{at}')};"
            ]
        vector = f"{TYPE[self.form.stored[k]]}4"
        if self._packed(k):
            halves = [f"uint2(r{k}_0{at}.{pair[0]}, r{k}_0{at}.{pair[1]})" for pair in ("xy", "zw")]
            return [f"const {vector} l{k}_{j} = as_type<{vector}>({half});" for j, half in enumerate(halves)]
        return [f"const {vector} l{k}_{j} = r{k}_{j}{at};" for j in self._parts(k)]

    def _results(self) -> list[str]:
        """Statements computing and storing what `_unpack` named."""
        form, outputs = self.form, range(self.outputs)
        if form.width == 1:
            return [
                *(f"float w{k};" for k in outputs),
                self._compute([f"l{k}" for k in range(self.inputs)]),
                *self._put(),
            ]
        kind = TYPE[form.result]
        lines = [f"{kind}4 y{k}_{j};" for k in outputs for j in range(form.width // 4)]
        lines += [f"float w{k};" for k in outputs]
        for lane in range(form.width):
            j, part = divmod(lane, 4)
            letter = "xyzw"[part]
            values = [self._read(k, f"l{k}_{j}.{letter}") if self._wide(k) else f"l{k}" for k in range(self.inputs)]
            lines.append(self._compute(values))
            lines += [f"y{k}_{j}.{letter} = {kind}(w{k});" for k in outputs]
        for k in outputs:
            array = self.inputs + k
            place = f"o{k} + (p{array} + c"
            if self._packed(array):
                lines += [f"const uint2 z{k}_{j} = as_type<uint2>(y{k}_{j});" for j in range(2)]
                lines.append(f"*(device uint4*)({place})) = uint4(z{k}_0.x, z{k}_0.y, z{k}_1.x, z{k}_1.y);")
            else:
                lines += [f"*(device {kind}4*)({place} + {4 * j})) = y{k}_{j};" for j in range(form.width // 4)]
        return lines

    def _put(self) -> list[str]:
        kind = TYPE[self.form.result]
        arrays = [self.inputs + k for k in range(self.outputs)]
        return [f"o{k}[p{array} + {self._index(array)}] = {kind}(w{k});" for k, array in enumerate(arrays)]

    def _single(self) -> list[str]:
        """Statements for the one element at column ``c``."""
        values = [self._read(k, f"i{k}[p{k} + {self._index(k)}]") for k in range(self.inputs)]
        return [*(f"float w{k};" for k in range(self.outputs)), self._compute(values), *self._put()]

    # --- one threadgroup for a row ----------------------------------------------------------------------------------
    def _rows(self) -> str:
        names: dict[Node, str] = {}
        body = [*self._offsets("row", range(self.inputs + self.outputs))]
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
            body += [f"for (ulong c = lane; c < a.columns; c += {GROUP}) {{", *_indented(loop), "}"]
        attributes = [
            "uint row [[threadgroup_position_in_grid]]",
            "uint lane [[thread_index_in_threadgroup]]",
            "uint simd_lane [[thread_index_in_simdgroup]]",
            "uint simd_group [[simdgroup_index_in_threadgroup]]",
        ]
        reductions = max(len(level) for level in levels)
        shared = [f"threadgroup float partial[{reductions}][{GROUP // 32}];"]
        return _kernel([*self._arguments(), *attributes], shared + body)

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
        lines += [f"for (ulong c = lane; c < a.columns; c += {GROUP}) {{", *_indented(loop), "}"]
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
            lines.append(f"for (uint g = 1; g < {GROUP // 32}; g++) {t} = {join};")
            names[node] = t
        return [*before, *lines]

    def _stores(self, names: dict[Node, str], index: str | None) -> list[str]:
        return [
            f"o{k}[p{self.inputs + k} + {index or self._index(self.inputs + k)}] = "
            f"{TYPE[self.form.result]}({names[node]});"
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


def _kernel(arguments: Sequence[str], lines: list[str]) -> str:
    listed = ",\n    ".join(arguments)
    return _function(f"kernel void fused(\n    {listed})", lines)


def text(program: Program, inputs: list[torch.Tensor], outputs: list[torch.Tensor], layout: Layout) -> str:
    """Return the Metal text of the kernel these arguments run."""
    form = form_of(program, inputs, outputs, layout)
    return _Writer(form, Places(form, layout).text()).text()


@cache
def _library(form: Form, places: str, device: str) -> Any:
    from elinvar.metal import compile as compile_metal

    return compile_metal(_Writer(form, places).text(), device)


def prepare(
    program: Program, inputs: list[torch.Tensor], outputs: list[torch.Tensor], layout: Layout
) -> Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor], Sequence[float]], None]:
    """Return the call for GPU tensors laid out like these (or, for verification, CPU tensors in the emulator)."""
    form = form_of(program, inputs, outputs, layout)
    places = Places(form, layout)
    kernel = _library(form, places.text(), str(outputs[0].device)).fused
    data, threads, group = places.data(), places.threads, None if program.axis is None else GROUP

    repeat = None
    if kernel.quick is not None and threads:
        repeat = kernel.quick.repeat(len(kernel.signature.buffers) - 1, data, threads, group)

    def launch(inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor], scalars: Sequence[float]) -> None:
        if repeat is not None:
            addresses = [x.data_ptr() for x in inputs]
            written = [x.data_ptr() for x in outputs]
            # Outputs are fresh memory, or exactly an input: whoever calls has made sure.
            if repeat([*addresses, *written, *scalars], written[0] in addresses):
                return
        arrays = [_memory(x) for x in (*inputs, *outputs)]
        kernel(*arrays, *scalars, data, threads=threads, group_size=group)

    return launch


def _memory(x: torch.Tensor) -> torch.Tensor:
    """What a kernel may be given: contiguous memory, truth values as bytes."""
    x = x.detach()
    if not x.is_contiguous():
        reach = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
        x = x.as_strided((reach,), (1,), x.storage_offset())
    return x.view(torch.uint8) if x.dtype == torch.bool else x
