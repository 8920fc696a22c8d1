"""Encoders: which, with which pixels, containers and settings; tried by opening them."""

# ruff: noqa: A001, A002  (format and range are what the field calls them)

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from elinvar.errors import InputError
from elinvar.video._check import choice, number, optional_library
from elinvar.video.slots import DeviceSlots, Slots
from elinvar.video.spaces import TAGS, Tag
from elinvar.video.yuv import FORMATS

__all__ = [
    "CODECS",
    "CONTAINERS",
    "PRESETS",
    "Codec",
    "Preset",
    "Settings",
    "automatic_bitrate",
    "choose",
    "encoder_works",
]

_log = logging.getLogger("elinvar.video")


@dataclass(frozen=True)
class Codec:
    """A codec this library delivers.

    Attributes
    ----------
    encoders
        FFmpeg's encoders, hardware first; the first that opens is used ("auto"), the last is the CPU's.
    formats
        Pixel format by bit depth.
    suffixes
        Containers it goes into; the first is the usual one.
    megabits
        Automatic bit rate at 1920 x 1080, Mbit/s; None for codecs without one.
    """

    name: str
    encoders: tuple[str, ...]
    formats: Mapping[int, str]
    suffixes: tuple[str, ...]
    megabits: float | None = None


CODECS = {
    c.name: c
    for c in (
        Codec(
            "h264",
            ("h264_nvenc", "h264_videotoolbox", "libx264"),
            {8: "nv12", 10: "yuv420p10"},
            (".mp4", ".mov", ".mkv"),
            15.0,
        ),
        Codec(
            "hevc",
            ("hevc_nvenc", "hevc_videotoolbox", "libx265"),
            {8: "yuv420p", 10: "yuv420p10"},
            (".mp4", ".mov", ".mkv"),
            10.0,
        ),
        Codec("av1", ("av1_nvenc", "libsvtav1"), {8: "yuv420p", 10: "yuv420p10"}, (".mp4", ".mkv", ".webm"), 8.0),
        Codec("prores", ("prores_videotoolbox", "prores_ks"), {10: "yuv422p10"}, (".mov", ".mkv"), None),
        Codec("ffv1", ("ffv1",), {8: "yuv420p", 10: "yuv420p10", 12: "yuv444p12"}, (".mkv",), None),
    )
}
"""Codecs by name. "exr" is a sequence of files and has no encoder."""
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
_HARDWARE_FORMATS = {8: "nv12", 10: "p010"}
_MAKERS = {"cuda": "nvenc", "mps": "videotoolbox"}
_SPEEDS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
_SVT = dict(zip(_SPEEDS, (12, 11, 10, 9, 8, 7, 5, 4, 2), strict=True))
_NVENC = dict(zip(_SPEEDS, (1, 1, 2, 3, 4, 5, 6, 7, 7), strict=True))
"""x264's words for speed as the presets of other encoders."""


@dataclass(frozen=True)
class Settings:
    """One encoder, opened or to be opened.

    Attributes
    ----------
    encoder
        FFmpeg's name.
    format
        Pixel format of `elinvar.video.yuv.FORMATS`.
    options
        Encoder options.
    bit_rate
        Bits per second, None for constant quality.
    surface
        Where the encoder reads its frames: "host", or "cuda" for NVENC without a copy through the host.
    pixel_aspect
        Width of a pixel over its height.
    """

    codec: str
    encoder: str
    format: str
    width: int
    height: int
    rate: Fraction
    tag: Tag
    gop: int
    bit_rate: int | None
    options: Mapping[str, str] = field(default_factory=dict)
    surface: str = "host"
    pixel_aspect: Fraction = Fraction(1)

    def lasting(self, frames: int) -> Settings:
        """Return the settings for so many frames.

        libx265 gives no decoding times to films that end before its reordering has begun: those go without B-frames.
        """
        if self.encoder != "libx265" or frames > 2:
            return self
        params = f"{self.options['x265-params']}:bframes=0"
        return replace(self, options={**self.options, "x265-params": params})

    def apply(self, stream: Any) -> None:
        """Configure a PyAV output stream."""
        context = stream.codec_context
        stream.width, stream.height = self.width, self.height
        if self.pixel_aspect != 1:
            context.sample_aspect_ratio = self.pixel_aspect
        # A CUDA frame brings the format of its codes along; the encoder takes it from the first one.
        stream.pix_fmt = "cuda" if self.surface == "cuda" else FORMATS[self.format].av
        context.time_base = 1 / self.rate
        stream.time_base = 1 / self.rate
        context.gop_size = self.gop
        if self.bit_rate is not None:
            context.bit_rate = self.bit_rate
        tag = self.tag
        context.color_primaries, context.color_trc, context.colorspace = tag.primaries, tag.transfer, tag.matrix
        context.color_range = 2 if tag.full_range else 1
        context.options = dict(self.options)
        context.thread_type = "AUTO"
        if self.codec == "hevc":
            context.codec_tag = "hvc1"  # Apple's players want it


