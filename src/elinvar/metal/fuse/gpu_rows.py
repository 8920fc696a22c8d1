"""Reductions along rows as one Metal kernel: every row belongs to a power of two of threads of one group.

Up to 32 threads have a simdgroup's registers to exchange their sums; longer rows take the whole group and its memory.
What several passes over a row read stays in registers when the row is short enough, so memory is read once.
"""

from __future__ import annotations

from collections.abc import Sequence

from elinvar.metal.fuse.emit import per_row_nodes, reduction_levels
from elinvar.metal.fuse.expression import Node, is_row
from elinvar.metal.fuse.gpu_form import GROUP, Form
from elinvar.metal.fuse.gpu_text import Writer, indented, kernel
from elinvar.metal.fuse.gpu_words import TYPE

__all__ = ["Rows"]

_START = {"sum": "0.0f", "amax": "-INFINITY", "amin": "INFINITY"}
_JOIN = {"sum": "{0} + {1}", "amax": "fused_larger({1}, {0})", "amin": "fused_smaller({1}, {0})"}
_MOST_KEPT = 64  # registers
_MOST_RESULTS = 32
_DEAR = frozenset({"pow", "exp", "log", "log1p", "sin", "cos", "tanh", "sigmoid", "erf", "div"})


class Rows(Writer):
    """Text of a program that reduces."""

    def __init__(self, form: Form, places: str) -> None:
        super().__init__(form, places)
        self._stash: dict[Node, str] = {}  # results of an earlier pass that a later one needs
        self._kept = self._kept_inputs()

    def text(self) -> str:
        """Return the kernel's text."""
        form = self.form
        levels = reduction_levels(self.program.outputs)
        names: dict[Node, str] = {}
        body: list[str] = []
        for k, level in enumerate(levels):
            later = [node.args[0] for after in levels[k + 1 :] for node in after]
            later += [] if self.program.per_row else self.program.outputs
            body += self._reduce(level, names, later, again=k > 0)
        body += self._finish(names)
        arrays = range(self.inputs + self.outputs)
        per_group = GROUP // form.lanes
        row = f"group * {per_group} + thread_id / {form.lanes}" if per_group > 1 else "group"
        head = [f"const {self._place} row = {row};", f"const uint lane = thread_id % {form.lanes};"]
        if per_group > 1:
            head.append("const bool live = row < a.rows;")
        else:
            reductions = max(len(level) for level in levels)
            head.append(f"threadgroup float partial[{reductions}][{GROUP // 32}];")
        head += self._offsets("row", arrays)
        head += [line for k in range(self.inputs) if form.steps[k] == 0 for line in self._one_value(k)]
        head += [line for k in self._kept for line in self._keep(k)]
        attributes = [
            "uint group [[threadgroup_position_in_grid]]",
            "uint thread_id [[thread_index_in_threadgroup]]",
            *([] if per_group > 1 else ["uint simd_group [[simdgroup_index_in_threadgroup]]"]),
        ]
        return self._whole(kernel([*self._arguments(), *attributes], head + body))

    def _value(self, array: int) -> str:
        return f"b{array}" if self.form.steps[array] == 0 else f"x{array}[w]"

    @property
    def _live(self) -> str:
        return "live && " if self.form.lanes < GROUP else ""

    def _one_value(self, k: int) -> list[str]:
        truth = self.form.stored[k] == "bool"
        value = self._read(k, f"i{k}[p{k}]")
        guarded = f"live ? {value} : {'false' if truth else '0.0f'}" if self._live else value
        return [f"const {'bool' if truth else 'float'} b{k} = {guarded};"]

    # --- walking along a row ----------------------------------------------------------------------------------------
    def _kept_inputs(self) -> list[int]:
        """Inputs that several passes read, where registers suffice for them."""
        if not self.form.units:
            return []
        levels = reduction_levels(self.program.outputs)
        passes: list[Sequence[Node]] = [[node.args[0] for node in level] for level in levels]
        if not self.program.per_row:
            passes.append(self.program.outputs)
        reads = [self._read_by(targets) for targets in passes]
        several = [k for k in range(self.inputs) if sum(k in one for one in reads) > 1]
        each = {k: max(1, self.form.width * {"f32": 4, "bool": 1}.get(self.form.stored[k], 2) // 4) for k in several}
        return several if sum(each.values()) * self.form.units <= _MOST_KEPT else []

    def _read_by(self, targets: Sequence[Node]) -> set[int]:
        """Inputs with columns that a pass computing ``targets`` reads; what is below a reduction is known by then."""
        inputs = {int(node.value or 0) for node in self._below(targets) if node.op == "input"}
        return {k for k in inputs if self.form.steps[k]}

    def _below(self, targets: Sequence[Node]) -> set[Node]:
        """What a pass computing ``targets`` needs and does not know yet."""
        stack = list(targets)
        seen: set[Node] = set()
        while stack:
            node = stack.pop()
            if node not in seen and node.op not in _START and node not in self._stash:
                seen.add(node)
                stack.extend(node.args)
        return seen

    def _keep_results(self, computed: dict[Node, str], later: Sequence[Node]) -> tuple[list[str], list[str]]:
        """Declarations and statements that keep what is dear and needed again; `_stash` learns of it."""
        size = self.form.units * self.form.width
        if not 0 < size * (len(self._stash) + 1) <= _MOST_RESULTS:
            return [], []
        needed = self._below(later)
        dear = [node for node in computed if node in needed and node.op in _DEAR and not is_row(node)]
        declared: list[str] = []
        stores: list[str] = []
        for node in dear[: _MOST_RESULTS // size - len(self._stash)]:
            name = f"k{len(self._stash)}"
            declared.append(f"float {name}[{self.form.units}][{self.form.width}];")
            stores.append(f"{name}[u][w] = {computed[node]};")
            self._stash[node] = f"{name}[u][w]"
        return declared, stores

    def _keep(self, k: int) -> list[str]:
        lines = self._declare(k, f"[{self.form.units}]")
        return [*lines, *self._along(self._load(k, "[u]"))]

    def _along(self, lines: list[str]) -> list[str]:
        """Statements that do ``lines`` for this thread's vectors of the row, each from column ``c`` on."""
        width, lanes = self.form.width, self.form.lanes
        if self.form.units:
            at = f"(u * {lanes} + lane){f' * {width}' if width > 1 else ''}"
            inside = [f"const {self._place} c = {at};", f"if ({self._live}c < a.columns) {{", *indented(lines), "}"]
            return [f"for (uint u = 0; u < {self.form.units}; u++) {{", *indented(inside), "}"]
        start, step = (f"lane * {width}", lanes * width) if width > 1 else ("lane", lanes)
        return [f"for ({self._place} c = {start}; c < a.columns; c += {step}) {{", *indented(lines), "}"]

    def _pass(self, reads: set[int], lines: list[str], after: list[str]) -> list[str]:
        """Statements doing ``lines`` for each element of the row, then ``after`` for each vector."""
        width, body = self.form.width, []
        for k in sorted(reads):
            at = "[u]" if k in self._kept else ""
            if not at:
                body += [*self._declare(k, ""), *self._load(k, "")]
            body += self._unpack(k, at)
            body.append(f"{'bool' if self.form.stored[k] == 'bool' else 'float'} x{k}[{width}];")
            body += [f"x{k}[{w}] = {self._element(k, w)};" for w in range(width)]
        each = [f"for (uint w = 0; w < {width}; w++) {{", *indented(lines), "}"]
        return self._along([*body, *each, *after])

    # --- results ----------------------------------------------------------------------------------------------------
    def _reduce(self, level: list[Node], names: dict[Node, str], later: list[Node], *, again: bool) -> list[str]:
        """Each thread along the row, then all of a row's threads together."""
        operands = [node.args[0] for node in level]
        before = self.emitter.block(per_row_nodes(operands, names), names)
        inside = {**names, **self._stash}
        loop = self.emitter.block(operands, inside)
        totals = [self.emitter.fresh() for _ in level]
        lines = [f"float {t} = {_START[node.op]};" for t, node in zip(totals, level, strict=True)]
        loop += [
            f"{t} = {_JOIN[node.op].format(t, inside[node.args[0]])};" for t, node in zip(totals, level, strict=True)
        ]
        reads = self._read_by(operands)
        declared, stores = self._keep_results({n: v for n, v in inside.items() if n not in names}, later)
        lines += [*declared, *self._pass(reads, [*loop, *stores], [])]
        for t, node in zip(totals, level, strict=True):
            join = _JOIN[node.op].format(t, f"simd_shuffle_xor({t}, ushort(d))")
            if self.form.lanes > 1:
                lines.append(f"for (ushort d = {min(32, self.form.lanes) // 2}; d > 0; d /= 2) {t} = {join};")
            names[node] = t
        if self.form.lanes == GROUP:
            lines += self._across(level, totals, again=again)
        return [*before, *lines]

    def _across(self, level: list[Node], totals: list[str], *, again: bool) -> list[str]:
        """From the sums of simdgroups to those of the group."""
        barrier = "threadgroup_barrier(mem_flags::mem_threadgroup);"
        stores = " ".join(f"partial[{k}][simd_group] = {t};" for k, t in enumerate(totals))
        lines = [barrier] if again else []  # the previous level's partial sums have been read by everyone
        lines += [f"if (thread_id % 32 == 0) {{ {stores} }}", barrier]
        for k, (t, node) in enumerate(zip(totals, level, strict=True)):
            join = _JOIN[node.op].format(t, f"partial[{k}][g]")
            lines += [f"{t} = partial[{k}][0];", f"for (uint g = 1; g < {GROUP // 32}; g++) {t} = {join};"]
        return lines

    def _finish(self, names: dict[Node, str]) -> list[str]:
        outputs = self.program.outputs
        if self.program.per_row:
            lines = self.emitter.block(outputs, names)
            kind = TYPE[self.form.result]
            stores = [f"o{k}[p{self.inputs + k}] = {kind}({names[node]});" for k, node in enumerate(outputs)]
            return [*lines, f"if ({self._live}lane == 0) {{ {' '.join(stores)} }}"]
        lines = self.emitter.block(per_row_nodes(outputs, names), names)
        inside = {**names, **self._stash}
        loop = self.emitter.block(outputs, inside)
        loop += [f"y{k}[w] = {inside[node]};" for k, node in enumerate(outputs)]
        width = self.form.width
        declared = [f"float y{k}[{width}];" for k in range(self.outputs)]
        after = [
            line for k in range(self.outputs) for line in self._put_vector(k, [f"y{k}[{w}]" for w in range(width)])
        ]
        walk = self._pass(self._read_by(outputs), loop, after)
        return [*lines, *declared, *walk]
