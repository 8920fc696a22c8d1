"""Files that were written: their colours, tags, rates, sound; and what is left when writing fails."""

from __future__ import annotations

import errno
import gc
import hashlib
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from elinvar.errors import Cancelled, InputError, PipelineError
from elinvar.testing import assert_no_leak
from elinvar.video import codecs, color, sources
from elinvar.video.exporting import export
from elinvar.video.graph import Graph
from elinvar.video.media import VideoFile
from elinvar.video.passes import Crossfade, Exposure
from elinvar.video.probing import probe

av = pytest.importorskip("av")
ROWS, COLUMNS = [32 + 64 * j for j in range(4)], [32 + 64 * k for k in range(6)]


def patches(frame: torch.Tensor) -> torch.Tensor:
    """Means of the middles of the 24 patches of a 384 x 256 chart."""
    return torch.stack([frame[:, y - 12 : y + 12, x - 12 : x + 12].mean((1, 2)) for y in ROWS for x in COLUMNS], 1)[
        :, None
    ]


CASES = [
    ("h264", ".mp4", {}),
    ("h264", ".mkv", {"bit_depth": 10, "speed": "ultrafast"}),
    ("hevc", ".mp4", {"bit_depth": 10, "speed": "ultrafast"}),
    ("hevc", ".mov", {"delivery": "rec2100-pq", "quality": 0.9}),
    ("hevc", ".mp4", {"delivery": "rec2020", "bit_depth": 10, "speed": "ultrafast"}),
    ("av1", ".mp4", {}),
    ("prores", ".mov", {}),
    ("ffv1", ".mkv", {}),
]


@pytest.mark.parametrize(("codec", "suffix", "options"), CASES)
def test_a_colour_chart_survives_with_its_tags(codec, suffix, options, chart, rate, tmp_path: Path) -> None:
    path = tmp_path / f"chart{suffix}"
    done = export(chart, path, codec=codec, **options)
    info = probe(path)
    assert (done.frames, info.frame_count, info.frame_rate) == (5, 5, rate)
    assert not info.assumed, "the file says what its colours are"
    assert info.space == options.get("delivery", "srgb")
    file = VideoFile(path)
    seen = file.frame(3)
    seen = color.transform(patches(seen), file.space, "srgb")
    difference = color.delta_e(seen, patches(chart.frame(3)), "srgb")
    assert difference.mean() < 0.5
    assert difference.max() < 1.5
    if suffix in (".mp4", ".mov"):  # the container says so too: nclx behind colr
        tag = file.info.tag
        atom = b"colrnclx" + b"".join(v.to_bytes(2, "big") for v in (tag.primaries, tag.transfer, tag.matrix))
        assert (atom in path.read_bytes()) or (atom.replace(b"nclx", b"nclc") in path.read_bytes())
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace) == (
            info.tag.primaries,
            info.tag.transfer,
            info.tag.matrix,
        )
        if codec == "hevc" and suffix != ".mkv":
            assert context.codec_tag == "hvc1"


def test_what_pyav_writes_by_default_is_what_we_do_not(chart, rate, tmp_path: Path) -> None:
    """The peer's mistake, kept here so that the day it is fixed is noticed."""
    path = tmp_path / "peer.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 384, 256, "yuv420p"
        pixels = (chart.frame(0).movedim(0, -1) * 255).round().byte().numpy()
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")))
        container.mux(stream.encode(None))
    info = probe(path, warn=False)
    assert "matrix" in info.assumed


@pytest.mark.parametrize("codec", ["ffv1", "magicyuv"])
def test_frames_are_not_overwritten_while_an_encoder_holds_them(codec: str, tmp_path: Path, monkeypatch) -> None:
    if codec == "magicyuv":  # a codec that threads by frames, for which this hazard was found
        entry = codecs.Codec("ffv1", ("magicyuv",), {8: "yuv420p"}, (".mov",))
        monkeypatch.setitem(codecs.CODECS, "ffv1", entry)
        monkeypatch.setattr(codecs, "_defaults", lambda *_: {})
    levels = [k / 59 for k in range(60)]
    source = sources.Function(lambda n: torch.full((3, 48, 64), levels[n]), 64, 48, frame_count=60)
    path = tmp_path / ("flat.mkv" if codec == "ffv1" else "flat.mov")
    done = export(source, path, codec="ffv1", dither=False, in_flight=2)
    assert done.slots < 30
    with av.open(str(path)) as container:
        found = [np.frombuffer(f.planes[0], np.uint8).reshape(48, -1)[:, :64] for f in container.decode(video=0)]
        wrong = [k for k, f in enumerate(found) if (f != round(16 + 219 * levels[k])).any()]
    assert (len(found), wrong) == (60, [])


