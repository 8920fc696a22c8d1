import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar import tensor, transfers
from elinvar.errors import InputError


def test_split_keeps_the_order_of_the_data():
    x = torch.arange(12).view(4, 3)
    first, second = tensor.split(x, 2)
    assert first.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert second.tolist() == [[6, 7, 8], [9, 10, 11]]


@settings(max_examples=30, deadline=None)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), count=st.integers(1, 4), data=st.data())
def test_stack_and_unbind_cat_and_split_undo_each_other(shape, count, data):
    items = [torch.randn(shape) for _ in range(count)]
    dim = data.draw(st.integers(-len(shape) - 1, len(shape)))
    back = tensor.unbind(tensor.stack(items, dim), dim)
    assert all(torch.equal(a, b) for a, b in zip(items, back, strict=True))
    along = data.draw(st.integers(-len(shape), len(shape) - 1))
    pieces = tensor.split(tensor.cat(items, along), [t.shape[along] for t in items], along)
    assert all(torch.equal(a, b) for a, b in zip(items, pieces, strict=True))


def test_names_sizes_and_views():
    x = torch.arange(7.0)
    assert tensor.unstack is tensor.unbind
    assert [len(p) for p in tensor.split(x, 3)] == [3, 3, 1]
    assert tensor.split(x[:0], 3) == []
    tensor.split(x, 3)[0].zero_()
    assert float(x[:3].sum()) == 0.0


def test_out_and_pool(pool):
    items = [torch.ones(2, 3), torch.zeros(2, 3)]
    out = torch.empty(4, 3)
    assert tensor.cat(items, out=out) is out
    with pool.frame():
        assert torch.equal(tensor.stack(items, pool=pool), torch.stack(items))
    assert pool.stats().requests == 1
    grad = torch.ones(2, requires_grad=True)
    tensor.stack([grad, grad], pool=pool).sum().backward()
    assert grad.grad.tolist() == [2.0, 2.0]
    with pytest.raises(InputError, match="requires a gradient"):
        tensor.cat([grad, grad], out=torch.empty(4))
    with pytest.raises(InputError, match="overlaps"):
        memory = torch.zeros(8)
        tensor.cat([memory[:4]], out=memory[2:6])


def test_one_copy_for_many_tensors():
    items = [torch.ones(3), torch.arange(5), torch.ones(2, 2, dtype=torch.float16), torch.ones(0, 4)]
    with transfers.count() as counted:
        moved = tensor.to_device(items, torch.device("meta"))
    assert counted.h2d_calls == 1
    assert [(t.shape, t.dtype, t.device.type) for t in moved] == [(t.shape, t.dtype, "meta") for t in items]
    assert all(t.storage_offset() * t.element_size() % 256 == 0 for t in moved)


def test_nothing_moves_that_is_there_already():
    items = [torch.ones(3), torch.ones(4)]
    with transfers.count() as counted:
        assert all(a is b for a, b in zip(tensor.to_device(items, "cpu"), items, strict=True))
    assert counted.h2d_calls == 0


def test_packing_keeps_values():
    from elinvar.tensor.lists import _slot

    packed = torch.zeros(1024, dtype=torch.uint8)
    x = torch.randn(3, 4).t()
    _slot(packed, 256, x).copy_(x)
    assert torch.equal(_slot(packed, 256, x), x)


def test_bad_input():
    a, b = torch.ones(2, 3), torch.ones(2, 4)
    with pytest.raises(InputError, match=r"item 1 has shape \(2, 4\), item 0 \(2, 3\)"):
        tensor.cat([a, b])
    with pytest.raises(InputError, match=r"stack: item 1 has shape \(2, 4\)"):
        tensor.stack([a, b])
    with pytest.raises(InputError, match=r"item 1 torch\.float64"):
        tensor.cat([a, a.double()])
    with pytest.raises(InputError, match="an empty list"):
        tensor.stack([])
    with pytest.raises(InputError, match="got a Tensor"):
        tensor.cat(a)
    with pytest.raises(InputError, match="item 0 is a int"):
        tensor.cat([1])
    with pytest.raises(InputError, match="dim=2"):
        tensor.cat([a, a], 2)
    with pytest.raises(InputError, match="size=0"):
        tensor.split(a, 0)
    with pytest.raises(InputError, match="add up to 4, dimension 1 has 3"):
        tensor.split(a, [1, 3], 1)
    for wrong in ([], a):
        with pytest.raises(InputError, match="at least one tensor"):
            tensor.to_device(wrong)
    with pytest.raises(InputError, match="item 1 is a str"):
        tensor.to_device([a, "b"])
