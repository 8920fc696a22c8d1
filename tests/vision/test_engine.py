from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from elinvar.errors import DeviceUnavailable, InputError, StaleLease, WeightsError
from elinvar.vision import Engine, available, plain
from elinvar.vision.replay import Replay
from elinvar.vision.result import Clock

from .conftest import MICRO, PLAIN, relative


def test_a_pair_equals_the_plain_rendition(engine, images, weights):
    result = engine.infer(images[0], images[1])
    want = plain.infer(weights(MICRO), MICRO, *(torch.from_numpy(x) for x in images[:2]))
    for name, output in result.outputs().items():
        assert relative(output, want[name]) < 3e-5, name
        assert output.shape == tuple(want[name].shape)
        assert output.nbytes == 4 * output.numel == output.numpy().nbytes


def test_heads_run_only_when_read(engine, images):
    result = engine.infer(images[0], images[1])
    assert result.heads_run == ()
    result.desc_1.numpy()
    assert result.heads_run == ("local_1",)
    result.desc_conf_1.numpy()
    assert result.heads_run == ("local_1",)
    before = result.timing
    result.conf_2.numpy()
    assert result.heads_run == ("dense_2", "local_1")
    assert result.timing.inference_ms > before.inference_ms
    assert result.timing.total_ms == pytest.approx(result.timing.preprocess_ms + result.timing.inference_ms)
    assert len(result.compute().heads_run) == 4


def test_lazy_tensors_hand_out_values_every_way(engine, images):
    result = engine.infer(images[0], images[1])
    points = result.pts3d_1
    out = np.empty(points.shape, np.float32)
    assert points.copy_to(out) is out
    assert np.array_equal(out, points.numpy())
    assert np.array_equal(points.copy_to(np.empty(points.shape, np.float32)[::-1, ::-1]), out)
    assert torch.equal(torch.from_dlpack(points), points.torch())
    assert np.asarray(points, np.float64).dtype == np.float64
    assert points.ndim == 3
    for bad in (np.empty((2, 2), np.float32), out.astype(np.float64), [1.0]):
        with pytest.raises(InputError, match="float32 array"):
            points.copy_to(bad)
    out.setflags(write=False)
    with pytest.raises(InputError, match="read-only"):
        points.copy_to(out)


def test_released_results_refuse(engine, images):
    with engine.infer(images[0], images[1]) as result:
        kept = result.desc_1.torch().clone()
        again = result.desc_1.torch()
    assert not result.desc_1.is_valid
    assert torch.equal(kept, again)  # taken out before: still valid
    for ask in (result.desc_1.numpy, result.conf_2.torch, lambda: np.asarray(result.pts3d_2)):
        with pytest.raises(StaleLease):
            ask()
    assert "released" in repr(result)


def test_results_do_not_share_memory(engine, images):
    first = engine.infer(images[0], images[1])
    kept = first.pts3d_1.numpy().copy()
    engine.infer(images[2], images[1]).compute()
    assert np.array_equal(first.pts3d_1.numpy(), kept)


@pytest.mark.parametrize(
    ("graph", "pairs"),
    [("sequence", [(0, 1), (1, 2)]), ("complete", [(0, 1), (0, 2), (1, 2)]), ("oneref-1", [(1, 0), (1, 2)])],
)
def test_a_graph_encodes_each_image_once(engine, images, graph, pairs):
    found = engine.infer_pairs(images, graph)
    assert found.indices == pairs
    assert engine.encodes == 3
    i, j = pairs[-1]
    alone = Engine(MICRO, 64, "fp32", "cpu", cache_bytes=0)
    alone._network = engine._network
    want = alone.infer(images[i], images[j])
    assert relative(found.of(i, j).pts3d_2, want.pts3d_2) <= 1e-5
    with pytest.raises(InputError, match="no pair"):
        found.of(2, 2)


