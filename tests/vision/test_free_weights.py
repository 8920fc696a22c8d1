"""The free network's weights: they come with elinvar, and do what the documentation says."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from elinvar.cli.main import app
from elinvar.errors import WeightsError
from elinvar.runtime.weights import sha256_of
from elinvar.vision import Engine, checkpoint, fetch, focal, rooms, training
from elinvar.vision.catalogue import variant

from .conftest import PLAIN

FREE = variant("free")
PAIRS = 32


@pytest.fixture(autouse=True)
def nothing_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("ELINVAR_WEIGHTS", "")
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def free():
    return Engine("elinvar_free", precision="fp32", device="cpu").load(checkpoint.shipped("elinvar_free"), paths=PLAIN)


@pytest.fixture(scope="module")
def pairs():
    """The first rooms of benchmarks/vision_training.py: never trained on, nor looked at while training."""
    return [rooms.draw_pairs(1, training.HELD_OUT + (1 << 16) + k, (256, 192), matches=1) for k in range(PAIRS)]


@pytest.fixture(scope="module")
def results(free, pairs):
    return [free.infer(*(image[0].numpy() for image in pair.images)) for pair in pairs]


@pytest.fixture
def pictures(pairs, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, image in zip(paths, pairs[0].images, strict=True):
        Image.fromarray(image[0].numpy()).save(path)
    return paths


def call(*words):
    return CliRunner().invoke(app, ["vision", *(str(word) for word in words)])


def test_found_without_a_download(free):
    path = checkpoint.find_weights(FREE)
    assert path.stat().st_size <= 20e6
    assert free.resolution == 256
    assert fetch.inspect(path, FREE)["dtypes"] == ["float16"]
    assert fetch.status(FREE)["found"] == path
    assert FREE.licence.startswith("Apache-2.0")
    told = json.loads(call("weights", "verify", "free", "--json").stdout)
    assert told["sha256"] == sha256_of(path)
    assert told["licence"] == FREE.licence
    text = call("weights", "verify", "free").stdout
    assert sha256_of(path) in text
    assert FREE.licence in text
    assert str(path) in call("weights", "status", "--json").stdout
    assert json.loads(call("weights", "download", "free", "--json").stdout)["path"] == str(path)


def test_ones_own_weights_come_first(tmp_path, monkeypatch):
    mine = training.save(training.initial(FREE), tmp_path / "elinvar_free.safetensors")
    monkeypatch.setenv("ELINVAR_WEIGHTS", str(tmp_path))
    assert checkpoint.find_weights(FREE) == mine


def test_points_of_rooms_it_has_not_seen(pairs, results):
    """The bar of the weights: a median relative error of points of at most 5 %."""
    errors = []
    for pair, result in zip(pairs, results, strict=True):
        out = {f"pts3d_{v}": getattr(result, f"pts3d_{v}").torch()[None] for v in (1, 2)}
        errors.append(float(training.relative_errors(out, pair)))
    assert np.median(errors) <= 0.05


def test_focal_lengths_of_rooms_it_has_not_seen(pairs, results):
    found = [focal(result.pts3d_1.numpy()) for result in results]
    true = [float(pair.cameras[0].K[0, 0, 0]) for pair in pairs]
    assert np.median(np.abs(np.divide(found, true) - 1)) < 0.1


def test_matches_are_right_more_often_than_not(free, pairs, results):
    shares = []
    for pair, result in zip(pairs[:6], results, strict=False):
        found = free.match(result, None, subsample=8)
        one, two = (p[0].flatten(0, 1).numpy() for p in pair.points)
        apart = np.linalg.norm(one[found.idx_1] - two[found.idx_2], axis=1) / np.linalg.norm(one[found.idx_1], axis=1)
        shares.append((apart < 0.03).mean())
    assert np.median(shares) > 0.5


def test_the_same_again(pairs, results):
    again = Engine("free", precision="fp32", device="cpu").load(paths=PLAIN)
    one = again.infer(*(image[0].numpy() for image in pairs[0].images))
    assert np.array_equal(one.pts3d_2.numpy(), results[0].pts3d_2.numpy())
    assert np.array_equal(one.desc_1.numpy(), results[0].desc_1.numpy())


def test_out_of_the_box_and_said_what_it_is(pictures, tmp_path):
    common = ("--model", "free", "--device", "cpu", "--precision", "fp32", "--json")
    done = call("reconstruct", *pictures, "-o", tmp_path / "out", "--export", "ply,colmap", "--viewer", *common)
    assert done.exit_code == 0, done.stderr
    assert FREE.caution in done.stderr
    told = json.loads(done.stdout)
    assert told["weights"] == str(checkpoint.shipped("elinvar_free"))
    assert told["points"] > 10_000
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["colmap", "points.ply", "viewer.html"]
    assert FREE.caution in call("match", *pictures, *common).stderr


def test_weights_of_ones_own_are_not_cautioned_about(pictures, tmp_path):
    mine = training.save(training.initial(FREE), tmp_path / "mine.safetensors")
    done = call("match", *pictures, "--model", "free", "--device", "cpu", "--precision", "fp32", "--weights", mine)
    assert done.exit_code == 0, done.stderr
    assert "made-up rooms" not in done.stderr


def test_who_lacks_other_weights_hears_of_these():
    with pytest.raises(WeightsError, match="--model free"):
        checkpoint.find_weights(variant("mast3r"))
    with pytest.raises(WeightsError, match="leave the path out"):
        checkpoint.open_weights("/nowhere", FREE)


def test_a_wheel_has_them():
    """They are files of the package, and nothing keeps them out."""
    assert resources.files("elinvar.vision").joinpath("data/elinvar_free.safetensors").is_file()
