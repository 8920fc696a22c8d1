from __future__ import annotations

import contextlib
import threading

import pytest
import torch

from elinvar.runtime._cuda import Turns, convolutions, record
from elinvar.testing import FakeStreams


def test_threads_take_turns_at_the_switches() -> None:
    flags = torch.backends.cudnn
    before = (flags.enabled, flags.benchmark, flags.deterministic, flags.allow_tf32)
    inside, leave, second = threading.Event(), threading.Event(), threading.Event()
    seen: list[bool] = []

    def first() -> None:
        with convolutions():
            inside.set()
            leave.wait(10)

    def other() -> None:
        inside.wait(10)
        with convolutions(search=True):
            second.set()
            seen.extend((flags.allow_tf32, flags.benchmark))

    threads = [threading.Thread(target=f) for f in (first, other)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    assert not second.wait(0.05)  # not while another has them
    leave.set()
    for thread in threads:
        thread.join()
    assert seen == [False, True]
    assert (flags.enabled, flags.benchmark, flags.deterministic, flags.allow_tf32) == before


def test_switches_come_back_after_an_error() -> None:
    flags = torch.backends.cudnn
    before = flags.allow_tf32
    with pytest.raises(ZeroDivisionError), convolutions():
        raise ZeroDivisionError
    assert flags.allow_tf32 == before


class Recorder:
    """Stands for torch.cuda: one stream for recordings, left behind by those that fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream, self.running, self.most = "mine", 0, 0
        for name in ("device", "graph", "set_stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.stream)

    def device(self, _device):
        return contextlib.nullcontext()

    def set_stream(self, stream):
        self.stream = stream

    @contextlib.contextmanager
    def graph(self, _graph, pool, capture_error_mode):
        assert capture_error_mode == "thread_local"
        self.stream, self.running = "recordings", self.running + 1
        self.most = max(self.most, self.running)
        try:
            yield
        finally:
            self.running -= 1
        self.stream = "mine"


def test_a_recording_that_fails_gives_the_stream_back(monkeypatch) -> None:
    recorder = Recorder(monkeypatch)

    def fail():
        assert recorder.stream == "recordings"
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="capturing"):
        record(fail, torch.device("cpu"))
    assert recorder.stream == "mine"
    assert record(lambda: 3, torch.device("cpu"))[1] == 3


def test_one_recording_at_a_time(monkeypatch) -> None:
    recorder = Recorder(monkeypatch)
    pause = threading.Event()
    threads = [threading.Thread(target=record, args=(lambda: pause.wait(0.02), torch.device("cpu"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorder.most == 1


def test_a_turn_on_another_stream_waits_for_the_one_before() -> None:
    streams = FakeStreams()
    turns = Turns(streams)
    turns.wait()
    for _ in range(2):
        with turns.take():
            pass
    with pytest.raises(ZeroDivisionError), streams.use("other"), turns.take():
        raise ZeroDivisionError
    turns.wait()
    assert streams.diary == [
        ("record", "main", 1), ("record", "main", 2), ("wait", "other", 2), ("record", "other", 3), ("wait", "main", 3),
    ]  # fmt: skip


def test_without_streams_a_turn_is_just_the_work() -> None:
    turns = Turns(None)
    with turns.take():
        turns.wait()
