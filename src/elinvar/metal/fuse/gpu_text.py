"""What the Metal text of every fused kernel is made of: arguments, places in memory, vectors loaded and stored."""

from __future__ import annotations

import math
from collections.abc import Sequence

from elinvar.metal.fuse.emit import Emitter
from elinvar.metal.fuse.expression import Node, topological
from elinvar.metal.fuse.gpu_activations import CHEAP, CHEAP_TEMPLATES, EXACT, EXACT_TEMPLATES
from elinvar.metal.fuse.gpu_form import Form
from elinvar.metal.fuse.gpu_words import LIBRARY, TEMPLATES, TYPE

__all__ = ["Writer", "function", "indented", "kernel"]


class Writer:
    """What element-wise kernels and kernels of rows have in common."""

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
            return f"float(a.columns - {node.value})" if node.value else "float(a.columns)"
        k = int(node.value or 0)
        return self._value(k)

    def _value(self, array: int) -> str:
        """Text of an input at the current element."""
        return f"x{array}"

    def _read(self, array: int, element: str) -> str:
        return f"{element} != 0" if self.form.stored[array] == "bool" else f"float({element})"

    def _index(self, array: int) -> str:
        step = self.form.steps[array]
        return "0" if step == 0 else "c" if step == 1 else f"c * a.t{array}"

    def _whole(self, *parts: str) -> str:
        divide = "static inline uint quotient(uint n, uint m, uint s) { return mulhi(n + n, m) >> s; }\n"
        return "\n".join([self.library, self.places, divide if self.form.counted else "", *parts])

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

    def _element(self, array: int, lane: int) -> str:
        j, part = divmod(lane, 4)
        return self._read(array, f"l{array}_{j}.{'xyzw'[part]}") if self._wide(array) else f"l{array}"

    def _put_vector(self, output: int, elements: Sequence[str]) -> list[str]:
        """Statements storing ``width`` neighbouring results, or one."""
        kind, array = TYPE[self.form.result], self.inputs + output
        if self.form.width == 1:
            return [f"o{output}[p{array} + {self._index(array)}] = {kind}({elements[0]});"]
        place = f"o{output} + (p{array} + c"
        fours = [", ".join(f"{kind}({e})" for e in elements[j : j + 4]) for j in range(0, len(elements), 4)]
        if self._packed(array):
            lines = [f"const uint2 z{output}_{j} = as_type<uint2>({kind}4({four}));" for j, four in enumerate(fours)]
            z = f"z{output}"
            return [*lines, f"*(device uint4*)({place})) = uint4({z}_0.x, {z}_0.y, {z}_1.x, {z}_1.y);"]
        return [f"*(device {kind}4*)({place} + {4 * j})) = {kind}4({four});" for j, four in enumerate(fours)]


def _constant(value: float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    return (
        "NAN" if math.isnan(value) else f"({value!r}f)" if "." in repr(value) or "e" in repr(value) else f"({value}.0f)"
    )


def indented(lines: list[str]) -> list[str]:
    """Return lines one level deeper."""
    return [f"    {line}" for line in lines]


def function(head: str, lines: list[str]) -> str:
    """Return a function's text."""
    return "\n".join([f"{head} {{", *indented(lines), "}", ""])


def kernel(arguments: Sequence[str], lines: list[str]) -> str:
    """Return the kernel's text."""
    listed = ",\n    ".join(arguments)
    return function(f"kernel void fused(\n    {listed})", lines)
