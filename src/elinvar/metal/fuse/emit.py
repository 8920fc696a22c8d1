"""Turn expression nodes into statements of a target language; what is shared by the numba and the Metal writer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from elinvar.metal.fuse.expression import REDUCTIONS, Node, NotFusable, is_row, topological

__all__ = ["Emitter", "per_row_nodes", "reduction_levels"]

_LOGICAL = ("and", "or", "not")


def reduction_levels(outputs: Iterable[Node]) -> list[list[Node]]:
    """Group the reductions below ``outputs``: those of one level need only reductions of the levels before it."""
    depth: dict[Node, int] = {}
    levels: list[list[Node]] = []
    for node in topological(outputs):
        below = max((depth[a] for a in node.args), default=0)
        depth[node] = below + (node.op in REDUCTIONS)
        if node.op in REDUCTIONS:
            levels.extend([] for _ in range(depth[node] - len(levels)))
            levels[depth[node] - 1].append(node)
    return levels


def per_row_nodes(targets: Iterable[Node], names: Mapping[Node, str]) -> list[Node]:
    """Nodes below ``targets`` that are constant along the row and can be computed in front of its loop."""
    ready: set[Node] = set(names)
    found = []
    for node in topological(targets):
        known = all(a in ready or not a.args for a in node.args)
        if node.op not in REDUCTIONS and is_row(node) and known and node not in ready:
            found.append(node)
            ready.add(node)
    return found


@dataclass
class Emitter:
    """Writes nodes as numbered variables.

    Attributes
    ----------
    templates : mapping
        Operation to format string over its operands.
    declare : callable
        ``(variable, expression, boolean) -> statement``.
    constant : callable
        Text of a constant's value.
    leaf : callable
        Text reading an input or scalar at the current element.
    truths : frozenset of int
        Positions of the inputs that hold truth values.
    """

    templates: Mapping[str, str]
    declare: Callable[[str, str, bool], str]
    constant: Callable[[float | bool], str]
    leaf: Callable[[Node], str]
    truths: frozenset[int] = frozenset()
    _count: int = field(default=0)

    def fresh(self) -> str:
        """Return an unused variable name."""
        self._count += 1
        return f"v{self._count}"

    def block(self, targets: Iterable[Node], names: dict[Node, str]) -> list[str]:
        """Statements computing ``targets``; ``names`` says what is already computed and learns what is new."""
        lines = []
        for node in self._missing(targets, names):
            if node.op == "const":
                assert node.value is not None
                names[node] = self.constant(node.value)
                continue
            if node.op in ("input", "scalar", "length"):
                expression = self.leaf(node)
            elif node.op in self.templates:
                expression = self.templates[node.op].format(*self._operands(node, names))
            else:
                raise NotFusable(f"the operation {node.op}")
            names[node] = self.fresh()
            lines.append(self.declare(names[node], expression, self._is_truth(node)))
        return lines

    def _is_truth(self, node: Node) -> bool:
        return node.boolean or (node.op == "input" and node.value in self.truths)

    def _operands(self, node: Node, names: Mapping[Node, str]) -> list[str]:
        """Operand texts, converted between numbers and truth values where the operation asks for the other."""
        texts = []
        for k, a in enumerate(node.args):
            wanted = node.op in _LOGICAL or (node.op == "where" and k == 0)
            text = names[a]
            if wanted and not self._is_truth(a):
                text = self.templates["to_truth"].format(text)
            elif not wanted and self._is_truth(a):
                text = self.templates["to_number"].format(text)
            texts.append(text)
        return texts

    @staticmethod
    def _missing(targets: Iterable[Node], names: Mapping[Node, str]) -> list[Node]:
        """Nodes needed for ``targets`` and not yet named, operands first, without looking below named ones."""
        found: dict[Node, None] = {}
        for root in targets:
            stack: list[tuple[Node, bool]] = [(root, False)]
            while stack:
                node, ready = stack.pop()
                if node in names or node in found:
                    continue
                if ready:
                    found[node] = None
                    continue
                stack.append((node, True))
                stack.extend((a, False) for a in reversed(node.args))
        return list(found)
