"""Copies between host and device are counted, and forbidden where no job may make any.

torch's ``meta`` device stands in for a GPU: it has other memory than the host, and every machine has it.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

import pytest
import torch

from elinvar.errors import DeviceUnavailable, InputError, TransferForbidden
from elinvar.runtime.device import device
from elinvar.runtime.transfers import TransferCounts, no_transfers, to_device, to_host, transfers
from elinvar.testing import copyable_meta

META = torch.device("meta")


def far(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device=META)


def test_copies_are_counted_by_direction_and_bytes() -> None:
    with transfers.count() as counter, copyable_meta():
        moved = to_device(torch.ones(3, 5), META)
        assert moved.device == META
        assert counter.counts == TransferCounts(1, 60, 0, 0)
        back = to_host(to_device(torch.ones(7, dtype=torch.float64), META))
        assert back.device.type == "cpu"
        to_host(far(4, dtype=torch.uint8))
    assert counter.counts == TransferCounts(2, 60 + 56, 2, 56 + 4)
    assert (counter.h2d_calls, counter.h2d_bytes, counter.d2h_calls, counter.d2h_bytes) == (2, 116, 2, 60)


def test_a_copy_into_given_memory_is_counted_and_checked() -> None:
    out = torch.ones(2, 3)
    with transfers.count(plain=True) as counter, copyable_meta():
        assert to_host(far(2, 3), out=out) is out
    assert counter.counts == TransferCounts(0, 0, 1, 24)
    assert out.sum() == 0
    with transfers.count() as counter:
        assert to_host(torch.full((2, 3), 7.0), out=out) is out
    assert counter.counts == TransferCounts()
    assert out.min() == 7
    for wrong in (torch.ones(3, 2), torch.ones(2, 3, dtype=torch.float64), far(2, 3)):
        with pytest.raises(InputError, match="to_host: out is"):
            to_host(far(2, 3), out=wrong)
    with no_transfers(), pytest.raises(TransferForbidden):
        to_host(far(2, 3), out=out)


def test_what_is_there_already_is_returned_uncounted() -> None:
    here, there = torch.ones(3), far(3)
    with transfers.count() as counter, no_transfers():
        assert to_host(here) is here
        assert to_device(here, "cpu") is here
        assert to_device(here, device("cpu")) is here
        assert to_device(here, torch.device("cpu")) is here
        assert to_device(there, META) is there
    assert counter.counts == TransferCounts()


def test_a_counter_is_live_and_stops_with_its_block() -> None:
    before = transfers.snapshot()
    with transfers.count() as outer:
        to_device(torch.ones(1), META)
        with transfers.count() as inner:
            to_device(torch.ones(1), META)
            assert (outer.h2d_calls, inner.h2d_calls) == (2, 1)
        to_device(torch.ones(1), META)
        assert (outer.h2d_calls, inner.h2d_calls) == (3, 1)
    to_device(torch.ones(1), META)
    assert (outer.h2d_calls, inner.h2d_calls) == (3, 1)
    assert (transfers.snapshot() - before) == TransferCounts(4, 16, 0, 0)
    assert "h2d_calls=3" in repr(outer)


def test_a_counter_can_be_stopped_early() -> None:
    with transfers.count() as counter:
        to_device(torch.ones(1), META)
        counter.stop()
        to_device(torch.ones(1), META)
    assert counter.h2d_calls == 1


def test_a_counter_sees_all_threads() -> None:
    def work() -> None:
        for _ in range(200):
            to_device(torch.ones(1), META)

    with transfers.count() as counter:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counter.counts == TransferCounts(800, 3200, 0, 0)


def test_a_failed_copy_is_not_counted() -> None:
    with transfers.count() as counter, pytest.raises(NotImplementedError):
        to_host(far(3))  # meta has no data, and nobody pretends it had
    assert counter.counts == TransferCounts()


def test_gradients_flow_through() -> None:
    w = torch.ones(3, requires_grad=True)
    assert to_device(w, META).grad_fn is not None


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="to_device: list is not a torch tensor"):
        to_device([1.0], META)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="to_host: ndarray is not a torch tensor"):
        to_host(torch.ones(1).numpy())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not a device"):
        to_device(torch.ones(1), "gpu")
    with pytest.raises(DeviceUnavailable):
        to_device(torch.ones(1), "cuda:99")


# -- plain torch copies ----------------------------------------------------------------------------------------------

PLAIN_UP: dict[str, Callable[[torch.Tensor], object]] = {
    "to": lambda x: x.to("meta"),
    "to with dtype": lambda x: x.to(device="meta", dtype=torch.float64),
    "copy_": lambda x: far(3).copy_(x),
    "foreach": lambda x: torch._foreach_copy_([far(3)], [x]),
    "item assignment": lambda x: far(2, 3).__setitem__(0, x),
}
PLAIN_DOWN: dict[str, Callable[[torch.Tensor], object]] = {
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool(x[0]),
    "tolist": lambda x: x.tolist(),
    "copy_": lambda x: torch.ones(3).copy_(x),
}


@pytest.mark.parametrize("way", PLAIN_UP)
def test_plain_copies_to_the_device_are_forbidden_and_counted(way: str) -> None:
    x = torch.ones(3)
    with no_transfers(), pytest.raises(TransferForbidden, match="12 bytes from host to device"):
        PLAIN_UP[way](x)
    with transfers.count(plain=True) as counter:
        PLAIN_UP[way](x)
    assert counter.counts == TransferCounts(1, 12, 0, 0)
    with transfers.count() as counter:
        PLAIN_UP[way](x)
    assert counter.counts == TransferCounts()


@pytest.mark.parametrize("way", PLAIN_DOWN)
def test_plain_copies_to_the_host_are_forbidden(way: str) -> None:
    x = far(3)
    with no_transfers(), pytest.raises(TransferForbidden, match=r"\d+ bytes from device to host"):
        PLAIN_DOWN[way](x)


def test_own_copies_are_not_counted_twice_when_watched() -> None:
    with transfers.count(plain=True) as counter:
        to_device(torch.ones(3), META)
    assert counter.counts == TransferCounts(1, 12, 0, 0)


def test_own_copies_are_forbidden() -> None:
    with transfers.count() as counter, no_transfers():
        with pytest.raises(TransferForbidden, match="12 bytes from host to device"):
            to_device(torch.ones(3), META)
        with pytest.raises(TransferForbidden, match="device to host"):
            to_host(far(3))
    assert counter.counts == TransferCounts()
    to_device(torch.ones(3), META)


def test_everything_else_is_allowed() -> None:
    x, y = torch.ones(3), far(3)
    with no_transfers():
        assert x.sum().item() == 3
        assert x.tolist() == [1, 1, 1]
        assert x.to(torch.float64).cpu().numpy().sum() == 3
        x.copy_(x * 2)
        assert (y * 2 + 1).shape == (3,)
        y.copy_(y)
        y[0] = 1.0  # a Python number is not a tensor on the host
        assert y.to(torch.float16).device == META


def test_the_ban_reaches_threads_that_share_the_context_and_no_others() -> None:
    outcome: list[str] = []

    def attempt() -> None:
        try:
            to_device(torch.ones(3), META)
            outcome.append("copied")
        except TransferForbidden:
            outcome.append("refused")

    with no_transfers():
        shared = threading.Thread(target=contextvars.copy_context().run, args=(attempt,))
        apart = threading.Thread(target=attempt)
        for thread in (shared, apart):
            thread.start()
            thread.join()
    assert outcome == ["refused", "copied"]


def test_bans_nest_and_end() -> None:
    with no_transfers():
        with no_transfers():
            pass
        with pytest.raises(TransferForbidden):
            torch.ones(3).to("meta")
        with pytest.raises(TransferForbidden):
            to_device(torch.ones(3), META)
    with pytest.raises(ZeroDivisionError), no_transfers():
        _ = 1 / 0
    assert torch.ones(3).to("meta").device == META
    assert to_device(torch.ones(3), META).device == META