def automatic_bitrate(codec: str, width: int, height: int) -> int | None:
    """Return bits per second for a size: the codec's rate at 1080p times the ratio of pixels.

    h264 15, hevc 10, av1 8 Mbit/s at 1920 x 1080; None for codecs with a fixed or lossless rate.
    """
    megabits = CODECS[codec].megabits
    return None if megabits is None else round(1e6 * megabits * width * height / (1920 * 1080))


@functools.lru_cache(maxsize=32)
def encoder_works(encoder: str, format: str, surface: str = "host", device: Any = None) -> str | None:
    """Try an encoder by opening it for a small frame; None when it works, else why not.

    Names exist in FFmpeg builds without the hardware behind them, so that only opening tells.

    Parameters
    ----------
    surface, device
        "cuda": with a frame in the memory of a CUDA device, a ``torch.device``, which is encoded as well.
    """
    av = optional_library("av", "video.export")
    slots = Slots(FORMATS[format], 256, 144) if surface == "host" else DeviceSlots(FORMATS[format], 256, 144, device)
    try:
        context = av.codec.CodecContext.create(encoder, "w")
        context.width, context.height = 256, 144
        context.pix_fmt = "cuda" if surface == "cuda" else FORMATS[format].av
        context.time_base = Fraction(1, 25)
        context.framerate = Fraction(25)
        if surface == "cuda":
            slot = slots.acquire()
            for plane in slot.planes:
                plane.zero_()
            context.encode(slot.frame(0, TAGS["rec709"]))
        else:
            context.open()
    except (av.error.FFmpegError, ValueError, TypeError, NotImplementedError, ImportError, AttributeError) as error:
        return str(error)  # the last three: PyAV before 18.1 has no such frames
    return None


def choose(
    codec: str, bit_depth: int, device: Any, *, width: int = 256, tag: Tag = TAGS["rec709"]
) -> tuple[str, str, str]:
    """Return (encoder, pixel format, surface): hardware where it is and works, else the CPU's, with the reason logged.

    Parameters
    ----------
    device
        A `Device` or its kind: "cpu" asks for the CPU's encoder; "cuda" and "mps" for NVENC and VideoToolbox first.
    width, tag
        Of the film: NVENC reads CUDA memory in rows of whole words, and neither is given what HDR10 says of the
        mastering display.
    """
    known = CODECS[codec]
    if bit_depth not in known.formats:
        raise InputError(
            f"video.export: {codec} has no {bit_depth}-bit format here; choose {', '.join(map(str, known.formats))}."
        )
    last = known.encoders[-1]
    maker = _MAKERS.get(getattr(device, "kind", device))
    for encoder in known.encoders[:-1]:
        if maker is None or maker not in encoder:
            continue
        format = _HARDWARE_FORMATS[bit_depth] if codec != "prores" else known.formats[bit_depth]
        reason = "PyAV cannot give it the mastering display of HDR10" if tag.transfer == 16 else None
        if reason is None and maker == "nvenc":
            copied = _cuda_refused(encoder, format, device, width)
            if copied is None:
                return encoder, format, "cuda"
            reason = encoder_works(encoder, format)
            if reason is None:
                _log.warning("%s cannot read CUDA frames (%s); they are copied through the host", encoder, copied)
        elif reason is None:
            reason = encoder_works(encoder, format)
        if reason is None:
            return encoder, format, "host"
        _log.warning("%s cannot be used (%s); encoding with %s on the CPU", encoder, reason, last)
    av = optional_library("av", "video.export")
    if last not in av.codecs_available:
        raise InputError(f"video.export: this build of FFmpeg has no {last}; choose another codec than {codec}.")
    return last, known.formats[bit_depth], "host"


def _cuda_refused(encoder: str, format: str, device: Any, width: int) -> str | None:
    """Tell why an encoder cannot read a device's memory; None when it can."""
    where = getattr(device, "torch", None)
    if where is None:
        return "no device was named"
    pitch = width * (1 if FORMATS[format].bits == 8 else 2)
    if pitch % 4:
        return f"a row of {pitch} bytes is no multiple of 4"
    return encoder_works(encoder, format, "cuda", where)


def settings(
    codec: str,
    width: int,
    height: int,
    rate: Fraction,
    tag: Tag,
    *,
    bit_depth: int,
    device: Any = "cpu",
    bitrate: int | None = None,
    quality: float | None = None,
    keyframe_interval: float | None = None,
    speed: str | None = None,
    peak: float = 1000.0,
) -> Settings:
    """Collect an encoder's settings; see `elinvar.video.export`."""
    number("video.export", "peak", peak, 1, 10000)
    choice("video.export", "codec", codec, CODECS)
    encoder, format, surface = choose(codec, bit_depth, device, width=width, tag=tag)
    options: dict[str, str] = {}
    rated = automatic_bitrate(codec, width, height)
    if bitrate is not None:
        rated = round(number("video.export", "bitrate", bitrate, 1e3, 1e10))
    elif quality is not None:
        number("video.export", "quality", quality, 0, 1)
        rated = None
        options |= _quality(encoder, quality)
    interval = (
        2.0 if keyframe_interval is None else number("video.export", "keyframe_interval", keyframe_interval, 0, 3600)
    )
    gop = 1 if codec in ("prores", "ffv1") else max(1, round(interval * rate))
    options |= _defaults(encoder, tag, speed, peak)
    return Settings(codec, encoder, format, width, height, rate, tag, gop, rated, options, surface)


