"""Constants as bytes: Python numbers, sequences, mappings and bytes laid out as a kernel's type wants them."""

from __future__ import annotations

import math
import numbers
import operator
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from elinvar.errors import MetalLaunchError

from .signature import Buffer
from .types import SCALARS, Type

__all__ = ["CONSTANT_BYTES", "pack"]

CONSTANT_BYTES = 4096  # what Metal takes as inline constants; beyond, it wants a buffer
_CODES = {
    (1, "i"): "b",
    (1, "u"): "B",
    (2, "i"): "h",
    (2, "u"): "H",
    (4, "i"): "i",
    (4, "u"): "I",
    (8, "i"): "q",
    (8, "u"): "Q",
}


def pack(where: str, buffer: Buffer, value: Any) -> bytes:
    """Return the bytes of one constant argument.

    Parameters
    ----------
    where
        Kernel and argument, to begin a message with.
    buffer
        The argument; one that the kernel cannot write.
    value
        A number for a scalar; a sequence for vectors, matrices (column by column), arrays and pointers; a mapping or
        `bytes` for a struct; whatever exposes its bytes (bytes, bytearray, memoryview, ctypes, NumPy) for any type.

    Raises
    ------
    MetalLaunchError
        If it does not fit: range, length, unknown or missing members, more than 4096 bytes.
    """
    kind = buffer.type
    raw = _raw(value)
    if raw is not None:
        data = _sized(where, buffer, raw)
    elif kind is None:
        raise MetalLaunchError(f"{where} is a {buffer.type_name} whose layout only a compiler knows; pass it as bytes")
    elif buffer.is_reference:
        data = _pack(where, kind, value)
    else:
        if not isinstance(value, Sequence) or isinstance(value, str):
            hint = "; torch.from_numpy makes a tensor of it" if hasattr(value, "__array_interface__") else ""
            raise MetalLaunchError(
                f"{where} points to {kind.name}; it takes a tensor, a list or bytes, not {_say(value)}{hint}"
            )
        data = b"".join(_pack(where, kind, item) for item in _items(kind, value))
    if len(data) > CONSTANT_BYTES:
        raise MetalLaunchError(
            f"{where} has {len(data)} bytes of constants; Metal takes {CONSTANT_BYTES}, so pass a tensor"
        )
    return data


def _items(kind: Type, value: Sequence[Any]) -> Sequence[Any]:
    """Return the elements of a pointer's list; a flat list of numbers fills vectors one after the other."""
    if kind.count > 1 and value and all(isinstance(v, numbers.Real) for v in value) and len(value) % kind.count == 0:
        return [value[i : i + kind.count] for i in range(0, len(value), kind.count)]
    return value


def _raw(value: Any) -> bytes | None:
    """Return the bytes of an object that is bytes rather than a number; None for anything else."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, (numbers.Number, str, list, tuple, Mapping)) or hasattr(value, "item"):
        return None if not _is_structured(value) else bytes(value.tobytes())
    try:
        return memoryview(value).tobytes()
    except TypeError:
        return None


def _is_structured(value: Any) -> bool:
    """Tell whether this is a NumPy record, whose bytes are the value."""
    return getattr(getattr(value, "dtype", None), "names", None) is not None and hasattr(value, "tobytes")


def _sized(where: str, buffer: Buffer, raw: bytes) -> bytes:
    kind = buffer.type
    if kind is None:
        return raw
    fits = len(raw) == kind.size if buffer.is_reference else len(raw) % kind.size == 0 and raw
    if not fits:
        many = "" if buffer.is_reference else "a multiple of "
        raise MetalLaunchError(f"{where} is {len(raw)} bytes; {buffer.type_name} has {many}{kind.size}")
    return raw


def _say(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) < 60 else f"a {type(value).__name__}"


def _pack(where: str, kind: Type, value: Any) -> bytes:
    if kind.kind == "struct":
        return _pack_struct(where, kind, value)
    if kind.kind in {"scalar", "atomic"}:
        return _pack_scalar(where, kind, value).ljust(kind.size, b"\0")
    if isinstance(value, torch.Tensor) or hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise MetalLaunchError(f"{where} is {kind.name}; it takes {kind.count} numbers, not {_say(value)}")
    if kind.element is not None:
        parts = kind.size // kind.element.size
        per = kind.element.count
        if len(value) == kind.count != parts:  # a flat list for a matrix or an array of vectors
            value = [value[i : i + per] for i in range(0, len(value), per)]
        _check_length(where, kind, value, parts)
        return b"".join(_pack(where, kind.element, item) for item in value).ljust(kind.size, b"\0")
    _check_length(where, kind, value, kind.count)
    unit = Type(kind.scalar, "scalar", SCALARS[kind.scalar][0], SCALARS[kind.scalar][0], kind.scalar)
    return b"".join(_pack_scalar(where, unit, item) for item in value).ljust(kind.size, b"\0")


def _check_length(where: str, kind: Type, value: Sequence[Any], wanted: int) -> None:
    if len(value) != wanted:
        raise MetalLaunchError(f"{where} is {kind.name}; it takes {wanted} values, {len(value)} given")


def _pack_struct(where: str, kind: Type, value: Any) -> bytes:
    if not isinstance(value, Mapping):
        fields = ", ".join(field.name for field in kind.fields)
        raise MetalLaunchError(
            f"{where} is struct {kind.name} of {kind.size} bytes; it takes bytes or a mapping with {fields}, "
            f"not {_say(value)}"
        )
    names = {field.name for field in kind.fields}
    if set(value) != names:
        wrong = sorted(set(value) ^ names)
        raise MetalLaunchError(f"{where}: struct {kind.name} has members {sorted(names)}; missing or unknown: {wrong}")
    out = bytearray(kind.size)
    for field in kind.fields:
        data = _pack(f"{where}.{field.name}", field.type, value[field.name])
        out[field.offset : field.offset + len(data)] = data
    return bytes(out)


def _pack_scalar(where: str, kind: Type, value: Any) -> bytes:
    if hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, numbers.Real):
        raise MetalLaunchError(f"{where} is {kind.name}; it takes a number, not {_say(value)}")
    size, family = SCALARS[kind.scalar]
    if family == "f":
        return _pack_float(where, kind.scalar, float(value))
    if family == "b":
        if value not in {0, 1}:
            raise MetalLaunchError(f"{where} is bool; {value!r} is neither True nor False")
        return b"\1" if value else b"\0"
    if not math.isfinite(value) or not float(value).is_integer():
        raise MetalLaunchError(f"{where} is {kind.scalar}; {value!r} is not an integer")
    whole = operator.index(value) if hasattr(value, "__index__") else int(float(value))
    bits = size * 8
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if family == "i" else (0, (1 << bits) - 1)
    if not low <= whole <= high:
        raise MetalLaunchError(f"{where} is {kind.scalar}; {whole} is outside {low} to {high}")
    return struct.pack("<" + _CODES[size, family], whole)


def _pack_float(where: str, scalar: str, value: float) -> bytes:
    dtype = {"float": torch.float32, "half": torch.float16, "bfloat": torch.bfloat16}[scalar]
    stored = torch.tensor([value], dtype=torch.float64, device="cpu").to(dtype)
    if math.isfinite(value) and not math.isfinite(float(stored)):
        raise MetalLaunchError(
            f"{where} is {scalar}; {value!r} is beyond its largest value, {torch.finfo(dtype).max:g}"
        )
    return bytes(stored.view(torch.uint8).tolist())
