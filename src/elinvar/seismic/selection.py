"""Which traces take part: by offset, azimuth, offset-vector tile, or a condition written as text.

Every function returns flags, one per trace, for :meth:`Survey.select`; combine them with ``&``, ``|`` and ``~``.
A condition is parsed, never evaluated as Python: only comparisons, arithmetic, ``and``/``or``/``not``, ``in`` and the
functions in :data:`FUNCTIONS` exist, over the columns in :func:`columns`.
"""

from __future__ import annotations

import ast
from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

from ._check import number

if TYPE_CHECKING:
    from .survey import Survey

__all__ = ["COLUMNS", "FUNCTIONS", "azimuths", "columns", "offset_vectors", "offsets", "where"]

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

COLUMNS: dict[str, str] = {
    "trace": "position in the survey, from 0",
    "offset": "source-receiver distance, m",
    "azimuth": "source to receiver, degrees clockwise from north, 0 to 360",
    "sx": "source easting, m",
    "sy": "source northing, m",
    "rx": "receiver easting, m",
    "ry": "receiver northing, m",
    "mx": "midpoint easting, m",
    "my": "midpoint northing, m",
    "hx": "offset vector's east component, m",
    "hy": "offset vector's north component, m",
    "delay": "time of the first sample, s",
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "hypot": np.hypot,
    "floor": np.floor,
    "round": np.round,
    "sin": lambda degrees: np.sin(np.radians(degrees)),
    "cos": lambda degrees: np.cos(np.radians(degrees)),
    "min": np.minimum,
    "max": np.maximum,
}
_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
}
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
_LONGEST = 2000  # characters; a condition is written by hand
_DEEPEST = 50


def columns(survey: Survey) -> dict[str, Floats]:
    """Return the columns a condition may name, float64 (n,), metres, seconds and degrees."""
    vector = survey.receiver - survey.source
    middle = survey.midpoint
    return {
        "trace": np.arange(survey.n_traces, dtype=np.float64),
        "offset": survey.offset,
        "azimuth": survey.azimuth,
        "sx": survey.source[:, 0],
        "sy": survey.source[:, 1],
        "rx": survey.receiver[:, 0],
        "ry": survey.receiver[:, 1],
        "mx": middle[:, 0],
        "my": middle[:, 1],
        "hx": vector[:, 0],
        "hy": vector[:, 1],
        "delay": survey.delay,
    }


def offsets(survey: Survey, low: float = 0.0, high: float = np.inf, *, along: float | None = None) -> Flags:
    """Flag traces with ``low <= offset < high``.

    Parameters
    ----------
    low, high
        Metres.
    along
        None for absolute offsets. An azimuth in degrees makes them signed: the offset is negative when the receiver
        lies on the other side of the source than this direction (a streamer towed towards ``along`` has negative ones).
    """
    first = low if low == -np.inf else number("offsets", "low", low)
    last = high if high == np.inf else number("offsets", "high", high)
    if last <= first:
        raise InputError(f"offsets: low {first:g} m is not below high {last:g} m; swap them.")
    distance = survey.offset
    if along is not None:
        direction = np.radians(number("offsets", "along", along))
        east, north = (survey.receiver - survey.source).T
        back = np.round(east * np.sin(direction) + north * np.cos(direction), 2) < 0  # never by a rounding error
        distance = np.where(back, -distance, distance)
    flags: Flags = (distance >= first) & (distance < last)
    return flags


def azimuths(survey: Survey, start: float, stop: float, *, reciprocal: bool = True) -> Flags:
    """Flag traces whose source-to-receiver direction lies in ``[start, stop)``, going clockwise from start.

    Parameters
    ----------
    start, stop
        Degrees clockwise from north; ``azimuths(s, 350, 10)`` is the 20 degrees around north.
    reciprocal
        Count the opposite direction as the same, as is usual for pressure data. Zero-offset traces, which have no
        direction, belong to every sector.
    """
    first, last = number("azimuths", "start", start), number("azimuths", "stop", stop)
    width = (last - first) % 360.0
    turn = 180.0 if reciprocal else 360.0
    if width == 0.0 or width >= turn:
        return np.ones(survey.n_traces, bool)
    flags: Flags = ((survey.azimuth - first) % turn < width) | (survey.offset == 0.0)
    return flags


def offset_vectors(survey: Survey, dx: float, dy: float, *, azimuth: float = 0.0) -> NDArray[np.int64]:
    """Return each trace's offset-vector tile, int64 (n, 2).

    Tiles (Vermeer 1998; Cary 1999) cut the plane of offset vectors into cells; one tile is a near-common-offset,
    near-common-azimuth volume of about single fold.

    Parameters
    ----------
    dx, dy
        Size of a tile in metres along and across `azimuth`; twice the receiver-line and source-line interval for an
        orthogonal land spread.
    azimuth
        Direction of the first tile axis, degrees clockwise from north.
    """
    width = [number("offset_vectors", k, v, low=0.0, open_low=True) for k, v in (("dx", dx), ("dy", dy))]
    angle = np.radians(number("offset_vectors", "azimuth", azimuth))
    east, north = (survey.receiver - survey.source).T
    along = east * np.sin(angle) + north * np.cos(angle)
    across = east * np.cos(angle) - north * np.sin(angle)
    return np.stack([np.floor(along / width[0]), np.floor(across / width[1])], axis=1).astype(np.int64)


