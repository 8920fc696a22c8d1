from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch

from elinvar.errors import StaleLease
from elinvar.vision import Engine, many
from elinvar.vision.checkpoint import State, checked
from elinvar.vision.layers import Paths
from elinvar.vision.network import Network
from elinvar.vision.replay import side_by_side
from elinvar.vision.result import Clock
from elinvar.vision.runner import HEADS, Runner

from .conftest import MICRO, relative


@pytest.fixture(scope="module")
def fused(weights):
    source, names = checked(State(weights(MICRO)), MICRO)
    return Network(MICRO, source, names, paths=Paths(channels_last=True, fused=True), stacked=True)


@pytest.fixture
def fused_engine(fused):
    engine = Engine(MICRO, 64, "fp32", "cpu", cache_bytes=0)
    engine._network = fused
    return engine


def test_all_heads_at_once_are_the_heads_one_by_one(fused):
    runner = Runner(fused, torch.device("cpu"))
    images = torch.randint(0, 256, (2, 32, 48, 3), dtype=torch.uint8)
    with torch.no_grad():
        tokens = runner.encode(images)
        grids = ((2, 3), (2, 3))
        states = runner.decode(tokens[:1], tokens[1:], grids)
        together = runner.heads(states, grids)
        assert tuple(together) == HEADS
        for (which, view), made in together.items():
            alone = runner.head(which, view, states[view - 1], grids[view - 1])
            assert all(torch.equal(a, b) for a, b in zip(made, alone, strict=True))


def test_a_portrait_and_a_landscape_through_the_fused_network(fused_engine, engine, images):
    portrait = np.ascontiguousarray(images[1].transpose(1, 0, 2))
    got, want = fused_engine.infer(images[0], portrait), engine.infer(images[0], portrait)
    for name, output in got.outputs().items():
        assert relative(output, want.outputs()[name]) < 3e-5, name


def test_pairs_in_one_batch_through_the_fused_network(fused_engine, engine, images):
    want = engine.infer_pairs(images, "complete")
    for one, two in zip(fused_engine.infer_pairs(images, "complete", batch=3), want, strict=True):
        assert relative(one.pts3d_2, two.pts3d_2) < 3e-5
        assert relative(one.desc_1, two.desc_1) < 3e-5


def test_images_in_chunks_make_the_same_chain(engine, images, monkeypatch):
    portrait = np.ascontiguousarray(images[1].transpose(1, 0, 2))
    line = [*images, portrait, portrait, images[0]]
    want = [engine.infer(a, b).pts3d_2.numpy() for a, b in itertools.pairwise(line)]
    for chunk in (2, 4):
        engine.clear_cache()
        engine.encodes = 0
        monkeypatch.setitem(many._CHUNK, "cpu", chunk)
        seen = []
        got = engine.infer_batch_pipelined(line, progress=lambda done, total: seen.append((done, total)))  # noqa: B023
        assert engine.encodes == 4  # four different images
        assert [r.prepared_1.array.shape for r in got] == [np.asarray(a).shape for a in line[:-1]]
        for one, true in zip(got, want, strict=True):
            assert relative(one.pts3d_2, true) <= 1e-5
        assert seen[-1] == (6, 6)
        assert all(done <= 6 for done, _ in seen)


@pytest.mark.parametrize(("count", "most", "size"), [(9, 8, 5), (8, 8, 8), (1, 8, 1), (17, 8, 6), (100, 8, 8)])
def test_batches_are_even(count, most, size):
    assert many._even(count, most) == size


def test_a_clock_shares_what_it_measured():
    clock = Clock(torch.device("cpu"))
    time.sleep(0.01)
    whole, half = clock.stop(), clock.stop(2)
    assert whole() >= 10
    assert whole() == whole()  # read later, it is still what it was
    assert half() < whole()


def test_a_released_result_computes_nothing(engine, images):
    result = engine.infer(images[0], images[1])
    result.release()
    with pytest.raises(StaleLease, match="released"):
        result.compute()


def test_side_by_side_is_one_after_the_other_off_cuda():
    order = []
    out = side_by_side(lambda: order.append(1) or [torch.ones(1)], lambda: order.append(2) or [], torch.device("cpu"))
    assert order == [1, 2]
    assert len(out) == 1


def test_what_was_recorded_for_many_sizes_is_bounded(fused, monkeypatch):
    from elinvar.vision import runner as module

    monkeypatch.setattr(module, "_MOST", 2)
    runner = Runner(fused, torch.device("cpu"))
    kept = runner._replay(("a",), list)
    for name in "bab":
        runner._replay((name,), list)
    assert runner._replay(("a",), list) is kept
    runner._replay(("c",), list)
    assert set(runner._known) == {("a",), ("c",)}


def test_folded_weights_are_counted_as_they_are_kept(weights):
    source, names = checked(State(weights(MICRO)), MICRO)
    sizes = [
        Network(MICRO, source, names, dtype=torch.float16, paths=Paths(fused=fused), stacked=True).bytes
        for fused in (False, True)
    ]
    whole = sum(2 * weights(MICRO)[name].numel() for name in names)
    assert all(1.0 <= size / whole < 1.01 for size in sizes)  # a few stay float32


def test_float32_convolutions_are_neither_searched_nor_shortened():
    from elinvar.vision.runner import _convolutions

    flags = torch.backends.cudnn
    before = (flags.benchmark, flags.allow_tf32)
    for dtype, search in ((torch.float32, False), (torch.float16, True), (torch.bfloat16, True)):
        with _convolutions(torch.device("cuda"), dtype):
            assert (flags.benchmark, flags.allow_tf32) == (search, False)
        with _convolutions(torch.device("cpu"), dtype):
            assert (flags.benchmark, flags.allow_tf32) == before
    assert (flags.benchmark, flags.allow_tf32) == before


def test_recordings_are_given_up_only_when_no_stream_uses_them(fused, monkeypatch):
    from elinvar.vision import runner as module

    class Done:
        def synchronize(self):
            seen.append(list(runner._known))

    monkeypatch.setattr(module, "_MOST", 1)
    runner, seen = Runner(fused, torch.device("cpu")), []
    runner._shared.done = Done()
    runner._replay(("a",), list)
    assert seen == []
    runner._replay(("b",), list)
    assert seen == [[("a",), ("b",)]]
    assert list(runner._known) == [("b",)]
