"""Nothing is lent again that somebody still holds, and debug mode shows who reads what is not theirs."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch

from elinvar.runtime import _storage
from elinvar.runtime.memory import Lease, Pool
from elinvar.testing import FakeMemory

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


@pytest.fixture
def pool() -> Pool:
    return Pool("cpu", debug=False)


def nbytes(pool: Pool, n: int) -> Lease:
    return pool.acquire((n,), torch.uint8)


HOLDERS: dict[str, Callable[[torch.Tensor], object]] = {
    "slice": lambda t: t[1:],
    "reshape": lambda t: t.view(2, -1),
    "transpose": lambda t: t.view(2, -1).t(),
    "detach": lambda t: t.detach(),
    "dtype view": lambda t: t.view(torch.int32),
    "numpy": lambda t: t.numpy(),
    "numpy of a numpy": lambda t: t.numpy()[3:],
    "asarray": np.asarray,
    "dlpack": torch.utils.dlpack.to_dlpack,
    "numpy through dlpack": np.from_dlpack,
    "storage": lambda t: t.untyped_storage(),
    "split": lambda t: t.split(2)[1],
    "autograd, not a leaf": lambda t: (torch.ones(8, requires_grad=True) * t).sum(),
    "autograd, its own leaf": lambda t: t.requires_grad_() * 2,
    "parameter": torch.nn.Parameter,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_held_storage_is_left_to_torch(holder: str) -> None:
    memory = FakeMemory()
    pool = Pool("cpu", allocate=memory, debug=True)  # poisoning must not touch it either
    lease = pool.acquire((8,), torch.float32, clear=True)
    lease.tensor.fill_(3)
    held = HOLDERS[holder](lease.tensor)
    lease.release()
    now = pool.stats()
    assert (now.escaped, now.total_pooled, now.total_memory, pool.live) == (1, 0, 0, 0)
    assert memory.used == 512
    for _ in range(3):
        with pool.acquire((8,), torch.float32) as other:
            other.tensor.fill_(-1)
    assert pool.stats().allocation_count == 2
    if isinstance(held, torch.Tensor) and held.grad_fn is not None and held.dim() == 0:
        assert held.item() == 24
    elif isinstance(held, (torch.Tensor, np.ndarray)):
        assert float(np.asarray(torch.as_tensor(held).detach().reshape(-1)[0])) in (3.0, 6.0, float(0x40400000))
    del held
    gc.collect()
    assert pool.stats().escaped == 1  # never recycled, even now that nobody holds it
    assert pool.stats().total_pooled == 1
    assert memory.used == 512  # torch has freed it; only the second buffer is alive


def test_once_the_view_is_gone_before_release_it_is_recycled(pool: Pool) -> None:
    """The same holders, let go in time, leave no mark."""
    for holder in HOLDERS.values():
        lease = pool.acquire((8,), torch.float32, clear=True)
        held = holder(lease.tensor)
        del held
        lease.release()
    assert pool.stats().escaped == 0
    assert pool.stats().allocation_count == 1


def test_writing_one_lease_never_disturbs_anothers_backward(pool: Pool) -> None:
    w = torch.ones(64, requires_grad=True)
    with pool.frame():
        a, b = pool.acquire((64,)), pool.acquire((64,))
        a.tensor.fill_(3)
        loss = (w * a.tensor).sum()
        b.tensor.fill_(-1)  # would raise "modified by an inplace operation" if they shared a version counter
        b.tensor.mul_(2)
        loss.backward()
    assert w.grad is not None
    assert bool((w.grad == 3).all())


def test_a_lease_saved_by_autograd_is_never_recycled(pool: Pool) -> None:
    w = torch.ones(64, requires_grad=True)
    with pool.acquire((64,)) as lease:
        lease.tensor.fill_(3)
        loss = (w * lease.tensor).sum()
    assert pool.stats().escaped == 1
    for _ in range(20):
        with pool.acquire((64,)) as other:
            other.tensor.fill_(-1)
    loss.backward()
    assert w.grad is not None
    assert bool((w.grad == 3).all())
    assert pool.stats().escaped == 1


def test_an_output_saved_by_autograd_is_noticed(pool: Pool) -> None:
    w = torch.zeros(64, requires_grad=True)
    with pool.acquire((64,)) as lease:
        lease.tensor.copy_(w).exp_()  # exp saves its own result
        loss = lease.tensor.sum()
    assert pool.stats().escaped == 1
    with pool.acquire((64,)) as other:
        other.tensor.fill_(-1)
    loss.backward()
    assert w.grad is not None
    assert bool((w.grad == 1).all())


def test_backward_before_release_lets_the_buffer_come_back(pool: Pool) -> None:
    w = torch.ones(64, requires_grad=True)
    for _ in range(5):
        with pool.acquire((64,)) as lease:
            lease.tensor.fill_(3)
            (w * lease.tensor).sum().backward()
    assert (pool.stats().allocation_count, pool.stats().escaped) == (1, 0)


def test_a_mere_name_costs_a_buffer_until_it_is_gone_and_never_wrong_data(pool: Pool) -> None:
    lease = pool.acquire((8,), torch.float32)
    name = lease.tensor
    name.fill_(3)
    lease.release()
    assert (pool.stats().escaped, pool.stats().total_memory) == (1, 0)
    with pool.acquire((8,), torch.float32) as other:
        other.tensor.fill_(-1)
        assert pool.stats().allocation_count == 2
    assert bool((name == 3).all())
    del name
    now = pool.stats()
    assert (now.escaped, now.total_pooled, now.total_memory) == (0, 2, 1024)


def test_a_loop_variable_costs_one_buffer_not_one_per_round(pool: Pool) -> None:
    for step in range(50):
        with pool.acquire((8,), torch.float32) as lease:
            tensor = lease.tensor  # still names the last round's when the next one asks
            tensor.fill_(step)
    assert pool.stats().allocation_count == 2
    assert pool.stats().reuse_count == 48
    del tensor


def test_a_view_taken_after_release_keeps_the_buffer_out(pool: Pool) -> None:
    lease = pool.acquire((8,), torch.float32)
    name = lease.tensor
    name.fill_(3)
    lease.release()
    view = name[2:]
    del name
    with pool.acquire((8,), torch.float32) as other:
        other.tensor.fill_(-1)
    assert bool((view == 3).all())
    assert pool.stats().escaped == 1


def test_named_buffers_are_bounded() -> None:
    memory = FakeMemory()
    pool = Pool("cpu", per_class=2, allocate=memory)
    names = []
    for _ in range(5):
        with pool.acquire((8,)) as lease:
            names.append(lease.tensor)
    assert pool.stats().escaped == 5
    names.clear()
    assert pool.stats().escaped == 3
    assert pool.stats().total_pooled == 2
    assert memory.used == 1024


def test_clear_forgets_named_buffers() -> None:
    memory = FakeMemory()
    pool = Pool("cpu", allocate=memory)
    with pool.acquire((8,)) as lease:
        name = lease.tensor
    pool.clear()
    del name
    assert memory.used == 0
    assert pool.stats().escaped == 1


def test_a_named_buffer_that_comes_back_respects_the_budget() -> None:
    pool = Pool("cpu", budget_bytes=1024)
    with pool.acquire((256,)) as lease:
        name = lease.tensor
    other = pool.acquire((256,))
    del name
    assert pool.stats().total_memory == 1024
    assert pool.stats().bytes_live == 1024
    other.release()
    assert pool.live == 0


def test_a_resized_storage_is_not_recycled(pool: Pool) -> None:
    """FSDP and ``resize_`` change a storage under us: its class would be a lie."""
    with pool.acquire((8,)) as lease:
        lease.tensor.untyped_storage().resize_(4096)
    with pool.acquire((8,)) as lease:
        lease.tensor.untyped_storage().resize_(0)
    assert pool.stats().escaped == 2


def test_a_lost_lease_comes_back(pool: Pool) -> None:
    nbytes(pool, 8)
    gc.collect()
    assert pool.live == 0
    assert pool.stats().total_pooled == 1
    tensor = nbytes(pool, 8).tensor.fill_(3)  # lease gone, tensor in use
    with nbytes(pool, 8) as other:
        other.tensor.fill_(5)
    assert tensor.tolist() == [3] * 8
    assert pool.stats().escaped == 1
    del tensor
    assert pool.stats().escaped == 0


def test_a_lease_lost_in_a_cycle_does_not_deadlock(pool: Pool) -> None:
    for _ in range(30):
        knot: list[object] = [nbytes(pool, 8)]
        knot.append(knot)
        del knot
    gc.collect()
    assert pool.live == 0
    assert pool.stats().bytes_live == 0


def test_without_visible_holders_nothing_is_lent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch whose private counts have changed: slower, never wrong."""
    monkeypatch.setattr(_storage, "_visible", None)
    monkeypatch.setattr(_storage, "_storage_count", lambda pointer: 1)
    with pytest.warns(RuntimeWarning, match="does not show who holds"):
        assert not _storage.holders_visible()
    pool = Pool("cpu")
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # said once
            nbytes(pool, 8).release()
    assert (pool.stats().escaped, pool.stats().reuse_count) == (3, 0)
    monkeypatch.setattr(_storage, "_storage_count", None)
    nbytes(pool, 8).release()
    assert pool.stats().escaped == 4


