from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from elinvar.errors import InputError, WeightsError
from elinvar.vision.asmk import Codebook
from elinvar.vision.retrieval import Retrieval, similarity

WIDTH = 64


def whitening(seed=0):
    make = torch.Generator().manual_seed(seed)
    m = torch.randn(1, WIDTH, generator=make, dtype=torch.float64)
    p = torch.randn(WIDTH, WIDTH, generator=make, dtype=torch.float64)
    return {"prewhiten.m": m, "prewhiten.p": p}


@pytest.fixture
def ready(engine, tmp_path):
    save_file(whitening(), tmp_path / "retrieval.safetensors")
    return engine.load_retrieval(tmp_path)


def test_features_equal_float64(ready, images):
    found = ready.encode_retrieval(images[0])
    state = whitening()
    want = (ready.encode([images[0]])[0].double() - state["prewhiten.m"]) @ state["prewhiten.p"]
    assert np.linalg.norm(found.features - want.numpy()) / np.linalg.norm(want.numpy()) < 1e-5
    assert np.allclose(found.attention, want.norm(dim=1).numpy(), rtol=1e-5)
    total = (want * want.norm(dim=1)[:, None]).sum(0)
    assert np.allclose(found.descriptor, (total / total.norm()).numpy(), atol=1e-6)
    assert set(found.timing) == {"preprocess_ms", "encoder_ms", "whiten_ms", "total_ms"}


def test_inference_and_retrieval_share_one_encode(ready, images):
    ready.infer(images[0], images[1])
    ready.encode_retrieval(images[0])
    assert ready.encodes == 2


def test_a_batch_is_its_images(ready, images):
    both = ready.encode_retrieval_batch(images[:2])
    ready.clear_cache()
    for k in (0, 1):
        assert np.allclose(both[k].features, ready.encode_retrieval(images[k]).features, rtol=1e-4, atol=1e-5)
    alike = similarity([r.descriptor for r in both])
    assert np.allclose(np.diag(alike), 1.0, atol=1e-5)


def test_top_features(ready, images):
    found = ready.encode_retrieval(images[0])
    some, where = found.local(5)
    assert np.allclose(np.linalg.norm(some, axis=1), 1)
    assert found.attention[where].min() >= np.sort(found.attention)[-5]


def test_a_retrieval_graph(ready, images):
    assert ready.is_retrieval_ready()
    pairs = ready.infer_pairs(images, "retrieval-2a-1")
    assert ready.encodes == 3
    assert {k for pair in pairs.indices for k in pair} == {0, 1, 2}


def test_projector_and_second_whitening():
    make = torch.Generator().manual_seed(1)
    state = whitening()
    layers = {
        "projector.0.weight": (8, WIDTH),
        "projector.0.bias": (8,),
        "projector.2.weight": (8, 8),
        "projector.2.bias": (8,),
    }
    state |= {name: torch.randn(shape, generator=make) for name, shape in layers.items()}
    state |= {"postwhiten.m": torch.ones(8), "postwhiten.p": 2 * torch.eye(8)}
    tokens = torch.randn(5, WIDTH, generator=make)
    got = Retrieval(state, WIDTH).apply(tokens, (0.0, 0.0)).features
    x = (tokens.double() - state["prewhiten.m"]) @ state["prewhiten.p"]
    x = torch.nn.functional.gelu(x @ state["projector.0.weight"].double().T + state["projector.0.bias"])
    x = x @ state["projector.2.weight"].double().T + state["projector.2.bias"]
    assert np.allclose(got, (2 * (x - 1)).numpy(), rtol=1e-4)


def test_bad_weights(engine, images, tmp_path):
    with pytest.raises(WeightsError, match="no retrieval weights"):
        engine.encode_retrieval(images[0])
    for state, message in (({"a": torch.zeros(1)}, "prewhiten"), ({"prewhiten.m": torch.zeros(1, 9)}, "64 channels")):
        save_file(state, tmp_path / "bad.safetensors")
        with pytest.raises(WeightsError, match=message):
            engine.load_retrieval(tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="similarity"):
        similarity([np.zeros(3), np.zeros(4)])


def test_a_codebook_makes_the_graph(engine, images, tmp_path):
    save_file(whitening(), tmp_path / "retrieval.safetensors")
    centroids = np.random.default_rng(0).normal(size=(8, WIDTH)).astype(np.float32)
    np.save(tmp_path / "codebook.npy", centroids)
    for given in (tmp_path / "codebook.npy", Codebook(centroids)):
        engine.load_retrieval(tmp_path, codebook=given)
        found = engine.encode_retrieval_batch(images)
        alike = engine.compare_retrieval(found)
        want = Codebook(centroids).similarity([r.local()[0] for r in found])
        assert np.allclose(alike, want)
        assert engine.infer_pairs(images, "retrieval-2-1").indices
    with pytest.raises(InputError, match="channels"):
        engine.load_retrieval(tmp_path, Codebook(np.ones((2, 3)))).compare_retrieval(found)
    plain = engine.load_retrieval(tmp_path).compare_retrieval(found)
    assert np.allclose(plain, similarity([r.descriptor for r in found]))
