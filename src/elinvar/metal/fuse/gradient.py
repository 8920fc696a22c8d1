"""Reverse-mode differentiation of a recorded program: its gradient is another program, fused in its turn."""

from __future__ import annotations

import math
from collections.abc import Callable

from elinvar.metal.fuse.expression import (
    REDUCTIONS,
    Node,
    NotFusable,
    Program,
    const,
    is_row,
    make,
    op,
    topological,
)

__all__ = ["gradient"]

_Rule = Callable[[Node, Node], tuple[Node | None, ...]]


def _select(condition: Node, value: Node) -> Node:
    return op("where", condition, value, const(0.0))


def _tie(a: Node, b: Node, first: str, g: Node) -> tuple[Node, Node]:
    """Gradient of maximum/minimum: all to the chosen operand, half to each where they are equal (as torch does)."""
    half = op("mul", g, const(0.5))
    to_a = op("where", op("eq", a, b), half, _select(op(first, a, b), g))
    to_b = op("where", op("eq", a, b), half, _select(op(first, b, a), g))
    return to_a, to_b


def _pow(node: Node, g: Node) -> tuple[Node | None, ...]:
    x, y = node.args
    if y.op in ("const", "scalar"):
        return op("mul", g, op("mul", y, op("pow", x, op("sub", y, const(1.0))))), None
    to_x = op("mul", g, op("mul", y, op("pow", x, op("sub", y, const(1.0)))))
    # x^y with x = 0 has slope 0 along y; log(0) must not turn it into NaN.
    to_y = op("where", op("eq", x, const(0.0)), const(0.0), op("mul", g, op("mul", node, op("log", x))))
    return to_x, to_y


def _inside(x: Node) -> Node:
    """The argument where an activation bends; beyond 20 its slope is 0 or 1, and squares may not overflow."""
    return op("minimum", op("maximum", x, const(-20.0)), const(20.0))


def _silu(node: Node, g: Node) -> tuple[Node | None, ...]:
    s = op("sigmoid", node.args[0], const(0.0))
    bend = op("mul", op("maximum", node.args[0], const(-120.0)), op("sub", const(1.0), s))
    return op("mul", g, op("mul", s, op("add", const(1.0), bend))), None


def _gelu_tanh(node: Node, g: Node) -> tuple[Node | None, ...]:
    x, k = _inside(node.args[0]), 2.0 * math.sqrt(2.0 / math.pi)
    square = op("mul", x, x)
    inner = op("mul", x, op("add", const(k), op("mul", square, const(0.044715 * k))))
    slope = op("mul", x, op("add", const(k), op("mul", square, const(3 * 0.044715 * k))))
    s = op("sigmoid", inner, const(0.0))
    bend = op("mul", slope, op("sub", const(1.0), s))
    return op("mul", g, op("mul", s, op("add", const(1.0), bend))), None


def _gelu_erf(node: Node, g: Node) -> tuple[Node | None, ...]:
    x = _inside(node.args[0])
    share = op("mul", const(0.5), op("add", const(1.0), op("erf", op("mul", x, const(math.sqrt(0.5))))))
    density = op("mul", const(1 / math.sqrt(2 * math.pi)), op("exp", op("mul", const(-0.5), op("mul", x, x))))
    return op("mul", g, op("add", share, op("mul", x, density))), None


