from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elinvar.audio.htdemucs import HTDemucs
from elinvar.audio.htdemucs_weights import save_model
from elinvar.audio.separation import separate
from elinvar.audio.separation_file import separate_file, separate_files
from elinvar.errors import InputError

sf = pytest.importorskip("soundfile")
Make = Callable[..., HTDemucs]
RATE = 8000


@pytest.fixture(scope="module")
def model(make_htdemucs: Make) -> HTDemucs:
    return make_htdemucs(sample_rate=RATE, segment=0.15)


@pytest.fixture
def song(tmp_path: Path) -> Path:
    x = 0.2 * np.random.default_rng(0).standard_normal((11111, 2))
    sf.write(tmp_path / "song.wav", x, RATE, subtype="FLOAT")
    return tmp_path / "song.wav"


def read(path: Path) -> torch.Tensor:
    return torch.from_numpy(sf.read(path, dtype="float32", always_2d=True)[0].T.copy())


def test_equals_separate(model: HTDemucs, song: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    options: dict[str, Any] = {"overlap": 0.4, "shifts": 2, "seed": 1, "device": "cpu"}
    done = separate_file(song, tmp_path / "out", model, **options, progress=lambda n, total: seen.append((n, total)))
    want = separate(read(song), RATE, model, **options)
    assert done.folder == tmp_path / "out" / "song"
    assert sorted(path.name for path in done.folder.iterdir()) == ["rest.wav", "separation.json", "voice.wav"]
    for name, path in done.stems.items():
        assert torch.equal(read(path), want[name])
    assert seen[-1] == (11111, 11111)
    assert done.seconds == pytest.approx(11111 / RATE)
    assert list((tmp_path / "out").glob(".*")) == []


def test_a_second_time_does_nothing(model: HTDemucs, song: Path, tmp_path: Path) -> None:
    first = separate_file(song, tmp_path, model, device="cpu", format="flac")
    stamp = first.stems["voice"].stat().st_mtime_ns
    again = separate_file(song, tmp_path, model, device="cpu", format="flac")
    assert (first.skipped, again.skipped) == (False, True)
    assert again.stems["voice"].stat().st_mtime_ns == stamp
    assert again.clipped == first.clipped
    other = separate_file(song, tmp_path, model, device="cpu", format="flac", overlap=0.5)
    assert not other.skipped
    assert not separate_file(song, tmp_path, model, device="cpu", format="flac", overlap=0.5, overwrite=True).skipped
    record = json.loads((other.folder / "separation.json").read_text())
    assert record["options"]["overlap"] == 0.5
    assert record["weights"] == model.fingerprint


def test_other_weights_or_another_input_are_another_job(
    make_htdemucs: Make, model: HTDemucs, song: Path, tmp_path: Path
) -> None:
    separate_file(song, tmp_path, model, device="cpu")
    other = make_htdemucs(seed=9, sample_rate=RATE, segment=0.15)
    assert not separate_file(song, tmp_path, other, device="cpu").skipped
    sf.write(song, np.zeros((500, 2)), RATE, subtype="FLOAT")
    assert not separate_file(song, tmp_path, other, device="cpu").skipped


@pytest.mark.parametrize("kind", ["wav16", "wav24", "flac", "flac16", "ogg", "mp3"])
def test_formats(model: HTDemucs, song: Path, tmp_path: Path, kind: str) -> None:
    done = separate_file(song, tmp_path / "out", model, format=kind, two_stems="rest", device="cpu")
    assert sorted(done.stems) == ["no_rest", "rest"]
    assert {path.suffix.lstrip(".") for path in done.stems.values()} == {kind.rstrip("1246") if kind != "mp3" else kind}
    want = separate(read(song), RATE, model, device="cpu")
    got = read(done.stems["no_rest"])
    assert done.clipped["rest"] == int((want["rest"].abs() > 1).sum())
    if kind in ("ogg", "mp3"):
        assert abs(got.shape[1] - 11111) <= 2400
    else:
        assert torch.allclose(got, want["voice"].clamp(-1, 1), atol=1e-4)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_clip_modes(model: HTDemucs, tmp_path: Path, kind: str) -> None:
    x = 4.0 * np.random.default_rng(0).standard_normal((5000, 2))
    sf.write(tmp_path / "loud.wav", x, RATE, subtype="FLOAT")
    want = separate(read(tmp_path / "loud.wav"), RATE, model, device="cpu")["voice"]
    beyond = int((want.abs() > 1).sum())
    assert beyond > 100
    options: dict[str, Any] = {"device": "cpu", "format": kind, "overwrite": True}
    for mode, cut, expected in (
        ("none", 0 if kind == "wav" else beyond, want if kind == "wav" else want.clamp(-1, 1)),
        ("clamp", beyond, want.clamp(-1, 1)),
        ("rescale", 0, want / (1.01 * want.abs().max())),
    ):
        done = separate_file(tmp_path / "loud.wav", tmp_path, model, **options, clip_mode=mode)
        assert done.clipped["voice"] == cut
        assert torch.allclose(read(done.stems["voice"]), expected, atol=1e-6)
        assert len(list(done.folder.iterdir())) == 3  # nothing kept beside the stems
    with pytest.raises(InputError, match="rescale"):
        separate_file(tmp_path / "loud.wav", tmp_path, model, clip_mode="tanh")


def test_rescaling_leaves_quiet_stems_alone(model: HTDemucs, song: Path, tmp_path: Path) -> None:
    done = separate_file(song, tmp_path, model, device="cpu", clip_mode="rescale")
    assert torch.equal(read(done.stems["rest"]), separate(read(song), RATE, model, device="cpu")["rest"])


def test_two_stems_add_up(make_htdemucs: Make, song: Path, tmp_path: Path) -> None:
    model = make_htdemucs(sources=("a", "b", "c"), sample_rate=RATE, segment=0.15)
    want = separate(read(song), RATE, model, device="cpu")
    done = separate_file(song, tmp_path, model, two_stems="b", device="cpu")
    assert torch.equal(read(done.stems["b"]), want["b"])
    assert torch.allclose(read(done.stems["no_b"]), want["a"] + want["c"], atol=1e-6)


def test_mono_and_another_rate(model: HTDemucs, tmp_path: Path) -> None:
    pytest.importorskip("soxr")
    t = np.arange(33333) / 22050
    sf.write(tmp_path / "m.flac", 0.3 * np.sin(2 * np.pi * 300 * t), 22050)
    done = separate_file(tmp_path / "m.flac", tmp_path, model, device="cpu")
    with sf.SoundFile(done.stems["voice"]) as file:
        assert (file.samplerate, file.channels, len(file)) == (22050, 1, 33333)
    want = separate(read(tmp_path / "m.flac"), 22050, model, device="cpu")
    assert torch.allclose(read(done.stems["voice"]), want["voice"], atol=2e-4)


@pytest.mark.parametrize("frames", [0, 1])
def test_hardly_any_audio(model: HTDemucs, tmp_path: Path, frames: int) -> None:
    sf.write(tmp_path / "short.wav", np.zeros((frames, 2)), RATE)
    done = separate_file(tmp_path / "short.wav", tmp_path, model, device="cpu")
    assert read(done.stems["voice"]).shape == (2, frames)


def test_unreadable_input(model: HTDemucs, song: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exist"):
        separate_file(tmp_path / "none.wav", tmp_path, model)
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(InputError, match="is no audio"):
        separate_file(tmp_path / "text.wav", tmp_path, model)
    sf.write(tmp_path / "six.wav", np.zeros((10, 6)), RATE)
    with pytest.raises(InputError, match="6 channels"):
        separate_file(tmp_path / "six.wav", tmp_path, model)
    bad = np.zeros((3000, 2), np.float32)
    bad[2000] = np.nan
    sf.write(tmp_path / "nan.wav", bad, RATE, subtype="FLOAT")
    with pytest.raises(InputError, match="NaN"):
        separate_file(tmp_path / "nan.wav", tmp_path / "out", model)
    assert not (tmp_path / "out" / "nan").exists()


def test_truncated_flac(model: HTDemucs, tmp_path: Path) -> None:
    sf.write(tmp_path / "cut.flac", np.random.default_rng(0).uniform(-0.5, 0.5, (40000, 2)), RATE)
    whole = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.flac.*(truncated|damaged)"):
        separate_file(tmp_path / "cut.flac", tmp_path / "out", model)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_of_somebody_else_is_left_alone(model: HTDemucs, song: Path, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "song"
    mine.mkdir(parents=True)
    separate_file(song, tmp_path / "out", model)  # an empty folder is nobody's
    (mine / "separation.json").unlink()
    with pytest.raises(InputError, match="no result of a separation"):
        separate_file(song, tmp_path / "out", model, overwrite=True)
    assert (mine / "voice.wav").exists()


def test_full_disk(model: HTDemucs, song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from elinvar.audio import _stream_io

    def fail(self: Any, data: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(sf.SoundFile, "write", fail)
    monkeypatch.setattr(_stream_io.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0}))
    with pytest.raises(OSError, match="No space left") as caught:
        separate_file(song, tmp_path / "out", model)
    assert caught.value.errno == errno.ENOSPC
    assert list((tmp_path / "out").iterdir()) == []


def test_bad_options(model: HTDemucs, song: Path, tmp_path: Path) -> None:
    for options, says in (
        ({"format": "aac"}, "aac"),
        ({"two_stems": "drums"}, "voice, rest"),
        ({"mode": "quick"}, "preview"),
        ({"format": "mp3", "quality": 7.0}, "mp3|compression"),
    ):
        with pytest.raises(InputError, match=says):
            separate_file(song, tmp_path / "out", model, **options)


@pytest.mark.parametrize("jobs", [1, 2])
def test_many_files(model: HTDemucs, tmp_path: Path, jobs: int) -> None:
    paths = []
    for i in range(3):
        x = 0.2 * np.random.default_rng(i).standard_normal((2000 + 500 * i, 2))
        sf.write(tmp_path / f"t{i}.wav", x, RATE, subtype="FLOAT")
        paths.append(tmp_path / f"t{i}.wav")
    seen: list[int] = []
    progress: Any = lambda n, total: seen.append(n)  # noqa: E731
    done = list(separate_files(paths, tmp_path / "out", model, jobs=jobs, progress=progress, device="cpu"))
    assert [d.source for d in done] == paths
    for path, result in zip(paths, done, strict=True):
        assert torch.equal(read(result.stems["voice"]), separate(read(path), RATE, model, device="cpu")["voice"])
    assert seen[-1] == 3
    with pytest.raises(InputError, match="rename"):
        list(separate_files([paths[0], tmp_path / "x" / "t0.wav"], tmp_path, model))


def test_a_cluster_takes_a_model_it_can_load(model: HTDemucs, song: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    from elinvar.runtime.cluster import cluster

    save_model(model, tmp_path / "m.safetensors")
    with cluster("local") as many:
        with pytest.raises(InputError, match="a name or a path"):
            list(separate_files([song], tmp_path / "out", model, executor=many))
        done = list(separate_files([song], tmp_path / "out", tmp_path / "m.safetensors", executor=many, device="cpu"))
    assert torch.equal(read(done[0].stems["rest"]), separate(read(song), RATE, model, device="cpu")["rest"])


def test_memory_does_not_grow_with_the_file(model: HTDemucs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held of the input stays the same however long it is."""
    from elinvar.audio import _stream_io

    held: list[int] = []
    original = _stream_io.Window.read

    def watch(self: Any, start: int, stop: int) -> torch.Tensor:
        out = original(self, start, stop)
        held.append(self._held.shape[1])
        return out

    monkeypatch.setattr(_stream_io, "_BLOCK", 500)
    monkeypatch.setattr(_stream_io.Window, "read", watch)
    peaks = []
    for n in (6000, 24000):
        sf.write(tmp_path / f"n{n}.wav", np.zeros((n, 2)), RATE)
        held.clear()
        separate_file(tmp_path / f"n{n}.wav", tmp_path / "out", model, mode="preview", device="cpu")
        peaks.append(max(held))
    assert peaks[1] <= peaks[0] + 500  # one block


@pytest.mark.parametrize("kind", ["wav", "flac"])
@pytest.mark.parametrize("frames", [70_000, 600_001])
def test_a_file_decoded_by_several_threads_is_the_same(tmp_path: Path, kind: str, frames: int) -> None:
    from elinvar.audio import _stream_io

    sf.write(tmp_path / f"a.{kind}", 0.2 * np.random.default_rng(0).standard_normal((frames, 2)), RATE)
    for seconds in (3.0, 1e9):
        reader = _stream_io.Reader(tmp_path / f"a.{kind}", seconds)
        found = []
        for reader._threads in (1, 3):
            found.append(list(reader.blocks(once=True)))
        assert [block.shape for block in found[0]] == [block.shape for block in found[1]]
        assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))
        assert sum(block.shape[1] for block in found[0]) == min(frames, 3 * RATE) if seconds == 3 else frames


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg"])
def test_a_file_that_ends_early_can_be_taken_as_it_is(model: HTDemucs, tmp_path: Path, kind: str) -> None:
    with sf.SoundFile(tmp_path / f"cut.{kind}", "w", RATE, 2) as file:
        for part in np.split(0.2 * np.random.default_rng(0).standard_normal((120_000, 2)), 60):
            file.write(part)
    whole = (tmp_path / f"cut.{kind}").read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match="truncated=True"):
        separate_file(tmp_path / f"cut.{kind}", tmp_path / "out", model, mode="preview", device="cpu")
    done = separate_file(
        tmp_path / f"cut.{kind}", tmp_path / "out", model, mode="preview", device="cpu", truncated=True
    )  # fmt: skip
    assert 40_000 < read(done.stems["voice"]).shape[1] < 100_000
    assert done.seconds == read(done.stems["voice"]).shape[1] / RATE


def test_what_is_given_up_ends_after_the_current_run(model: HTDemucs, tmp_path: Path) -> None:
    """Ctrl-C among many files must not wait for the end of an hour: the running file is given up, the others kept."""
    for name, frames in (("a", 1000), ("b", 40_000)):
        sf.write(tmp_path / f"{name}.wav", 0.2 * np.random.default_rng(0).standard_normal((frames, 2)), RATE, "FLOAT")
    runs = []
    original = HTDemucs.forward

    class Counted(HTDemucs):
        def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            runs.append(1)
            return original(self, *args, **kwargs)

    counted = Counted(config=model.config)
    done = separate_files([tmp_path / "a.wav", tmp_path / "b.wav"], tmp_path / "out", counted, device="cpu")
    assert next(done).source.name == "a.wav"
    done.close()  # what Ctrl-C does; b has begun
    assert len(runs) < 20 < 40_000 / (0.75 * counted.length)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
