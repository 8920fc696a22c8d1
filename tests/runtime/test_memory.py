"""The pool keeps every promise of its documentation: leases, errors, grad mode, the process."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import (
    BudgetExceeded,
    DeviceUnavailable,
    DoubleRelease,
    ForeignLease,
    FrozenPool,
    InputError,
    PoolError,
    StaleLease,
)
from elinvar.runtime import _storage
from elinvar.runtime.device import Runtime
from elinvar.runtime.memory import Lease, Pool, keep_pages, live_leases, refuse_grad

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


@pytest.fixture
def pool() -> Pool:
    return Pool("cpu", debug=False)


def nbytes(pool: Pool, n: int) -> Lease:
    return pool.acquire((n,), torch.uint8)


def storage(lease: Lease) -> int:
    """The address of a lease's memory, without keeping anything alive."""
    return lease.tensor.data_ptr()


# -- what a lease is --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    shape=st.lists(st.integers(1, 9), max_size=4).map(tuple),
    dtype=st.sampled_from(
        [torch.float32, torch.float64, torch.float16, torch.uint8, torch.int64, torch.bool, torch.complex64, *FLOAT8]
    ),
)
def test_a_lease_is_an_ordinary_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    pool = Pool("cpu")
    for _ in range(2):  # new, then reused
        with pool.acquire(shape, dtype) as lease:
            assert lease.tensor.shape == shape
            assert lease.tensor.dtype == dtype
            assert lease.tensor.is_contiguous()
            assert lease.tensor.storage_offset() == 0
            assert lease.tensor.is_leaf
            assert not lease.tensor.requires_grad
            assert not lease.tensor._is_view()
            assert lease.tensor.data_ptr() % 64 == 0
            size = lease.tensor.untyped_storage().nbytes()
            assert size == _storage.class_bytes(lease.tensor.numel() * dtype.itemsize)
    assert pool.stats().reuse_count == 1


@pytest.mark.parametrize(
    ("wanted", "served"),
    [(1, 512), (511, 512), (512, 512), (513, 1024), (1024, 1024), (1025, 2048), (600 << 20, 1 << 30)],
)
def test_classes_are_powers_of_two_bytes_from_512(wanted: int, served: int) -> None:
    assert _storage.class_bytes(wanted) == served


def test_class_is_by_bytes_whatever_the_dtype(pool: Pool) -> None:
    """A buffer of 1024 half floats must never be handed out for 1024 floats."""
    nbytes(pool, 2048).release()
    with pool.acquire((1024,), torch.float16) as half:
        assert pool.stats().reuse_count == 1
        assert half.tensor.untyped_storage().nbytes() == 2048
        with pool.acquire((1024,), torch.float32) as single:
            assert pool.stats().reuse_count == 1
            assert single.tensor.untyped_storage().nbytes() == 4096


def test_one_buffer_is_one_storage(pool: Pool) -> None:
    leases = [nbytes(pool, 512) for _ in range(8)]
    assert len({lease.tensor.untyped_storage().data_ptr() for lease in leases}) == 8
    assert all(lease.tensor.untyped_storage().nbytes() == 512 for lease in leases)


def test_shapes_may_be_ints_lists_and_sizes(pool: Pool) -> None:
    for shape in (6, [6], (6,), torch.Size([6]), np.int64(6), (np.int32(6),), (6.0,)):
        with pool.acquire(shape) as lease:  # type: ignore[arg-type]
            assert lease.tensor.shape == (6,)
            assert lease.tensor.dtype == torch.float32
    with pool.acquire(()) as lease:
        assert lease.tensor.shape == ()


def test_clear_fills_zeros_and_only_then(pool: Pool) -> None:
    with nbytes(pool, 600) as lease:
        lease.tensor.fill_(7)
        address = storage(lease)
    with nbytes(pool, 600) as lease:
        assert storage(lease) == address
        assert bool((lease.tensor == 7).all())  # uninitialised means untouched
    with pool.acquire((150,), torch.float32, True) as lease:
        assert storage(lease) == address
        assert bool((lease.tensor == 0).all())


def test_tensor_is_the_same_object_while_on_loan_and_refused_afterwards(pool: Pool) -> None:
    lease = nbytes(pool, 8)
    assert lease.tensor is lease.tensor
    assert not lease.released
    assert "uint8 on cpu" in repr(lease)
    lease.release()
    assert lease.released
    assert repr(lease) == "<Lease released>"
    with pytest.raises(StaleLease, match="was released"):
        _ = lease.tensor


