from __future__ import annotations

import numpy as np
import pytest
import torch

from elinvar.vision import synthetic
from elinvar.vision.catalogue import Variant, register_variant
from elinvar.vision.checkpoint import Random
from elinvar.vision.layers import Paths

PLAIN = Paths(attention=1, channels_last=True)  # fixed: tests measure nothing

# Heads have their published width, 40 M parameters, but for one; everything else is as small as it gets.
MICRO = register_variant(Variant("micro", "croco", 16, 64, 1, 64, 4, decoder_head=32))
NARROW = register_variant(
    Variant("narrow", "croco", 16, 64, 1, 64, 4, decoder_head=32, dense=(24, 32, 48, 48), features=48, local=96)
)
MICRO_DINO = register_variant(Variant("micro_dino", "dino", 14, 64, 1, 64, 4, decoder_head=32, grid=4, square=True))


@pytest.fixture(scope="session")
def weights():
    """``weights(kind)``: a state dict of random numbers, made once."""
    made = {}

    def get(kind):
        if kind.name not in made:
            source = Random(kind, 5)
            made[kind.name] = source.get(source.shapes)
        return made[kind.name]

    return get


@pytest.fixture(scope="session")
def shots():
    """Three views of a room, 64 x 48."""
    return synthetic.shots(3, 3, (64, 48))


@pytest.fixture(scope="session")
def images(shots):
    return [shot.image for shot in shots]


@pytest.fixture(scope="session")
def _engine(weights):
    from elinvar.vision import Engine

    return Engine(MICRO, 64, "fp32", "cpu").load(weights(MICRO), paths=PLAIN)


@pytest.fixture
def engine(_engine):
    """A loaded float32 engine with an empty cache and its counters at zero."""
    _engine.clear_cache()
    _engine.encodes = 0
    _engine._retrieval = _engine._codebook = None
    return _engine


def relative(got, want) -> float:
    got, want = (np.asarray(x, np.float64) for x in (got, want))
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
