"""A job's frames as codes: drawn where the encoder reads, or brought there beside rendering."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from elinvar.errors import InputError
from elinvar.runtime.pipeline import Stage
from elinvar.runtime.transfers import transfers
from elinvar.video import rendering
from elinvar.video.graph import Graph
from elinvar.video.passes import Exposure
from elinvar.video.slots import DeviceSlots, Slots
from elinvar.video.yuv import coding

HOW = coding("nv12", dither=True)


def job(graph: Graph, kind: str, surface: str = "host", frames: int = 9) -> Any:
    """A job of a graph on the CPU, in the role of another device."""
    device = SimpleNamespace(kind=kind, torch=torch.device("cpu"), pool=graph.device.pool)
    drawn = SimpleNamespace(plan=graph.plan, device=device)
    return SimpleNamespace(
        graph=drawn, settings=SimpleNamespace(surface=surface, rate=Fraction(24)), coding=HOW, first=1, frames=frames,
        in_flight=3, size=(96, 64), fit="fit", monitor=None,
    )  # fmt: skip


@pytest.fixture
def anywhere(monkeypatch) -> list[str]:
    """Stages run here whatever device they name; their names are kept."""
    names: list[str] = []

    def stage(fn: Callable[..., Any], name: str, **options: Any) -> Stage:
        options.pop("device", None)
        names.append(name)
        return Stage(fn, name, **options)

    monkeypatch.setattr(rendering, "Stage", stage)
    return names


@pytest.mark.parametrize(
    ("kind", "surface", "stages", "calls"),
    [
        ("cpu", "host", ["decode", "render"], 0),
        ("mps", "host", ["decode", "render", "download"], 18),
        ("cuda", "cuda", ["decode", "render"], 0),
    ],
)
def test_codes_are_where_the_encoder_reads(kind, surface, stages, calls, simple, anywhere, monkeypatch) -> None:
    graph = simple(Exposure(lambda t: t))
    made = job(graph, kind, surface)
    between: list[Slots] = []
    slots = rendering.slots_for(made)
    monkeypatch.setattr(rendering, "Slots", lambda *a, **k: between.append(Slots(*a, **k)) or between[-1])
    assert isinstance(slots, DeviceSlots) == (surface == "cuda")
    with transfers.count() as counted:
        for k, slot in rendering.rendered(made, slots):
            want = graph.render_yuv(k + 1, HOW)
            assert all(torch.equal(a, b) for a, b in zip(slot.planes, want, strict=True)), k
            slot.discard()
    assert anywhere == stages
    assert (counted.d2h_calls, counted.d2h_bytes) == (calls, 96 * 64 * 3 // 2 * calls // 2)
    assert all(one.made <= 4 for one in (slots, *between))
    assert len(between) == bool(calls)


def test_a_frame_that_fails_gives_its_slot_back(simple, anywhere, monkeypatch) -> None:
    graph = simple(Exposure(0.0))
    made = job(graph, "mps")
    slots = rendering.slots_for(made)
    plan = graph.plan((96, 64))
    original = plan.draw_yuv

    def draw(n: int, *rest: Any) -> Any:
        if n == 4:
            raise InputError("frame 4 cannot be drawn")
        return original(n, *rest)

    monkeypatch.setattr(plan, "draw_yuv", draw)
    done = []
    with pytest.raises(InputError, match="frame 4"):
        for k, slot in rendering.rendered(made, slots):
            done.append(k)
            slot.discard()
    assert done == [0, 1, 2]
    assert len(slots.free) == slots.made
