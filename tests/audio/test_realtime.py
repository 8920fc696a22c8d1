from __future__ import annotations

import ctypes
import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar import audio
from elinvar.audio import realtime
from elinvar.errors import DoubleRelease, ForeignLease, InputError, MissingDependency
from elinvar.runtime.pressure import Monitor, Sensor
from elinvar.testing.fakes import FakeSensor

PORTAUDIO = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p
)


def test_pool_hands_out_each_buffer_once() -> None:
    pool = realtime.BufferPool(16, 3)
    buffers = [pool.try_acquire() for _ in range(3)]
    assert pool.free == 0
    assert pool.try_acquire() is None  # exhausted: no exception, no waiting
    for k, buffer in enumerate(buffers):
        assert buffer.array.shape == (16,)
        buffer.array[:] = k
    assert [buffer.array[0] for buffer in buffers] == [0, 1, 2]
    buffers[1].release()
    with pool.try_acquire() as again:
        assert again[0] == 1.0
    assert pool.free == 1


def test_pool_detects_what_is_not_its_own() -> None:
    pool = realtime.BufferPool(4, 2)
    first = pool.try_acquire()
    first.release()
    with pytest.raises(DoubleRelease, match="once"):
        first.release()
    second = pool.try_acquire()  # the same memory, another lease
    with pytest.raises(DoubleRelease):
        pool.release(first)
    with pytest.raises(ForeignLease):
        realtime.BufferPool(4, 2).release(second)
    with pytest.raises(ForeignLease):
        pool.release("buffer")
    for handle in (99, -5, (1000 << 20) | 1, second.handle + (2 << 20)):
        with pytest.raises(ForeignLease):
            pool.release(realtime.Buffer(pool, handle, second.array))
    assert pool.free == 1
    fresh = realtime.BufferPool(4, 2)
    with pytest.raises(ForeignLease):  # generation 0: index 1 is free and was never handed out
        fresh.release(realtime.Buffer(fresh, 1, second.array))
    assert len({fresh.try_acquire().handle for _ in range(2)}) == 2
    assert fresh.try_acquire() is None
    with pytest.raises(InputError, match="count is 0"):
        realtime.BufferPool(4, 0)


def test_pool_under_contention() -> None:
    pool = realtime.BufferPool(1, 3)
    faults: list[str] = []

    def work(mark: float) -> None:
        for _ in range(3000):
            buffer = pool.try_acquire()
            if buffer is not None:
                buffer.array[0] = mark
                if buffer.array[0] != mark:
                    faults.append("two threads hold one buffer")
                buffer.release()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(float(k),)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert faults == []
    assert pool.free == 3


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["write", "read", "skip", "peek"]), st.integers(0, 12)), max_size=30))
def test_ring_is_a_queue(steps: list[tuple[str, int]]) -> None:
    ring, queue, written = realtime.Ring(10, 2), [], 0
    for step, n in steps:
        if step == "write":
            block = np.arange(written, written + n, dtype=np.float32)
            fitted = ring.write(np.stack([block, -block]))
            assert fitted == min(n, 10 - len(queue))
            queue += list(block[:fitted])
            written += n
        elif step == "skip":
            assert ring.skip(n) == min(n, len(queue))
            queue = queue[n:]
        else:
            found = ring.read(n) if step == "read" else ring.peek(n)
            want = (queue + [0.0] * n)[:n]
            np.testing.assert_array_equal(found, np.array([want, [-v for v in want]], np.float32).reshape(2, n))
            queue = queue[n:] if step == "read" else queue
        assert ring.available == len(queue)
        assert ring.space == 10 - len(queue)


def test_ring_counts_what_was_lost() -> None:
    ring = realtime.Ring(4)
    ring.write(np.ones((1, 6), np.float32))
    ring.read(7)
    assert (ring.overruns, ring.underruns) == (2, 3)
    ring.clear()
    assert (ring.available, ring.overruns, ring.underruns) == (0, 0, 0)
    with pytest.raises(InputError, match=r"Ring\.write: got float64"):
        ring.write(np.ones((1, 6)))
    with pytest.raises(InputError, match="capacity"):
        realtime.Ring(0)


def test_ring_between_threads() -> None:
    ring, n = realtime.Ring(257), 20_000
    sound = np.arange(n, dtype=np.float32)[None]

    def feed() -> None:
        at = 0
        while at < n:
            at += ring.write(np.ascontiguousarray(sound[:, at : at + 100]))

    writer = threading.Thread(target=feed)
    writer.start()
    parts, got = [], 0
    while got < n:
        parts.append(ring.read(min(64, ring.available)))
        got += parts[-1].shape[1]
    writer.join()
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), sound)


def test_ring_from_c() -> None:
    ring = realtime.Ring(100, 2)
    x, y = np.arange(20, dtype=np.float32).reshape(2, 10), np.empty((2, 12), np.float32)
    call = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 3, ctypes.c_int64)
    assert call(ring.write_entry)(ring.root.ctypes.data, x.ctypes.data, None, 10) == 10
    assert call(ring.read_entry)(ring.root.ctypes.data, None, y.ctypes.data, 12) == 10
    np.testing.assert_array_equal(y[:, :10], x)
    assert not y[:, 10:].any()