@pytest.mark.parametrize("debug", [False, True])
def test_a_lease_works_in_inference_mode_and_out_of_it(*, debug: bool) -> None:
    pool = Pool("cpu", debug=debug)
    with torch.inference_mode(), nbytes(pool, 8) as lease:
        lease.tensor.fill_(1)
        assert not lease.tensor.is_inference()
    with nbytes(pool, 8) as lease:
        lease.tensor.fill_(2)
    assert pool.stats().reuse_count == 1


def test_what_a_user_does_to_a_tensor_never_reaches_the_next_user(pool: Pool) -> None:
    with pool.acquire((4,), torch.float32, clear=True) as lease:
        lease.tensor.requires_grad_()
        (lease.tensor * 2).sum().backward()
        assert lease.tensor.grad is not None
        lease.tensor.marker = 1  # type: ignore[attr-defined]
        address = storage(lease)
    with pool.acquire((4,), torch.float32) as lease:
        assert storage(lease) == address
        assert not lease.tensor.requires_grad
        assert lease.tensor.grad is None
        assert not hasattr(lease.tensor, "marker")
        w = torch.ones(4, requires_grad=True)
        lease.tensor.copy_(w * 2)
        assert lease.tensor.requires_grad
        lease.tensor.sum().backward()
        assert w.grad is not None
    with pool.acquire((4,), torch.float32) as lease:
        assert storage(lease) == address
        assert not lease.tensor.requires_grad


# -- errors that change nothing ---------------------------------------------------------------------------------------


def test_double_release(pool: Pool) -> None:
    lease = nbytes(pool, 8)
    lease.release()
    before = pool.stats()
    for again in (lease.release, lambda: pool.release(lease)):
        with pytest.raises(DoubleRelease, match="released before"):
            again()
    other = nbytes(pool, 8)  # the buffer is on loan again: the old lease has no power over it
    with pytest.raises(DoubleRelease):
        lease.release()
    assert not other.released
    other.release()
    assert pool.stats().total_pooled == before.total_pooled == 1


def test_foreign_release(pool: Pool) -> None:
    other = Pool("cpu")
    lease = nbytes(pool, 8)
    before = pool.stats(), other.stats()
    with pytest.raises(ForeignLease, match="belongs to another pool"):
        other.release(lease)
    assert (pool.stats(), other.stats()) == before
    assert not lease.released
    pool.release(lease)


def test_stale_release_of_a_copy(pool: Pool) -> None:
    lease = nbytes(pool, 8)
    twin = copy.copy(lease)
    lease.release()
    with pytest.raises(StaleLease):
        twin.release()
    with nbytes(pool, 8) as other:
        before = pool.stats()
        with pytest.raises(StaleLease):
            twin.release()
        with pytest.raises(StaleLease):
            _ = twin.tensor
        assert pool.stats() == before
        assert not other.released
    del twin
    assert pool.live == 0


def test_releasing_something_else(pool: Pool) -> None:
    with pytest.raises(InputError, match="not a Lease"):
        pool.release(torch.zeros(1))  # type: ignore[arg-type]


def test_all_pool_errors_are_one_family() -> None:
    for error in (DoubleRelease, ForeignLease, StaleLease, FrozenPool, BudgetExceeded):
        assert issubclass(error, PoolError)


def test_with_block_tolerates_an_early_release_and_releases_on_an_exception(pool: Pool) -> None:
    with nbytes(pool, 8) as lease:
        lease.release()
    with pytest.raises(ZeroDivisionError), nbytes(pool, 8):
        _ = 1 / 0
    assert pool.live == 0


@pytest.mark.parametrize("shape", [(0,), (3, 0), (-1,), (2, -3), (1.5,), ("a",), None, "ab", (None,), float("nan"), {}])
def test_bad_shapes(pool: Pool, shape: object) -> None:
    with pytest.raises(InputError, match=r"Pool.acquire: shape .* every dimension is a whole number from 1"):
        pool.acquire(shape)  # type: ignore[arg-type]
    assert pool.stats().requests == 0


@pytest.mark.parametrize("dtype", ["float32", np.float32, float, None, 4])
def test_bad_dtypes(pool: Pool, dtype: object) -> None:
    with pytest.raises(InputError, match=r"pass for example torch\.float32"):
        pool.acquire((4,), dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.quint8, torch.qint32, torch.bits8, torch.uint4, torch.int1])
def test_dtypes_without_arithmetic(pool: Pool, dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=f"{dtype} has no arithmetic of its own"):
        pool.acquire((4,), dtype)


