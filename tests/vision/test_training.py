from __future__ import annotations

import dataclasses

import pytest
import torch

from elinvar.errors import InputError, WeightsError
from elinvar.vision import Engine, training
from elinvar.vision.catalogue import Variant, register_variant
from elinvar.vision.rooms import draw_pairs

SMALL = register_variant(
    Variant("micro_slim", "croco", 8, 64, 1, 64, 4, descriptor=8, decoder_head=32, dense=(8, 8, 8, 8), features=8,
            local=16)
)  # fmt: skip
TOY = training.Recipe(sizes=((32, 24),), steps=40, batch=2, warmup=4, rate=3e-3, matches=32, average=0.9, matching=1.0)


@pytest.fixture(scope="module")
def trained():
    """A trainer that was shown one batch again and again, and its losses."""
    trainer = training.Trainer(SMALL, TOY)
    batch = trainer.draw((32, 24), training.HELD_OUT, 2)
    trainer.draw = lambda *_: batch
    seen = [trainer.advance() for _ in range(TOY.steps)]
    return trainer, [{name: float(value) for name, value in parts.items()} for parts in seen]


def test_the_loss_falls(trained):
    trainer, seen = trained
    assert set(seen[0]) == {"regression", "matching", "trust", "error"}
    assert trainer.done == 1
    assert seen[-1]["regression"] < 0.6 * seen[0]["regression"]
    assert seen[-1]["matching"] < 0.2 * seen[0]["matching"]
    assert trainer.held_out(2) < 0.7 * training.evaluate(training.initial(SMALL), SMALL, pairs=2, size=(32, 24))


def test_going_on_is_as_if_it_had_not_stopped(tmp_path):
    recipe = dataclasses.replace(TOY, sizes=((32, 16),), batch=2)
    whole = training.Trainer(SMALL, recipe)
    for _ in range(3):
        whole.advance()
    path = whole.save(tmp_path / "last.pt")
    other = training.Trainer(SMALL, recipe, seed=9).resume(path)
    for _ in range(2):
        one, two = whole.advance(), other.advance()
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(t, other.weights[name]) for name, t in whole.weights.items())
    assert all(torch.equal(t, other.average[name]) for name, t in whole.average.items())
    with pytest.raises(WeightsError, match="anew"):
        training.Trainer("mast3r_tiny", recipe).resume(path)


def test_what_is_saved_can_be_loaded(tmp_path, trained):
    trainer, _ = trained
    trainer.checkpoint(tmp_path)
    engine = Engine(SMALL, 32, "fp32", "cpu").load(tmp_path / "ema.safetensors")
    batch = draw_pairs(1, training.HELD_OUT, (32, 24), matches=1)
    pair = engine.infer(*(image[0].numpy() for image in batch.images))
    out = {f"pts3d_{k}": torch.from_numpy(getattr(pair, f"pts3d_{k}").numpy())[None] for k in (1, 2)}
    mine = training.relative_errors(out, batch)
    assert float(mine) == pytest.approx(trainer.held_out(1), rel=0.02)  # the file is in float16


def test_a_run_writes_and_tells(tmp_path):
    recipe = dataclasses.replace(TOY, sizes=((24, 16),), early=((16, 16),), steps=4, batch=1)
    lines = []
    trainer = training.Trainer(SMALL, recipe)
    state = trainer.run(tmp_path, every=0.0, look=2, tell=lines.append)
    assert len(lines) == 2
    assert "held-out error" in lines[0]
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "ema.safetensors", "best.safetensors"}
    assert trainer.best < 10
    assert training.Trainer(SMALL, recipe).resume(tmp_path / "last.pt").best == trainer.best
    assert set(state) == set(trainer.weights)
    assert [recipe.size(0, 0.1), recipe.size(0, 0.6)] == [(16, 16), (24, 16)]


def test_perfect_outputs_have_no_error():
    batch = draw_pairs(1, 5, (48, 32), matches=32)
    recipe = training.Recipe(matches=32)
    out = {"pts3d_1": 3 * batch.points[0], "pts3d_2": 3 * batch.points[1]}
    out |= {f"{name}_{k}": torch.ones(1, 32, 48) for k in (1, 2) for name in ("conf", "desc_conf")}
    # One-hot descriptors of the point that is seen: matching has nothing left to learn.
    desc = [torch.zeros(1, 32 * 48, 32), torch.zeros(1, 32 * 48, 32)]
    for k in range(32):
        for view in (0, 1):
            desc[view][0, batch.pixels[view][0, k]] = torch.nn.functional.one_hot(torch.tensor(k), 32).float()
    out |= {f"desc_{k + 1}": d.view(1, 32, 48, 32) for k, d in enumerate(desc)}
    found = training.losses(out, batch, recipe)
    assert float(found["regression"]) == pytest.approx(0.0, abs=1e-5)
    assert float(found["matching"]) < 0.7  # a pixel that was drawn twice cannot be told apart
    assert float(training.relative_errors(out, batch)) < 1e-6
    out["pts3d_2"] = out["pts3d_2"] + 1
    assert float(training.losses(out, batch, recipe)["regression"]) > 0.01


def test_matches_that_are_not_real_do_not_count():
    batch = draw_pairs(1, 5, (48, 32), matches=32)
    recipe = training.Recipe(matches=32)
    make = torch.Generator().manual_seed(0)
    out = {f"pts3d_{k}": batch.points[k - 1] for k in (1, 2)}
    out |= {f"{name}_{k}": torch.ones(1, 32, 48) for k in (1, 2) for name in ("conf", "desc_conf")}
    out |= {f"desc_{k}": torch.randn(1, 32, 48, 8, generator=make) for k in (1, 2)}
    half = torch.arange(32)[None] < 16
    masked = training.losses(out, dataclasses.replace(batch, valid=half), recipe)
    cut = dataclasses.replace(batch, valid=half[:, :16], pixels=(batch.pixels[0][:, :16], batch.pixels[1][:, :16]))
    alone = training.losses(out, cut, recipe)
    assert float(masked["matching"]) == pytest.approx(float(alone["matching"]), rel=1e-5)


def test_the_schedule():
    recipe = training.Recipe(steps=1000, warmup=10, rate=1.0)
    assert recipe.rate_at(0, 0.0) == pytest.approx(0.1)
    assert recipe.rate_at(500, 0.5) == pytest.approx(0.505)
    assert recipe.rate_at(1000, 1.0) == pytest.approx(0.01)
    assert recipe.pairs((128, 192)) == 32


def test_train_returns_a_state(images):
    recipe = dataclasses.replace(TOY, sizes=((24, 16),), steps=2, batch=1)
    seen = []
    state = training.train(SMALL, recipe, progress=lambda step, _parts: seen.append(step))
    assert seen == [0, 1]
    assert Engine(SMALL, 64, "fp32", "cpu").load(state).infer(images[0], images[1]).conf_1.numpy().min() >= 1


def test_bad_sizes():
    with pytest.raises(InputError, match="multiples"):
        training.train(SMALL, training.Recipe(sizes=((50, 32),), steps=1))
