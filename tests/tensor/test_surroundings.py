"""Streams of callers, with stand-ins: what is waited for, and what is kept."""

from contextlib import contextmanager

import pytest
import torch

from elinvar.tensor.surroundings import modes_here, on_streams, stream_here


class Stream:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")

    def synchronize(self):
        self.log.append(f"host waits for {self.name}")


class Result:
    def __init__(self, log):
        self.log = log

    def record_stream(self, stream):
        self.log.append(f"kept for {stream.name}")


@pytest.fixture
def log(monkeypatch):
    found = []

    @contextmanager
    def stream(given):
        found.append(f"on {given.name}")
        yield

    monkeypatch.setattr(torch.cuda, "stream", stream)
    return found


def test_one_stream_costs_nothing(log):
    one = Stream("a", log)
    with on_streams([one, one]) as deliver:
        deliver(Result(log))
    assert log == ["on a"]


def test_callers_of_two_streams(log):
    one, two = Stream("a", log), Stream("b", log)
    with on_streams([one, two, one]) as deliver:
        log.append("run")
        deliver((Result(log), Result(log)))
    assert log == ["on a", "a waits for b", "run", "kept for b", "kept for b", "host waits for a"]


def test_off_cuda_nothing_happens(log):
    assert stream_here(torch.ones(1)) is None
    with on_streams([None, None]) as deliver:
        deliver(torch.ones(1))
    assert log == []


def test_modes_are_those_of_the_maker_alone():
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        enter = modes_here()
    with enter():
        assert not torch.is_grad_enabled()
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
