"""Constants as bytes, against NumPy's and torch's own ideas of them."""

from __future__ import annotations

import ctypes
import math
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import MetalLaunchError
from elinvar.metal import parse
from elinvar.metal.packing import pack

STRUCTS = """struct In { half h; packed_float3 p; };
struct P { bool flag; float3 colour; int n[2][2]; In in; float2x2 m; };
struct Odd { uint x : 3; };
"""


def packed(type_: str, value: Any) -> bytes:
    (signature,) = parse(f"{STRUCTS}kernel void k(constant {type_}) {{}}\n").kernels.values()
    return pack("[k] argument x", signature.buffers[0], value)


def refused(type_: str, value: Any) -> str:
    with pytest.raises(MetalLaunchError) as caught:
        packed(type_, value)
    return str(caught.value)


RANGES = {
    "char": ("b", -(2**7), 2**7 - 1),
    "uchar": ("B", 0, 2**8 - 1),
    "short": ("h", -(2**15), 2**15 - 1),
    "ushort": ("H", 0, 2**16 - 1),
    "int": ("i", -(2**31), 2**31 - 1),
    "uint": ("I", 0, 2**32 - 1),
    "long": ("q", -(2**63), 2**63 - 1),
    "ulong": ("Q", 0, 2**64 - 1),
}


@pytest.mark.parametrize(("type_", "code", "low", "high"), [(t, *r) for t, r in RANGES.items()])
def test_integers(type_: str, code: str, low: int, high: int) -> None:
    for value in (low, high, 1, True, np.int8(5), np.float32(3.0), 7.0, torch.tensor(9).item()):
        assert packed(f"{type_}& x", value) == struct.pack(f"<{code}", int(value))
    for value in (low - 1, high + 1):
        assert f"{value} is outside {low} to {high}" in refused(f"{type_}& x", value)
    for bad in (0.5, math.nan, math.inf, "1", None, 1j, [1]):
        assert f"x is {type_}" in refused(f"{type_}& x", bad)


@settings(deadline=None)
@given(st.floats(width=32) | st.integers(-(2**40), 2**40) | st.booleans())
def test_floats(value: float) -> None:
    got = packed("float& x", value)
    assert got == struct.pack("<f", value) or (math.isnan(value) and math.isnan(struct.unpack("<f", got)[0]))


@settings(deadline=None)
@given(st.floats(width=64, allow_nan=False, min_value=-60000, max_value=60000))
def test_halves_are_rounded_once(value: float) -> None:
    assert packed("half& x", value) == np.float16(value).tobytes()
    expected = torch.tensor([value], dtype=torch.float64).to(torch.bfloat16).view(torch.uint8)
    assert packed("bfloat& x", value) == bytes(expected.tolist())


def test_floats_beyond_the_type_are_refused_but_infinity_is_not() -> None:
    for type_, value in (("float", 1e39), ("half", 65520), ("bfloat", 3.4e38)):
        assert "beyond its largest value" in refused(f"{type_}& x", value)
    assert packed("half& x", math.inf) == b"\x00\x7c"
    assert packed("float& x", -math.inf) == struct.pack("<f", -math.inf)
    assert "takes a number" in refused("float& x", "1.0")


def test_booleans() -> None:
    assert [packed("bool& x", v) for v in (True, False, 1, 0, np.bool_(True))] == [b"\1", b"\0", b"\1", b"\0", b"\1"]
    assert "neither True nor False" in refused("bool& x", 2)
    assert packed("bool3& x", [True, False, True]) == b"\1\0\1\0"


def test_vectors_and_matrices_have_metals_padding() -> None:
    assert packed("float3& x", (1, 2, 3)) == struct.pack("<4f", 1, 2, 3, 0)
    assert packed("packed_float3& x", np.array([1, 2, 3])) == struct.pack("<3f", 1, 2, 3)
    assert packed("ushort2& x", torch.tensor([1, 2])) == struct.pack("<2H", 1, 2)
    assert packed("float2x3& x", [[1, 2, 3], [4, 5, 6]]) == struct.pack("<8f", 1, 2, 3, 0, 4, 5, 6, 0)
    assert packed("float2x3& x", range(6)) == struct.pack("<8f", 0, 1, 2, 0, 3, 4, 5, 0)
    assert packed("array<half, 3>& x", [1, 2, 3]) == np.array([1, 2, 3], np.float16).tobytes()
    assert "takes 3 values, 2 given" in refused("float3& x", [1, 2])
    assert "takes 3 numbers" in refused("float3& x", 1.0)


def test_pointers_take_lists() -> None:
    assert packed("float* x", [1, 2.5]) == struct.pack("<2f", 1, 2.5)
    assert packed("float2* x", [1, 2, 3, 4]) == packed("float2* x", [(1, 2), (3, 4)]) == struct.pack("<4f", 1, 2, 3, 4)
    assert "takes a tensor, a list or bytes" in refused("float* x", 1.0)
    assert "4096" in refused("float* x", [0.0] * 1025)
    assert len(packed("float* x", [0.0] * 1024)) == 4096


class InRecord(ctypes.Structure):
    _fields_ = (("h", ctypes.c_uint16), ("pad", ctypes.c_uint16), ("p", ctypes.c_float * 3))


def test_structs() -> None:
    inner = {"h": 1.5, "p": [1, 2, 3]}
    expected = struct.pack("<e2x3f", 1.5, 1, 2, 3)
    assert packed("In& x", inner) == expected
    assert packed("In& x", expected) == packed("In& x", bytearray(expected)) == packed("In& x", memoryview(expected))
    assert packed("In& x", InRecord(0x3E00, 0, (1, 2, 3))) == expected
    record = np.zeros((), [("h", "f2"), ("pad", "V2"), ("p", "f4", 3)])
    record["h"], record["p"] = 1.5, (1, 2, 3)
    assert packed("In& x", record) == expected
    assert packed("In* x", expected * 2) == expected * 2
    whole = packed("P& x", {"flag": True, "colour": [1, 2, 3], "n": [[1, 2], [3, 4]], "in": inner, "m": [1, 0, 0, 1]})
    assert whole == struct.pack("<?15x4f4i16s4f", True, 1, 2, 3, 0, 1, 2, 3, 4, expected, 1, 0, 0, 1)


def test_structs_that_do_not_fit() -> None:
    assert "3 bytes; In has 16" in refused("In& x", b"123")
    assert "15 bytes; In has a multiple of 16" in refused("In* x", b"1" * 15)
    assert "missing or unknown: ['p', 'q']" in refused("In& x", {"h": 1, "q": 2})
    assert "[k] argument x.p is packed_float3; it takes 3 values" in refused("In& x", {"h": 1, "p": [1]})
    assert "takes bytes or a mapping with h, p" in refused("In& x", (1, [1, 2, 3]))
    assert "pass it as bytes" in refused("Odd& x", {"x": 1})
    assert packed("Odd& x", b"1234") == b"1234"