def test_absurd_sizes(pool: Pool) -> None:
    with pytest.raises(InputError, match="more than any device addresses"):
        pool.acquire((1 << 40, 1 << 40))


@pytest.mark.parametrize("value", [-1, 1.5, "1", True, float("inf")])
def test_bad_counts(value: object) -> None:
    with pytest.raises(InputError, match="budget_bytes"):
        Pool("cpu", budget_bytes=value)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="per_class"):
        Pool("cpu", per_class=value)  # type: ignore[arg-type]
    pool = Pool("cpu", 4096, 3)
    for call in (pool.set_budget, pool.set_per_class, pool.shrink_to_fit, pool.clear_size):
        with pytest.raises(InputError, match=f"Pool.{call.__name__}"):
            call(value)  # type: ignore[arg-type]
    assert (pool.budget_bytes, pool.per_class) == (4096, 3)


def test_bad_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceUnavailable, match="present here"):
        Pool("cuda:5")
    with pytest.raises(InputError):
        Pool("meta")


def test_a_device_that_lacks_a_dtype_leaves_no_trace(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    nbytes(pool, 512).release()

    def refuse(self: _storage.Buffer, spec: _storage.Spec) -> torch.Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    monkeypatch.setattr(_storage.Buffer, "_view", refuse)
    with pytest.raises(InputError, match=r"cpu cannot hold torch\.float64 .*use another"):
        pool.acquire((7,), torch.float64)
    monkeypatch.undo()
    now = pool.stats()
    assert (now.bytes_live, now.bytes_waste, now.escaped, now.total_pooled, pool.live) == (0, 0, 0, 1, 0)
    with pool.acquire((7,), torch.float64):
        assert pool.stats().bytes_waste == 512 - 56


# -- grad mode --------------------------------------------------------------------------------------------------------


def test_given_memory_and_gradients_do_not_mix() -> None:
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(InputError, match=r"fused_add: an input requires a gradient.*torch\.no_grad"):
        refuse_grad(torch.ones(2), None, 3.0, w, operation="fused_add")
    refuse_grad(torch.ones(2), None)
    with torch.no_grad():
        refuse_grad(w)
    with torch.inference_mode():
        refuse_grad(w)


# -- the process ------------------------------------------------------------------------------------------------------


def test_live_leases_counts_all_pools(pool: Pool) -> None:
    before = live_leases()
    other = Pool("cpu")
    a, b = nbytes(pool, 8), nbytes(other, 8)
    assert live_leases() == before + 2
    a.release()
    b.release()
    assert live_leases() == before


def test_a_pool_dies_with_its_last_name() -> None:
    pool = Pool("cpu")
    nbytes(pool, 8).release()
    watch = weakref.ref(pool)
    del pool
    gc.collect()
    assert watch() is None


def test_a_pool_says_what_it_is() -> None:
    pool = Pool(Runtime().device("cpu"), budget_bytes=4096)
    with nbytes(pool, 8):
        assert repr(pool) == "<Pool on cpu: 512 bytes live, 0 cached, limit 4096>"
    assert repr(Pool("cpu")) == "<Pool on cpu: 0 bytes live, 0 cached, no limit>"


def test_endless_new_shapes_do_not_grow_tables(pool: Pool) -> None:
    buffer = None
    for n in range(1, _storage._MOST_SPECS + 50):
        with pool.acquire((n,), torch.uint8):
            pass
    assert len(_storage.SPECS) <= _storage._MOST_SPECS
    for waiting in pool._shelf.free.values():
        for buffer in waiting:
            assert len(buffer.views) <= _storage._MOST_VIEWS
    assert buffer is not None
    assert pool.stats().escaped == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc keeps pages")
def test_keep_pages_stops_page_faults() -> None:
    """In a process of its own, for there is no way back."""
    code = """
import resource, sys, torch
from elinvar import keep_pages
if sys.argv[1] == "keep" and not keep_pages():
    print("unsupported")
    sys.exit()
x = torch.ones(16 << 20)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        (x * 2) + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(6)))  # the heap may still grow in the first rounds
"""
    counts = {}
    for mode in ("keep", "default"):
        done = subprocess.run(
            [sys.executable, "-c", code, mode], check=True, timeout=120, capture_output=True, text=True
        )
        if done.stdout.strip() == "unsupported":
            pytest.skip("no glibc")
        counts[mode] = int(done.stdout)
    assert counts["keep"] < 100  # of 98,304: three rounds of two 64 MB temporaries in pages of 4 KB
    assert counts["default"] > 1000  # fewer where the kernel gives huge pages unasked


def test_keep_pages_elsewhere_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_pages() is False