def test_a_sequence_of_ten_is_ten_encodes_even_without_a_cache(engine, images):
    make = np.random.default_rng(0)
    ten = [make.integers(0, 256, (32, 64, 3), np.uint8) for _ in range(10)]
    alone = Engine(MICRO, 64, "fp32", "cpu", cache_bytes=0)
    alone._network = engine._network
    seen = []
    assert len(alone.infer_pairs(ten, progress=lambda done, total: seen.append((done, total)))) == 9
    assert alone.encodes == 10
    assert seen[-1] == (9, 9)
    results = alone.infer_batch_pipelined(ten)
    assert len(results) == 9
    assert alone.encodes == 20
    want = alone.infer(ten[4], ten[5])
    assert relative(results[4].desc_2, want.desc_2) <= 1e-5


def test_pairs_decoded_together_are_the_same(engine, images):
    make = np.random.default_rng(1)
    mixed = [*images, make.integers(0, 256, (64, 48, 3), np.uint8)]  # the last one is a portrait
    alone = engine.infer_pairs(mixed, "complete", batch=1)
    engine.clear_cache()
    engine.encodes = 0
    together = engine.infer_pairs(mixed, "complete", batch=4)
    assert engine.encodes == 4
    assert alone.indices == together.indices
    for one, two in zip(alone, together, strict=True):
        assert relative(two.pts3d_1, one.pts3d_1) <= 1e-5
        assert relative(two.desc_2, one.desc_2) <= 1e-5


def test_symmetric_and_given_pairs(engine, images):
    found = engine.infer_pairs(images, [(2, 0)], symmetric=True)
    assert found.indices == [(2, 0), (0, 2)]
    assert engine.encodes == 2
    for bad in ([(0, 0)], [(0, 9)], []):
        with pytest.raises(InputError, match="infer_pairs"):
            engine.infer_pairs(images, bad)


def test_features_are_found_again_by_their_pixels(engine, images):
    engine.infer(images[0], images[1])
    engine.infer(images[1].copy(), images[2])
    assert engine.encodes == 3
    engine.clear_cache()
    engine.infer(images[0], images[0])
    assert engine.encodes == 4  # twice the same image is one encode
    assert engine.encode([images[0]])[0].shape == (12, 64)


def test_pipelined_reports_and_computes(engine, images):
    seen = []
    results = engine.infer_batch_pipelined(
        images, compute=True, progress=lambda done, total: seen.append((done, total))
    )
    assert [r.heads_run for r in results] == [("dense_1", "dense_2", "local_1", "local_2")] * 2
    assert seen[-1] == (3, 3)


def test_bad_lists_are_refused(engine, images):
    for few in ([], images[:1]):
        with pytest.raises(InputError, match="at least two"):
            engine.infer_batch_pipelined(few)
        with pytest.raises(InputError, match="at least two"):
            engine.infer_pairs(few)
    with pytest.raises(InputError, match="is not a file"):
        engine.infer_batch_pipelined([images[0], "missing.png", images[1]])
    assert len(engine.infer_batch_pipelined(images)) == 2  # and the engine still works


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("a.png", {}, "got one path"),
        (None, {"graph": [(0, 1, 2)]}, "pairs \\(i, j\\)"),
        (None, {"graph": 7}, "pairs \\(i, j\\)"),
        (None, {"graph": [(0.0, 1.0)]}, "pairs \\(i, j\\)"),
        (None, {"batch": 0}, "batch=0"),
        (None, {"batch": 1.0}, "batch=1.0"),
    ],
)
def test_graphs_of_the_wrong_kind(engine, images, given, options, message):
    with pytest.raises(InputError, match=message):
        engine.infer_pairs(given or images, **options)
    assert engine.encodes == 0


def test_one_path_is_no_sequence(engine, tmp_path):
    for path in (tmp_path, str(tmp_path)):
        with pytest.raises(InputError, match="infer_batch_pipelined: got one path"):
            engine.infer_batch_pipelined(path)


