import pytest
import torch

from elinvar import Pool, tensor
from elinvar.errors import DeviceOutOfMemory, InputError
from elinvar.runtime.tuning import save_tuned
from elinvar.tensor import batching
from elinvar.testing import FakeMemory


def test_results_in_order_whatever_the_shapes():
    sizes = []

    def double(x):
        sizes.append(tuple(x.shape))
        return x * 2

    items = [torch.full((1 + k % 2,), float(k)) for k in range(7)]
    done = tensor.batched(double, items, max_batch=3)
    assert all(torch.equal(y, 2 * x) for x, y in zip(items, done, strict=True))
    assert sorted(sizes) == [(1, 1), (3, 1), (3, 2)]
    assert (done.batch, done.halvings, done.calls) == (3, 0, 3)


def test_tuples_and_nothing():
    done = tensor.batched(lambda x: (x + 1, x.sum(1)), [torch.ones(2), torch.zeros(2)])
    assert [float(total) for _, total in done] == [2.0, 0.0]
    assert tensor.batched(lambda x: x, []) == []


def test_out_of_memory_halves_the_batch_after_shrinking_the_pool():
    memory = FakeMemory(capacity=4096)
    pool = Pool("cpu", allocate=memory)
    pool.acquire((256,), torch.float32).release()  # 1 KB waits
    tried = []

    def model(x):
        tried.append(len(x))
        with pool.frame():
            return tensor.affine(x, 2.0, 1.0, pool=pool).clone()

    items = [torch.full((256,), float(k)) for k in range(16)]  # 1 KB each: four fit
    done = tensor.batched(model, items, max_batch=16, pool=pool)
    assert all(torch.equal(y, 2 * x + 1) for x, y in zip(items, done, strict=True))
    assert tried == [16, 8, 4, 4, 4, 4]
    assert (done.batch, done.halvings, done.calls) == (4, 2, 4)
    assert pool.live == 0


def test_a_single_item_that_does_not_fit_is_an_error():
    pool = Pool("cpu", allocate=FakeMemory(capacity=512))
    with pytest.raises(DeviceOutOfMemory):
        tensor.batched(lambda x: pool.acquire(x.shape).tensor, [torch.ones(1024)] * 4, max_batch=4, pool=pool)
    with pytest.raises(RuntimeError, match="something else"):
        tensor.batched(_broken, [torch.ones(2)] * 4)


def _broken(_):
    raise RuntimeError("something else")


def test_sizes_are_defaults_until_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path))
    from elinvar import device

    assert tensor.batch_sizes("linear", "cpu") == batching.DEFAULT_SIZES["cpu"]
    save_tuned(device("cpu").profile, "option.tensor.batch.linear", [3, 5])
    assert tensor.batch_sizes("linear", "cpu") == (3, 5)
    done = tensor.batched(lambda x: x, [torch.ones(2)] * 7)
    assert (done.batch, done.calls) == (5, 2)


def test_bad_input():
    with pytest.raises(InputError, match="inputs is a tensor"):
        tensor.batched(lambda x: x, torch.ones(3))
    with pytest.raises(InputError, match="item 1 is a int"):
        tensor.batched(lambda x: x, [torch.ones(3), 1])
    with pytest.raises(InputError, match="item 1 on meta"):
        tensor.batched(lambda x: x, [torch.ones(3), torch.ones(3, device="meta")])
    with pytest.raises(InputError, match="max_batch=0"):
        tensor.batched(lambda x: x, [torch.ones(3)], max_batch=0)
    with pytest.raises(InputError, match=r"returned \(\) for 2 items"):
        tensor.batched(lambda x: x.sum(), [torch.ones(3)] * 2)
    with pytest.raises(InputError, match="returned NoneType"):
        tensor.batched(lambda _: None, [torch.ones(3)])
