"""Where frames come from: generators, arrays, functions, image and EXR sequences. Files of video:
`elinvar.video.media`.

A source has a size, a rate, a number of frames (None: endless), the colour space of its pixels, and ``frame(n)``.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from elinvar.errors import InputError
from elinvar.video._check import count, frame_rate, number, optional_library, planar
from elinvar.video.shading import hash_normal, hash_uniform
from elinvar.video.spaces import space

__all__ = [
    "COLOR_CHECKER",
    "Arrays",
    "Function",
    "Generator",
    "Images",
    "Source",
    "color_checker",
    "is_picture",
    "open_source",
    "ramp",
    "smpte",
    "solid",
    "starfield",
    "zone_plate",
]


@runtime_checkable
class Source(Protocol):
    """What a graph reads from."""

    @property
    def width(self) -> int:
        """Pixels across."""
        ...

    @property
    def height(self) -> int:
        """Pixels down."""
        ...

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second, exact."""
        ...

    @property
    def frame_count(self) -> int | None:
        """How many frames there are; None: endless."""
        ...

    @property
    def space(self) -> str:
        """Colour space of the pixels."""
        ...

    def frame(self, n: int) -> torch.Tensor:
        """Return frame `n` as [3, H, W] float32 in the source's space; the caller must not write to it."""
        ...


@dataclass(frozen=True)
class Generator:
    """A picture computed from its frame number.

    Attributes
    ----------
    make
        ``(n, x, y) -> [3, H, W]`` with pixel coordinates as float32 tensors [1, W] and [H, 1].
    """

    make: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]
    width: int = 1920
    height: int = 1080
    frame_rate: Fraction = Fraction(24)
    frame_count: int | None = None
    space: str = "rec709"

    def frame(self, n: int) -> torch.Tensor:
        """Return frame `n`."""
        x = torch.arange(self.width, dtype=torch.float32)[None, :]
        y = torch.arange(self.height, dtype=torch.float32)[:, None]
        return self.make(n, x, y).float().contiguous()


@dataclass(frozen=True)
class Function:
    """A Python function of the frame number, returning [3 or 4, H, W] or [H, W, 3 or 4] of the declared size."""

    function: Callable[[int], Any]
    width: int
    height: int
    frame_rate: Fraction = Fraction(24)
    frame_count: int | None = None
    space: str = "rec709"

    def frame(self, n: int) -> torch.Tensor:
        """Return frame `n`."""
        pixels = _planes(self.function(n), f"video.Function frame {n}")
        if tuple(pixels.shape[1:]) != (self.height, self.width):
            raise InputError(
                f"video.Function: frame {n} is {pixels.shape[2]} x {pixels.shape[1]}; {self.width} x {self.height} "
                "was declared, return that size."
            )
        return pixels


class Arrays:
    """Frames that are in memory.

    Parameters
    ----------
    frames
        [N, H, W, 3], [N, 3, H, W] or a list of frames; uint8, uint16 or float.
    """

    def __init__(self, frames: Any, frame_rate: Any = 24, space: str = "rec709") -> None:
        self._frames = frames
        if len(frames) == 0:
            raise InputError("video.Arrays: there are no frames; give at least one.")
        self.frame_count: int | None = len(frames)
        self.frame_rate = _rate("video.Arrays", frame_rate)
        self.space = _space(space)
        self.height, self.width = (int(s) for s in _planes(frames[0], "video.Arrays").shape[1:])

    def frame(self, n: int) -> torch.Tensor:
        """Return frame `n`."""
        return _planes(self._frames[n], f"video.Arrays frame {n}")

    def describe(self) -> str:
        """Return what tells these frames from others."""
        seen = hashlib.blake2b(digest_size=16)
        for frame in self._frames:
            seen.update(np.ascontiguousarray(frame.cpu() if isinstance(frame, torch.Tensor) else frame).tobytes())
        return seen.hexdigest()