_RULES: dict[str, _Rule] = {
    "add": lambda _n, g: (g, g),
    "sub": lambda _n, g: (g, op("neg", g)),
    "mul": lambda n, g: (op("mul", g, n.args[1]), op("mul", g, n.args[0])),
    "div": lambda n, g: (op("div", g, n.args[1]), op("neg", op("div", op("mul", g, n), n.args[1]))),
    "pow": _pow,
    "neg": lambda _n, g: (op("neg", g),),
    "abs": lambda n, g: (
        _select(op("ne", n.args[0], const(0.0)), op("where", op("lt", n.args[0], const(0.0)), op("neg", g), g)),
    ),
    "relu": lambda n, g: (_select(op("gt", n, const(0.0)), g),),
    "exp": lambda n, g: (op("mul", g, n),),
    "log": lambda n, g: (op("div", g, n.args[0]),),
    "log1p": lambda n, g: (op("div", g, op("add", n.args[0], const(1.0))),),
    "sqrt": lambda n, g: (op("div", op("mul", g, const(0.5)), n),),
    "rsqrt": lambda n, g: (op("mul", op("mul", g, const(-0.5)), op("mul", n, op("mul", n, n))),),
    "reciprocal": lambda n, g: (op("neg", op("mul", g, op("mul", n, n))),),
    "sin": lambda n, g: (op("mul", g, op("cos", n.args[0])),),
    "cos": lambda n, g: (op("neg", op("mul", g, op("sin", n.args[0]))),),
    "tanh": lambda n, g: (op("mul", g, op("sub", const(1.0), op("mul", n, n))),),
    "tanh_of": lambda n, g: (op("mul", g, op("sub", const(1.0), op("mul", n, n))), None),
    "sigmoid": lambda n, g: (op("mul", g, op("mul", n, op("sub", const(1.0), n))), None),
    "silu": _silu,
    "gelu_tanh": _gelu_tanh,
    "gelu_erf": _gelu_erf,
    "fma": lambda n, g: (op("mul", g, n.args[1]), op("mul", g, n.args[0]), g),
    # What rounding lost does not depend on the operands, as far as slopes go.
    "fma_rest": lambda n, _g: (None,) * len(n.args),
    "add_rest": lambda n, _g: (None,) * len(n.args),
    "mul_rest": lambda n, _g: (None,) * len(n.args),
    "div_rest": lambda n, _g: (None,) * len(n.args),
    "erf": lambda n, g: (
        op("mul", g, op("mul", const(2 / math.sqrt(math.pi)), op("exp", op("neg", op("mul", n.args[0], n.args[0]))))),
    ),
    "floor": lambda _n, _g: (None,),
    "ceil": lambda _n, _g: (None,),
    "maximum": lambda n, g: _tie(n.args[0], n.args[1], "gt", g),
    "minimum": lambda n, g: _tie(n.args[0], n.args[1], "lt", g),
    "where": lambda n, g: (
        None,
        _select(n.args[0], g),
        op("where", n.args[0], const(0.0), g),
    ),
}


def _reduction(node: Node, g: Node) -> Node:
    """Cotangent of a reduction's operand, given the reduction's own, which has one value per row."""
    x = node.args[0]
    if is_row(x):  # a reduction of something already constant along the row
        return op("mul", g, make("length")) if node.op == "sum" else g
    if node.op == "sum":
        return g
    # Equal extremes share the gradient (as torch.amax does).
    hit = op("where", op("eq", x, node), const(1.0), const(0.0))
    return op("div", op("mul", g, hit), make("sum", (hit,)))


def gradient(program: Program, wanted: tuple[bool, ...] | None = None) -> Program:
    """Return the program computing the gradient of every tensor input, or of the wanted ones.

    Its inputs are those of ``program`` followed by one incoming gradient per output, broadcast to the outputs' shape;
    its outputs are the inputs' gradients at the full broadcast shape (the caller sums over broadcast dimensions).

    Raises
    ------
    NotFusable
        An operation has no derivative here.
    """
    cotangents: dict[Node, Node] = {}

    def accumulate(node: Node, value: Node | None) -> None:
        if value is not None and not node.boolean:
            cotangents[node] = op("add", cotangents[node], value) if node in cotangents else value

    for k, node in enumerate(program.outputs):
        accumulate(node, make("input", (), program.inputs + k))
    for node in reversed(topological(program.outputs)):
        g = cotangents.get(node)
        if g is None or not node.args:
            continue
        if node.op in REDUCTIONS:
            accumulate(node.args[0], _reduction(node, g))
            continue
        if node.op not in _RULES:
            raise NotFusable(f"the gradient of {node.op}")
        for argument, value in zip(node.args, _RULES[node.op](node, g), strict=True):
            # A value per row that was used along the row collects what every element sends back.
            spread = value is not None and is_row(argument) and not is_row(node)
            accumulate(argument, make("sum", (value,)) if spread and value is not None else value)
    outputs = tuple(
        cotangents.get(make("input", (), k), const(0.0)) for k in range(program.inputs) if wanted is None or wanted[k]
    )
    return Program(
        outputs,
        program.inputs + len(program.outputs),
        program.scalars,
        program.axis,
        per_row=False,
        keepdim=True,
        single=False,
    )
