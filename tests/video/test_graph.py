"""Graphs: order, fusion, memory, determinism, and what is refused."""

from __future__ import annotations

import gc
import json
import tracemalloc

import pytest
import torch

from elinvar.errors import InputError
from elinvar.runtime.parallel import set_threads
from elinvar.testing import assert_no_leak
from elinvar.video import passes, sources
from elinvar.video.graph import Graph
from elinvar.video.looks import LOOKS, look
from elinvar.video.yuv import coding


def hot(width: int = 96, height: int = 64) -> Graph:
    """The hot look on lights."""
    graph = Graph("cpu")
    graph.source(sources.starfield(width, height, stars=40))
    graph.add(passes.Bloom(0.2))
    graph.add(passes.Vignette(0.3))
    graph.add(passes.Grain(0.02))
    return graph.output("aces-fit")


def test_points_in_a_row_are_one_step() -> None:
    plan = hot().plan()
    assert [len(s.tasks) for s in plan.steps] == [1, 4]
    text = plan.explain()
    assert "Bloom composite + Vignette + output aces-fit + Grain" in text
    assert "4 passes in one kernel" in text


def test_a_result_that_others_read_is_not_fused_away(simple) -> None:
    graph = Graph("cpu")
    clip = graph.source(sources.zone_plate(32, 32))
    warm = graph.add(passes.Exposure(1.0), clip)
    blurred = graph.add(passes.GaussianBlur(100.0), warm)
    graph.add(passes.Crossfade(0.5), warm, blurred)
    graph.output("rec709")
    assert [s.label for s in graph.plan().steps] == [
        "input rec709 + Exposure",
        "GaussianBlur",
        "Crossfade + output rec709",
    ]
    assert torch.isfinite(graph.render(0)).all()


def test_the_identity_gives_the_source_back(chart) -> None:
    graph = Graph("cpu")
    graph.source(chart)
    graph.output("srgb")
    assert torch.equal(graph.render(0), chart.frame(0)), "bit by bit: nothing happens in linear light"
    assert [s.label for s in graph.plan().steps] == ["copy"]


def test_order_threads_and_memory_do_not_change_a_frame() -> None:
    one, other = hot(), hot()
    how = coding("p010", dither=True)
    first = {n: one.render_yuv(n, how) for n in (0, 1, 2, 7)}
    old = set_threads(3)
    try:
        for n in (7, 2, 0, 1):
            one.device.pool.clear()
            for a, b in zip(first[n], other.render_yuv(n, how), strict=True):
                assert torch.equal(a, b), n
    finally:
        set_threads(old)