def test_lossless_packets_do_not_depend_on_frames_in_flight(tmp_path: Path, simple) -> None:
    hashes = set()
    for in_flight in (1, 4):
        path = tmp_path / f"{in_flight}.mkv"
        export(simple(Exposure(lambda t: t)), path, codec="ffv1", in_flight=in_flight)
        with av.open(str(path)) as container:
            hashes.add(hashlib.sha256(b"".join(bytes(p) for p in container.demux(video=0))).hexdigest())
    assert len(hashes) == 1


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_the_shortest_films(tmp_path: Path, chart, frames: int) -> None:
    for codec in ("h264", "hevc"):
        export(chart, tmp_path / "a.mp4", codec=codec, frames=frames, speed="ultrafast")
        assert probe(tmp_path / "a.mp4").frame_count == frames, codec


def test_frames_left_over_go_with_the_last_segment(tmp_path: Path, chart) -> None:
    from elinvar.video.segments import _pieces

    assert _pieces(8, 3) == [(0, 3), (3, 5)]
    assert _pieces(9, 3) == [(0, 3), (3, 3), (6, 3)]
    assert _pieces(3, 1) == [(0, 1), (1, 1), (2, 1)]
    assert _pieces(2, 30) == [(0, 2)]
    export(chart, tmp_path / "a.mp4", codec="hevc", frames=5, segment=0.126, speed="ultrafast")
    assert probe(tmp_path / "a.mp4").frame_count == 5


def test_hdr_carries_its_mastering_display(tmp_path: Path, chart) -> None:
    path = tmp_path / "hdr.mp4"
    export(chart, path, codec="hevc", delivery="rec2100-pq", frames=2, speed="ultrafast")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        kinds = {str(d.type) for d in frame.side_data}
    assert any("MASTERING" in k for k in kinds)
    assert any("CONTENT_LIGHT" in k for k in kinds)


def test_rates_stay_exact_and_can_be_conformed(tmp_path: Path) -> None:
    for rate in (Fraction(30000, 1001), Fraction(25), Fraction(60000, 1001)):
        source = sources.ramp(64, 48, frame_rate=rate, frame_count=7)
        export(source, tmp_path / "a.mp4")
        info = probe(tmp_path / "a.mp4")
        assert (info.frame_rate, info.frame_count, info.variable) == (rate, 7, False)
    export(tmp_path / "a.mp4", tmp_path / "b.mp4", frame_rate=30)
    assert probe(tmp_path / "b.mp4").frame_rate == 30


