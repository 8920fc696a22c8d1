"""Frames from recordings: the same bytes, whatever the values; what cannot be recorded is drawn by hand."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from elinvar.runtime._cuda import Turns
from elinvar.testing import FakeStreams
from elinvar.video import ops, passes, shade, sources
from elinvar.video.graph import Graph
from elinvar.video.replay import Replays
from elinvar.video.shadecode import Op
from elinvar.video.yuv import coding

CPU = torch.device("cpu")
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")


class Tape:
    """Records as a CUDA graph does: what was launched is launched again, with the arguments it had then."""

    def __init__(self, launches: Callable[[], None]) -> None:
        self.launches, self.times = launches, 0
        launches()

    def replay(self) -> None:
        self.times += 1
        self.launches()


def drawn(replays: Replays, key: Any, values: list[float], integers: list[int]) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    replays.draw(key, [(values, integers)], lambda given: seen.extend(given[0] if given else ()))
    return seen


def test_the_second_frame_of_a_kind_is_recorded_and_the_others_replayed() -> None:
    replays = Replays(CPU, Tape)
    for k in range(5):
        drawn(replays, "a", [float(k)], [k])
    assert (replays.recorded, replays.replayed) == (1, 4)
    drawn(replays, "b", [1.0], [1])
    assert replays.recorded == 1


def test_values_arrive_where_the_recording_reads_them() -> None:
    replays = Replays(CPU, Tape)
    read: list[tuple[list[float], list[int]]] = []
    for k in range(20):  # more than may be on their way at a time
        lists = [([k + 0.5, 2.0], [k]), ([-1.0], [7, -k])]
        replays.draw(1, lists, lambda given: read.append((given[0][0].tolist(), given[1][1].tolist())))
    assert read[0] == ([0.5, 2.0], [7, 0])
    assert read[-1] == ([19.5, 2.0], [7, -19])


def test_frames_of_several_streams_wait_for_each_other() -> None:
    replays, streams = Replays(CPU, Tape), FakeStreams()
    replays._turns = Turns(streams)
    for key in ("a", "a", "a", None):  # by hand, recorded, replayed, never recorded
        with streams.use(f"{key} {len(streams.diary)}"):
            drawn(replays, key, [1.0], [1])
    replays.wait()
    kinds = [kind for kind, *_ in streams.diary]
    assert kinds == ["record", *3 * ["wait", "record"], "wait"]
    assert [event for kind, _, event in streams.diary if kind == "wait"] == [1, 2, 3, 4]


def test_what_has_no_key_is_never_recorded() -> None:
    replays = Replays(CPU, Tape)
    for _ in range(3):
        drawn(replays, None, [1.0], [1])
    assert replays.recorded == replays.replayed == 0


def test_a_refused_recording_is_not_tried_again() -> None:
    tries: list[int] = []

    def refuse(launches: Callable[[], None]) -> Any:
        tries.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    replays = Replays(CPU, refuse)
    assert all(drawn(replays, "a", [float(k)], [k])[1].tolist() == [k] for k in range(4))
    assert len(tries) == 1


def test_addresses_that_never_come_again_do_not_push_others_out() -> None:
    replays = Replays(CPU, Tape)
    for k in range(300):
        drawn(replays, "kept", [1.0], [1])
        drawn(replays, k, [1.0], [1])
        drawn(replays, k, [1.0], [1])
    assert replays.recorded < 70  # of 301 kinds: 16, and 15 more every 256 frames
    before = replays.replayed
    drawn(replays, "kept", [1.0], [1])
    assert replays.replayed == before + 1


def test_too_many_values_are_passed_by_the_kernels_themselves() -> None:
    given: list[Any] = []
    Replays(CPU, Tape).draw("a", [([0.0] * 5000, [1])], given.append)
    assert given == [None]


@pytest.mark.gxx
def test_a_replayed_chain_writes_the_bytes_of_one_drawn_by_hand(random_frame) -> None:
    frame, how = random_frame(20, 34, 1.2), coding("nv12", dither=True)
    replays, planes = Replays(CPU, Tape), how.format.empty(34, 20)

    def chain(n: int) -> list[Op]:
        return [
            Op(ops.gain, {"factor": 1.0 + 0.1 * n}),
            Op(ops.grain, {"amount": 0.1, "shadows": 1.2, "seed": n}),
        ]

    for n in range(4):
        first = chain(0)  # a recording knows the ops of its own frame; values come from memory

        def launches(given: Any, first: list[Op] = first) -> None:
            shade.encode(frame, first, (), how, planes, backend="metal", values=given[0])

        replays.draw("look", [shade.packed(chain(n), n)], launches)
        want = shade.encode(frame, chain(n), (), how, seed=n, backend="metal")
        assert all(torch.equal(a, b) for a, b in zip(planes, want, strict=True)), n
    assert replays.replayed == 3


def look(device: str, width: int = 258, height: int = 130) -> Graph:
    make = torch.Generator().manual_seed(0)
    still = (torch.rand(3, height, width, generator=make) ** 3 * 2).to(device)
    graph = Graph(device)
    graph.source(sources.Function(lambda _n: still, width, height, space="acescg"))
    graph.add(passes.Bloom(lambda t: 0.2 + 0.1 * t))
    graph.add(passes.Vignette(0.3))
    graph.add(passes.Grain(0.02))
    return graph.output("aces-fit")


def by_hand(plan: Any) -> None:
    """Have a plan draw every frame by hand."""

    def refuse(launches: Callable[[], None]) -> Any:
        raise RuntimeError("no recordings here")

    plan._replays = Replays(plan.device.torch, refuse)


@NO_GPU
def test_a_gpu_draws_the_same_bytes_from_a_recording() -> None:
    how = coding("p010", dither=True)
    graph, other = look("cuda"), look("cuda")
    plan, hand = graph.plan(), other.plan()
    by_hand(hand)
    planes = how.format.empty(258, 130, "cuda")
    for n in range(6):
        plan.draw_yuv(n, plan.fetch(n), how, planes)
        want = hand.draw_yuv(n, hand.fetch(n), how)
        assert all(torch.equal(a, b) for a, b in zip(planes, want, strict=True)), n
    assert plan._replays is not None
    assert plan._replays.recorded == 1
    assert plan._replays.replayed == 5


@NO_GPU
def test_a_gpu_agrees_with_the_cpu() -> None:
    how = coding("nv12")
    gpu, cpu = look("cuda"), look("cpu")
    for n in range(3):
        for a, b in zip(gpu.render_yuv(n, how), cpu.render_yuv(n, how), strict=True):
            assert (a.cpu().int() - b.int()).abs().max() <= 1


@NO_GPU
def test_a_steady_gpu_acquires_nothing_and_brings_no_pixels_back() -> None:
    how = coding("nv12")
    graph = look("cuda")
    plan, planes = graph.plan(), how.format.empty(258, 130, "cuda")
    fetched = plan.fetch(0)
    for n in range(4):
        plan.draw_yuv(n, fetched, how, planes)
    before = graph.device.pool.stats().requests
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls itself a prototype
        torch.cuda.set_sync_debug_mode("error")  # whatever waits for the device, as reading back does, raises
    try:
        for n in range(4, 20):
            plan.draw_yuv(n, fetched, how, planes)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert graph.device.pool.stats().requests == before
    assert peak < 1 << 20


class Levelled(passes.Spatial):
    """Divides by the mean, which it waits for: no recording can do that, whatever it says."""

    def constants(self, at: Any) -> Any:
        return ()

    def run(self, at: Any, inputs: Any, out: torch.Tensor, scratch: Any) -> None:
        out.copy_(inputs[0][:3] / float(inputs[0].mean()))


@NO_GPU
def test_a_gpu_draws_by_hand_what_cannot_be_recorded() -> None:
    graph = look("cuda")
    graph.add(Levelled(), graph.nodes[0])
    graph.output("acescg")
    plan, before = graph.plan(), torch.cuda.current_stream()
    frame = plan.fetch(0)
    want = next(iter(frame.values()))
    for n in range(4):
        got = plan.draw(n, frame)
        assert torch.allclose(got, want / want.mean(), rtol=1e-5)
    assert torch.cuda.current_stream() == before
    assert plan._replays is not None
    assert plan._replays.replayed == 0
