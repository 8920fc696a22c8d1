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


def change(before: float = 1, behind: float = 1, kind: str = "SMPTE_Dissolve") -> object:
    return otio.schema.Transition("x", kind, time(before), time(behind))


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


def test_dissolves_from_and_to_black(folder: Path) -> None:
    line = Timeline(timeline([change(0, 3), clip("b", 0, 8), change(3, 0)]), folder)
    levels = [float(line.frame(n).mean()) / (0.5 + n / 40) ** 2.4 for n in range(8)]
    assert levels == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25], abs=0.02)


def test_what_is_disabled_is_not_seen(folder: Path) -> None:
    items = [clip("a", 0, 3), clip("b", 0, 3)]
    items[1].enabled = False
    made = timeline(items, [clip("b", 5, 6)])
    made.tracks[1].enabled = False
    line = Timeline(made, folder)
    assert grey(line, 2) == pytest.approx(2 / 40, abs=0.006)
    assert line.frame_count == 3


def test_sequences_of_images(folder: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    for k in range(3):
        pillow.new("RGB", (16, 16), (60 * k,) * 3).save(folder / f"shot.{k + 7:04d}.png")
    span = otio.opentime.TimeRange(time(7), time(3))
    reference = otio.schema.ImageSequenceReference(
        target_url_base=str(folder), name_prefix="shot.", name_suffix=".png", start_frame=7, frame_step=1, rate=RATE,
        frame_zero_padding=4, available_range=span,
    )  # fmt: skip
    item = otio.schema.Clip("shot", reference, otio.opentime.TimeRange(time(8), time(2)))
    line = Timeline(timeline([item]), folder)
    assert (line.frame_count, line.frame_rate) == (2, RATE)
    assert float(line.frame(1).mean()) == pytest.approx(((120 / 255 + 0.055) / 1.055) ** 2.4, abs=1e-3)
    item.media_reference.available_range = None
    with pytest.raises(InputError, match="available range"):
        Timeline(timeline([item.deepcopy()]), folder)


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
        (
            timeline([otio.schema.Gap(duration=time(3)), change(), otio.schema.Gap(duration=time(3)), clip("a", 0, 3)]),
            "either side",
        ),
        (timeline([otio.schema.Stack(name="inner", children=[clip("a", 0, 3)])]), "flatten"),
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
    assert export(folder / "cut.otio", tmp_path / "own.mkv", codec="ffv1").space == "rec709", "as all its media are"
    pillow = pytest.importorskip("PIL.Image")
    pillow.new("RGB", (16, 16)).save(folder / "black.png")
    still = otio.schema.Clip("s", otio.schema.ExternalReference("black.png"), otio.opentime.TimeRange(time(0), time(1)))
    mixed = Timeline(timeline([clip("a", 4, 5), still]), folder)
    with pytest.raises(InputError, match="--view"):
        export(mixed, tmp_path / "mixed.mkv", codec="ffv1")
