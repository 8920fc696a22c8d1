from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import soundfile

from elinvar import audio
from elinvar.audio import files
from elinvar.errors import InputError

T = np.arange(12_000) / 8000
SOUND = np.stack([np.sin(2 * np.pi * 440 * T), 0.5 * np.sin(2 * np.pi * 660 * T)]).astype(np.float32) * 0.5


@pytest.mark.parametrize(
    ("suffix", "error"), [(".wav", 0.0), (".flac", 2e-7), (".aiff", 2e-7), (".ogg", 0.2), (".mp3", 0.2)]
)
def test_round_trip(tmp_path: Path, suffix: str, error: float) -> None:
    path = tmp_path / f"sound{suffix}"
    written = audio.write(path, SOUND, 8000)
    found, rate = audio.read(path)
    assert rate == 8000
    assert found.dtype == np.float32
    assert found.shape == SOUND.shape
    assert np.abs(found - SOUND).max() <= error
    assert audio.info(path) == written
    assert written.duration == 1.5


def test_parts_and_streams(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    audio.write(path, SOUND, 8000, encoding="pcm16")
    part, _ = audio.read(path, start=0.5, duration=0.25)
    assert np.abs(part - SOUND[:, 4000:6000]).max() <= 1 / 32768
    np.testing.assert_array_equal(np.concatenate(list(audio.stream(path, 5000)), axis=1), audio.read(path)[0])
    assert audio.read(path, start=9.0)[0].shape == (2, 0)
    assert [block.shape for block in audio.stream(path, 5000)] == [(2, 5000), (2, 5000), (2, 2000)]


def test_long_ogg_is_written_in_blocks(tmp_path: Path) -> None:
    """One write of this length crashes the process in libsndfile 1.2."""
    long = np.zeros((2, 60 * 44_100), np.float32)
    audio.write(tmp_path / "long.ogg", long, 44_100)
    assert audio.info(tmp_path / "long.ogg").frames == long.shape[1]


@pytest.mark.parametrize("rate", [8000, 192_000])
@pytest.mark.parametrize("n", [0, 1])
def test_short_files_and_extreme_rates(tmp_path: Path, rate: int, n: int) -> None:
    path = tmp_path / ("x.flac" if n else "x.wav")
    audio.write(path, np.ones((1, n), np.float32) * 0.5, rate)
    found, there = audio.read(path)
    assert (found.shape, there) == ((1, n), rate)
    audio.write(tmp_path / "mono.wav", np.ones(n, np.int16), rate)
    assert audio.read(tmp_path / "mono.wav")[0].shape == (1, n)


def test_beyond_full_scale(tmp_path: Path) -> None:
    loud, path = SOUND * 4, tmp_path / "x.wav"
    audio.write(path, loud, 8000)
    np.testing.assert_array_equal(audio.read(path)[0], loud)  # float holds it
    audio.write(path, loud, 8000, encoding="pcm16")
    assert np.abs(audio.read(path)[0] - np.clip(loud, -1, 1)).max() < 1e-4
    audio.write(path, loud, 8000, encoding="pcm24", clip="rescale")
    assert np.abs(audio.read(path)[0] - loud / np.abs(loud).max()).max() < 1e-6
    with pytest.raises(InputError, match="loudest sample is 2"):
        audio.write(path, loud, 8000, encoding="pcm16", clip="error")


def test_truncated_file(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.flac", tmp_path / "cut.flac"
    audio.write(whole, np.random.default_rng(0).uniform(-1, 1, (1, 50_000)).astype(np.float32), 8000)
    cut.write_bytes(whole.read_bytes()[:60_000])
    with pytest.raises(InputError, match=r"cut\.flac .*of 50000 frames.*truncated=True"):
        audio.read(cut)
    found, _ = audio.read(cut, truncated=True)
    assert 0 < found.shape[1] < 50_000
    np.testing.assert_array_equal(found[:, :4096], audio.read(whole)[0][:, :4096])


@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_of_a_stream_can_be_kept(tmp_path: Path, channels: int) -> None:
    audio.write(tmp_path / "x.wav", SOUND[:channels], 8000)
    kept = list(audio.stream(tmp_path / "x.wav", 1000))
    np.testing.assert_array_equal(np.concatenate(kept, axis=1), SOUND[:channels])


@pytest.mark.parametrize("suffix", [".wav", ".aiff"])
def test_a_file_shorter_than_its_header_says(tmp_path: Path, suffix: str) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    audio.write(whole, SOUND, 8000)
    cut.write_bytes(whole.read_bytes()[:40_000])
    assert (audio.info(whole).truncated, audio.info(cut).truncated) == (False, True)
    with pytest.raises(InputError, match=rf"read: .*cut\{suffix} ends after \d+ frames, before .*truncated=True"):
        audio.read(cut)
    with pytest.raises(InputError, match=r"stream: .*before the length"):
        next(audio.stream(cut))
    found, _ = audio.read(cut, truncated=True)
    np.testing.assert_array_equal(found, audio.read(whole)[0][:, : found.shape[1]])


def test_a_file_from_a_pipe_declares_no_length(tmp_path: Path) -> None:
    path = tmp_path / "piped.wav"
    audio.write(path, SOUND, 8000, encoding="pcm16")
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert audio.read(path)[0].shape == SOUND.shape


def test_what_is_no_audio(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    with pytest.raises(InputError, match="does not exist"):
        audio.read(path)
    path.write_bytes(b"this is no sound")
    for call in (audio.read, audio.info, lambda p: list(audio.stream(p))):
        with pytest.raises(InputError, match=r"16 bytes.* is no audio"):
            call(path)


def test_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.wav"
    audio.write(path, SOUND, 8000)
    before = path.read_bytes()

    def full(self: object, data: object) -> None:
        raise soundfile.LibsndfileError(2, "disk: ")  # 2 is libsndfile's "System error."

    monkeypatch.setattr(soundfile.SoundFile, "write", full)
    with pytest.raises(OSError, match="disk full") as caught:
        audio.write(path, SOUND * 0.5, 8000)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.wav"]


@pytest.mark.parametrize(
    ("name", "x", "rate", "options", "message"),
    [
        ("x.xyz", SOUND, 8000, {}, "suffix '.xyz'"),
        ("x.wav", SOUND * np.nan, 8000, {}, "24000 samples that are NaN"),
        ("x.wav", SOUND, 8000.5, {}, "whole rates"),
        ("x.mp3", SOUND, 8000, {"encoding": "pcm16"}, "cannot hold PCM_16"),
        ("x.wav", SOUND, 8000, {"encoding": "pcm12"}, "encoding is 'pcm12'"),
        ("x.wav", SOUND[None], 8000, {}, r"give \[channels, time\]"),
        ("x.wav", SOUND, 0, {}, "sample_rate is 0"),
        ("x.flac", np.zeros((9, 4), np.float32), 8000, {}, "9 channels"),
        ("x.flac", SOUND[:, :0], 8000, {}, "would be empty"),
        ("x.wav", SOUND, 8000, {"clip": "fold"}, "clip is 'fold'"),
    ],
)
def test_bad_input(
    tmp_path: Path, name: str, x: np.ndarray, rate: float, options: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        audio.write(tmp_path / name, x, rate, **options)
    assert list(tmp_path.iterdir()) == []


def test_block_is_what_libsndfile_bears() -> None:
    assert files.BLOCK <= 65_536
