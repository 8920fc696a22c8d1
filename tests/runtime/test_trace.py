from __future__ import annotations

import json
import math
import sys
import threading
from types import SimpleNamespace

import pytest

from elinvar.errors import InputError
from elinvar.runtime.trace import Tracer, trace


class FakeMarkers:
    def __init__(self):
        self.log = []

    def push(self, name):
        self.log.append(("push", name))

    def pop(self):
        self.log.append(("pop",))


@pytest.fixture
def tracer():
    return Tracer(find_markers=lambda: None)


def ranges(path):
    return [e for e in json.loads(path.read_text())["traceEvents"] if e["ph"] == "X"]


def test_file_holds_complete_events_inside_each_other(tracer, tmp_path):
    file = tmp_path / "deep" / "t.json"
    with tracer.record(file), tracer("outer", traces=3), tracer("inner"):
        pass
    outer, inner = ranges(file)
    assert (outer["name"], inner["name"]) == ("outer", "inner")
    assert outer["args"] == {"traces": 3}
    assert "args" not in inner
    for event in (outer, inner):
        assert set(event) >= {"name", "cat", "ph", "pid", "tid", "ts", "dur"}
        assert event["dur"] >= 0
        assert event["ts"] >= 0
    assert outer["ts"] <= inner["ts"]
    assert inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + 1e-3


def test_times_are_microseconds(tracer, tmp_path, monkeypatch):
    now = [1_000_000]
    monkeypatch.setattr("elinvar.runtime.trace.time.perf_counter_ns", lambda: now[0])
    with tracer.record(tmp_path / "t.json") as recording:
        now[0] += 2_000_000
        with tracer("work"):
            now[0] += 5_000_000
    (event,) = ranges(tmp_path / "t.json")
    assert (event["ts"], event["dur"]) == (2000.0, 5000.0)
    assert recording.totals() == {"work": pytest.approx(5e-3)}


def test_every_thread_is_named_and_reused_idents_stay_apart(tracer, tmp_path):
    def work():
        with tracer("work"):
            pass

    with tracer.record(tmp_path / "t.json"):
        work()
        for name in ("reader", "writer"):  # one after the other: the second usually gets the first one's ident
            thread = threading.Thread(target=work, name=name)
            thread.start()
            thread.join()
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    used = {e["tid"] for e in events if e["ph"] == "X"}
    assert used == set(names)
    assert sorted(names.values()) == ["MainThread", "reader", "writer"]
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == ["elinvar"]


def test_decorator_opens_a_range_per_call_and_keeps_the_function(tracer):
    @tracer("twice")
    def twice(x: int) -> int:
        """Double."""
        return 2 * x

    assert twice(4) == 8
    assert (twice.__name__, twice.__doc__) == ("twice", "Double.")
    with tracer.record() as recording:
        assert [twice(i) for i in range(3)] == [0, 2, 4]
    assert len(json.loads(recording.to_json())["traceEvents"]) == 3 + 3


def test_decorated_generator_is_measured_until_it_ends(tracer):
    @tracer("rows")
    def rows():
        yield 1
        yield 2
        return "end"

    with tracer.record() as recording:
        iterator = rows()
        assert next(iterator) == 1
        assert recording.totals() == {}
        assert list(iterator) == [2]
    assert set(recording.totals()) == {"rows"}


def test_coroutines_are_refused(tracer):
    async def job():
        pass

    with pytest.raises(InputError, match="coroutine"):
        tracer("x")(job)


def test_a_range_is_recorded_when_its_body_raises_and_the_file_is_still_written(tracer, tmp_path):
    with pytest.raises(ZeroDivisionError), tracer.record(tmp_path / "t.json"), tracer("bad"):
        raise ZeroDivisionError
    assert [e["name"] for e in ranges(tmp_path / "t.json")] == ["bad"]
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def test_off_means_nothing_is_kept(tracer):
    with tracer("before"):
        pass
    assert not tracer.active
    assert tracer.totals() == {}
    with tracer.record() as recording:
        assert tracer.active
    with tracer("after"):
        pass
    assert recording.totals() == {}
    assert not tracer.active


def test_a_range_open_when_recording_starts_is_clipped_or_left_out(tracer):
    early = tracer("early")
    with early:
        recorder = tracer.record()
        recording = recorder.__enter__()
    recorder.__exit__(None, None, None)
    assert recording.totals() == {}  # it began while tracing was off
    with tracer.record() as outer, tracer("long"):
        with tracer.record() as inner:
            with tracer("short"):
                pass
        assert set(inner.totals()) == {"short"}
    assert set(outer.totals()) == {"short", "long"}


def test_totals_sum_over_threads_and_belong_to_the_innermost_recording(tracer):
    def work():
        with tracer("w"):
            pass

    with tracer.record() as outer:
        work()
        with tracer.record():
            assert tracer.totals() == {}
        threads = [threading.Thread(target=work) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert sum(e["name"] == "w" for e in json.loads(outer.to_json())["traceEvents"]) == 5


def test_arguments_that_json_cannot_hold_become_text(tracer):
    with tracer.record() as recording, tracer("x", nan=math.nan, shape=(2, 3), none=None, ok=True):
        pass
    (event,) = [e for e in json.loads(recording.to_json())["traceEvents"] if e["ph"] == "X"]
    assert event["args"] == {"nan": "nan", "shape": "(2, 3)", "none": None, "ok": True}


def test_vendor_markers_follow_the_ranges_and_only_when_on():
    markers = FakeMarkers()
    tracer = Tracer(find_markers=lambda: markers)
    with tracer("off"):
        pass
    assert markers.log == []
    with tracer.record(), tracer("a"), tracer("b"):
        pass
    assert markers.log == [("push", "a"), ("push", "b"), ("pop",), ("pop",)]
    assert tracer.markers(True) is False
    with tracer("c"):
        pass
    assert tracer.markers(False) is True
    with tracer("d"):
        pass
    assert markers.log[4:] == [("push", "c"), ("pop",)]


def test_nvtx_is_used_where_torch_sees_cuda_and_signposts_where_it_sees_metal(monkeypatch):
    log = []
    torch = SimpleNamespace(
        cuda=SimpleNamespace(
            is_available=lambda: True,
            nvtx=SimpleNamespace(range_push=log.append, range_pop=lambda: log.append("pop")),
        ),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: True)),
        mps=SimpleNamespace(
            profiler=SimpleNamespace(start=lambda **kw: log.append("start"), stop=lambda: log.append("stop"))
        ),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    tracer = Tracer()
    with tracer.record(), tracer("a"):
        pass
    assert log == ["start", "a", "pop", "stop"]
    del log[:]
    torch.cuda.is_available = torch.backends.mps.is_available = lambda: False
    with tracer.record(), tracer("a"):
        pass
    monkeypatch.delitem(sys.modules, "torch")
    with tracer.record(), tracer("a"):
        pass
    assert log == []
    assert "torch" not in sys.modules  # tracing alone never imports it


def test_a_bare_decorator_is_refused_instead_of_replacing_the_function(tracer):
    with pytest.raises(InputError, match="takes a name"):

        @tracer
        def forgot_the_name():
            pass


def test_a_folder_is_refused_before_anything_runs(tracer, tmp_path):
    with pytest.raises(InputError, match=r"\.json"):
        with tracer.record(tmp_path):
            pytest.fail("the body must not run")


def test_the_shared_tracer_is_off_and_public():
    import elinvar

    assert elinvar.trace is trace
    assert not trace.active
