"""Encoders: which is taken where, what it is told, and why another one was not."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from elinvar.runtime.transfers import transfers
from elinvar.video import codecs, rendering, sources
from elinvar.video.exporting import export
from elinvar.video.media import VideoFile
from elinvar.video.probing import probe
from elinvar.video.slots import DeviceSlots
from elinvar.video.spaces import TAGS

av = pytest.importorskip("av")
CUDA, MPS = (SimpleNamespace(kind=kind, torch=torch.device(kind, 0)) for kind in ("cuda", "mps"))
SDR, PQ = TAGS["rec709"], TAGS["rec2100-pq"]


@pytest.mark.parametrize(
    ("codec", "depth", "device", "options", "refused", "want", "said"),
    [
        ("h264", 8, CUDA, {}, (), ("h264_nvenc", "nv12", "cuda"), ""),
        ("hevc", 10, CUDA, {}, (), ("hevc_nvenc", "p010", "cuda"), ""),
        ("av1", 8, CUDA, {}, (), ("av1_nvenc", "nv12", "cuda"), ""),
        ("h264", 8, CUDA, {}, ("cuda",), ("h264_nvenc", "nv12", "host"), "copied through the host"),
        ("h264", 8, CUDA, {"width": 854}, (), ("h264_nvenc", "nv12", "host"), "854 bytes"),
        ("hevc", 10, CUDA, {"width": 854}, (), ("hevc_nvenc", "p010", "cuda"), ""),
        ("h264", 8, "cuda", {}, (), ("h264_nvenc", "nv12", "host"), "no device"),
        ("h264", 8, CUDA, {}, ("cuda", "host"), ("libx264", "nv12", "host"), "h264_nvenc cannot be used"),
        ("hevc", 10, CUDA, {"tag": PQ}, (), ("libx265", "yuv420p10", "host"), "mastering display"),
        ("h264", 8, MPS, {}, (), ("h264_videotoolbox", "nv12", "host"), ""),
        ("hevc", 10, MPS, {}, (), ("hevc_videotoolbox", "p010", "host"), ""),
        ("hevc", 10, MPS, {}, ("host",), ("libx265", "yuv420p10", "host"), "hevc_videotoolbox cannot be used"),
        ("prores", 10, MPS, {}, (), ("prores_videotoolbox", "yuv422p10", "host"), ""),
        ("av1", 8, MPS, {}, (), ("libsvtav1", "yuv420p", "host"), ""),
        ("ffv1", 8, CUDA, {}, (), ("ffv1", "yuv420p", "host"), ""),
        ("h264", 8, "cpu", {}, (), ("libx264", "nv12", "host"), ""),
    ],
)
def test_hardware_is_taken_where_it_opens(
    codec, depth, device, options, refused, want, said, monkeypatch, caplog
) -> None:
    def works(_encoder: str, _format: str, surface: str = "host", _device: Any = None) -> str | None:
        return "it does not open" if surface in refused else None

    monkeypatch.setattr(codecs, "encoder_works", works)
    with caplog.at_level("WARNING", "elinvar.video"):
        assert codecs.choose(codec, depth, device, **options) == want
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


def borrow(loan: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(loan))


def test_an_encoder_is_tried_with_a_frame_of_the_device(monkeypatch) -> None:
    """The frame lies in host memory here, the rest is PyAV: an encoder that takes it works, NVENC says why not."""
    monkeypatch.setattr(
        codecs, "DeviceSlots", lambda *a: DeviceSlots(*a, lambda loan: torch.from_numpy(np.asarray(loan)))
    )
    codecs.encoder_works.cache_clear()
    reason = codecs.encoder_works("h264_nvenc", "nv12", "cuda", torch.device("cpu"))
    assert reason
    codecs.encoder_works.cache_clear()


def settings(codec: str, device: Any = "cpu", tag: Any = SDR, depth: int = 8, **options: Any) -> codecs.Settings:
    return codecs.settings(codec, 64, 48, Fraction(25), tag, bit_depth=depth, device=device, **options)


def test_hardware_is_told_quality_and_speed(monkeypatch) -> None:
    monkeypatch.setattr(codecs, "encoder_works", lambda *_: None)
    made = settings("h264", CUDA, quality=0.5, speed="ultrafast")
    assert (made.bit_rate, made.surface) == (None, "cuda")
    assert made.options.items() >= {"rc": "vbr", "cq": "27", "b": "0", "preset": "p1"}.items()
    assert settings("hevc", CUDA, speed="p7").options["preset"] == "p7"
    made = settings("h264", MPS, quality=0.5)
    assert made.options.items() >= {"flags": "+qscale", "global_quality": "5900"}.items()
    stream = SimpleNamespace(codec_context=SimpleNamespace())
    settings("h264", CUDA).apply(stream)
    assert stream.pix_fmt == "cuda"
    assert settings("prores", MPS, depth=10).options == {"profile": "hq"}


def test_words_for_speed_go_with_every_codec(tmp_path: Path) -> None:
    source = sources.ramp(64, 64, frame_count=2)
    for codec, suffix in (("av1", ".mkv"), ("h264", ".mp4")):
        assert export(source, tmp_path / f"a{suffix}", codec=codec, speed="ultrafast").frames == 2
    assert settings("av1", speed="4").options["preset"] == "4"


EVERY = [(codec, suffix) for codec, known in codecs.CODECS.items() for suffix in known.suffixes]


@pytest.mark.parametrize(("codec", "suffix"), EVERY)
def test_every_codec_goes_into_every_container_it_names(codec: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    done = export(sources.ramp(64, 64, frame_rate=25, frame_count=3), path, codec=codec, speed="ultrafast")
    info = probe(path)
    assert (done.frames, info.frame_count, info.frame_rate, info.assumed) == (3, 3, 25, ())
    assert abs(float(VideoFile(path).frame(1).mean()) - 0.5) < 0.02


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_hdr10_names_its_mastering_display(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    source = sources.ramp(64, 64, frame_count=2)
    export(source, path, codec=codec, speed="ultrafast", delivery="rec2100-pq", peak=4000)
    with av.open(str(path)) as container:
        found = {d.type.name: bytes(d) for d in next(container.decode(video=0)).side_data}
    assert struct.unpack("2I", found["CONTENT_LIGHT_LEVEL"][:8]) == (4000, 0)
    display = struct.unpack(
        "20i", found["MASTERING_DISPLAY_METADATA"][:80]
    )  # AVRationals: r, g, b, white, dark, bright
    values = [n / d for n, d in zip(display[::2], display[1::2], strict=True)]
    want = [0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 0.005, 4000]
    assert values == pytest.approx(want, rel=0.01)
    assert probe(path).space == "rec2100-pq"


def test_frames_of_a_device_reach_the_encoder_without_a_copy(tmp_path: Path, monkeypatch) -> None:
    """The CUDA way with stand-ins at both ends: host memory for the device's, libx264 for NVENC."""
    real = codecs.Settings.apply
    lent: list[int] = []

    def lend(loan: Any) -> torch.Tensor:
        plane = borrow(loan)
        lent.append(plane.data_ptr())
        return plane

    def apply(self: codecs.Settings, stream: Any) -> None:
        real(self, stream)
        stream.pix_fmt = "nv12"

    monkeypatch.setattr(codecs.Settings, "apply", apply)
    monkeypatch.setattr(codecs, "choose", lambda *_, **__: ("libx264", "nv12", "cuda"))
    monkeypatch.setattr(rendering, "DeviceSlots", lambda *a: DeviceSlots(*a, lend))
    source = sources.Function(lambda n: torch.full((3, 32, 64), n / 10), 64, 32, Fraction(25), 8)
    with transfers.count() as counted:
        done = export(source, tmp_path / "a.mp4", dither=False, device="cpu", quality=1.0)
    assert (done.surface, done.format, counted.d2h_calls) == ("cuda", "nv12", 0)
    assert len(lent) == 2 * 8
    assert len(set(lent)) <= 2 * done.slots
    file = VideoFile(tmp_path / "a.mp4")
    assert [float(file.frame(n).mean()) for n in range(8)] == pytest.approx([n / 10 for n in range(8)], abs=0.01)