def _quality(encoder: str, quality: float) -> dict[str, str]:
    """Quality 0 to 1 as the encoder's own constant-quality scale."""
    if encoder in ("libx264", "libx265"):
        return {"crf": f"{42 - 30 * quality:.1f}"}
    if encoder == "libsvtav1":
        return {"crf": str(round(58 - 40 * quality))}
    if encoder.endswith("nvenc"):
        return {"rc": "vbr", "cq": f"{42 - 30 * quality:.0f}", "b": "0"}
    if encoder.endswith("videotoolbox") and not encoder.startswith("prores"):
        return {"flags": "+qscale", "global_quality": str(round(100 * quality * 118))}  # FFmpeg's lambda per step
    return {}


def _display(peak: float) -> str:
    """A P3-D65 mastering display (SMPTE ST 2086) in steps of 0.00002 and 0.0001 cd/m², as x264 and x265 take it."""
    return f"G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L({round(peak * 10000)},50)"


def _defaults(encoder: str, tag: Tag, speed: str | None, peak: float) -> dict[str, str]:
    siting = {"chroma_sample_location": "topleft" if tag.matrix == 9 else "left"}
    lights = f"{round(peak)},0"  # MaxFALL is not measured: 0 is "unknown" (CTA-861.3)
    hdr10 = tag.transfer == 16
    if encoder == "libx264":
        extra = {"x264-params": f"mastering-display={_display(peak)}:cll={lights}"} if hdr10 else {}
        return {"preset": speed or "medium", **siting, **extra}
    if encoder == "libx265":
        params = ["log-level=error", "open-gop=0"]
        if hdr10:
            params += ["hdr10=1", "repeat-headers=1", f"master-display={_display(peak)}", f"max-cll={lights}"]
        params.append(f"chromaloc={2 if tag.matrix == 9 else 0}")
        return {"preset": speed or "medium", "x265-params": ":".join(params)}
    if encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # the only way to keep it from printing its configuration
        extra = {"svtav1-params": f"mastering-display={_decimal_display(peak)}:content-light={lights}"} if hdr10 else {}
        return {"preset": str(_SVT.get(speed or "", speed or "8")), **siting, **extra}
    if encoder.endswith("_nvenc"):
        return {"preset": f"p{_NVENC[speed]}" if speed in _NVENC else speed or "p5", "tune": "hq", **siting}
    if encoder.startswith("prores"):
        return {"profile": "hq", **({"vendor": "apl0"} if encoder == "prores_ks" else {})}
    if encoder == "ffv1":
        return {"level": "3", "slices": "16", "slicecrc": "1"}
    return siting if encoder.endswith("videotoolbox") else {}


def _decimal_display(peak: float) -> str:
    return f"G(0.265,0.69)B(0.15,0.06)R(0.68,0.32)WP(0.3127,0.329)L({peak:g},0.005)"


@dataclass(frozen=True)
class Preset:
    """A place to deliver to: size, codec, rate."""

    name: str
    width: int
    height: int
    codec: str = "h264"
    bitrate: int | None = None
    bit_depth: int = 8
    suffix: str = ".mp4"
    fit: str = "fit"


PRESETS = {
    p.name: p
    for p in (
        Preset("youtube-1080p", 1920, 1080, bitrate=12_000_000),
        Preset("youtube-4k", 3840, 2160, bitrate=45_000_000),
        Preset("youtube-shorts", 1080, 1920, bitrate=12_000_000, fit="fill"),
        Preset("instagram-square", 1080, 1080, bitrate=8_000_000, fit="fill"),
        Preset("instagram-portrait", 1080, 1350, bitrate=8_000_000, fit="fill"),
        Preset("instagram-reel", 1080, 1920, bitrate=8_000_000, fit="fill"),
        Preset("tiktok", 1080, 1920, bitrate=8_000_000, fit="fill"),
        Preset("twitter", 1280, 720, bitrate=5_000_000),
        Preset("linkedin", 1920, 1080, bitrate=8_000_000),
        Preset("broadcast-hd", 1920, 1080, bitrate=50_000_000),
        Preset("broadcast-4k", 3840, 2160, "hevc", 60_000_000, 10),
        Preset("web-720p", 1280, 720, bitrate=4_000_000),
        Preset("web-1080p", 1920, 1080, bitrate=8_000_000),
        Preset("prores-archive", 1920, 1080, "prores", None, 10, ".mov"),
        Preset("archive-4k", 3840, 2160, "ffv1", None, 10, ".mkv"),
    )
}
"""Delivery presets by name."""
