from __future__ import annotations

import pytest
import torch

from elinvar.errors import InputError
from elinvar.vision import Engine, training

from .conftest import MICRO


def test_a_step_lowers_the_loss_and_can_be_loaded(tmp_path, images):
    recipe = training.Recipe(size=(48, 32), steps=3, batch=1, warmup=1, rate=2e-4, seeds=16)
    seen = []
    state = training.train(MICRO, recipe, progress=lambda _step, parts: seen.append(parts))
    assert len(seen) == 3
    assert set(seen[0]) == {"regression", "matching"}
    path = training.save(state, tmp_path / "mine.safetensors")
    assert Engine(MICRO, 64, "fp32", "cpu").load(path).infer(images[0], images[1]).conf_1.numpy().min() >= 1
    assert training.evaluate(state, MICRO, pairs=1, size=(48, 32)) > 0


def test_perfect_outputs_have_no_error():
    recipe = training.Recipe(size=(48, 32), batch=1, seeds=32)
    batch = next(training.batches(recipe, 5))
    out = {"pts3d_1": 3 * batch.points[0], "pts3d_2": 3 * batch.points[1]}
    out |= {f"conf_{k}": torch.ones(1, 32, 48) for k in (1, 2)}
    # One-hot descriptors of the point that is seen: matching has nothing left to learn.
    desc = [torch.zeros(1, 32 * 48, 32), torch.zeros(1, 32 * 48, 32)]
    for k in range(32):
        for view in (0, 1):
            desc[view][0, batch.pixels[view][0, k]] = torch.nn.functional.one_hot(torch.tensor(k), 32).float()
    out |= {f"desc_{k + 1}": d.view(1, 32, 48, 32) for k, d in enumerate(desc)}
    found = training.losses(out, batch, recipe)
    assert float(found["regression"]) == pytest.approx(0.0, abs=1e-5)
    assert float(found["matching"]) < 0.7  # a pixel that was drawn twice cannot be told apart
    out["pts3d_2"] = out["pts3d_2"] + 1
    assert float(training.losses(out, batch, recipe)["regression"]) > 0.01


def test_matched_pixels_see_one_point():
    batch = next(training.batches(training.Recipe(size=(64, 48), batch=1, seeds=50), 9))
    a, b = (batch.points[k].flatten(1, 2)[0, batch.pixels[k][0]] for k in (0, 1))
    assert float((a - b).norm(dim=1).median()) < 0.1


def test_bad_sizes():
    with pytest.raises(InputError, match="multiples"):
        training.train(MICRO, training.Recipe(size=(50, 32), steps=1))
