from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from elinvar.cli.main import app
from elinvar.vision.checkpoint import Random

from .conftest import NARROW
from .test_retrieval import whitening

run = CliRunner()


@pytest.fixture
def folder(tmp_path, images):
    """Two pictures and a checkpoint."""
    (tmp_path / "pictures").mkdir()
    for k, image in enumerate(images[:2]):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{k}.png")
    return tmp_path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, weights):
    path = tmp_path_factory.mktemp("weights") / "narrow.safetensors"
    save_file(weights(NARROW), path)
    return path


def call(*words):
    return run.invoke(app, ["vision", *(str(word) for word in words)])


COMMON = ("--model", "narrow", "--size", "64", "--precision", "fp32", "--device", "cpu")


def test_match_writes_what_it_found(folder, checkpoint):
    a, b = folder / "pictures" / "0.png", folder / "pictures" / "1.png"
    done = call(
        "match", a, b, "-o", folder / "m.npz", "--draw", folder / "m.png", *COMMON, "--weights", checkpoint, "--json"
    )
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    with np.load(folder / "m.npz") as data:
        assert len(data["xy_1"]) == told["matches"] == len(data["confidence"])
        assert data["xy_2"].min() >= 0
    with Image.open(folder / "m.png") as drawn:
        assert drawn.size[1] == 480
    fine = call("match", a, b, "--fine", *COMMON, "--weights", checkpoint, "--top-k", "3", "--json")
    assert json.loads(fine.stdout)["matches"] <= 3


def test_reconstruct_with_random_weights_is_loud(folder, monkeypatch, shots):
    from elinvar.vision import alignment
    from elinvar.vision.alignment import PairPoints

    def true(pairs, _matched):
        def one(i, j):
            points = [shots[k].points_in(shots[i]).astype(np.float32) for k in (i, j)]
            return PairPoints(i, j, *points, np.full((48, 64), 2.0), np.full((48, 64), 2.0))

        return [one(i, j) for i, j in pairs.indices]

    monkeypatch.setattr(alignment, "_read", true)  # random weights need not look like a camera's view
    out = folder / "out"
    done = call("reconstruct", folder / "pictures", "-o", out, *COMMON, "--random-weights", "3",
                "--export", "ply,npz,colmap", "--viewer", "--intrinsics", "60,60,31.5,23.5")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "RANDOM WEIGHTS" in done.stdout
    assert "RANDOM WEIGHTS" in done.stderr
    assert sorted(p.name for p in out.iterdir()) == ["colmap", "points.npz", "points.ply", "viewer.html"]


def test_missing_weights_are_exit_3(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("ELINVAR_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path / "cache"))
    done = call("reconstruct", folder / "pictures", "-o", folder / "out")
    assert done.exit_code == 3
    assert "Three ways" in done.stderr
    assert "licence" in done.stderr
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("reconstruct", "PICTURES", "-o", "OUT", "--export", "obj"), "choose from"),
        (("reconstruct", "PICTURES/0.png", "-o", "OUT"), "at least two"),
        (("reconstruct", "EMPTY", "-o", "OUT"), "holds no pictures"),
        (("reconstruct", "NONE", "-o", "OUT"), "does not exist"),
        (("reconstruct", "PICTURES", "-o", "OUT", "--intrinsics", "1,2"), "fx,fy,cx,cy"),
        (("reconstruct", "PICTURES", "-o", "OUT", "--poses", "NONE"), "poses"),
        (("reconstruct", "PICTURES", "-o", "OUT", "--intrinsics", "0,0,1,1"), "focal lengths above 0"),
        (("reconstruct", "PICTURES", "-o", "OUT", "--intrinsics", "FEW"), "intrinsics have shape (1, 3, 3)"),
        (("reconstruct", "PICTURES", "-o", "OUT", "--poses", "FEW"), "poses have shape (1, 3, 3)"),
        (("reconstruct", "PICTURES", "-o", "PICTURES/0.png"), "no folder that can be written"),
        (("reconstruct", "PICTURES", "-o", "PICTURES/0.png/out"), "no folder that can be written"),
        (("reconstruct", "PICTURES", "-o", "OUT", "--graph", "ring"), "unknown"),
        (("reconstruct", "PICTURES", "-o", "OUT", "--graph", "retrieval-2-1"), "needs --retrieval"),
        (("retrieve", "PICTURES"), "pass --retrieval"),
        (("retrieve", "PICTURES", "-k", "0", "--random-weights", "1"), "at least one"),
        (("match", "PICTURES", "PICTURES/1.png"), "is a folder"),
        (("match", "PICTURES/0.png", "PICTURES/1.png", "--model", "resnet"), "no variant"),
        (("match", "PICTURES/0.png", "PICTURES/1.png", "--weights", "X", "--random-weights", "1"), "exclude"),
    ],
)
def test_wrong_use_is_one_sentence(folder, words, message):
    (folder / "empty").mkdir()
    (folder / "few.json").write_text("[[[9, 0, 1], [0, 9, 1], [0, 0, 1]]]")
    places = {"PICTURES": "pictures", "EMPTY": "empty", "NONE": "none", "OUT": "out", "FEW": "few.json"}
    given = []
    for word in words:
        head, _, rest = word.partition("/")
        given.append(folder / places[head] / rest if head in places else word)
    done = call(*given)
    assert done.exit_code == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (folder / "out").exists()


