"""How a fused GPU kernel walks over memory: everything its text depends on, and the numbers it is given.

An element-wise kernel moves 16 bytes of its narrowest array per thread where memory is aligned: so much keeps an H200's
memory busy, and more per thread was not faster. Where it is not, a thread takes several elements, all loaded before the
first is used: from one row, a group of threads apart, or from several rows in one and the same column; then what does
not change from row to row is loaded once. Rows and columns are found without a division: by a multiplication with a
reciprocal that is exact for every position a launch can have.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from elinvar.metal.fuse.expression import Program
from elinvar.metal.fuse.layout import STORAGE, Layout, reach

__all__ = ["GROUP", "Form", "Places", "form_of"]

GROUP = 256
_SMALL = 2**31
_UNITS = 4
_MANY_ROWS = 4 * _UNITS  # of fewer, too many threads would find a row too few


@dataclass(frozen=True)
class Form:
    """Everything the text of a kernel depends on.

    Attributes
    ----------
    program
        What is computed.
    stored, result
        Storage of each input and of the outputs, as in `STORAGE`.
    steps
        For each array the stride along the columns: 0, 1, or 2 for anything else.
    moves
        For each array, whether it changes from row to row.
    dims
        Outer dimensions.
    width
        Neighbouring columns in one vector.
    units
        Vectors per thread: of one row when there is but one, otherwise of as many rows. Of a program that reduces:
        those of its row, or 0 when they are too many to be kept.
    tail
        Whether columns are left behind the last vector; only where there is one row.
    wide
        Offsets need 64 bits.
    counted
        Positions have less than 32 bits, so reciprocals replace divisions.
    lanes
        Threads per row of a program that reduces.
    """

    program: Program
    stored: tuple[str, ...]
    result: str
    steps: tuple[int, ...]
    moves: tuple[bool, ...]
    dims: int
    width: int = 1
    units: int = 1
    tail: bool = False
    wide: bool = False
    counted: bool = True
    lanes: int = 0

    @property
    def kinds(self) -> tuple[str, ...]:
        """Storage of every array, inputs first."""
        return (*self.stored, *[self.result] * len(self.program.outputs))


def _reciprocal(divisor: int) -> tuple[int, int]:
    """Return m and s with ``n // divisor == (2 * n * m >> 32) >> s`` for all n below 2**31.

    Granlund and Montgomery, "Division by invariant integers using multiplication", PLDI 1994.
    """
    shift = (divisor - 1).bit_length()
    return -(-(1 << 31 + shift) // divisor), shift


class Places:
    """The numbers a kernel is given: a struct's text and its bytes, and how many threads run.

    Parameters
    ----------
    form, layout
        Of the call.
    """

    def __init__(self, form: Form, layout: Layout) -> None:
        place = "Q" if form.wide else "I"
        self._fields: list[tuple[str, str, int]] = []
        vectors = layout.columns // form.width
        if form.program.axis is not None:
            self.threads = -(-layout.rows * form.lanes // GROUP) * GROUP
            self._add(place, columns=layout.columns, rows=layout.rows)
        elif not form.dims:
            self.threads = -(-vectors // (form.units * GROUP)) * GROUP
            self._add(place, columns=vectors)
            if form.tail:
                self._add("I", tail=layout.columns % form.width)
        else:
            steps = -(-layout.rows // form.units)
            self.threads = steps * vectors
            self._add(place, rows=layout.rows, step=steps)
            self._divide(form, "columns", vectors)
        for d, size in enumerate(layout.sizes[1:], 1):
            self._divide(form, f"n{d}", size)
        for k, (strides, step) in enumerate(zip(layout.strides, layout.steps, strict=True)):
            if form.moves[k]:
                self._add(place, **{f"q{k}_{d}": stride for d, stride in enumerate(strides)})
            if form.steps[k] == 2:
                self._add(place, **{f"t{k}": step})

    def _add(self, code: str, **values: int) -> None:
        self._fields += [(code, name, value) for name, value in values.items()]

    def _divide(self, form: Form, name: str, divisor: int) -> None:
        divisor = max(divisor, 1)  # of nothing there are no threads to divide
        if form.counted:
            many, shift = _reciprocal(divisor)
            self._add("I", **{name: divisor, f"{name}_m": many, f"{name}_s": shift})
        else:
            self._add("Q", **{name: divisor})

    def text(self) -> str:
        """Return the struct's declaration, its longest members first so that nothing is padded between them."""
        lines = [f"    {'ulong' if code == 'Q' else 'uint'} {name};" for code, name, _ in self._ordered()]
        return "\n".join(["struct Places {", *lines, "};", ""])

    def _ordered(self) -> list[tuple[str, str, int]]:
        return sorted(self._fields, key=lambda field: field[0] != "Q")

    def data(self) -> bytes:
        """Return the struct's bytes."""
        fields = self._ordered()
        packed = struct.pack("<" + "".join(code for code, _, _ in fields), *(value for _, _, value in fields))
        longs = any(code == "Q" for code, _, _ in fields)
        return packed.ljust(-(-len(packed) // 8) * 8, b"\0") if longs else packed


def _width(arrays: Sequence[torch.Tensor], layout: Layout, *, alone: bool) -> int:
    """Neighbouring columns per vector: 16 bytes of the narrowest array where every row starts aligned.

    A row that is ``alone`` may leave columns behind its last vector.
    """
    for width in (8, 4) if min(a.element_size() for a in arrays) < 4 else (4,):
        fits = layout.columns >= width if alone else layout.columns % width == 0
        for array, step, strides in zip(arrays, layout.steps, layout.strides, strict=True):
            size = array.element_size()
            load = min(16, width * size)  # bytes
            aligned = step == 1 and array.data_ptr() % load == 0 and all(s % (load // size) == 0 for s in strides)
            fits = fits and (step == 0 or aligned)
        if fits:
            return width
    return 1


def _lanes(vectors: int) -> tuple[int, int]:
    """Threads for a row of so many vectors, and vectors for each of them; 0 for more than registers can keep."""
    if vectors <= 32 * _UNITS:
        lanes = min(32, 1 << max(0, -(-vectors // 2) - 1).bit_length())
        return lanes, max(1, -(-vectors // lanes))
    units = 1 << (-(-vectors // GROUP) - 1).bit_length()  # a power of two: fewer kernels to compile
    return GROUP, units if units <= 2 * _UNITS else 0


def form_of(program: Program, inputs: list[torch.Tensor], outputs: list[torch.Tensor], layout: Layout) -> Form:
    """Choose how a call's kernel walks."""
    arrays = [*inputs, *outputs]
    stored, result = tuple(STORAGE[x.dtype] for x in inputs), STORAGE[outputs[0].dtype]
    steps = tuple(min(s, 2) for s in layout.steps)
    moves = tuple(any(strides) for strides in layout.strides)
    dims = len(layout.sizes)
    width = _width(arrays, layout, alone=dims == 0 and program.axis is None)
    vectors = layout.columns // width
    wide = max(*(reach(a) for a in arrays), layout.rows * layout.columns) >= _SMALL
    if program.axis is not None:
        lanes, units = _lanes(vectors)
        counted = layout.rows < _SMALL
        return Form(program, stored, result, steps, moves, dims, width, units, False, wide, counted, lanes)
    many = width == 1 and (dims == 0 or layout.rows >= _MANY_ROWS)
    return Form(
        program,
        stored,
        result,
        steps,
        moves,
        dims,
        width,
        _UNITS if many else 1,
        layout.columns % width != 0,
        wide=wide,
        counted=layout.rows * vectors < _SMALL,
    )