def where(survey: Survey, condition: str, extra: Mapping[str, NDArray[Any]] | None = None) -> Flags:
    """Flag traces for which a condition holds.

    Parameters
    ----------
    condition
        For example ``"300 <= offset < 2500 and not (45 < azimuth < 90)"`` or ``"trace % 2 == 0"``. Names are the
        :data:`COLUMNS` and those of ``survey.headers``; angles in ``sin`` and ``cos`` are degrees.
    extra
        More columns, each (n,).

    Raises
    ------
    InputError
        The text is not such a condition; the message shows the part that is not understood.
    """
    if not isinstance(condition, str) or not condition.strip() or len(condition) > _LONGEST:
        raise InputError(f"where: the condition is {condition!r:.80}; give a text such as 'offset < 2000'.")
    try:
        tree = ast.parse(condition.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        at = getattr(error, "offset", None)
        place = f" at character {at}" if at else ""
        raise InputError(f"where: {condition!r} cannot be read{place}; write it like 'offset < 2000'.") from None
    headers = cast("MutableMapping[str, NDArray[Any]]", survey.headers)  # a column is read only when it is named
    known = ChainMap(dict(extra or {}), columns(survey), headers)
    with np.errstate(all="ignore"):
        result = np.asarray(_Reader(condition, known).read(tree.body, 0))
    if result.dtype != bool:
        raise InputError(f"where: {condition!r} is a number, not a condition; compare it with something.")
    return np.array(np.broadcast_to(result, (survey.n_traces,)))


class _Reader:
    """Walks a parsed condition; every node type that is not listed is refused."""

    def __init__(self, text: str, known: Mapping[str, NDArray[Any]]) -> None:
        self.text = text
        self.known = known

    def _refuse(self, node: ast.AST, accepted: str) -> InputError:
        part = ast.get_source_segment(self.text.strip(), node) or type(node).__name__
        return InputError(f"where: {part!r} is not understood; {accepted}.")

    def read(self, node: ast.expr, depth: int) -> Any:
        if depth > _DEEPEST:
            raise InputError(f"where: the condition is nested more than {_DEEPEST} deep; split it.")
        reader = getattr(self, f"_{type(node).__name__.lower()}", None)
        if reader is None:
            raise self._refuse(node, "comparisons, arithmetic, and, or, not, in and functions are")
        return reader(node, depth + 1)

    def _constant(self, node: ast.Constant, _depth: int) -> Any:
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float)) or abs(node.value) > 1e300:
            raise self._refuse(node, "numbers are")
        return float(node.value)

    def _name(self, node: ast.Name, _depth: int) -> Any:
        if node.id not in self.known:
            raise self._refuse(node, f"columns are {', '.join(self.known)}")
        return self.known[node.id]

    def _unaryop(self, node: ast.UnaryOp, depth: int) -> Any:
        value = self.read(node.operand, depth)
        if isinstance(node.op, ast.Not):
            return ~self._truth(node.operand, value)
        self._number(node.operand, value)
        if isinstance(node.op, ast.USub):
            return np.negative(value)
        if isinstance(node.op, ast.UAdd):
            return value
        raise self._refuse(node, "not, + and - are")

    def _binop(self, node: ast.BinOp, depth: int) -> Any:
        operation = _ARITHMETIC.get(type(node.op))
        if operation is None:
            raise self._refuse(node, "+ - * / // % are; for powers multiply, for logic write and, or")
        left, right = self.read(node.left, depth), self.read(node.right, depth)
        return operation(self._number(node.left, left), self._number(node.right, right))

    def _boolop(self, node: ast.BoolOp, depth: int) -> Any:
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        parts = [self._truth(value, self.read(value, depth)) for value in node.values]
        result = parts[0]
        for part in parts[1:]:
            result = join(result, part)
        return result

    def _compare(self, node: ast.Compare, depth: int) -> Any:
        left = self._number(node.left, self.read(node.left, depth))
        result: Any = np.bool_(True)
        for operation, right_node in zip(node.ops, node.comparators, strict=True):
            if isinstance(operation, (ast.In, ast.NotIn)):
                inside = self._member(left, right_node, depth)
                result = result & (inside if isinstance(operation, ast.In) else ~inside)
                continue
            compare = _COMPARISONS.get(type(operation))
            if compare is None:
                raise self._refuse(node, "< <= > >= == != and in are")
            right = self._number(right_node, self.read(right_node, depth))
            result = result & compare(left, right)
            left = right
        return result

    def _member(self, left: Any, node: ast.expr, depth: int) -> Any:
        if not isinstance(node, (ast.Tuple, ast.List, ast.Set)) or not node.elts:
            raise self._refuse(node, "in takes a list of numbers such as (1, 2, 3)")
        return np.isin(
            left, [self._constant(e, depth) if isinstance(e, ast.Constant) else self.read(e, depth) for e in node.elts]
        )

    def _call(self, node: ast.Call, depth: int) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in FUNCTIONS or node.keywords:
            raise self._refuse(node, f"functions are {', '.join(FUNCTIONS)}")
        values = [self._number(a, self.read(a, depth)) for a in node.args]
        if len(values) != (2 if name in ("hypot", "min", "max") else 1):
            raise self._refuse(node, f"{name} takes {2 if name in ('hypot', 'min', 'max') else 1} argument(s)")
        return FUNCTIONS[name](*values)

    def _truth(self, node: ast.expr, value: Any) -> Any:
        if np.asarray(value).dtype != bool:
            raise self._refuse(node, "a condition is expected here, such as offset < 2000")
        return value

    def _number(self, node: ast.expr, value: Any) -> Any:
        if np.asarray(value).dtype == bool:
            raise self._refuse(node, "a number is expected here; put and, or between comparisons")
        return value
