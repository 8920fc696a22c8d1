from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from elinvar import audio
from elinvar.cli.main import app
from elinvar.report.png import size

runner = CliRunner()
RATE = 8000
T = np.arange(RATE) / RATE
SOUND = np.stack([np.sin(2 * np.pi * 440 * T), np.sin(2 * np.pi * 880 * T)]).astype(np.float32) * 0.25


def run(*words: object, code: int = 0) -> Any:
    result = runner.invoke(app, ["audio", *map(str, words)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "sound.wav"
    audio.write(path, SOUND, RATE)
    return path


def test_info(sound: Path) -> None:
    told = json.loads(run("info", sound, "--json").stdout)
    assert (told["sample_rate"], told["channels"], told["frames"]) == (RATE, 2, RATE)
    assert told["loudness"]["sample_peak"] == pytest.approx(-12.04, abs=0.01)
    text = run("info", sound).stdout
    assert "1.000 s, 2 channels at 8000 Hz" in text
    assert "LUFS" in text
    assert "LUFS" not in run("info", sound, "--no-loudness").stdout


def test_info_of_several_files_and_of_one_that_ends_early(sound: Path, tmp_path: Path) -> None:
    assert [told["path"] for told in json.loads(run("info", sound, sound, "--json").stdout)] == [str(sound)] * 2
    audio.write(tmp_path / "whole.flac", np.random.default_rng(0).standard_normal(40_000).astype(np.float32), RATE)
    whole = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    assert "damaged after" in " ".join(run("info", tmp_path / "cut.flac", code=1).stderr.split())
    told = json.loads(run("info", tmp_path / "cut.flac", "--truncated", "--json").stdout)
    assert told["truncated"]
    assert 0 < told["readable_frames"] < told["frames"] == 40_000
    assert "of it can be read" in run("info", tmp_path / "cut.flac", "--truncated").stdout


def test_what_does_not_fit_is_said(sound: Path, tmp_path: Path) -> None:
    result = run("eq", sound, tmp_path / "loud.flac", "-b", "peak:440:1:24")
    assert "samples were beyond full scale: cut off" in result.stderr
    told = json.loads(run("eq", sound, tmp_path / "loud.flac", "-b", "peak:440:1:24", "--json").stdout)
    want = audio.Biquad.peaking(440, 1, 24, RATE)(SOUND)
    assert told["beyond_full_scale"] == np.count_nonzero(np.abs(want) > 1) > 0
    assert "made quieter" in run("eq", sound, tmp_path / "a.flac", "-b", "peak:440:1:24", "--clip", "rescale").stderr
    assert run("eq", sound, tmp_path / "float.wav", "-b", "peak:440:1:24").stderr == ""


def test_stft_draws_one_pixel_per_frame_and_frequency(sound: Path, tmp_path: Path) -> None:
    told = json.loads(run("stft", sound, tmp_path / "a.png", "--n-fft", 256, "--hop", 64, "--json").stdout)
    assert size((tmp_path / "a.png").read_bytes()) == (told["frames"], 129)
    assert told["hop_ms"] == 8.0
    run("stft", sound, tmp_path / "b.png", "--n-fft", 256, "--mel", 20)
    assert size((tmp_path / "b.png").read_bytes())[1] == 20


def test_convolve(sound: Path, tmp_path: Path) -> None:
    ir = (np.random.default_rng(0).standard_normal(500) * 0.02).astype(np.float32)
    audio.write(tmp_path / "ir.wav", ir, RATE)
    run("convolve", sound, tmp_path / "ir.wav", tmp_path / "wet.wav")
    np.testing.assert_allclose(audio.read(tmp_path / "wet.wav")[0], audio.convolve(SOUND, ir), atol=1e-7)
    told = json.loads(
        run("convolve", sound, tmp_path / "ir.wav", tmp_path / "mix.wav", "--mix", 0.25, "--same", "--json").stdout
    )
    want = 0.25 * audio.convolve(SOUND, ir, mode="same") + 0.75 * SOUND
    np.testing.assert_allclose(audio.read(tmp_path / "mix.wav")[0], want, atol=1e-6)
    assert told["frames"] == RATE


def test_convolve_brings_the_response_to_the_files_rate(sound: Path, tmp_path: Path) -> None:
    flat = np.zeros(400, np.float32)
    flat[200] = 1.0  # a delay of 12.5 ms at 16 kHz
    audio.write(tmp_path / "ir.wav", flat, 2 * RATE)
    result = run("convolve", sound, tmp_path / "ir.wav", tmp_path / "late.wav", "--same")
    assert "resampled to 8000" in result.stderr
    late = audio.read(tmp_path / "late.wav")[0]
    np.testing.assert_allclose(late[:, 1000:], SOUND[:, 900:-100], atol=0.01)  # gain 1, 100 samples


def test_eq_and_resample(sound: Path, tmp_path: Path) -> None:
    told = json.loads(
        run("eq", sound, tmp_path / "eq.wav", "-b", "peak:440:1:6", "-b", "high-pass:80", "--json").stdout
    )
    assert told["sections"] == 2
    want = audio.Cascade([audio.Biquad.peaking(440, 1, 6, RATE), audio.Biquad.highpass(80, 0.7071, RATE)])(SOUND)
    np.testing.assert_allclose(audio.read(tmp_path / "eq.wav")[0], want, atol=1e-7)
    run("resample", sound, tmp_path / "half.flac", "--rate", 4000)
    assert audio.info(tmp_path / "half.flac").sample_rate == 4000
    assert audio.info(tmp_path / "half.flac").frames == 4000


def test_bench(tmp_path: Path) -> None:
    told = json.loads(run("bench", "--runs", 3, "--only", "rFFT 512", "--out", tmp_path / "b.json", "--json").stdout)
    assert set(told["us"]) == {"rFFT 512, one", "rFFT 512, 1024 rows"}
    assert (tmp_path / "b.json").exists()
    assert "transforms/s" in run("bench", "--runs", 3, "--only", "rFFT 512, one").stdout


def test_mistakes_end_with_a_sentence(sound: Path, tmp_path: Path) -> None:
    def says(*words: object) -> str:
        return " ".join(run(*words, code=1).stderr.split())

    out = tmp_path / "out.wav"
    assert "does not exist" in says("info", tmp_path / "nothing.wav")
    assert "is not KIND:HZ:Q:DB" in says("eq", sound, out, "-b", "peak:1000")
    assert "frequency is 9000" in says("eq", sound, out, "-b", "low-pass:9000")
    assert "give 0 (dry) to 1 (wet)" in says("convolve", sound, sound, out, "--mix", 2)
    assert "suffix" in says("resample", sound, tmp_path / "x.xyz", "--rate", 4000)
    audio.write(tmp_path / "three.wav", np.zeros((3, 10), np.float32), RATE)
    assert "3 channels" in says("convolve", sound, tmp_path / "three.wav", out)
    audio.write(tmp_path / "short.wav", SOUND[:, :0], RATE)
    assert "make no frame" in says("stft", tmp_path / "short.wav", tmp_path / "x.png")
    assert not out.exists()
    before = sound.read_bytes()
    for words in (("eq", sound, sound, "-b", "high-pass:80"), ("convolve", sound, sound, "-o", sound)):
        assert "is what is read; name another" in says(*words)
    assert sound.read_bytes() == before
    assert "draws a PNG" in says("stft", sound, tmp_path / "x.jpg")


def test_output_goes_where_either_form_says(sound: Path, tmp_path: Path) -> None:
    """After the inputs or after -o: the same samples; both or neither is wrong usage, before anything is written."""
    commands = {
        "stft": ((sound,), ("--n-fft", 256), "a.png"),
        "convolve": ((sound, sound), (), "a.wav"),
        "eq": ((sound,), ("-b", "high-pass:80"), "a.wav"),
        "resample": ((sound,), ("-r", 4000), "a.wav"),
    }
    for command, (inputs, options, name) in commands.items():
        first, second = tmp_path / f"1{command}{name}", tmp_path / f"2{command}{name}"
        run(command, *inputs, first, *options)
        run(command, *inputs, *options, "-o", second)
        # A WAV file of floats holds the second in which it was written.
        same = Path.read_bytes if name.endswith(".png") else lambda path: audio.read(path)[0].tobytes()
        assert same(first) == same(second)
        assert "no file to write" in " ".join(run(command, *inputs, *options, code=2).output.split())
        run(command, *inputs, tmp_path / "x.wav", *options, "--output", tmp_path / "y.wav", code=2)
    assert not list(tmp_path.glob("[xy].wav"))
