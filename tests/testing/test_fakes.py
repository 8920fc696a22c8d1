"""The fakes do what the tests that use them believe."""

from __future__ import annotations

import pytest
import torch

import elinvar.testing
from elinvar.errors import InputError
from elinvar.runtime.transfers import to_host
from elinvar.testing import FakeClock, FakeMemory, FakeSensor, FakeStreams, copyable_meta

CPU = torch.device("cpu")


def test_every_public_name_is_there() -> None:
    for name in elinvar.testing.__all__:
        assert getattr(elinvar.testing, name) is not None
        assert name in dir(elinvar.testing)
    with pytest.raises(AttributeError, match="nothing"):
        _ = elinvar.testing.nothing


def test_clock_moves_only_when_told() -> None:
    clock = FakeClock(5)
    assert (clock(), clock()) == (5, 5)
    assert clock.advance(1.5) == 6.5
    clock.sleep(0.5)
    assert clock() == 7
    for back in (-1, float("nan")):
        with pytest.raises(InputError, match="moves forward"):
            clock.advance(back)
    assert clock() == 7


def test_sensor_follows_its_script_and_repeats_the_last() -> None:
    sensor: FakeSensor[int] = FakeSensor(1, OSError("gone"), 3)
    assert sensor() == 1
    with pytest.raises(OSError, match="gone"):
        sensor()
    assert (sensor(), sensor(), sensor.reads) == (3, 3, 4)
    sensor.set(9)
    assert sensor() == 9
    with pytest.raises(InputError):
        FakeSensor()


def test_memory_runs_out_and_comes_back() -> None:
    memory = FakeMemory(capacity=1000)
    a = memory(600, CPU)
    view = a[:1]
    with pytest.raises(torch.OutOfMemoryError):
        memory(600, CPU)
    del a
    assert memory.used == 600  # the view still holds it
    del view
    assert memory.used == 0
    b = memory(1000, CPU)
    assert (b.numel(), b.dtype, memory.used) == (1000, torch.uint8, 1000)
    assert memory.calls == [600, 600, 1000]


def test_memory_refuses_as_often_as_told() -> None:
    memory = FakeMemory(error=MemoryError("no"))
    memory.fail_next = 2
    for _ in range(2):
        with pytest.raises(MemoryError, match="no"):
            memory(1, CPU)
    assert memory(1, CPU).numel() == 1


def test_streams_keep_a_diary() -> None:
    streams = FakeStreams()
    with streams.use("side"):
        assert streams.current() == "side"
        event = streams.record("side", None)
    assert streams.current() == "main"
    streams.wait("main", event)
    streams.keep(torch.empty(4), "side")
    assert streams.diary == [("record", "side", 1), ("wait", "main", 1), ("keep", 4, "side")]


def test_meta_copies_to_the_host_only_when_asked() -> None:
    x = torch.empty(2, 3, dtype=torch.float64, device="meta")
    with copyable_meta():
        assert to_host(x).tolist() == [[0, 0, 0], [0, 0, 0]]
        assert to_host(x).dtype == torch.float64
    with pytest.raises(NotImplementedError):
        to_host(x)
