"""OpenTimelineIO: cuts, handles, transitions, gaps, tracks, warps."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from elinvar.errors import InputError
from elinvar.video import sources
from elinvar.video.exporting import export
from elinvar.video.timeline import Timeline

otio = pytest.importorskip("opentimelineio")
RATE = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two lossless films: frame n of a is grey n/40 (linear light), of b 0.5 + n/40."""
    place = tmp_path_factory.mktemp("films")
    for name, base in (("a", 0.0), ("b", 0.5)):
        source = sources.Function(lambda n, b=base: torch.full((3, 16, 16), b + n / 40), 16, 16, Fraction(RATE), 20)
        export(source, place / f"{name}.mkv", codec="ffv1", dither=False)
    return place


def time(frames: float) -> object:
    return otio.opentime.RationalTime(frames, RATE)


def clip(name: str, start: int, length: int) -> object:
    reference = otio.schema.ExternalReference(f"{name}.mkv", otio.opentime.TimeRange(time(0), time(20)))
    return otio.schema.Clip(name, reference, otio.opentime.TimeRange(time(start), time(length)))


def timeline(*tracks: list[object]) -> object:
    made = otio.schema.Timeline("test")
    for items in tracks:
        made.tracks.append(otio.schema.Track(children=items, kind=otio.schema.TrackKind.Video))
    return made


def grey(line: Timeline, n: int) -> float:
    """What a frame's grey was before it became linear light."""
    return float(line.frame(n).mean()) ** (1 / 2.4)


def test_cuts_are_where_they_are(folder: Path) -> None:
    line = Timeline(timeline([clip("a", 4, 5), clip("b", 10, 3)]), folder)
    assert (line.frame_count, line.frame_rate, line.width) == (8, 10, 16)
    want = [n / 40 for n in range(4, 9)] + [0.5 + n / 40 for n in range(10, 13)]
    assert [grey(line, n) for n in range(8)] == pytest.approx(want, abs=0.006)


def test_transitions_read_the_handles(folder: Path) -> None:
    change = otio.schema.Transition("x", "SMPTE_Dissolve", time(2), time(2))
    line = Timeline(timeline([clip("a", 4, 6), change, clip("b", 6, 6)]), folder)
    for n in range(4, 8):
        t = (n - 3) / 5
        old, new = ((4 + n) / 40) ** 2.4, (0.5 + (6 + n - 6) / 40) ** 2.4
        assert float(line.frame(n).mean()) == pytest.approx(old + t * (new - old), abs=0.01), n
    assert grey(line, 8) == pytest.approx(0.5 + 8 / 40, abs=0.006)


def test_transitions_may_be_any_of_ours(folder: Path) -> None:
    change = otio.schema.Transition("x", "Custom_Transition", time(2), time(2))
    change.metadata["elinvar"] = {"pass": "Push", "direction": "right"}
    line = Timeline(timeline([clip("a", 4, 6), change, clip("b", 6, 6)]), folder)
    frame = line.frame(5)
    assert float(frame[0, 8, 0]) > float(frame[0, 8, 15])
    change.metadata["elinvar"] = {"pass": "Bloom"}
    wrong = Timeline(timeline([clip("a", 4, 6), change.deepcopy(), clip("b", 6, 6)]), folder)
    with pytest.raises(InputError):
        wrong.frame(5)


def test_gaps_and_upper_tracks(folder: Path) -> None:
    gap = otio.schema.Gap(source_range=otio.opentime.TimeRange(time(0), time(3)))
    line = Timeline(timeline([clip("a", 0, 5)], [gap, clip("b", 0, 4)]), folder)
    assert line.frame_count == 7
    assert grey(line, 2) == pytest.approx(2 / 40, abs=0.006)
    assert grey(line, 3) == pytest.approx(0.5, abs=0.006)
    alone = Timeline(timeline([gap.deepcopy(), clip("a", 5, 2)]), folder)
    assert float(alone.frame(0).max()) == 0.0


def test_speed(folder: Path) -> None:
    fast = clip("a", 0, 5)
    fast.effects.append(otio.schema.LinearTimeWarp("w", time_scalar=2.0))
    line = Timeline(timeline([fast]), folder)
    assert [grey(line, n) for n in (1, 4)] == pytest.approx([2 / 40, 8 / 40], abs=0.006)


def test_files_and_their_faults(folder: Path) -> None:
    path = folder / "cut.otio"
    otio.adapters.write_to_file(timeline([clip("a", 0, 3)]), str(path))
    source = sources.open_source(path)
    assert source.frame_count == 3
    for made, word in (
        (timeline([clip("none", 0, 3)]), "missing"),
        (timeline([otio.schema.Transition("x", "SMPTE_Dissolve", time(1), time(1)), clip("a", 0, 3)]), "between two"),
        (
            timeline([clip("a", 0, 3), otio.schema.Transition("x", "SMPTE_Dissolve", time(1), time(1))]),
            "end of a track",
        ),
        (otio.schema.Timeline("empty"), "no video track"),
    ):
        with pytest.raises(InputError, match=word):
            Timeline(made, folder)
    long = Timeline(timeline([clip("a", 15, 9)]), folder)
    with pytest.raises(InputError, match="which has 20"):
        long.frame(8)
    with pytest.raises(InputError, match="not there"):
        Timeline.open(folder / "x.otio")


def test_a_timeline_is_exported_from_its_file(folder: Path, tmp_path: Path) -> None:
    otio.adapters.write_to_file(timeline([clip("a", 4, 5), clip("b", 10, 3)]), str(folder / "cut.otio"))
    done = export(folder / "cut.otio", tmp_path / "cut.mkv", codec="ffv1", delivery="rec709")
    assert (done.frames, done.audio) == (8, None)
