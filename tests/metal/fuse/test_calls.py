"""Prepared calls: memory order, stored dtype, overlap, the bare kernel, and calls from several threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import elinvar
from elinvar.errors import InputError


def affine_relu(x, scale, bias):
    return torch.relu(x * scale + bias)


@pytest.fixture(scope="module")
def fused():
    return elinvar.fuse(affine_relu)


def test_channels_last_stays_channels_last(fused):
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    scale, bias = torch.randn(3, 1, 1), torch.randn(3, 1, 1)
    for _ in range(2):
        y = fused(x, scale, bias)
        assert y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y, affine_relu(x, scale, bias))


def test_an_expanded_or_holed_input_gives_a_contiguous_result(fused):
    holed = torch.randn(4, 6)[:, ::2]
    one = torch.ones(())
    assert fused(holed, one, one).is_contiguous()
    assert fused(torch.randn(1, 3).expand(4, 3), one, one).is_contiguous()


def test_the_second_call_of_a_form_gives_what_the_first_gave(fused):
    x, scale, bias = torch.randn(5, 7), torch.randn(7), torch.randn(7)
    first = fused(x, scale, bias)
    assert torch.equal(first, fused(x, scale, bias))
    out = torch.empty(5, 7)
    for _ in range(2):
        assert fused(x, scale, bias, out=out) is out
        assert torch.equal(first, out)


def test_results_like_an_argument():
    layer = elinvar.fuse(lambda x, w: x * w, like=0)
    x, w = torch.randn(4, 8).half(), torch.randn(8)
    for _ in range(2):
        y = layer(x, w)
        assert y.dtype == torch.float16
        torch.testing.assert_close(y, (x.float() * w).half(), rtol=0, atol=0)


def test_out_rounds_to_its_own_dtype():
    add = elinvar.fuse(lambda a, b: a + b)
    a, b = torch.randn(33), torch.randn(33)
    out = torch.empty(33, dtype=torch.bfloat16)
    assert torch.equal(add(a, b, out=out), (a + b).bfloat16())
    with pytest.raises(InputError, match=r"out is torch.int32"):
        add(a, b, out=torch.empty(33, dtype=torch.int32))
    with pytest.raises(InputError, match="expanded"):
        add(a, b, out=torch.empty(1).expand(33))


def test_overlap_is_refused_also_when_prepared():
    add = elinvar.fuse(lambda a, b: a + b)
    memory = torch.zeros(40)
    a, b = memory[:16], torch.ones(16)
    add(a, b, out=memory[16:32])  # prepared now
    with pytest.raises(InputError, match="overlaps an input"):
        add(a, b, out=memory[8:24])
    with pytest.raises(InputError, match="overlaps an input"):
        add(memory[:32:2], b, out=memory[1:33:2])  # interleaved: the spans overlap
    assert add(a, b, out=a) is a
    assert float(memory[:16].sum()) == 16.0


def test_flat_kernel():
    add = elinvar.fuse(lambda a, b: torch.relu(a + b))
    kernel = add.flat(torch.float32)
    a, b, out = torch.randn(50), torch.randn(50), torch.zeros(50)
    kernel(10, 40, 50, a.data_ptr(), b.data_ptr(), out.data_ptr())
    expected = torch.relu(a + b)
    expected[:10], expected[40:] = 0, 0
    assert torch.equal(out, expected)
    with pytest.raises(InputError, match="element-wise"):
        elinvar.fuse(lambda a: a.sum(-1)).flat(torch.float32)


def test_metal_text_and_run(emulator):
    x, scale, bias = torch.randn(3, 8), torch.randn(8), torch.randn(8)
    fused = elinvar.fuse(affine_relu)
    assert "kernel void fused" in fused.source(x, scale, bias, backend="metal")
    torch.testing.assert_close(fused.metal(x, scale, bias), affine_relu(x, scale, bias))
    rows = elinvar.fuse(lambda a: a.sum(-1))
    torch.testing.assert_close(rows.metal(x), x.sum(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_metal_moves_16_bytes_of_half_at_a_time(emulator, dtype):
    x, scale = torch.randn(3, 16).to(dtype), torch.randn(16)
    fused = elinvar.fuse(lambda x, scale: torch.relu(x * scale), like=0)
    assert "uint4" in fused.source(x, scale, backend="metal")
    expected = torch.relu(x.double() * scale.double()).to(dtype)
    torch.testing.assert_close(fused.metal(x, scale), expected, rtol=0, atol=0)
    shifted = torch.randn(3 * 16 + 4).to(dtype)[4:].view(3, 16)  # 8 bytes beyond an aligned start
    assert "uint4" not in fused.source(shifted, scale, backend="metal")
    torch.testing.assert_close(fused.metal(shifted, scale), torch.relu(shifted.double() * scale.double()).to(dtype))


def test_many_shapes_do_not_pile_up(fused):
    one = torch.ones(1)
    for n in range(1, 300):
        fused(torch.ones(n), one, one)
    assert len(fused._ready) <= 256


def test_eight_threads_at_once(fused):
    x = torch.randn(40_000)
    one = torch.ones(())

    def work(k):
        return all(torch.equal(fused(x + k, one, one), torch.relu(x + k + 1)) for _ in range(10))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_memory_that_stands_for_its_negative(fused):
    one = torch.ones(())
    z = torch.randn(4, 6, dtype=torch.complex64)
    for _ in range(2):
        torch.testing.assert_close(fused(z.conj().imag, one, one), torch.relu(1 - z.imag))
        torch.testing.assert_close(fused(z.imag, one, one), torch.relu(1 + z.imag))
    with pytest.raises(InputError, match="negated"):
        fused(one, one, one, out=z[0, 0].conj().imag)
    x = torch.randn(4, 6, requires_grad=True)
    gradients = []
    for function in (fused, affine_relu):  # the gradient of a complex number's part arrives as such a view
        (torch.complex(x, function(x, one, one)).conj() * z).sum().imag.backward()
        gradients.append(x.grad)
        x.grad = None
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("shapes", [((3, 0), (3, 1)), ((2, 0, 3), (3,)), ((2, 3, 0), (2, 1, 1))])
def test_results_without_elements_have_a_kernel_too(shapes):
    add = elinvar.fuse(lambda a, b: a + b)
    args = [torch.empty(shape) for shape in shapes]
    assert add(*args).shape == torch.broadcast_shapes(*shapes)
    assert "kernel void fused" in add.source(*args, backend="metal")


def test_plain_torch_stores_like_an_argument_too():
    x, w = torch.randn(4, 8).half(), torch.randn(8)
    scaled, summed = elinvar.fuse(lambda x, w: x * w, like=0), elinvar.fuse(lambda x, w: (x * w).cumsum(0), like=0)
    assert torch.func.vmap(scaled, (0, None))(x, w).dtype == torch.float16
    assert summed(x, w).dtype == torch.float16
