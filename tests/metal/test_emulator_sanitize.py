"""AddressSanitizer on the emulator: accesses outside buffers and arrays are found, correct kernels are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from elinvar.errors import MetalLaunchError

Compile = Callable[..., Any]
SOURCE = """#include <metal_stdlib>
using namespace metal;
kernel void shift(device const float* x [[buffer(0)]], device float* y [[buffer(1)]], constant int& by [[buffer(2)]],
    uint i [[thread_position_in_grid]])
{
    y[i] = x[int(i) + by];
}
kernel void store(device half4* x [[buffer(0)]], constant uint& at [[buffer(1)]])
{
    x[at].w = 1;
}
kernel void shared(device float* x [[buffer(0)]], constant uint& at, uint i [[thread_index_in_threadgroup]])
{
    threadgroup float s[64], t[64];
    s[i] = x[i];
    t[i] = 2 * x[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    x[i] = s[(i + 1) % 64] + t[at];
}
kernel void priv(device float* x [[buffer(0)]], constant uint& at [[buffer(1)]], uint i [[thread_index_in_threadgroup]])
{
    float a[4] = {1, 2, 3, 4};
    threadgroup_barrier(mem_flags::mem_none);
    for (uint k = 0; k < 4; k++) a[k] += i;
    x[i] = a[at];
}
kernel void weights(device float* x [[buffer(0)]], constant float* w [[buffer(1)]], uint i [[thread_position_in_grid]])
{
    x[i] = w[i];
}
kernel void add(device const float* a [[buffer(0)]], device float* b [[buffer(1)]], uint i [[thread_position_in_grid]])
{
    b[i] += a[i + 1];
}
kernel void uneven(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]])
{
    if (i < 3) threadgroup_barrier(mem_flags::mem_none);
    x[i] = 1;
}
"""


@pytest.fixture
def lib(emulator: Compile) -> Any:
    return emulator(SOURCE, sanitize=True)


def found(kernel: Any, *args: Any, **kw: Any) -> str:
    before = [a.clone() for a in args if isinstance(a, torch.Tensor)]
    with pytest.raises(MetalLaunchError) as caught:
        kernel(*args, **kw)
    after = [a for a in args if isinstance(a, torch.Tensor)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), (
        "a failed launch must not change its tensors"
    )
    return str(caught.value)


def test_accesses_beyond_a_buffer_name_it_and_the_line(lib: Any) -> None:
    x, y = torch.arange(50.0), torch.zeros(50)
    message = found(lib.shift, x, y, 1)
    assert message.startswith(
        "[shift] read of 4 bytes outside x (buffer 0), 0 bytes after its 200 bytes in <source>:6 "
    )
    assert "outside x (buffer 0), 4 bytes before its 200 bytes" in found(lib.shift, x, y, -1)
    assert "write of 4 bytes outside y (buffer 1), 0 bytes after its 120 bytes" in found(
        lib.shift, x, y[:30], 0, threads=40
    )
    lib.shift(x, y, 3, threads=47)
    assert y.tolist() == [*range(3, 50), 0, 0, 0]


def test_half_a_vector_beyond(lib: Any) -> None:
    x = torch.zeros(16, dtype=torch.float16)
    assert "write of 2 bytes outside x (buffer 0), 6 bytes after its 32 bytes in <source>:10" in found(
        lib.store, x, 4, threads=1
    )
    lib.store(x, 3, threads=1)
    assert x[15] == 1


def test_threadgroup_arrays_are_separate(lib: Any) -> None:
    x = torch.arange(64.0)
    message = found(lib.shared, x, 64, threads=64, group_size=64)
    assert "read of 4 bytes outside threadgroup memory, 0 bytes after a 256-byte variable in <source>:18" in message
    lib.shared(x, 63, threads=64, group_size=64)
    assert x.tolist() == [*(float(i + 1 + 126) for i in range(63)), 126]


def test_private_arrays_on_fibres(lib: Any) -> None:
    x = torch.zeros(96)
    assert "outside a private array in <source>:25" in found(lib.priv, x, 4, threads=96, group_size=96)
    lib.priv(x, 3, threads=96, group_size=96)
    assert x.tolist() == [4.0 + i for i in range(96)]


def test_constants_have_their_size_too(lib: Any) -> None:
    x = torch.zeros(3)
    assert "outside w (buffer 1), 0 bytes after its 8 bytes" in found(lib.weights, x, [1, 2])
    lib.weights(x, [1, 2, 3])
    assert x.tolist() == [1, 2, 3]


def test_overlapping_tensors_stay_one_memory(lib: Any) -> None:
    x = torch.arange(33.0)
    lib.add(x, x[:32], threads=32)
    assert x.tolist() == [*(2.0 * i + 1 for i in range(32)), 32]
    assert "a (buffer 0) and b (buffer 1)" in found(lib.add, x, x, threads=33)


def test_the_emulators_own_checks_still_hold(lib: Any) -> None:
    message = found(lib.uneven, torch.zeros(32), threads=32, group_size=32)
    assert "divergent threadgroup_barrier" in message
    assert "<source>:37" in message


def test_an_empty_buffer_has_nothing_to_touch(lib: Any) -> None:
    assert "outside" in found(lib.weights, torch.zeros(0), [1.0], threads=1)