def test_sound_is_carried_along(media, tmp_path: Path) -> None:
    file = media("torchcodec/nasa_13013.mp4")
    done = export(file.path, tmp_path / "a.mp4", start=25, frames=20, speed="ultrafast")
    assert done.audio == "copied"
    audio = probe(tmp_path / "a.mp4").audio
    assert audio[0].codec == "aac"
    assert audio[0].seconds == pytest.approx(0.8, abs=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _sound_of_another_container(media, tmp_path)


def _sound_of_another_container(media, tmp_path: Path) -> None:
    webm = media("moviepy/big_buck_bunny_432_433.webm")
    done = export(webm.path, tmp_path / "b.mp4", size=(160, 90), frames=4, speed="ultrafast")
    assert done.audio == "encoded"


def test_presets_and_reframing(tmp_path: Path, monkeypatch) -> None:
    small = codecs.Preset("tiktok", 54, 96, fit="fill", bitrate=300_000)
    monkeypatch.setitem(codecs.PRESETS, "tiktok", small)
    done = export(sources.smpte(192, 108, frame_count=3), tmp_path / "a.mp4", preset="tiktok")
    assert (done.width, done.height) == (54, 96)
    assert codecs.automatic_bitrate("h264", 1920, 1080) == 15_000_000
    assert codecs.automatic_bitrate("h264", 3840, 2160) == 60_000_000
    assert codecs.automatic_bitrate("prores", 1920, 1080) is None


def test_a_graph_fills_the_frame_as_it_is_told(tmp_path: Path) -> None:
    """White to the edges where the picture fills; bars where it fits."""
    for fit, own, want in ((None, None, 0.0), ("fill", None, 1.0), ("fill", "fit", 0.0), ("stretch", None, 1.0)):
        graph = Graph("cpu")
        graph.add(Exposure(0.0), graph.source(sources.solid((1, 1, 1), 64, 32, frame_count=2), fit=own))
        export(graph.output("rec709"), tmp_path / "a.mkv", codec="ffv1", size=(32, 32), fit=fit)
        assert float(VideoFile(tmp_path / "a.mkv").frame(0)[:, 2].mean()) == pytest.approx(want, abs=0.02), (fit, own)
    with pytest.raises(InputError, match="stretch"):
        export(graph, tmp_path / "a.mkv", codec="ffv1", fit="squeeze")


def test_exr_sequences_and_back(tmp_path: Path) -> None:
    pytest.importorskip("OpenEXR")
    frames = torch.rand(3, 3, 20, 30, generator=torch.Generator().manual_seed(0)) * 4
    source = sources.Arrays(frames, space="acescg")
    done = export(source, tmp_path / "shot", codec="exr")
    assert done.frames == 3
    back = sources.open_source(tmp_path / "shot")
    assert (back.space, back.frame_count) == ("acescg", 3)
    assert torch.equal(back.frame(2), frames[2].half().float())


def test_segments_resume_where_they_stopped(tmp_path: Path, chart, monkeypatch) -> None:
    asked: list[int] = []
    source = sources.Function(lambda n: asked.append(n) or torch.full((3, 32, 32), n / 20), 32, 32, Fraction(10), 20)
    path = tmp_path / "a.mp4"

    def stop(done: int, _total: int | None) -> None:
        if done == 13:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        export(source, path, codec="h264", segment=0.5, progress=stop, dither=False)
    parts = sorted((tmp_path / ".a.mp4.parts").glob("*.mp4"))
    assert len(parts) == 2
    assert not path.exists()
    asked.clear()
    export(source, path, codec="h264", segment=0.5, dither=False)
    assert min(asked) == 10, "the finished segments were not rendered again"
    assert not (tmp_path / ".a.mp4.parts").exists()
    info = probe(path)
    assert (info.frame_count, info.frame_rate, info.variable) == (20, 10, False)
    file = VideoFile(path)
    seen = [float(file.frame(n).mean()) for n in (0, 9, 10, 19)]
    assert seen == pytest.approx([0, 0.45, 0.5, 0.95], abs=0.02)


def test_segments_of_other_frames_are_not_taken_for_these(tmp_path: Path) -> None:
    path, frames = tmp_path / "a.mkv", torch.zeros(9, 3, 32, 32)

    def stop(done: int, _total: int | None) -> None:
        if done == 7:
            raise Cancelled("enough")

    def arrays(level: float) -> sources.Arrays:
        return sources.Arrays(frames + level, 10)

    def function(level: float) -> sources.Function:
        return sources.Function(lambda _n: torch.full((3, 32, 32), level), 32, 32, Fraction(10), 9)

    for make in (arrays, function):
        for level in (0.25, 0.75):
            with pytest.raises(Cancelled):
                export(make(level), path, codec="ffv1", segment=0.5, progress=stop, dither=False)
        export(make(0.75), path, codec="ffv1", segment=0.5, dither=False)
        assert float(VideoFile(path).frame(0).mean()) == pytest.approx(0.75, abs=0.01)


# -- failing ---------------------------------------------------------------------------------------------------------


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_missing_frame_fails_and_leaves_nothing(tmp_path: Path) -> None:
    def frame(n: int) -> torch.Tensor:
        if n == 3:
            raise InputError("frame 3 is not there")
        return torch.zeros(3, 32, 32)

    source = sources.Function(frame, 32, 32, frame_count=6)
    with pytest.raises(InputError, match="frame 3"):
        export(source, tmp_path / "a.mp4")
    assert left(tmp_path) == []


def test_cancelling_leaves_nothing(tmp_path: Path) -> None:
    source = sources.ramp(64, 48, frame_count=50)
    seen: list[int] = []
    with pytest.raises(Cancelled, match="4 of 50"):
        export(source, tmp_path / "a.mp4", progress=lambda done, _: seen.append(done), cancel=lambda: len(seen) == 4)
    assert left(tmp_path) == []


def test_an_encoder_that_fails_and_a_full_disk_leave_nothing(tmp_path: Path, monkeypatch) -> None:
    from elinvar.video import slots

    source = sources.ramp(64, 48, frame_count=5)
    original = slots.Slot.frame

    def broken(code: int):
        def frame(self, pts, tag):
            if pts == 2:
                raise av.error.FFmpegError(code, "it broke", "a.mp4")
            return original(self, pts, tag)

        return frame

    monkeypatch.setattr(slots.Slot, "frame", broken(errno.EINVAL))
    with pytest.raises(PipelineError, match="libx264 failed at frame 2"):
        export(source, tmp_path / "a.mp4")
    monkeypatch.setattr(slots.Slot, "frame", broken(errno.ENOSPC))
    with pytest.raises(OSError, match="it broke") as caught:
        export(source, tmp_path / "a.mp4")
    assert caught.value.errno == errno.ENOSPC
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"codec": "vp7"}, "h264"),
        ({"bit_depth": 12}, "12-bit"),
        ({"size": (63, 48)}, "odd"),
        ({"bitrate": -5}, "bitrate"),
        ({"quality": 3}, "quality"),
        ({"in_flight": 0}, "in_flight"),
        ({"frames": 99}, "98"),
        ({"start": -1}, "start"),
        ({"frame_rate": "fast"}, "frame rate"),
        ({"preset": "myspace"}, "youtube"),
        ({"delivery": "acescg"}, "H.273"),
        ({"delivery": "rec2100-pq", "bit_depth": 8, "codec": "hevc"}, "HDR"),
        ({"codec": "prores"}, ".mov"),
        ({"keyframe_interval": -1}, "keyframe"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(options, word: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=word):
        export(sources.ramp(64, 48, frame_count=5), tmp_path / "a.mp4", **options)
    assert left(tmp_path) == []


def test_endless_sources_need_a_length(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="frames="):
        export(sources.ramp(64, 48), tmp_path / "a.mp4")
    assert export(sources.ramp(64, 48), tmp_path / "a.mp4", frames=2).frames == 2


def test_a_graph_brings_its_own_colours(tmp_path: Path, simple) -> None:
    graph = simple(Exposure(0.5), view="aces-fit")
    with pytest.raises(InputError, match="graph's output is rec709"):
        export(graph, tmp_path / "a.mp4", delivery="rec2100-pq")
    with pytest.raises(InputError, match="source instead"):
        export(graph, tmp_path / "a.mp4", frame_rate=50)
    assert export(graph, tmp_path / "a.mp4", frames=2).space == "rec709"


def test_no_codec_of_this_build_is_refused_by_name(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(codecs.CODECS, "h264", codecs.Codec("h264", ("libnothing",), {8: "nv12"}, (".mp4",), 15.0))
    with pytest.raises(InputError, match="libnothing"):
        export(sources.ramp(64, 48), tmp_path / "a.mp4", frames=1)


def test_hardware_that_is_not_here_is_logged_and_passed_over(caplog) -> None:
    if codecs.encoder_works("h264_nvenc", "nv12") is None:
        pytest.skip("this machine has NVENC")
    with caplog.at_level("WARNING", "elinvar.video"):
        assert codecs.choose("h264", 8, "cuda")[0] == "libx264"
    assert "h264_nvenc" in caplog.text


def test_exporting_again_and_again_leaks_nothing(tmp_path: Path) -> None:
    a, b = sources.ramp(64, 48, frame_count=4), sources.smpte(64, 48, frame_count=4)
    graph = Graph("cpu")
    graph.add(Crossfade(0.5), graph.source(a), graph.source(b))
    graph.output("rec709")

    def once() -> None:
        export(graph, tmp_path / "a.mkv", codec="ffv1")
        gc.collect()

    assert_no_leak(once, repeats=4)