def test_workspace_obeys_the_answer() -> None:
    asked: list[int] = []

    def answer(level: int) -> bool:
        asked.append(level)
        return level >= 2

    space = realtime.Workspace(lambda: np.zeros(1000, np.float32), lambda made: made.nbytes, answer)
    assert space.bytes == space.relieve(2) == 0
    first = space.get()
    assert space.get() is first
    assert (space.bytes, space.built) == (4000, 1)
    assert space.relieve(1) == 0  # "no"
    assert space.get() is first
    assert space.relieve(2) == 4000
    assert space.bytes == 0
    assert space.get() is not first
    assert space.built == 2
    assert asked == [2, 1, 2]
    quiet = realtime.Workspace(lambda: np.zeros(10), lambda made: made.nbytes)
    quiet.get()
    assert (quiet.relieve(1), quiet.relieve(2)) == (0, 80)


def test_workspace_and_fallback_follow_a_monitor() -> None:
    memory, heat = FakeSensor(0.0), FakeSensor(0.0)
    monitor = Monitor([Sensor("memory", "m", memory, 1.0, 2.0), Sensor("thermal", "t", heat, 1.0, 2.0)], hold=0.0)
    space = realtime.Workspace(lambda: np.zeros(10), lambda made: made.nbytes, lambda level: level >= 1)
    place = realtime.Fallback("cpu", level=1)
    wanted = place._wanted = object()
    ends = [space.watch(monitor), place.watch(monitor)]
    space.get()
    monitor.sample()
    assert space.bytes == 80
    assert place.device is wanted
    memory.set(1.5)
    heat.set(1.5)
    monitor.sample()
    assert space.bytes == 0
    assert str(place.device) == "cpu"
    heat.set(0.0)
    for _ in range(10):
        monitor.sample()
    assert place.device is wanted
    for end in ends:
        end()


def test_player_and_recorder_without_a_card() -> None:
    chain = audio.Chain([audio.Gain(6.0206)])
    ring, entry, root, keep = realtime.prepare_player(chain, 48_000, 2, 64, 0.1)
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 1000)).astype(np.float32)
    assert ring.write(sound) == 1000
    card = np.empty((1100, 2), np.float32)
    assert PORTAUDIO(entry)(None, card.ctypes.data, 1100, None, 0, root.ctypes.data) == 0
    np.testing.assert_allclose(card.T[:, :1000], 2 * sound, rtol=1e-4)
    assert not card[1000:].any()
    assert ring.underruns == 100
    assert keep is not None
    kept, entry = realtime.prepare_recorder(48_000, 2, 1.0)
    assert PORTAUDIO(entry)(card.ctypes.data, None, 1000, None, 0, kept.root.ctypes.data) == 0
    np.testing.assert_array_equal(kept.read(1000), card[:1000].T)


class FakeStream:
    def __init__(self, **options: Any) -> None:
        self.options, self.log = options, []

    def start(self) -> None:
        self.log.append("start")

    def stop(self) -> None:
        self.log.append("stop")

    def close(self) -> None:
        self.log.append("close")


def fake_library() -> SimpleNamespace:
    cast = SimpleNamespace(cast=lambda kind, address: (kind, int(address)))
    return SimpleNamespace(_ffi=cast, _StreamBase=FakeStream, query_devices=lambda: ["card"])


def test_streams_hand_portaudio_the_c_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", fake_library())
    assert realtime.portaudio_available()
    chain = audio.Chain([audio.Gain()])
    with realtime.Live(chain, 48_000, channels=2, block=32) as live:
        options = live._stream.options
        assert options["callback"] == ("PaStreamCallback*", chain.portaudio_callback)
        assert options["userdata"] == ("void*", chain.root.ctypes.data)
        assert (options["kind"], options["channels"], options["blocksize"]) == ("duplex", (2, 2), 32)
    assert live._stream.log == ["start", "stop", "close"]
    player = realtime.Player(audio.Chain([audio.Gain()]), 48_000, channels=1)
    assert player.feed(np.ones((1, 10), np.float32)) == 10
    assert player._stream.options["kind"] == "output"
    recorder = realtime.Recorder(48_000, channels=1)
    assert recorder._stream.options["kind"] == "input"
    assert recorder.read(3).shape == (1, 3)


def test_without_portaudio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert not realtime.portaudio_available()
    with pytest.raises(MissingDependency, match="pip install sounddevice"):
        realtime.Recorder(48_000)

    def broken(name: str) -> object:
        raise OSError("PortAudio library not found")

    monkeypatch.setattr(realtime.importlib, "import_module", broken)
    with pytest.raises(MissingDependency, match="libportaudio2"):
        realtime.Recorder(48_000)
