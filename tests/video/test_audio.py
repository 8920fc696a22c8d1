"""Sound carried along: every track, what is known of it, and the choice between them."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")

from elinvar.errors import InputError  # noqa: E402
from elinvar.video import Graph, export, probe, sources  # noqa: E402

TRACKS = (("aac", "eng", "Programme", 440.0), ("flac", "deu", "Kommentar", 1000.0), ("pcm_s16le", "fra", None, 250.0))


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Two seconds of Matroska: a picture and three tracks of one tone each, in codecs and languages of their own."""
    folder = tmp_path_factory.mktemp("film")
    silent, path = folder / "silent.mkv", folder / "film.mkv"
    export(sources.ramp(64, 48, frame_rate=25, frame_count=50), silent, codec="ffv1")
    with av.open(str(silent)) as picture, av.open(str(path), "w") as out:
        video = out.add_stream_from_template(picture.streams.video[0])
        made = []
        for codec, language, title, _ in TRACKS:
            stream = out.add_stream(codec, rate=48000, layout="mono")
            stream.metadata["language"] = language
            if title is not None:
                stream.metadata["title"] = title
            made.append(stream)
        for packet in picture.demux(picture.streams.video[0]):
            if packet.size:
                packet.stream = video
                out.mux(packet)
        time = np.arange(2 * 48000) / 48000
        for stream, (codec, _, _, tone) in zip(made, TRACKS, strict=True):
            wave = 0.5 * np.sin(2 * math.pi * tone * time)
            whole = codec != "aac"
            samples = (wave * 32767).astype(np.int16)[None] if whole else wave.astype(np.float32)[None]
            for k in range(0, samples.shape[1], 4608):
                part = np.ascontiguousarray(samples[:, k : k + 4608])
                frame = av.AudioFrame.from_ndarray(part, format="s16" if whole else "fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 48000, k, Fraction(1, 48000)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


def tones(path: Path) -> list[float]:
    """The loudest frequency of every track."""
    found = []
    with av.open(str(path)) as file:
        count = len(file.streams.audio)
    for k in range(count):
        with av.open(str(path)) as file:
            parts = [f.to_ndarray().astype(np.float64)[0] for f in file.decode(audio=k)]
        wave = np.concatenate(parts)[2000:-2000]
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
        found.append(float(spectrum.argmax() * 48000 / len(wave)))
    return found


@pytest.mark.parametrize(
    ("suffix", "codecs", "how"),
    [
        (".mkv", ["aac", "flac", "pcm_s16le"], "copied"),
        (".mp4", ["aac", "flac", "aac"], "copied and encoded"),
        (".mov", ["aac", "aac", "pcm_s16le"], "copied and encoded"),
    ],
)
def test_all_tracks_arrive_with_what_is_known_of_them(film: Path, tmp_path: Path, suffix, codecs, how) -> None:
    path = tmp_path / f"a{suffix}"
    done = export(film, path, speed="ultrafast")
    assert (done.audio, done.audio_tracks) == (how, 3)
    found = probe(path).audio
    assert [a.codec for a in found] == codecs
    assert [a.language for a in found] == ["eng", "ger" if suffix == ".mov" else "deu", "fra"]
    assert [a.title for a in found] == ["Programme", "Kommentar", None]
    assert tones(path) == pytest.approx([440, 1000, 250], abs=1)


def test_a_part_of_the_frames_has_its_part_of_the_sound(film: Path, tmp_path: Path) -> None:
    for name, segment in (("a.mp4", None), ("b.mp4", 0.4)):
        export(film, tmp_path / name, start=10, frames=25, speed="ultrafast", segment=segment)
        found = probe(tmp_path / name).audio
        assert [a.seconds for a in found] == pytest.approx([1, 1, 1], abs=0.15)
        assert [a.language for a in found] == ["eng", "deu", "fra"]


@pytest.mark.parametrize(
    ("audio", "languages"),
    [
        ("first", ["eng"]), (2, ["fra"]), ("1", ["deu"]), ("none", []), (False, []), (True, ["eng", "deu", "fra"]),
    ],
)  # fmt: skip
def test_tracks_are_chosen(film: Path, tmp_path: Path, audio, languages) -> None:
    done = export(film, tmp_path / "a.mkv", frames=2, audio=audio, speed="ultrafast")
    assert [a.language for a in probe(tmp_path / "a.mkv").audio] == languages
    assert (done.audio is None) == (not languages)


@pytest.mark.parametrize(("audio", "words"), [(3, "has 3 audio tracks"), (-1, "0 to 2"), ("second", "'all', 'first'")])
def test_tracks_that_are_not_there(film: Path, tmp_path: Path, audio, words: str) -> None:
    with pytest.raises(InputError, match=words):
        export(film, tmp_path / "a.mkv", audio=audio)
    assert not (tmp_path / "a.mkv").exists()


def levels(path: Path) -> np.ndarray:
    """The samples of a file's first audio track, from -1 to 1."""
    with av.open(str(path)) as file:
        return np.concatenate([f.to_ndarray().reshape(-1) for f in file.decode(audio=0)]) / 32768


@pytest.fixture(scope="module")
def rising(tmp_path_factory) -> Path:
    """Two seconds of sound alone, whose samples rise from 0 to 0.5."""
    path = tmp_path_factory.mktemp("rising") / "rising.wav"
    samples = (np.arange(96000) / 96000 * 16384).astype(np.int16)[None]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=48000, layout="mono")
        for k in range(0, samples.shape[1], 960):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, k : k + 960]), "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, k, Fraction(1, 48000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def test_sound_comes_from_a_file_of_sound_and_begins_where_the_graph_does(rising: Path, tmp_path: Path) -> None:
    graph = Graph("cpu")
    graph.source(sources.ramp(32, 32, frame_rate=25, frame_count=50))
    whole, part = tmp_path / "whole.mov", tmp_path / "part.mov"
    assert export(rising, whole, graph=graph, speed="ultrafast").audio == "copied"
    assert levels(whole)[[0, -1]] == pytest.approx([0, 0.5], abs=0.01)
    later = Graph("cpu")
    later.source(whole, start=20)  # 0.8 of 2 seconds
    export(later, part, speed="ultrafast")
    assert levels(part)[[0, -1]] == pytest.approx([0.2, 0.5], abs=0.015)
    export(whole, part, graph=later, start=5, frames=10, speed="ultrafast")
    assert levels(part)[[0, -1]] == pytest.approx([0.25, 0.35], abs=0.015)


