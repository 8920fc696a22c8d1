"""Files as they are found: ranges, matrices, rotation, odd starts, variable rates, damage."""

from __future__ import annotations

import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from elinvar.errors import InputError
from elinvar.video import color, sources
from elinvar.video.exporting import export
from elinvar.video.media import VideoFile
from elinvar.video.probing import ColorWarning, interpret, probe
from elinvar.video.spaces import Tag

av = pytest.importorskip("av")


@pytest.mark.parametrize("name", ["bt601_limited_range", "bt601_full_range", "bt709_full_range", "nasa_13013"])
def test_ranges_and_matrices_as_swscale_reads_eight_bits(name: str, media) -> None:
    file = media(f"torchcodec/{name}.mp4")
    assert file.info.range == ("full" if "full" in name else "limited")
    with av.open(str(file.path)) as container:
        frame = next(container.decode(video=0))
        matrix = {"bt601": 5, "bt709": 1}[file.info.matrix]
        seen = frame.reformat(format="rgb24", src_colorspace=matrix).to_ndarray()
    ours = file.frame(0).clamp(0, 1).movedim(0, -1).numpy() * 255
    assert np.median(np.abs(ours - seen)) < 1.5  # swscale repeats chroma where we interpolate


@pytest.mark.parametrize(
    ("name", "space", "matrix"),
    [
        ("bt709_full_range", "rec709", "bt709"), ("bt2020_10bit", "rec2100-pq", "bt2020"),
        ("testsrc2_12bit_hdr", "rec2100-pq", "bt2020"), ("nasa_13013", "rec709", "bt709"),
    ],
)  # fmt: skip
def test_tags_are_understood(name: str, space: str, matrix: str, media) -> None:
    file = media(f"torchcodec/{name}.mp4")
    assert (file.space, file.info.matrix, file.info.assumed) == (space, matrix, ())
    frame = file.frame(2)
    assert -0.6 < frame.min() <= frame.max() < 1.6  # test patterns overshoot


