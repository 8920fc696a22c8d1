"""8 x 8 matrices of a simdgroup: loads, stores, products and transposes, in the emulator and on the GPUs present."""

import pytest
import torch

from elinvar import metal
from elinvar.errors import MetalLaunchError, MetalSyntaxError

SOURCE = """
#include <metal_stdlib>
using namespace metal;
kernel void products(device const T* a [[buffer(0)]], device const T* b [[buffer(1)]],
                     device float* y [[buffer(2)]], device T* z [[buffer(3)]],
                     uint number [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]])
{
    threadgroup T shared[2][8 * ROW];
    for (uint i = lane; i < 64; i += 32) shared[number][i / 8 * ROW + i % 8] = b[number * 64 + i];
    simdgroup_barrier(mem_flags::mem_threadgroup);
    a += number * 64; y += number * 256; z += number * 128;
    simdgroup_matrix<T, 8, 8> left, left_turned, right, right_turned;
    simdgroup_float8x8 sum = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
    simdgroup_load(left, a, 8);
    simdgroup_load(left_turned, a, 8, ulong2(0), true);
    simdgroup_load(right, shared[number], ROW);
    simdgroup_load(right_turned, shared[number], ROW, ulong2(0), true);
    simdgroup_multiply_accumulate(sum, left, right, sum);
    simdgroup_store(sum, y, 8);
    simdgroup_multiply(sum, left, right_turned);
    simdgroup_store(sum, y + 64, 8);
    simdgroup_multiply_accumulate(sum, left_turned, right_turned, sum);
    simdgroup_store(sum, y + 128, 8, ulong2(0), true);
    simdgroup_store(simdgroup_float8x8(2.0f), y + 192, 8);
    simdgroup_store(left_turned, z, 8);
    simdgroup_store(left, z + 64, 8);
}
kernel void elements(device const T* a [[buffer(0)]], device const T* b [[buffer(1)]], device T* y [[buffer(2)]])
{
    simdgroup_matrix<T, 8, 8> left, right;
    simdgroup_load(left, a, 8, ulong2(0), true);
    simdgroup_load(right, b, 8);
    right.thread_elements() = max(left.thread_elements(), right.thread_elements());
    simdgroup_store(right, y, 8);
    simdgroup_store(left, y + 64, 8);
}
kernel void sums(device const half* a [[buffer(0)]], device const half* b [[buffer(1)]], device half* y [[buffer(2)]])
{
    simdgroup_half8x8 left, right, sum = make_filled_simdgroup_matrix<half, 8, 8>(half(0.5f));
    for (uint k = 0; k < 3; k++) {
        simdgroup_load(left, a + 8 * k, 24);
        simdgroup_load(right, b + 8 * k, 24, ulong2(0), true);
        simdgroup_multiply_accumulate(sum, left, right, sum);
    }
    const half2 mine = sum.thread_elements();
    const half4 twice = max(half4(mine, mine), half4(-mine, half2(0.0h)));
    sum.thread_elements() = min(fmax(twice.xy, twice.zw), half2(0.75h));
    simdgroup_store(sum, y, 8);
}
kernel void corner(device const float* a [[buffer(0)]], device float* y [[buffer(1)]])
{
    simdgroup_float8x8 m;
    simdgroup_load(m, a, 16, ulong2(4, 8));
    simdgroup_store(m, y, 16, ulong2(8, 0));
}
"""
TYPES = {"half": torch.float16, "bfloat": torch.bfloat16, "float": torch.float32}
PRESENT = [
    pytest.param("cpu", marks=pytest.mark.gxx),
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")),
    pytest.param("mps", marks=pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no Apple GPU")),
]


@pytest.mark.parametrize("device", PRESENT)
@pytest.mark.parametrize(("name", "row"), [("half", 10), ("half", 9), ("bfloat", 16), ("float", 9)])
def test_products_and_transposes(device, name, row):
    library = metal.compile(SOURCE, device, defines={"T": name, "ROW": row})
    make = torch.Generator().manual_seed(row)
    a, b = (torch.randn(2, 8, 8, generator=make).to(TYPES[name]).to(device) for _ in "ab")
    y, z = torch.zeros(2, 4, 8, 8, device=device), torch.zeros(2, 2, 8, 8, dtype=a.dtype, device=device)
    library.products(a, b, y, z, threads=64, group_size=64)
    left, right = a.double().cpu(), b.double().cpu()
    expected = [
        left @ right + 1,
        left @ right.mT,
        (left @ right.mT + left.mT @ right.mT).mT,
        2 * torch.eye(8, dtype=torch.float64).expand(2, 8, 8),
    ]
    torch.testing.assert_close(y.double().cpu(), torch.stack(expected, 1), rtol=1e-5, atol=1e-5)
    assert torch.equal(z[:, 0], a.mT)
    assert torch.equal(z[:, 1], a)


@pytest.mark.parametrize("device", PRESENT)
@pytest.mark.parametrize("name", TYPES)
def test_elements_of_turned_and_straight_matrices_meet(device, name):
    library = metal.compile(SOURCE, device, defines={"T": name, "ROW": 8})
    make = torch.Generator().manual_seed(3)
    a, b = (torch.randn(8, 8, generator=make).to(TYPES[name]).to(device) for _ in "ab")
    y = torch.zeros(2, 8, 8, dtype=a.dtype, device=device)
    library.elements(a, b, y, threads=32, group_size=32)
    assert torch.equal(y[0], torch.maximum(a.mT, b))
    assert torch.equal(y[1], a.mT)


@pytest.mark.parametrize("device", PRESENT)
def test_sums_of_halves(device):
    library = metal.compile(SOURCE, device, defines={"T": "half", "ROW": 8})
    make = torch.Generator().manual_seed(4)
    a, b = (torch.nn.functional.normalize(torch.randn(8, 24, generator=make), dim=1).half().to(device) for _ in "ab")
    y = torch.zeros(8, 8, dtype=torch.float16, device=device)
    library.sums(a, b, y, threads=32, group_size=32)
    expected = (a.double() @ b.double().T + 0.5).abs().clamp_max(0.75)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=4 * 2.0**-10)


@pytest.mark.parametrize("device", PRESENT)
def test_origins(device):
    a, y = torch.arange(256.0, device=device).view(16, 16), torch.zeros(16, 16, device=device)
    library = metal.compile(SOURCE, device, defines={"T": "half", "ROW": 8})
    library.corner(a, y, threads=32, group_size=32)
    assert torch.equal(y[:8, 8:], a[8:, 4:12])
    assert y[8:].abs().sum() == 0
    with pytest.raises(MetalLaunchError, match="needs group_size=: it uses simd operations"):
        library.corner(a, y, threads=32)


def test_asynchronous_copies_are_refused():
    with pytest.raises(MetalSyntaxError, match="asynchronous copies exist on Apple GPUs only"):
        metal.compile("kernel void k(device float* y) { simdgroup_async_copy(y, y, 1); }", "cpu")