def test_frames_in_a_steady_state_allocate_nothing() -> None:
    graph = hot(256, 160)
    plan, how = graph.plan(), coding("nv12")
    planes = how.format.empty(256, 160)
    fetched = plan.fetch(0)
    for n in range(3):
        plan.draw_yuv(n, fetched, how, planes)
    pool = graph.device.pool
    before = pool.stats()
    gc.collect()
    tracemalloc.start()
    with pool.frozen():
        for n in range(5):
            plan.draw_yuv(n, fetched, how, planes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    after = pool.stats()
    assert (after.allocation_count, after.requests) == (before.allocation_count, before.requests)
    assert peak < 1 << 20


def test_memory_is_shared_by_what_is_never_alive_together(simple) -> None:
    graph = simple(*[passes.GaussianBlur(20.0) for _ in range(6)])
    plan = graph.plan()
    assert len(plan.steps) == 8
    assert len(plan.slot_bytes) == 2


def test_plans_give_their_memory_back() -> None:
    def once() -> None:
        graph = hot()
        graph.render(0)
        graph.close()

    assert_no_leak(once, repeats=4)


def test_sources_of_other_sizes_are_scaled_in_linear_light(simple) -> None:
    graph = Graph("cpu")
    graph.source(sources.ramp(64, 32))
    small = graph.source(sources.solid((0.5, 0.5, 0.5), 20, 20))
    graph.output("rec709", small)
    assert graph.size == (20, 20)
    frame = graph.render(0, (64, 32))
    assert float(frame[0, 16, 32]) == pytest.approx(0.5, abs=1e-4)
    assert float(frame[0, 16, 2]) == 0  # fit: black bars


def test_a_preview_looks_like_the_result() -> None:
    graph = hot(192, 128)
    graph.nodes.pop()  # without the grain
    graph.output("aces-fit", graph.nodes[-1])
    large, small = graph.render(0), graph.render(0, (96, 64))
    half = torch.nn.functional.avg_pool2d(large[None], 2)[0]
    assert (half - small).abs().mean() < 0.02


def test_temporal_passes_look_back_the_same_way_from_anywhere(simple) -> None:
    source = sources.Function(lambda n: torch.full((3, 16, 16), float(n)), 16, 16, frame_count=10, space="acescg")
    graph = Graph("cpu")
    graph.source(source)
    graph.add(passes.Temporal((2.0, 1.0, 1.0)))
    graph.output("acescg")
    seen = {n: float(graph.render(n).mean()) for n in (9, 0, 5, 1)}
    assert seen == pytest.approx({9: 8.25, 0: 0.0, 5: 4.25, 1: 0.5})


def test_two_temporal_passes_nest(simple) -> None:
    source = sources.Function(lambda n: torch.full((3, 8, 8), float(n)), 8, 8, frame_count=10, space="acescg")
    graph = Graph("cpu")
    graph.source(source)
    graph.add(passes.Temporal((1.0, 1.0)))
    graph.add(passes.Temporal((1.0, 1.0)))
    graph.output("acescg")
    assert float(graph.render(5).mean()) == pytest.approx(4.5 - 0.5)


def test_animation_is_a_function_of_time(simple) -> None:
    graph = Graph("cpu")
    graph.source(sources.solid((0.1, 0.1, 0.1), 8, 8, frame_rate=10))
    graph.add(passes.Exposure(lambda seconds: 10 * seconds))
    graph.output("acescg")
    dark, light = float(graph.render(0).mean()), float(graph.render(2).mean())
    assert light / dark == pytest.approx(4.0, rel=1e-5)


def test_display_passes_run_behind_the_output_wherever_they_were_added() -> None:
    def labels(*added: passes.Pass) -> list[str]:
        graph = Graph("cpu")
        graph.source(sources.starfield(32, 32))
        for one in added:
            graph.add(one)
        return [t.content.name for s in graph.output("aces-fit").plan().steps for t in s.tasks]

    grain, glow = passes.Grain(0.1), passes.Bloom(0.1)
    assert labels(grain, glow) == labels(glow, grain) == ["_Pyramid", "Bloom composite", "output aces-fit", "Grain"]


def test_any_function_is_a_pass(simple) -> None:
    frame = simple(lambda f: f.flip(-1)).render(0)
    assert torch.allclose(frame, simple().render(0).flip(-1), atol=1e-5)
    with pytest.raises(InputError, match="returned"):
        simple(lambda f: f[:, :3]).render(0)


@pytest.mark.parametrize("name", LOOKS)
def test_looks_are_plans(name: str) -> None:
    graph = Graph("cpu")
    graph.source(sources.starfield(64, 36))
    graph.add(look(name, 0.5))
    graph.output("aces-fit")
    assert graph.plan().steps


def test_mistakes_are_named(simple) -> None:
    with pytest.raises(InputError, match="empty"):
        Graph("cpu").render(0)
    with pytest.raises(InputError, match="add a source"):
        Graph("cpu").add(passes.Exposure(1.0))
    graph = simple()
    with pytest.raises(InputError, match="takes 2"):
        graph.add(passes.Crossfade(0.5), graph.nodes[0])
    with pytest.raises(InputError, match="another graph"):
        graph.add(passes.Exposure(1.0), simple().nodes[0])
    with pytest.raises(InputError, match="no pass"):
        graph.add(passes.Exposure)
    with pytest.raises(InputError, match="frames, not frame 10"):
        graph.render(10)
    with pytest.raises(InputError, match="acescg"):
        graph.output("foo")
    with pytest.raises(InputError, match="width"):
        graph.plan((0, 5))
    graph = Graph("cpu")
    clip = graph.source(sources.ramp(8, 8))
    graph.add(passes.Crossfade(0.5), clip, graph.add(passes.Grain(0.1), clip))
    with pytest.raises(InputError, match="main chain"):
        graph.render(0)
    with pytest.raises(InputError, match="classicFilm"):
        look("sepia")


def test_nan_in_a_source_does_not_spread(simple) -> None:
    frame = torch.full((3, 64, 64), 0.5)
    frame[:, 10, 10] = float("nan")
    graph = simple(passes.Bloom(0.5), source=sources.Arrays([frame], space="acescg"))
    out = graph.render(0)
    assert torch.isfinite(out[:, 20:, 20:]).all()


MANIFEST = {
    "nodes": {
        "mix": {"pass": "Crossfade", "inputs": ["a", "b"], "progress": 0.25},
        "a": {"source": "ramp", "width": 32, "height": 16},
        "b": {"source": "solid", "width": 32, "height": 16, "colour": [0.2, 0.4, 0.6]},
    },
    "output": {"node": "mix", "view": "rec709"},
}


def test_manifests_in_any_order(tmp_path) -> None:
    import json

    graph = Graph.from_manifest(MANIFEST, "cpu")
    assert torch.isfinite(graph.render(0)).all()
    for name, text in (("a.json", json.dumps(MANIFEST)), ("a.yaml", json.dumps(MANIFEST))):
        (tmp_path / name).write_text(text)
        again = Graph.from_manifest(tmp_path / name, "cpu")
        assert again.explain() == graph.explain()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"a": {"pass": "Exposure", "inputs": ["mix"]}}, "cycle"),
        ({"mix": {"pass": "Exposure", "inputs": ["c"]}}, "not there"),
        ({"mix": {"pass": "Sharpen", "inputs": ["a"]}}, "no pass"),
        ({"mix": {"pass": "Exposure", "inputs": ["a"], "evv": 1}}, "parameters"),
        ({"mix": {"inputs": ["a"]}}, "one of source"),
        ({"mix": {"pass": "Exposure", "inputs": ["a"], "ev": 1e9}}, "ev"),
        ({"a": {"source": "none.mp4"}}, "no such file"),
        ({"a": 3}, "write"),
    ],
)
def test_manifests_that_are_wrong(change, word: str) -> None:
    wrong = {"nodes": {**MANIFEST["nodes"], **change}, "output": {"node": "mix"}}
    with pytest.raises(InputError, match=word):
        Graph.from_manifest(wrong, "cpu")


def test_manifests_that_are_no_manifests(tmp_path) -> None:
    for text in ("[1]", "{", "nodes: {}"):
        path = tmp_path / "a.yaml"
        path.write_text(text)
        with pytest.raises(InputError):
            Graph.from_manifest(path, "cpu")
    with pytest.raises(InputError, match="no such file"):
        Graph.from_manifest(tmp_path / "b.json", "cpu")
    with pytest.raises(InputError, match="unknown keys"):
        Graph.from_manifest({**MANIFEST, "foo": 1}, "cpu")


def test_files_of_a_manifest_lie_beside_it(tmp_path) -> None:
    (tmp_path / "grade.cube").write_text("LUT_1D_SIZE 2\n0 0 0\n0.5 0.5 0.5\n")
    path = tmp_path / "graph.json"
    nodes = {
        "bars": {"source": "smpte", "width": 32, "height": 32},
        "g": {"pass": "LUT", "path": "grade.cube", "inputs": "bars"},
    }
    path.write_text(json.dumps({"nodes": nodes, "output": {"view": "rec709"}}))
    assert float(Graph.from_manifest(path, "cpu").render(0).max()) < 0.6
