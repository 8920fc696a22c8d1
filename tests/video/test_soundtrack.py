"""A timeline's sound: exact samples, fades, several tracks, other rates and speeds, and its way into a file."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

otio = pytest.importorskip("opentimelineio")
av = pytest.importorskip("av")

from elinvar.errors import InputError  # noqa: E402
from elinvar.video import export, probe, sources  # noqa: E402
from elinvar.video.timeline import Timeline  # noqa: E402

FPS = Fraction(30000, 1001)
RATE = 48000


def at(n: int) -> int:
    """The first sample of frame `n`: 1601.6 samples a frame."""
    return math.floor(n / FPS * RATE + Fraction(1, 2))


def write(path: Path, samples: np.ndarray, rate: int = RATE, codec: str = "pcm_s16le") -> Path:
    """A file of sound, of int16 [channels, n]."""
    layout = {1: "mono", 2: "stereo"}[len(samples)]
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        for k in range(0, samples.shape[1], 4608):
            part = np.ascontiguousarray(samples[:, k : k + 4608].T.reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(part, "s16", layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, k, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def counting(n: int = 2 * RATE) -> np.ndarray:
    """Samples that say which they are, modulo 32000."""
    return (np.arange(n) % 32000).astype(np.int16)[None]


def numbers(samples: np.ndarray) -> np.ndarray:
    return np.round(samples * 32768).astype(int)


def noise(n: int = 2 * RATE) -> np.ndarray:
    """Below 3 kHz, which encoders keep."""
    spectrum = np.fft.rfft(np.random.default_rng(5).normal(0, 12000, n))
    spectrum[3000 * n // RATE :] = 0
    return np.fft.irfft(spectrum).astype(np.int16)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("sounds")
    export(sources.ramp(32, 32, frame_rate=FPS, frame_count=60), place / "picture.mkv", codec="ffv1")
    write(place / "counting.wav", counting())
    write(place / "flat.wav", np.full((1, 2 * RATE), 16384, np.int16))
    write(place / "both.wav", np.stack([np.full(2 * RATE, 8192, np.int16), np.full(2 * RATE, -4096, np.int16)]))
    tone = 12000 * np.sin(2 * math.pi * 1000 * np.arange(2 * 44100) / 44100)
    write(place / "tone.wav", tone.astype(np.int16)[None], 44100)
    write(place / "noise.wav", noise())
    write(place / "noise.m4a", noise(), codec="aac")
    write(place / "counting.mka", counting(), codec="flac")
    return place


def time(frames: float, rate: Fraction = FPS) -> Any:
    return otio.opentime.RationalTime(frames, float(rate))


def clip(name: str, start: float, length: float, **chosen: Any) -> Any:
    reference = otio.schema.ExternalReference(name)
    made = otio.schema.Clip(name, reference, otio.opentime.TimeRange(time(start), time(length)))
    if chosen:
        made.metadata["elinvar"] = chosen
    return made


def gap(length: float) -> Any:
    return otio.schema.Gap(source_range=otio.opentime.TimeRange(time(0), time(length)))


def change(before: float, behind: float, **chosen: Any) -> Any:
    made = otio.schema.Transition("x", "SMPTE_Dissolve", time(before), time(behind))
    made.metadata["elinvar"] = chosen
    return made


def line(folder: Path, *tracks: list[Any], picture: int = 40, **options: Any) -> Timeline:
    made = otio.schema.Timeline("test")
    made.tracks.append(otio.schema.Track(children=[clip("picture.mkv", 0, picture)], kind="Video"))
    for items in tracks:
        made.tracks.append(otio.schema.Track(children=items, kind="Audio"))
    return Timeline(made, folder, **options)


@pytest.mark.parametrize("name", ["counting.wav", "counting.mka"])
def test_clips_meet_at_the_nearest_samples(folder: Path, name: str) -> None:
    sound = line(folder, [gap(3), clip(name, 10, 7), clip(name, 30, 11)]).soundtrack
    assert (sound.rate, sound.channels, sound.sample_count) == (RATE, 1, at(21))
    found = numbers(sound.samples()[0])
    want = np.zeros(at(21), int)
    want[at(3) : at(10)] = (at(10) + np.arange(at(10) - at(3))) % 32000
    want[at(10) :] = (at(30) + np.arange(at(21) - at(10))) % 32000
    assert np.abs(found - want).max() == 0
    assert np.array_equal(numbers(sound.samples(5000, 20001)[0]), want[5000:25001]), "from anywhere"


@pytest.mark.parametrize("curve", ["equal-power", "linear"])
def test_transitions_cross_over_in_their_handles(folder: Path, curve: str) -> None:
    items = [clip("flat.wav", 0, 10), change(3, 2), clip("both.wav", 5, 10)]
    sound = line(folder, items, fades=curve).soundtrack
    assert sound.layout == "stereo"
    found, begin, end = sound.samples(), at(7), at(12)
    t = (np.arange(end - begin) + 0.5) / (end - begin)
    down, up = (1 - t, t) if curve == "linear" else (np.cos(math.pi / 2 * t), np.sin(math.pi / 2 * t))
    assert np.allclose(down**2 + up**2 if curve == "equal-power" else down + up, 1)
    for channel, level in ((0, 0.25), (1, -0.125)):  # one voice is in both, as loud as it is
        assert np.allclose(found[channel, begin:end], 0.5 * down + level * up, atol=1e-6)
        assert np.allclose(found[channel, :begin], 0.5, atol=1e-6)
        assert np.allclose(found[channel, end:], level, atol=1e-6)
    items[1].metadata["elinvar"] = {"curve": "linear"}
    own = line(folder, [i.deepcopy() for i in items], fades=curve).soundtrack.samples()
    assert own[0, (begin + end) // 2] == pytest.approx(0.375, abs=1e-3)


@pytest.mark.parametrize("speed", [1, 2])
def test_the_incoming_clip_begins_in_its_handle(folder: Path, speed: int) -> None:
    incoming = clip("counting.wav", 12, 10)
    if speed != 1:
        incoming.effects.append(otio.schema.LinearTimeWarp("w", time_scalar=float(speed)))
    items = [clip("silence.wav", 0, 10), change(4, 0), incoming]
    write(folder / "silence.wav", np.zeros((1, 2 * RATE), np.int16))
    sound = line(folder, items, fades="linear").soundtrack
    found, begin, cut = sound.samples()[0], at(6), at(10)
    n = np.arange(begin, cut)
    source = (at(12) + speed * (n - cut)) % 32000  # what plays at the cut is frame 12, before it what precedes that
    gain = (n + 0.5 - begin) / (cut - begin)
    inner = slice(2000, None) if speed == 1 else slice(2000, -2000)
    smooth = np.abs(np.diff(source, append=source[-1])) < 100  # away from where the count begins again
    smooth = np.convolve(~smooth, np.ones(400), "same") == 0
    off = np.abs(found[begin:cut] - gain * source / 32768)[inner][smooth[inner]]
    assert off.max() < (1e-4 if speed == 1 else 2e-4)


def test_a_part_is_what_the_whole_has_there(folder: Path) -> None:
    """Decoders need what comes before: a part of compressed sound is that of the whole, from its first sample."""
    sound = line(folder, [clip("noise.m4a", 0, 40)]).soundtrack
    whole = sound.samples()[0]
    for first in (20000, 33333):
        assert np.abs(sound.samples(first, 3000)[0] - whole[first : first + 3000]).max() < 1e-4


def test_a_transition_beside_nothing_is_a_fade(folder: Path) -> None:
    sound = line(folder, [change(0, 4), clip("flat.wav", 0, 20), change(4, 0), gap(5)], fades="linear").soundtrack
    found = sound.samples()[0]
    assert found[[0, at(2), at(10), at(18), at(20) - 1]] == pytest.approx([0, 0.25, 0.5, 0.25, 0], abs=1e-3)
    assert np.abs(found[at(20) :]).max() == 0


def test_tracks_are_added_and_chosen(folder: Path) -> None:
    sound = line(folder, [clip("flat.wav", 0, 10)], [gap(5), clip("both.wav", 0, 10)]).soundtrack
    assert sound.tracks == 2
    assert sound.samples()[:, at(7)] == pytest.approx([0.75, 0.375])
    assert sound.samples(tracks=[1])[:, at(7)] == pytest.approx([0.25, -0.125])
    assert np.abs(sound.samples(tracks=[1])[:, : at(5)]).max() == 0


def test_other_rates_stay_in_time(folder: Path) -> None:
    sound = line(folder, [clip("tone.wav", 10, 20), clip("flat.wav", 0, 1)]).soundtrack
    found = sound.samples()[0, : at(20)]
    assert sound.rate == RATE, "the highest of any clip"
    begin = 10 / FPS
    want = 12000 / 32768 * np.sin(2 * math.pi * 1000 * (float(begin) + np.arange(len(found)) / RATE))
    inner = slice(200, -200)
    assert np.abs(found[inner] - want[inner]).max() < 12000 / 32768 * 2 * math.pi * 1000 / RATE * 0.6  # half a sample


def test_a_tape_that_runs_faster(folder: Path) -> None:
    fast = clip("tone.wav", 0, 20)
    fast.effects.append(otio.schema.LinearTimeWarp("w", time_scalar=1.5))
    frozen = clip("tone.wav", 0, 5)
    frozen.effects.append(otio.schema.FreezeFrame())
    sound = line(folder, [fast, frozen]).soundtrack
    found = sound.samples()[0]
    wave = found[: at(20)]
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    assert spectrum.argmax() * sound.rate / len(wave) == pytest.approx(1500, abs=3)
    assert np.abs(found[round(25 / FPS * 44100) - 4000 :]).max() == 0


@pytest.mark.parametrize("name", ["noise.wav", "noise.m4a"])
def test_compressed_sound_is_where_it_was(folder: Path, name: str) -> None:
    sound = line(folder, [clip(name, 21, 12)]).soundtrack
    found, want = sound.samples()[0].astype(float), noise()[0, at(21) - 64 : at(33) + 64] / 32768
    n = len(found)
    match = [float(found @ want[k : k + n]) for k in range(129)]
    assert int(np.argmax(match)) == 64
    assert max(match) > 0.98 * np.linalg.norm(found) * np.linalg.norm(want[64 : 64 + n])


def test_sound_that_is_too_short_is_silence_and_said(folder: Path, caplog) -> None:
    sound = line(folder, [clip("counting.wav", 55, 15)]).soundtrack
    with caplog.at_level("WARNING", "elinvar.video"):
        found = sound.samples()
    assert found.shape[1] == at(15)
    assert np.abs(found[0, at(5) + 8 :]).max() == 0
    assert "counting.wav" in caplog.text


def test_files_on_video_tracks_bring_their_sound_where_no_audio_track_is(folder: Path, tmp_path: Path) -> None:
    export(folder / "counting.wav", folder / "film.mov", codec="prores", graph=_still())
    made = otio.schema.Timeline("test")
    made.tracks.append(otio.schema.Track(children=[clip("film.mov", 10, 5), clip("film.mov", 40, 5)], kind="Video"))
    own = Timeline(made, folder).soundtrack
    assert np.array_equal(numbers(own.samples()[0])[[0, at(5)]], [at(10) % 32000, at(40) % 32000])
    assert line(folder).soundtrack.silent
    done = export(Timeline(made, folder), tmp_path / "a.mkv", codec="ffv1", audio="none", delivery="rec709")
    assert (done.audio, probe(tmp_path / "a.mkv").audio) == (None, ())


def _still() -> Any:
    from elinvar.video import Graph

    graph = Graph("cpu")
    graph.source(sources.ramp(32, 32, frame_rate=FPS, frame_count=60))
    return graph.output("rec709")


def samples(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.concatenate([f.to_ndarray().reshape(-1).astype(np.float64) for f in file.decode(audio=0)])


@pytest.mark.parametrize(("start", "frames", "segment"), [(0, None, None), (7, 22, None), (7, 22, 0.3)])
def test_an_archive_holds_exactly_its_samples(folder: Path, tmp_path: Path, start, frames, segment) -> None:
    cut = line(folder, [gap(3), clip("counting.wav", 10, 20), clip("noise.wav", 0, 30)])
    path = tmp_path / "a.mov"
    done = export(cut, path, codec="prores", start=start, frames=frames, segment=segment, delivery="rec709")
    assert (done.audio, done.audio_tracks) == ("mixed", 1)
    info = probe(path)
    assert [a.codec for a in info.audio] == ["pcm_s24le"]
    want = cut.soundtrack.samples(at(start), at(start + done.frames) - at(start))[0]
    assert np.array_equal(samples(path) / 2**31, want)


def test_a_film_for_the_web(folder: Path, tmp_path: Path, caplog) -> None:
    cut = line(folder, [clip("flat.wav", 0, 40)], [clip("flat.wav", 0, 40)], [clip("noise.wav", 0, 20)])
    with caplog.at_level("WARNING", "elinvar.video"):
        done = export(cut, tmp_path / "a.mp4", delivery="rec709", speed="ultrafast")
    assert "above full scale" in caplog.text
    assert (done.audio, done.frames) == ("mixed", 40)
    audio = probe(tmp_path / "a.mp4").audio[0]
    assert (audio.codec, audio.rate) == ("aac", RATE)
    assert audio.seconds == pytest.approx(float(40 / FPS), abs=0.03)
    export(cut, tmp_path / "b.mp4", delivery="rec709", speed="ultrafast", audio=0)
    assert samples(tmp_path / "b.mp4")[RATE] == pytest.approx(0.5, abs=0.01)
    with pytest.raises(InputError, match="the timeline has 3 audio tracks"):
        export(cut, tmp_path / "c.mp4", delivery="rec709", audio=3)


def test_sound_that_is_not_linked_hinders_nobody_who_does_not_want_it(folder: Path, tmp_path: Path) -> None:
    cut = line(folder, [otio.schema.Clip("lost", otio.schema.MissingReference(), clip("flat.wav", 0, 4).source_range)])
    done = export(cut, tmp_path / "a.mkv", codec="ffv1", audio="none", delivery="rec709", segment=0.5)
    assert done.audio is None
    with pytest.raises(InputError, match="'lost' has no media"):
        export(cut, tmp_path / "b.mkv", codec="ffv1", delivery="rec709")


def test_wrong_choices_are_named(folder: Path) -> None:
    with pytest.raises(InputError, match="asks for audio stream 3"):
        _ = line(folder, [clip("flat.wav", 0, 4, stream=3)]).soundtrack
    with pytest.raises(InputError, match="equal-power"):
        line(folder, fades="loud")
    with pytest.raises(InputError, match="linear"):
        _ = line(folder, [clip("flat.wav", 0, 4), change(1, 1, curve="s"), clip("flat.wav", 0, 4)]).soundtrack
