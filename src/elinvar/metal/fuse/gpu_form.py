"""How a fused GPU kernel walks over memory: everything its text depends on, and the numbers it is given.

An element-wise kernel moves vectors of up to 16 bytes of its narrowest array, several per thread, all loaded before the
first is used. They lie either along the columns, one group of threads apart, or on several rows at one and the same
columns; then what does not change from row to row (a bias per channel) is loaded once. Rows and columns are found
without a division: by a multiplication with a reciprocal that is exact for every position a launch can have.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from elinvar.metal.fuse.expression import Program, topological
from elinvar.metal.fuse.layout import STORAGE, Layout, reach

__all__ = ["GROUP", "Form", "Places", "form_of"]

GROUP = 256
_SMALL = 2**31
_IN_FLIGHT = 128  # bytes a thread reads before it uses the first
_MOST_UNITS = 4
_DEAR = frozenset({"pow", "exp", "log", "log1p", "sin", "cos", "tanh", "sigmoid", "erf", "div", "sqrt", "rsqrt"})
_MANY_DEAR = 3  # of them the arithmetic hides the memory's latency by itself
_MANY_ROWS = 16


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
        Vectors per thread.
    along
        "columns" or "rows": where a thread's vectors lie.
    tail
        Whether columns are left behind the last vector; only where there is one row.
    wide
        Offsets need 64 bits.
    counted
        Positions have less than 32 bits, so reciprocals replace divisions.
    """

    program: Program
    stored: tuple[str, ...]
    result: str
    steps: tuple[int, ...]
    moves: tuple[bool, ...]
    dims: int
    width: int = 1
    units: int = 1
    along: str = "columns"
    tail: bool = False
    wide: bool = False
    counted: bool = True

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
            self.threads = layout.rows * GROUP
            self._add("Q", columns=layout.columns)
        elif form.along == "columns":
            tiles = max(1, -(-vectors // (form.units * GROUP)))
            self.threads = layout.rows * tiles * GROUP
            self._add(place, columns=vectors)
            self._divide(form, "tiles", tiles)
            if form.tail:
                self._add("I", tail=layout.columns % form.width)
        else:
            steps = -(-layout.rows // form.units)
            self.threads = steps * vectors
            self._add(place, rows=layout.rows, step=steps)
            self._divide(form, "columns", vectors)
        for d, size in enumerate(layout.sizes):
            self._divide(form, f"n{d}", size)
        for k, (strides, step) in enumerate(zip(layout.strides, layout.steps, strict=True)):
            if form.moves[k]:
                self._add(place, **{f"q{k}_{d}": stride for d, stride in enumerate(strides)})
            if form.steps[k] == 2:
                self._add(place, **{f"t{k}": step})

    def _add(self, code: str, **values: int) -> None:
        self._fields += [(code, name, value) for name, value in values.items()]

    def _divide(self, form: Form, name: str, divisor: int) -> None:
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


def _width(arrays: Sequence[torch.Tensor], layout: Layout) -> int:
    """Neighbouring columns per vector: 16 bytes of the narrowest array where every row starts aligned."""
    alone = not layout.sizes  # one row may leave columns behind its last vector
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


def _by_rows(layout: Layout, steps: Sequence[int], moves: Sequence[bool], vectors: int) -> bool:
    """Whether a thread's vectors lie on several rows: where rows share something, or are short."""
    shared = any(step and not moved for step, moved in zip(steps, moves, strict=True))
    return layout.rows >= _MANY_ROWS and (shared or vectors < 2 * _MOST_UNITS * GROUP)


def _units(program: Program, read: int) -> int:
    """Vectors per thread, of which each reads ``read`` bytes: fewer where arithmetic fills the time anyway."""
    if sum(node.op in _DEAR for node in topological(program.outputs)) >= _MANY_DEAR:
        return 1
    units = _MOST_UNITS
    while units > 1 and units * read > _IN_FLIGHT:
        units //= 2
    return units


def form_of(program: Program, inputs: list[torch.Tensor], outputs: list[torch.Tensor], layout: Layout) -> Form:
    """Choose how a call's kernel walks."""
    arrays = [*inputs, *outputs]
    stored, result = tuple(STORAGE[x.dtype] for x in inputs), STORAGE[outputs[0].dtype]
    steps = tuple(min(s, 2) for s in layout.steps)
    moves = tuple(any(strides) for strides in layout.strides)
    dims = len(layout.sizes)
    if program.axis is not None:
        return Form(program, stored, result, steps, moves, dims, wide=True, counted=False)
    width = _width(arrays, layout)
    vectors = layout.columns // width
    by_rows = _by_rows(layout, steps, moves, vectors)
    each = [x for x, step, moved in zip(inputs, steps, moves, strict=False) if step and (moved or not by_rows)]
    return Form(
        program,
        stored,
        result,
        steps,
        moves,
        dims,
        width,
        _units(program, sum(width * x.element_size() for x in each)),
        "rows" if by_rows else "columns",
        layout.columns % width != 0,
        wide=max(*(reach(a) for a in arrays), layout.rows * layout.columns) >= _SMALL,
        counted=layout.rows * vectors < _SMALL,
    )
