"""The small network that elinvar has a recipe for: its sizes, where its weights are looked for, that it runs."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch

from elinvar.errors import WeightsError
from elinvar.report import Page
from elinvar.runtime.device import device
from elinvar.vision import Engine, checkpoint, plain, rooms, tour, training
from elinvar.vision.catalogue import variant
from elinvar.vision.keys import expected

from .conftest import PLAIN, relative

FREE = variant("free")


@pytest.fixture(scope="module")
def state():
    return training.initial(FREE, 3)


@pytest.fixture(scope="module")
def batch():
    return rooms.draw_pairs(1, training.HELD_OUT, (64, 48), matches=1)


def test_it_is_small():
    weights = sum(math.prod(where.shape) for where in expected(FREE).values())
    assert weights < 6e6
    assert 2 * weights < 20e6
    assert Engine("elinvar_free", device="cpu").resolution == FREE.side == 256


def test_the_engine_computes_what_is_written(state, batch):
    engine = Engine("free", 64, precision="fp32", device="cpu").load(state, paths=PLAIN)
    images = [image[0] for image in batch.images]
    out = engine.infer(*(image.numpy() for image in images))
    want = plain.infer(state, FREE, *images)
    for name in ("pts3d_1", "pts3d_2", "conf_1", "conf_2", "desc_1", "desc_2", "desc_conf_1", "desc_conf_2"):
        assert relative(getattr(out, name).numpy(), want[name].numpy()) < 3e-5, name
    assert out.desc_1.shape == (48, 64, 16)


def test_flops_are_counted(state, batch):
    """The count against torch's own, for heads that are narrower than the published ones."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        plain.infer(state, FREE, *(image[0] for image in batch.images))
    assert sum(FREE.flops(48, 64).values()) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_both_views_begin_alike(state):
    for name, value in state.items():
        twin = name.replace("dec_blocks2.", "dec_blocks.").replace("downstream_head2.", "downstream_head1.")
        assert torch.equal(value, state[twin])


def test_descriptors_of_a_place_agree_from_the_start(state):
    pairs = rooms.draw_pairs(2, 5, (96, 64), matches=128)
    with torch.no_grad():
        found = training.losses(plain.forward(state, FREE, *pairs.images), pairs, training.Recipe())
    assert float(found["matching"]) < math.log(128)


def test_where_weights_are_looked_for(tmp_path, monkeypatch, state):
    monkeypatch.setenv("ELINVAR_WEIGHTS", str(tmp_path / "mine"))
    monkeypatch.setattr(checkpoint, "_SHIPPED", tmp_path / "shipped")
    with pytest.raises(WeightsError, match="elinvar_free"):
        Engine("free", device="cpu").load()
    for folder in ("shipped", "mine"):
        (tmp_path / folder).mkdir()
        path = training.save(state, tmp_path / folder / "elinvar_free.safetensors", torch.float16)
        assert checkpoint.find_weights(FREE) == path


class Context:
    device, quick = device("cpu"), True

    @contextmanager
    def stage(self, _name):
        yield


def test_the_tour_shows_it_where_weights_are(tmp_path, monkeypatch, state):
    monkeypatch.setenv("ELINVAR_WEIGHTS", str(tmp_path))
    training.save(state, tmp_path / "elinvar_free.safetensors")
    page = Page("tour")
    tour._free(page, Context(), tour.stereo_pair())
    html = page.html_text()
    for words in (
        "the free network",
        "median relative error",
        'class="cloud"',
        "not among those",
        "never seen a photograph",
    ):
        assert words in html, words