def test_reading_an_image_counts_once_in_a_graph(engine, images, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("elinvar.vision.many.time.perf_counter", lambda: float(next(clock)))
    pairs = engine.infer_pairs(images, "complete", batch=2)
    assert [r.timing.preprocess_ms for r in pairs] == [2000.0, 1000.0, 0.0]


@pytest.mark.parametrize(("batch", "share"), [(1, 1), (3, 3)])
def test_a_head_of_a_batch_is_shared_by_its_pairs(engine, images, monkeypatch, batch, share):
    result = engine.infer_pairs(images, "complete", batch=batch)[0]
    shares, stop = [], Clock.stop
    monkeypatch.setattr(Clock, "stop", lambda self, n=1: shares.append(n) or stop(self, n))
    result.desc_1.numpy()
    assert shares == [share]


def test_two_threads_get_what_one_gets(engine, images):
    want = [engine.infer(images[k], images[k + 1]).pts3d_1.numpy().copy() for k in (0, 1)]
    got = [[], []]

    def work(k):
        for _ in range(3):
            got[k].append(engine.infer(images[k], images[k + 1]).pts3d_1.numpy().copy())

    threads = [threading.Thread(target=work, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in (0, 1):
        assert len(got[k]) == 3
        assert all(np.array_equal(x, want[k]) for x in got[k])


def test_without_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("ELINVAR_WEIGHTS", "")
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path))
    engine = Engine(device="cpu")
    assert not engine.is_ready()
    with pytest.raises(WeightsError, match="Three ways"):
        engine.infer(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(WeightsError, match="Three ways"):
        engine.encode_retrieval(np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "weights" / "mast3r_vit_large").mkdir(parents=True)
    with pytest.raises(WeightsError, match="are not loaded; call"):
        engine.infer(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "resnet"}, "no variant"),
        ({"resolution": 8}, "resolution"),
        ({"resolution": 64.0}, "resolution"),
        ({"precision": "int8"}, "unknown"),
        ({"precision": "fp64"}, "fp64"),
        ({"num_threads": 0}, "num_threads"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        Engine(**{"variant": MICRO, "device": "cpu", **arguments})
    with pytest.raises((DeviceUnavailable, InputError)):
        Engine(MICRO, device="tpu")


def test_threads_are_honoured_and_restored(weights, images):
    engine = Engine(MICRO, 64, "fp32", "cpu", num_threads=2).load(weights(MICRO), paths=PLAIN)
    seen = []
    engine._run("test", lambda: seen.append(torch.get_num_threads()))
    assert seen == [2]
    assert torch.get_num_threads() == 1


def test_info_and_available(engine):
    facts = engine.info()
    assert facts["variant"] == "micro"
    assert facts["device"] == "cpu"
    assert facts["precision"] == "fp32"
    assert facts["weights_bytes"] > 1e6
    assert facts["paths"] == PLAIN
    assert facts["recommended_working_set_bytes"] > 0
    assert available()["cpu"].startswith("yes")
    assert set(available()) == {"cpu", "cuda", "mps"}


def test_warm_up_leaves_no_trace(engine):
    assert engine.warmup(1) > 0
    assert engine.encodes == 0
    assert len(engine._cache) == 0


def test_replay_calls_through_off_cuda():
    calls = []
    replay = Replay(lambda x: calls.append(x) or [x + 1], torch.device("cpu"))
    assert torch.equal(replay(torch.zeros(2))[0], torch.ones(2))
    assert len(calls) == 1


def test_replay_records_once_per_shape_and_copies(monkeypatch):
    """CUDA's recording, with a stand-in that runs the function again at every replay."""

    class Graph:
        def replay(self):
            for out, new in zip(recorded.outputs, fn(*recorded.inputs), strict=True):
                out.copy_(new)

    def fn(x):
        return [x * 2]

    replay = Replay(fn, torch.device("cuda"), most=1)
    made = []

    def record(inputs):
        nonlocal recorded
        from elinvar.vision.replay import _Recorded

        static = tuple(t.clone() for t in inputs)
        recorded = _Recorded(Graph(), static, fn(*static))
        made.append(tuple(inputs[0].shape))
        return recorded

    recorded = None
    monkeypatch.setattr(replay, "_record", record)
    first = replay(torch.ones(3))[0]
    second = replay(torch.full((3,), 5.0))[0]
    assert first.tolist() == [2, 2, 2]
    assert second.tolist() == [10, 10, 10]
    replay(torch.ones(2))
    replay(torch.ones(3))
    assert made == [(3,), (2,), (3,)]


def test_bf16_by_default_where_it_is_fast():
    from elinvar.runtime.device import device

    engine = Engine(MICRO, 64, device="cpu")
    assert engine.precision.storage == ("bf16" if "bf16" in device("cpu").profile.fast else "fp32")