def test_sound_that_is_encoded_again_stays_in_time(tmp_path: Path) -> None:
    """A track that begins later than the picture, cut in the middle of its packets: every sample where it was."""
    picture, path = tmp_path / "picture.mkv", tmp_path / "late.mkv"
    export(sources.ramp(32, 32, frame_rate=25, frame_count=50), picture, codec="ffv1")
    spectrum = np.fft.rfft(np.random.default_rng(5).normal(0, 12000, 72000))
    spectrum[4500:] = 0  # below 3 kHz, which encoders keep
    samples = np.fft.irfft(spectrum).astype(np.int16)[None]
    with av.open(str(picture)) as source, av.open(str(path), "w") as out:
        video = out.add_stream_from_template(source.streams.video[0])
        stream = out.add_stream("flac", rate=48000, layout="mono")
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = video
                out.mux(packet)
        for k in range(0, 72000, 4608):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, k : k + 4608]), "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, k + 24000, Fraction(1, 48000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    for start in (0, 7, 13):
        made = tmp_path / "a.mov"  # which takes no FLAC
        assert export(path, made, start=start, frames=30, speed="ultrafast").audio == "encoded"
        got = levels_of_floats(made)
        n = start * 1920 - 24000 + np.arange(30 * 1920)
        want = np.where((n >= 0) & (n < 72000), samples[0, n.clip(0, 71999)], 0) / 32768
        match = [float(got[4000 + k : 50000 + k] @ want[4000:50000]) for k in range(-300, 301)]
        assert int(np.argmax(match)) == 300, start
        assert np.abs(got[2000 : max(2000, 24000 - start * 1920 - 2000)]).max(initial=0) < 0.01


def levels_of_floats(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.concatenate([f.to_ndarray().reshape(-1) for f in file.decode(audio=0)]).astype(np.float64)