def test_retrieve(folder, checkpoint):
    save_file(whitening(), folder / "retrieval.safetensors")
    done = call("retrieve", folder / "pictures", "--retrieval", folder / "retrieval.safetensors", *COMMON,
                "--weights", checkpoint, "--json")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert [row["picture"] for row in told] == ["0.png", "1.png"]
    assert told[0]["most similar"][0][0] == "1.png"
    np.save(folder / "codebook.npy", np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32))
    done = call("retrieve", folder / "pictures", "--retrieval", folder / "retrieval.safetensors", *COMMON,
                "--codebook", folder / "codebook.npy", "--weights", checkpoint, "--json")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert 0 <= json.loads(done.stdout)[0]["most similar"][0][1] <= 1


def test_retrieve_with_random_weights_is_loud(folder):
    done = call("retrieve", folder / "pictures", *COMMON, "--random-weights", "3")
    assert done.exit_code == 0, done.stderr
    assert "RANDOM WEIGHTS" in done.stdout
    assert "RANDOM WEIGHTS" in done.stderr
    assert "1.png" in done.stdout


def test_info():
    told = json.loads(call("info", "--device", "cpu", "--json").stdout)
    assert told["devices"]["cpu"].startswith("yes")
    assert told["engine"]["variant"] == "mast3r_vit_large"
    assert call("info", "--device", "cpu").exit_code == 0


def test_bench():
    told = json.loads(
        call("bench", "--model", "narrow", "--size", "32", "--runs", "1", "--threads", "1", "--json").stdout
    )
    assert set(told) == {"engine", "plain PyTorch"}


def test_weights_life_cycle(tmp_path, monkeypatch, checkpoint):
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ELINVAR_WEIGHTS", raising=False)
    assert "mast3r_vit_large" in call("weights", "status").stdout
    url = checkpoint.as_uri()
    refused = call("weights", "download", "narrow", "--url", url)
    assert refused.exit_code == 1
    assert "--accept-licence" in refused.stderr
    wrong = call("weights", "download", "narrow", "--url", url, "--accept-licence", "--sha256", "0" * 64)
    assert wrong.exit_code == 3
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    done = call("weights", "download", "narrow", "--url", url, "--accept-licence", "--json")
    assert done.exit_code == 0, done.stderr
    digest = json.loads(done.stdout)["sha256"]
    told = json.loads(call("weights", "verify", "narrow", "--json").stdout)
    assert told["dtypes"] == ["float32"]
    path = tmp_path / "cache" / "weights" / "narrow" / "narrow.safetensors"
    assert call("weights", "verify", "narrow", path, "--sha256", digest).exit_code == 0
    assert call("weights", "verify", "narrow", path, "--sha256", "1" * 64).exit_code == 3
    assert call("weights", "convert", "narrow", path, tmp_path / "half.safetensors").exit_code == 0
    assert json.loads(call("weights", "verify", "narrow", tmp_path / "half.safetensors", "--json").stdout)[
        "dtypes"
    ] == ["float16"]
    for words in (
        ("convert", "narrow", path, path),
        ("convert", "narrow", path, tmp_path / "x", "--dtype", "int4"),
        ("download", "dune-small", "--accept-licence"),
        ("download", "mast3r", "--url", "ftp://x/y", "--accept-licence"),
    ):
        assert call("weights", *words).exit_code == 1
    gone = call("weights", "download", "narrow", "--url", (tmp_path / "none").as_uri(), "--accept-licence")
    assert gone.exit_code == 3
    assert "cannot be fetched" in gone.stderr


def test_verify_finds_broken_values(tmp_path):
    state = Random(NARROW, 0)
    tensors = state.get(state.shapes)
    tensors["enc_norm.bias"][3] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    done = call("weights", "verify", "narrow", tmp_path / "nan.safetensors")
    assert done.exit_code == 3
    assert "enc_norm.bias" in done.stderr