def test_what_is_not_tagged_is_said(reference_data) -> None:
    path = reference_data("video/torchcodec/h265_video.mp4")
    with pytest.warns(ColorWarning, match="rec601"):
        VideoFile(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = VideoFile(path, space="srgb", matrix="bt709")
    assert told.space == "srgb"
    assert interpret(Tag(), 1080)[:2] == ("rec709", "bt709")
    assert interpret(Tag(), 576)[0] == "rec601-625"


def test_rotation_is_what_ffmpeg_shows(media) -> None:
    file = media("torchcodec/nasa_13013_rotated.mp4")
    assert (file.width, file.height, file.info.rotation) == (270, 480, 90)
    with av.open(str(file.path)) as container:
        flat = next(container.decode(video=0)).to_ndarray(format="rgb24")
    upright = torch.from_numpy(np.rot90(flat, 1).copy()).movedim(-1, 0) / 255
    assert (file.frame(0) - upright).abs().mean() < 0.01


def test_a_start_that_is_not_zero(media) -> None:
    file = media("torchcodec/test_non_zero_start.mp4")
    assert file.info.start > 8
    assert file.frame_count == 12
    assert torch.isfinite(file.frame(0)).all()


def test_any_order_gives_the_same_frames(media) -> None:
    file = media("torchcodec/nasa_13013.mp4")
    forwards = {n: file.frame(n) for n in (0, 1, 2, 60, 200, 324)}
    for n in (324, 2, 200, 60, 1, 0):
        assert torch.equal(file.frame(n), forwards[n]), n
    file.close()
    assert torch.equal(file.frame(60), forwards[60])


def counting(path: Path, times: list[int], base: Fraction = Fraction(1, 1000)) -> None:
    """A lossless file whose frame k is grey k/20, at given times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        stream.codec_context.time_base = base
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = 1
        context.color_range = 1
        for k, t in enumerate(times):
            planes = color.to_yuv(torch.full((3, 16, 16), k / 20), "yuv420p")
            frame = av.VideoFrame.from_dlpack(tuple(p.numpy() for p in planes), format="yuv420p")
            frame.pts, frame.time_base = t, base
            frame.color_primaries = frame.color_trc = frame.colorspace = 1
            frame.color_range = 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def numbers(file: VideoFile) -> list[int]:
    return [round(float(file.frame(n).mean()) * 20) for n in range(file.frame_count or 0)]


def test_variable_rates_are_conformed_by_repeating_and_dropping(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    counting(path, [0, 40, 80, 240, 250, 260, 280, 320])  # a pause after 2, a burst after 3
    info = probe(path)
    assert info.variable
    file = VideoFile(path, frame_rate=25)
    assert numbers(file)[:8] == [0, 1, 2, 2, 2, 2, 3, 6]
    half = VideoFile(path, frame_rate=Fraction(25, 2))
    assert numbers(half)[:3] == [0, 2, 2]


def test_a_coarse_time_base_does_not_make_a_rate_variable(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    counting(path, [round(k * 1001 / 24) for k in range(12)])
    info = probe(path)
    assert (info.frame_rate, info.variable) == (Fraction(24000, 1001), False)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        probe(tmp_path / "none.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("not a film")
    with pytest.raises(InputError, match="cannot open"):
        probe(text)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    with pytest.raises(InputError):
        probe(empty)


def test_truncated_media_fail_at_the_frame_that_is_missing(tmp_path: Path) -> None:
    whole = tmp_path / "whole.mp4"
    source = sources.Function(
        lambda n: torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(n)), 64, 64, frame_count=30
    )
    export(source, whole, bitrate=2_000_000)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])  # the index is in front
    with pytest.raises(InputError, match=r"missing|damaged|truncated"):
        file = VideoFile(cut)
        for n in range(30):
            file.frame(n)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_file_that_ends_before_its_header_says_is_no_shorter_film(tmp_path: Path, suffix: str) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    export(sources.zone_plate(64, 64, frame_count=100), whole, speed="ultrafast", quality=1)
    assert probe(whole).missing == 0
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    info = probe(cut)
    assert float(info.missing) == pytest.approx((100 - info.frame_count) / 24, abs=0.1)
    with pytest.raises(InputError, match="truncated=True"):
        VideoFile(cut)
    some = VideoFile(cut, truncated=True)
    assert 5 < (some.frame_count or 0) < 95
    assert some.frame(3).shape == (3, 64, 64)


def test_pixels_that_are_not_square_stay_so_or_are_refused(tmp_path: Path) -> None:
    wide = tmp_path / "wide.mkv"
    with av.open(str(wide), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 72, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame(72, 48, "yuv420p")))
        container.mux(stream.encode(None))
    info = probe(wide, warn=False)
    assert (info.pixel_aspect, info.interlaced) == (Fraction(16, 11), False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for codec, suffix in (("h264", ".mp4"), ("prores", ".mov"), ("hevc", ".mkv")):
            export(wide, tmp_path / f"a{suffix}", codec=codec)
            assert probe(tmp_path / f"a{suffix}").pixel_aspect == Fraction(16, 11)
        with pytest.raises(InputError, match="cannot be noted"):
            export(wide, tmp_path / "b.mkv", codec="ffv1")
        with pytest.raises(InputError, match=r"size=\(104, 48\)"):
            export(wide, tmp_path / "b.mp4", size=(144, 96))
        export(wide, tmp_path / "b.mp4", size=(104, 48), fit="stretch")
    assert probe(tmp_path / "b.mp4").pixel_aspect == 1


@pytest.mark.parametrize(("form", "top"), [("yuva420p", 255), ("yuva444p10le", 1023), ("yuva444p12le", 4095)])
def test_films_with_alpha_lie_over_black(tmp_path: Path, form: str, top: int) -> None:
    path, bits = tmp_path / "a.mkv", top.bit_length()
    word = np.uint8 if bits == 8 else np.uint16
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 16, form
        frame = av.VideoFrame(64, 16, form)
        opacity = np.linspace(0, top, 64).round().astype(word)
        for plane, code in zip(frame.planes, (235, 128, 128, None), strict=True):
            line = opacity if code is None else np.full(plane.width, code << (bits - 8), word)
            row = np.zeros(plane.line_size // word().itemsize, word)
            row[: len(line)] = line
            plane.update(np.tile(row, plane.height).tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    pixels = VideoFile(path, space="rec709", matrix="bt709").frame(0)
    assert torch.allclose(pixels, torch.from_numpy(opacity / top).float().expand(3, 16, 64), atol=1e-5)


def test_frames_outside_are_refused(media) -> None:
    file = media("torchcodec/h265_video.mp4")
    for n in (-1, file.frame_count):
        with pytest.raises(InputError, match="outside"):
            file.frame(n)
