"""Metal's types as bytes: scalars, vectors, matrices, arrays, atomics and structs, with the layout Metal gives them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["SCALARS", "Field", "Type", "builtin", "layout", "make_array"]

# name -> (bytes, kind); kind: b bool, i signed, u unsigned, f floating
SCALARS: Mapping[str, tuple[int, str]] = {
    "bool": (1, "b"),
    "char": (1, "i"),
    "uchar": (1, "u"),
    "short": (2, "i"),
    "ushort": (2, "u"),
    "int": (4, "i"),
    "uint": (4, "u"),
    "long": (8, "i"),
    "ulong": (8, "u"),
    "half": (2, "f"),
    "bfloat": (2, "f"),
    "float": (4, "f"),
}
_ALIASES = {
    "int8_t": "char",
    "uint8_t": "uchar",
    "int16_t": "short",
    "uint16_t": "ushort",
    "int32_t": "int",
    "uint32_t": "uint",
    "int64_t": "long",
    "uint64_t": "ulong",
    "size_t": "ulong",
    "ptrdiff_t": "long",
    "unsigned": "uint",
    "signed": "int",
    "unsigned int": "uint",
    "signed int": "int",
    "unsigned char": "uchar",
    "signed char": "char",
    "unsigned short": "ushort",
    "signed short": "short",
    "short int": "short",
    "unsigned short int": "ushort",
    "unsigned long": "ulong",
    "signed long": "long",
    "long int": "long",
    "unsigned long int": "ulong",
}
_ATOMICS = {"atomic_int": "int", "atomic_uint": "uint", "atomic_bool": "bool", "atomic_float": "float"}
_VECTOR = re.compile(r"(packed_)?(" + "|".join(SCALARS) + r")([234])")
_MATRIX = re.compile(r"(half|float)([234])x([234])")


@dataclass(frozen=True)
class Field:
    """One member of a struct: its name, type and offset in bytes."""

    name: str
    type: Type
    offset: int


@dataclass(frozen=True)
class Type:
    """A type with a known layout.

    Attributes
    ----------
    name
        As one would write it in Metal.
    kind
        ``scalar``, ``vector``, ``packed``, ``matrix``, ``array``, ``atomic`` or ``struct``.
    size, align
        In bytes, as Metal lays it out: ``float3`` is 16 and 16, ``packed_float3`` 12 and 4.
    scalar
        The scalar it is made of (``float``, ``uint``, ...); empty for a struct.
    count
        How many scalars one value takes from a caller: 3 for ``float3``, 1 for a scalar.
    element
        What an array repeats.
    fields
        The members of a struct.
    """

    name: str
    kind: str
    size: int
    align: int
    scalar: str = ""
    count: int = 1
    element: Type | None = None
    fields: tuple[Field, ...] = ()

    @property
    def lanes(self) -> int:
        """How many scalars one value occupies in memory, padding included (4 for ``float3``)."""
        return self.size // SCALARS[self.scalar][0] if self.scalar else 0


def _scalar(name: str) -> Type:
    size = SCALARS[name][0]
    return Type(name, "scalar", size, size, name)


def _vector(scalar: str, count: int, *, packed: bool = False) -> Type:
    unit = SCALARS[scalar][0]
    if packed:
        return Type(f"packed_{scalar}{count}", "packed", unit * count, unit, scalar, count)
    size = unit * (4 if count == 3 else count)
    return Type(f"{scalar}{count}", "vector", size, size, scalar, count)


def _matrix(scalar: str, columns: int, rows: int) -> Type:
    column = _vector(scalar, rows)
    name = f"{scalar}{columns}x{rows}"
    return Type(name, "matrix", column.size * columns, column.align, scalar, rows * columns, element=column)


def builtin(name: str) -> Type | None:
    """Return the type of one of Metal's own names (``uint``, ``float4``, ``half3x3``, ``atomic_int``), or None."""
    name = _ALIASES.get(name, name)
    if name in SCALARS:
        return _scalar(name)
    if name in _ATOMICS:
        inner = _scalar(_ATOMICS[name])
        size = 4 if inner.name == "bool" else inner.size
        return Type(name, "atomic", size, size, inner.name)
    vector = _VECTOR.fullmatch(name)
    if vector:
        return _vector(vector[2], int(vector[3]), packed=bool(vector[1]))
    matrix = _MATRIX.fullmatch(name)
    return _matrix(matrix[1], int(matrix[2]), int(matrix[3])) if matrix else None


def templated(name: str, arguments: Sequence[Type | int | None]) -> Type | None:
    """Return ``vec<T, n>``, ``packed_vec``, ``matrix<T, c, r>``, ``array<T, n>`` or ``atomic<T>``; None if unknown."""
    match (name, *arguments):
        case ("vec" | "packed_vec", Type(kind="scalar") as inner, int(count)) if 2 <= count <= 4:
            return _vector(inner.name, count, packed=name == "packed_vec")
        case ("matrix", Type(kind="scalar", name="half" | "float") as inner, int(columns), int(rows)):
            return _matrix(inner.name, columns, rows) if {columns, rows} <= {2, 3, 4} else None
        case ("array", Type() as inner, int(count)):
            return make_array(inner, count)
        case ("atomic" | "_atomic", Type(kind="scalar") as inner):
            return builtin(f"atomic_{inner.name}")
    return None


def make_array(element: Type, count: int) -> Type:
    """Return `count` elements in a row."""
    name = f"array<{element.name}, {count}>"
    return Type(name, "array", element.size * count, element.align, element.scalar, element.count * count, element)


def layout(name: str, members: Sequence[tuple[str, Type]], *, union: bool = False) -> Type:
    """Return a struct's type with C++'s layout rules applied to its members."""
    fields: list[Field] = []
    offset, align, widest = 0, 1, 0
    for member, kind in members:
        offset = 0 if union else -(-offset // kind.align) * kind.align
        fields.append(Field(member, kind, offset))
        offset += kind.size
        widest = max(widest, offset)
        align = max(align, kind.align)
    size = max(-(-widest // align) * align, 1)
    return Type(name, "struct", size, align, fields=tuple(fields))
