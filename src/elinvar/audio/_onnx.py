"""Just enough of ONNX to get at a model's weights: tensors and the list of operations. Runs nothing, needs nothing.

ONNX files are protocol buffers; the wire format is a sequence of (field number, value) and the field numbers are those
of ``onnx.proto`` (ONNX IR version 3 and later). The ``onnx`` package would bring protobuf, and a runtime would bring
itself, for what are two hundred bytes of structure around float arrays.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import WeightsError

__all__ = ["Node", "OnnxModel", "parse"]

_DTYPES = {1: "<f4", 6: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation: its type, inputs, outputs, and the tensors among its attributes."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: dict[str, NDArray[np.generic]]


@dataclasses.dataclass(frozen=True)
class OnnxModel:
    """What a file holds."""

    tensors: dict[str, NDArray[np.generic]]
    nodes: tuple[Node, ...]


def parse(data: bytes | memoryview) -> OnnxModel:
    """Read an ONNX file.

    Raises
    ------
    WeightsError
        It is truncated, or no ONNX model.
    """
    try:
        graph = next(value for field, value in _fields(memoryview(data)) if field == 7)
        tensors, nodes = {}, []
        for field, value in _fields(_block(graph)):
            if field == 5:
                name, array = _tensor(_block(value))
                tensors[name] = array
            elif field == 1:
                nodes.append(_node(_block(value)))
    except (StopIteration, IndexError, ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise WeightsError(f"The file is damaged or no ONNX model ({error}); get it again.") from None
    return OnnxModel(tensors, tuple(nodes))


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, number or bytes)."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield field, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if size > len(data) - at:
            raise ValueError("it ends early")
        yield field, data[at : at + size]
        at += size


def _block(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise TypeError("a number where a block should be")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_block(value)).decode()


def _numbers(value: int | memoryview) -> list[int]:
    """One number, or several packed into a block."""
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(number)
    return found


def _tensor(data: memoryview) -> tuple[str, NDArray[np.generic]]:
    dims: list[int] = []
    name, kind, raw = "", 1, memoryview(b"")
    for field, value in _fields(data):
        if field == 1:
            dims += _numbers(value)
        elif field == 2 and isinstance(value, int):
            kind = value
        elif field == 4 or field == 9:  # float_data is packed little-endian floats, raw_data any type
            raw = _block(value)
        elif field == 8:
            name = _text(value)
    array: NDArray[np.generic] = np.frombuffer(raw, _DTYPES[kind])
    if array.size != math.prod(dims):
        raise ValueError(f"tensor {name!r} has {array.size} values for shape {dims}")
    return name, array.reshape(dims)


def _node(data: memoryview) -> Node:
    inputs, outputs, kind, tensors = [], [], "", {}
    for field, value in _fields(data):
        if field == 1:
            inputs.append(_text(value))
        elif field == 2:
            outputs.append(_text(value))
        elif field == 4:
            kind = _text(value)
        elif field == 5:
            name, held = "", None
            for inner, content in _fields(_block(value)):
                if inner == 1:
                    name = _text(content)
                elif inner == 5:
                    held = _tensor(_block(content))[1]
            if held is not None:
                tensors[name] = held
    return Node(kind, tuple(inputs), tuple(outputs), tensors)