class Images:
    """A sequence of image files, EXR included (as linear light).

    Parameters
    ----------
    paths
        Files in order, a folder, or a pattern such as ``"shots/a.*.exr"``. A missing number in the sequence is an
        error.
    space
        None: "linear-rec709" for EXR (or what its chromaticities say), else "srgb".
    """

    def __init__(self, paths: Any, frame_rate: Any = 24, space: str | None = None) -> None:
        self.paths = _listed(paths)
        self.frame_rate = _rate("video.Images", frame_rate)
        self.frame_count: int | None = len(self.paths)
        first, declared = _read_image(self.paths[0])
        self.height, self.width = int(first.shape[1]), int(first.shape[2])
        self.space = declared if space is None else _space(space)

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read."""
        return tuple(self.paths)

    def frame(self, n: int) -> torch.Tensor:
        """Return frame `n`, alpha composited over black."""
        pixels, _ = _read_image(self.paths[n])
        if tuple(pixels.shape[1:]) != (self.height, self.width):
            raise InputError(f"video.Images: {self.paths[n]} has another size than the first image; make them equal.")
        return pixels


def _listed(paths: Any) -> list[Path]:
    if isinstance(paths, (str, Path)):
        place = Path(paths)
        if place.is_dir():
            found = sorted(p for p in place.iterdir() if p.suffix.lower() in _SUFFIXES)
        elif "*" in place.name or "?" in place.name:
            found = sorted(place.parent.glob(place.name))
        else:
            found = [place]
    else:
        found = [Path(p) for p in paths]
    missing = [p for p in found if not p.is_file()]
    if not found or missing:
        raise InputError(f"video.Images: {missing[0] if missing else paths} is not there; check the path or pattern.")
    _refuse_gaps(found)
    return found


def _refuse_gaps(paths: Sequence[Path]) -> None:
    numbers = [int(digits) for p in paths if (digits := "".join(c for c in p.stem[-6:] if c.isdigit()))]
    if len(numbers) == len(paths) and len(set(numbers)) == len(numbers) and numbers == sorted(numbers):
        gap = next((a for a, b in itertools.pairwise(numbers) if b - a > 1 and len(paths) > 2), None)
        if gap is not None and numbers[-1] - numbers[0] < 2 * len(numbers):
            raise InputError(f"video.Images: the sequence has no image {gap + 1}; add it, or list the files yourself.")


_SUFFIXES = (".exr", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def _read_image(path: Path) -> tuple[torch.Tensor, str]:
    if path.suffix.lower() == ".exr":
        from elinvar.video.exr import read_exr

        return read_exr(path)
    wide = _read_wide(path)
    if wide is not None:
        return _planes(wide, f"video.Images {path}"), "srgb"
    pillow = optional_library("PIL.Image", "video.Images")
    try:
        with pillow.open(path) as picture:
            plain = picture.mode in ("I;16", "I", "F", "RGB", "RGBA")
            pixels = np.asarray(picture if plain else picture.convert("RGBA"))
    except (OSError, ValueError) as error:
        raise InputError(f"video.Images: {path} cannot be read ({error}); is it an image?") from error
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, 2)
        pixels = pixels.astype(np.uint16) if pixels.dtype != np.float32 else pixels
    return _planes(pixels, f"video.Images {path}"), "srgb"


def _read_wide(path: Path) -> Any:
    """Return an image of more than 8 bits as [H, W, 3 or 4], which Pillow would cut down to 8; None for others."""
    suffix = path.suffix.lower()
    if suffix == ".png":
        with path.open("rb") as file:
            if file.read(26)[24:25] != b"\x10":  # IHDR's bit depth
                return None
    elif suffix not in (".tif", ".tiff"):
        return None
    av = optional_library("av", "video.Images")
    try:
        with av.open(str(path)) as container:
            picture = next(container.decode(video=0))
    except (av.error.FFmpegError, StopIteration, OSError):
        return None  # Pillow says what is wrong with it, or reads it
    kind = next((k for k in _WIDE if picture.format.name.startswith(k)), None)
    if kind is None:
        return None
    pixels = picture.to_ndarray(format=_WIDE[kind])  # a change of layout and byte order
    return np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels


_WIDE = {
    "rgb48": "rgb48le", "rgba64": "rgba64le", "gray16": "gray16le", "ya16": "rgba64le", "rgbf32": "rgbf32le",
    "rgbaf32": "rgbaf32le", "grayf32": "grayf32le",
}  # fmt: skip


def _planes(pixels: Any, operation: str) -> torch.Tensor:
    """Return [3, H, W] float32 in [0, 1] of integers; straight alpha is composited over black."""
    # numpy's pictures are [H, W, C], torch's [C, H, W]; the other is taken where only it can be meant.
    behind = isinstance(pixels, np.ndarray) and pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    x = torch.from_numpy(np.array(pixels)) if isinstance(pixels, np.ndarray) else torch.as_tensor(pixels)
    if x.dim() != 3 or (x.shape[0] not in (3, 4) and x.shape[2] not in (3, 4)):
        raise InputError(f"{operation}: pixels are {tuple(x.shape)}; give [H, W, 3], [3, H, W], or four channels.")
    if behind or x.shape[0] not in (3, 4):
        x = x.movedim(-1, 0)
    top = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.int16: 32767.0, torch.int32: 2.0**31}.get(x.dtype)
    x = x.to(torch.float32) if top is None else x.to(torch.float32) / top
    planar(operation, x)
    return (x[:3] * x[3:].clamp(0, 1) if x.shape[0] == 4 else x).contiguous()


def _rate(operation: str, value: Any) -> Fraction:
    return frame_rate(operation, value)


def _space(name: str) -> str:
    from elinvar.video.ocio import CAMERAS

    return name if name in CAMERAS else space(name).name


_TIMELINES = (".otio", ".otioz")


def is_picture(path: Path) -> bool:
    """Tell whether `open_source` takes a path for an image or a timeline, not for a file of video."""
    return path.suffix.lower() in (*_SUFFIXES, *_TIMELINES)


def open_source(source: Any, **options: Any) -> Source:
    """Return a source for whatever stands for one: a source, a path, arrays.

    Raises
    ------
    InputError
        It is none of these.
    """
    try:
        return _opened(source, options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise InputError(f"video: {source} takes no such option ({str(error).split(') ')[-1]}).") from None


def _opened(source: Any, options: dict[str, Any]) -> Source:
    if isinstance(source, (str, Path)):
        place = Path(source)
        if place.is_dir() or "*" in place.name or place.suffix.lower() in _SUFFIXES:
            return Images(source, **options)
        if place.suffix.lower() in _TIMELINES:
            from elinvar.video.timeline import Timeline

            return Timeline.open(place, **options)
        from elinvar.video.media import VideoFile

        return VideoFile(place, **options)
    if isinstance(source, (np.ndarray, torch.Tensor, list, tuple)):
        return Arrays(source, **options)
    if isinstance(source, Source):
        return source
    raise InputError(f"video: {type(source).__name__} is no source; give a path, frames, or an object with frame(n).")


# -- generators ------------------------------------------------------------------------------------------------------

COLOR_CHECKER = (
    (115, 82, 68), (194, 150, 130), (98, 122, 157), (87, 108, 67), (133, 128, 177), (103, 189, 170),
    (214, 126, 44), (80, 91, 166), (193, 90, 99), (94, 60, 108), (157, 188, 64), (224, 163, 46),
    (56, 61, 150), (70, 148, 73), (175, 54, 60), (231, 199, 31), (187, 86, 149), (8, 133, 161),
    (243, 243, 242), (200, 200, 200), (160, 160, 160), (122, 122, 121), (85, 85, 85), (52, 52, 52),
)  # fmt: skip
"""The 24 patches as sRGB codes (X-Rite's published values for the classic chart)."""


def _picture(operation: str, width: int, height: int, options: dict[str, Any]) -> dict[str, Any]:
    count(operation, "width", width)
    count(operation, "height", height)
    rate = _rate(operation, options.pop("frame_rate", 24))
    frames = options.pop("frame_count", None)
    if options:
        raise InputError(f"{operation}: unknown options {sorted(options)}; frame_rate and frame_count are known.")
    return {"width": width, "height": height, "frame_rate": rate, "frame_count": frames}


def _cells(colours: Sequence[Sequence[float]], columns: int, width: int, height: int) -> torch.Tensor:
    rows = -(-len(colours) // columns)
    table = torch.tensor([*colours, *[(0.0, 0.0, 0.0)] * (rows * columns - len(colours))], dtype=torch.float32)
    i = (torch.arange(width) * columns // width)[None, :]
    j = (torch.arange(height) * rows // height)[:, None]
    return table[(j * columns + i)].movedim(-1, 0).contiguous()


def color_checker(width: int = 1920, height: int = 1080, **options: Any) -> Generator:
    """Return the 24 patches as 6 x 4 flat fields, in sRGB."""
    common = _picture("video.color_checker", width, height, options)
    chart = _cells([[c / 255 for c in patch] for patch in COLOR_CHECKER], 6, width, height)
    return Generator(lambda _n, _x, _y: chart, **common, space="srgb")


def smpte(width: int = 1920, height: int = 1080, **options: Any) -> Generator:
    """Return SMPTE EG 1 bars at 75 %: grey, yellow, cyan, green, magenta, red, blue over the reverse row and a ramp."""
    common = _picture("video.smpte", width, height, options)
    lit = ((1, 1, 1), (1, 1, 0), (0, 1, 1), (0, 1, 0), (1, 0, 1), (1, 0, 0), (0, 0, 1))
    bars = [(0.75 * r, 0.75 * g, 0.75 * b) for r, g, b in lit]
    back = [bars[6], (0.0, 0.0, 0.0), bars[4], (0.0, 0.0, 0.0), bars[2], (0.0, 0.0, 0.0), bars[0]]
    upper, middle = round(height * 0.67), round(height * 0.75)
    chart = _cells(bars, 7, width, height)
    chart[:, upper:middle] = _cells(back, 7, width, height)[:, upper:middle]
    chart[:, middle:] = torch.linspace(0, 1, width)[None, None, :]
    return Generator(lambda _n, _x, _y: chart, **common)


def zone_plate(width: int = 1920, height: int = 1080, **options: Any) -> Generator:
    """Return a moving zone plate: every spatial frequency up to Nyquist at the left and right edge."""
    common = _picture("video.zone_plate", width, height, options)

    def make(n: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        r2 = (x - 0.5 * width) ** 2 + (y - 0.5 * height) ** 2
        value = 0.5 + 0.5 * torch.cos(math.pi * r2 / width + 0.25 * n)
        return value.expand(3, height, width)

    return Generator(make, **common)


def ramp(width: int = 1920, height: int = 1080, low: float = 0.0, high: float = 1.0, **options: Any) -> Generator:
    """Return a horizontal grey ramp from `low` to `high`, pixel centres inclusive."""
    common = _picture("video.ramp", width, height, options)
    number("video.ramp", "low", low)
    number("video.ramp", "high", high)
    line = torch.linspace(low, high, width)
    return Generator(lambda _n, _x, _y: line.expand(3, height, width), **common)


def solid(colour: Sequence[float], width: int = 1920, height: int = 1080, **options: Any) -> Generator:
    """Return one colour."""
    common = _picture("video.solid", width, height, options)
    pixel = torch.tensor([number("video.solid", "colour", c) for c in colour]).reshape(3, 1, 1)
    return Generator(lambda _n, _x, _y: pixel.expand(3, height, width), **common)


def starfield(width: int = 1920, height: int = 1080, stars: int = 400, seed: int = 0, **options: Any) -> Generator:
    """Return stars drifting on black in linear light, up to 16 times white: something to bloom."""
    common = _picture("video.starfield", width, height, options)
    count("video.starfield", "stars", stars)
    k = torch.arange(stars)
    px, py = hash_uniform(k, 0 * k, seed) * width, hash_uniform(k, 0 * k + 1, seed) * height
    power = hash_uniform(k, 0 * k + 2, seed) ** 6 * 16
    tint = torch.stack([1 + 0.15 * hash_normal(k, 0 * k + 3 + c, seed) for c in range(3)]).clamp(0.4, 1.6)

    def make(n: int, _x: torch.Tensor, _y: torch.Tensor) -> torch.Tensor:
        frame = torch.full((3, height, width), 0.002)
        x, y = ((px + 0.6 * n) % width).long(), py.long()
        return frame.index_put_((torch.arange(3)[:, None], y[None], x[None]), tint * power, accumulate=True)

    return Generator(make, **common, space="acescg")
