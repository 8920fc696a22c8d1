from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from elinvar.runtime import pipeline
from elinvar.runtime._lanes import discard, leaves
from elinvar.runtime.pipeline import Pipeline, Stage


@dataclass
class Pair:
    a: object
    b: object


def test_leaves_open_containers_and_nothing_else():
    array = memoryview(b"abc")
    assert list(leaves(1)) == [1]
    assert list(leaves("abc")) == []
    assert list(leaves([1, (2, {3}), OrderedDict(x=4), Pair(5, [6])])) == [1, 2, 3, 4, 5, 6]
    assert list(leaves({"k": array})) == [array]
    endless = []
    endless.append(endless)
    assert list(leaves(endless)) == []


def test_discard_prefers_dispose_and_swallows_errors(caplog):
    seen = []
    discard([1], seen.append)
    assert seen == [[1]]
    discard(1, lambda v: 1 / 0)
    assert "could not be disposed" in caplog.text


# A stand-in for torch.cuda that logs, per thread, which stream and device are current.


class FakeCuda:
    def __init__(self):
        self.log = []
        self.lock = threading.Lock()
        self.local = threading.local()
        self.streams = 0
        self.fault = None
        cuda = self

        class Event:
            def __init__(self, blocking=False):
                self.blocking = blocking
                self.stream = None

            def record(self, stream):
                self.stream = stream

            def synchronize(self):
                cuda.note("synchronize", self.stream, self.blocking)
                if cuda.fault is not None:
                    raise cuda.fault

        class Stream:
            def __init__(self, device, name=None):
                cuda.streams += 1
                self.device = device
                self.name = name or f"s{cuda.streams}"

            def wait_event(self, event):
                cuda.note("wait", self.name, event)

            def record_event(self):
                return f"event@{self.name}"

            def __repr__(self):
                return self.name

        self.Event, self.Stream = Event, Stream
        self.default = Stream("cuda:0", "default")

    def note(self, *what):
        with self.lock:
            self.log.append(what)

    def current_stream(self, device):
        return getattr(self.local, "stream", None) or self.default

    @contextlib.contextmanager
    def device(self, device):
        yield

    @contextlib.contextmanager
    def stream(self, stream):
        self.local.stream = stream
        yield
        self.local.stream = None


class FakeTensor:
    is_cuda = True
    device = "cuda:0"

    def __init__(self, cuda):
        self.cuda = cuda

    def record_stream(self, stream):
        self.cuda.note("record_stream", stream.name)


def on_cuda(fn, name, **options):
    stage = Stage(fn, name=name, **options)
    object.__setattr__(stage, "device", SimpleNamespace(kind="cuda", torch="cuda:0"))
    return stage


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(Stage, "resolved", lambda stage, here: stage)
    real = pipeline.Cuda
    monkeypatch.setattr(pipeline, "Cuda", lambda torch, devices: real(SimpleNamespace(cuda=fake), devices))
    return fake


def test_a_cuda_stage_has_its_own_stream_and_hands_over_finished_work(cuda):
    def compute(x):
        cuda.note("compute", cuda.current_stream("cuda:0").name)
        return [FakeTensor(cuda)]

    def store(value):
        cuda.note("store", cuda.current_stream("cuda:0").name)
        return 1

    with Pipeline([lambda x: x, on_cuda(compute, "compute"), store], in_flight=1) as p:
        assert list(p.run([0])) == [1]
    (own,) = {entry[1] for entry in cuda.log if entry[0] == "compute"}
    assert own != "default"
    steps = [entry[0] for entry in cuda.log]
    assert ("wait", own, "event@default") in cuda.log  # what the submitter had queued comes first
    assert steps.index("wait") < steps.index("compute") < steps.index("synchronize") < steps.index("store")
    (settled,) = [entry for entry in cuda.log if entry[0] == "synchronize"]
    assert (settled[1].name, settled[2]) == (own, True)  # asleep, not spinning
    assert ("store", "default") in cuda.log
    assert ("record_stream", "default") in cuda.log  # the store stage's stream keeps the block from early reuse


def test_a_host_stage_that_makes_cuda_tensors_is_waited_for(cuda):
    with Pipeline([lambda x: {"t": FakeTensor(cuda)}, on_cuda(lambda v: 2, "c")], in_flight=1) as p:
        assert list(p.run([0])) == [2]
    first = next(entry for entry in cuda.log if entry[0] == "synchronize")
    assert first[1].name == "default"
    own = next(entry[1] for entry in cuda.log if entry[0] == "wait")
    assert ("record_stream", own) in cuda.log


def test_the_consumer_adopts_what_it_gets(cuda):
    with Pipeline([on_cuda(lambda x: FakeTensor(cuda), "c")], in_flight=1) as p:
        list(p.run([0]))
    assert cuda.log[-1] == ("record_stream", "default")


def test_each_worker_has_a_stream(cuda):
    names = set()
    meet = threading.Barrier(3, timeout=30)

    def compute(x):
        meet.wait()
        names.add(cuda.current_stream("cuda:0").name)
        return x

    with Pipeline([on_cuda(compute, "c", workers=3)], in_flight=3) as p:
        assert list(p.run(range(6))) == list(range(6))
    assert len(names) == 3


def test_an_asynchronous_fault_is_blamed_on_its_stage_and_its_result_disposed(cuda):
    disposed = []
    cuda.fault = RuntimeError("illegal address")
    with pytest.raises(RuntimeError, match="illegal address") as caught:
        list(Pipeline([on_cuda(lambda x: "result", "faulty", dispose=disposed.append)]).run([0]))
    assert any("'faulty'" in note for note in caught.value.__notes__)
    assert disposed == ["result"]


def test_a_worker_without_a_stream_fails_its_items_instead_of_hanging(cuda):
    def no_stream(device):
        raise RuntimeError("out of memory")

    cuda.Stream = no_stream
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        list(Pipeline([on_cuda(lambda x: x, "c")]).run(range(3)))
    assert any("item 0" in note for note in caught.value.__notes__)
