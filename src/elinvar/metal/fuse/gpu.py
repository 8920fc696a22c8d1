"""A recorded program as one Metal kernel: text and launch, for Apple and NVIDIA GPUs and for the emulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from elinvar.metal.fuse.expression import Node, Program
from elinvar.metal.fuse.gpu_form import GROUP, Form, Places, form_of
from elinvar.metal.fuse.gpu_rows import Rows
from elinvar.metal.fuse.gpu_text import Writer, function, indented, kernel
from elinvar.metal.fuse.gpu_words import TYPE
from elinvar.metal.fuse.layout import Layout

__all__ = ["prepare", "text"]

_EACH = "for (uint u = 0; u < U; u++) {"


class _Elementwise(Writer):
    """`Form.units` vectors of `Form.width` neighbouring columns for each thread."""

    def text(self) -> str:
        """Return the kernel's text."""
        names: dict[Node, str] = {}
        lines = self.emitter.block(self.program.outputs, names)
        values = [f"{'bool' if kind == 'bool' else 'float'} x{k}" for k, kind in enumerate(self.form.stored)]
        scalars = [f"float s{k}" for k in range(self.program.scalars)]
        results = [f"thread float& w{k}" for k in range(self.outputs)]
        assigned = [f"w{k} = {names[node]};" for k, node in enumerate(self.program.outputs)]
        compute = function(f"static inline void compute({', '.join([*values, *scalars, *results])})", lines + assigned)
        walk = self._kernel_by_rows() if self.form.dims else self._kernel_by_columns()
        return self._whole(compute, self._work(), walk)

    def _compute(self, values: list[str], results: list[str]) -> str:
        return f"compute({', '.join([*values, *(f's{k}' for k in range(self.program.scalars)), *results])});"

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
            lines += ["if (id < a.tail) {", *indented([column, *offsets, *self._single()]), "}"]
        return kernel([*self._arguments(), "uint id [[thread_position_in_grid]]"], lines)

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
        return kernel([*self._arguments(), "uint id [[thread_position_in_grid]]"], lines)

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
            lines += [_EACH, *indented([*here, *(line for k in each for line in self._load(k, "[u]"))]), "}"]
        unpacked = [line for k in range(self.inputs) for line in self._unpack(k, "" if k in once else "[u]")]
        lines += [_EACH, *indented([*here, *unpacked, *self._results()]), "}"]
        return function(head, lines)

    def _results(self) -> list[str]:
        """Statements computing and storing what `_unpack` named."""
        outputs, width = range(self.outputs), self.form.width
        lines = [f"float w{k}[{width}];" for k in outputs]
        for lane in range(width):
            values = [self._element(k, lane) for k in range(self.inputs)]
            lines.append(self._compute(values, [f"w{k}[{lane}]" for k in outputs]))
        for k in outputs:
            lines += self._put_vector(k, [f"w{k}[{lane}]" for lane in range(width)])
        return lines

    def _single(self) -> list[str]:
        """Statements for the one element at column ``c``."""
        values = [self._read(k, f"i{k}[p{k} + {self._index(k)}]") for k in range(self.inputs)]
        outputs, kind = range(self.outputs), TYPE[self.form.result]
        stores = [f"o{k}[p{self.inputs + k} + c] = {kind}(w{k});" for k in outputs]
        return [*(f"float w{k};" for k in outputs), self._compute(values, [f"w{k}" for k in outputs]), *stores]


def _text(form: Form, places: str) -> str:
    return (_Elementwise if form.program.axis is None else Rows)(form, places).text()


def text(program: Program, inputs: list[torch.Tensor], outputs: list[torch.Tensor], layout: Layout) -> str:
    """Return the Metal text of the kernel these arguments run."""
    form = form_of(program, inputs, outputs, layout)
    return _text(form, Places(form, layout).text())


@cache
def _library(form: Form, places: str, device: str) -> Any:
    from elinvar.metal import compile as compile_metal

    return compile_metal(_text(form, places), device)


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