def test_this_torch_shows_holders() -> None:
    assert _storage.holders_visible()


def test_weakref_callback_on_release_may_use_the_pool(pool: Pool) -> None:
    seen: list[int] = []
    lease = nbytes(pool, 8)
    watch = weakref.finalize(lease.tensor, lambda: seen.append(nbytes(pool, 8).tensor.numel()))
    lease.release()
    assert seen == [8]
    assert not watch.alive
    assert pool.live == 0


# -- debug mode -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.uint8, 0xA5),
        (torch.int16, -0x5A5B),
        (torch.int64, -0x5A5A5A5A5A5A5A5B),
        (torch.bool, True),
    ],
)
def test_debug_poisons_integers_on_acquire(dtype: torch.dtype, value: int) -> None:
    pool = Pool("cpu", debug=True)
    for _ in range(2):
        with pool.acquire((30,), dtype) as lease:
            assert bool((lease.tensor == value).all())
            if dtype == torch.bool:  # other bytes than 0 and 1 are no booleans at all
                assert lease.tensor.view(torch.uint8).tolist() == [1] * 30
            lease.tensor.zero_()


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, *FLOAT8],
)
def test_debug_poisons_floats_with_nan_on_acquire(dtype: torch.dtype) -> None:
    pool = Pool("cpu", debug=True)
    for _ in range(2):
        with pool.acquire((30,), dtype) as lease:
            values = lease.tensor if dtype.is_complex else lease.tensor.to(torch.float32)
            assert bool(values.isnan().all())
            lease.tensor.copy_(torch.zeros(30, dtype=dtype))
            del values


def test_debug_poisons_on_release_so_that_a_stale_name_shows_it() -> None:
    pool = Pool("cpu", debug=True)
    with pool.acquire((30,), torch.float32, clear=True) as lease:
        floats = lease.tensor
        assert bool((floats == 0).all())
    assert bool(floats.isnan().all())
    with pool.acquire((700,), torch.uint8, clear=True) as lease:
        integers = lease.tensor
    assert bool((integers == 0xA5).all())


def test_debug_can_be_switched_and_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ELINVAR_POOL_DEBUG", raising=False)
    pool = Pool("cpu")
    assert pool.debug is False
    assert pool.set_debug(True) is False
    assert pool.set_debug(False) is True
    monkeypatch.setenv("ELINVAR_POOL_DEBUG", "1")
    assert Pool("cpu").debug is True
    assert Pool("cpu", debug=False).debug is False
    monkeypatch.setenv("ELINVAR_POOL_DEBUG", "0")
    assert Pool("cpu").debug is False
