"""From any picture to an array at network size, and pixels back again."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError, MissingDependency

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGE_SUFFIXES", "Prepared", "preprocess", "read"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm")
_MOST_PIXELS = 400_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A picture at network size, and where it was cut from.

    Attributes
    ----------
    array
        uint8 [height, width, 3].
    scale
        (x, y): network pixels per original pixel.
    crop
        (left, top, right, bottom) of the cut, in pixels of the scaled picture.
    size
        (width, height) of the original, after its EXIF rotation.
    """

    array: NDArray[np.uint8]
    scale: tuple[float, float]
    crop: tuple[float, float, float, float]
    size: tuple[int, int]

    def to_original(self, xy: Any) -> NDArray[np.float64]:
        """Map pixel positions [..., 2] of `array` to the original; the centre of the first pixel is (0, 0)."""
        xy = np.asarray(xy, np.float64)
        return np.asarray((xy + 0.5 + np.array(self.crop[:2])) / np.array(self.scale) - 0.5)

    def to_network(self, xy: Any) -> NDArray[np.float64]:
        """Map pixel positions [..., 2] of the original to `array`; they may fall outside."""
        xy = np.asarray(xy, np.float64)
        return np.asarray((xy + 0.5) * np.array(self.scale) - 0.5 - np.array(self.crop[:2]))

    def intrinsics(self, K: Any) -> NDArray[np.float64]:
        """Turn a 3x3 camera matrix of the original into the one of `array`."""
        K = np.array(K, np.float64)
        _check_camera(K)
        return np.asarray(self._matrix() @ K)

    def intrinsics_original(self, K: Any) -> NDArray[np.float64]:
        """Turn a 3x3 camera matrix of `array` into the one of the original."""
        K = np.array(K, np.float64)
        _check_camera(K)
        return np.asarray(np.linalg.inv(self._matrix()) @ K)

    def _matrix(self) -> NDArray[np.float64]:
        (sx, sy), (left, top) = self.scale, self.crop[:2]
        return np.array([[sx, 0, 0.5 * sx - 0.5 - left], [0, sy, 0.5 * sy - 0.5 - top], [0, 0, 1.0]])


def _check_camera(K: NDArray[np.float64]) -> None:
    if K.shape != (3, 3) or not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise InputError(
            f"intrinsics: got an array of shape {K.shape}; pass a finite 3x3 camera matrix with fx, fy > 0."
        )


def _pillow() -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingDependency(
            "Resizing and reading pictures needs Pillow; install it with `pip install elinvar[vision]`."
        ) from error
    return Image, ImageOps


def _from_array(image: Any) -> NDArray[np.uint8]:
    """Return a numeric array as uint8 [height, width, 3]."""
    if hasattr(image, "detach"):
        image = image.detach().cpu().numpy()
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (3, 4):
        raise InputError(
            f"vision: an image of shape {array.shape} looks channels-first; pass [height, width, channels]."
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InputError(f"vision: an image has shape {array.shape}; pass [height, width], [..., 3] or [..., 4].")
    if 0 in array.shape:
        raise InputError(f"vision: an image of shape {array.shape} is empty; pass at least one pixel.")
    array = _to_bytes(array)
    return np.ascontiguousarray(np.repeat(array[:, :, None], 3, 2) if array.ndim == 2 else array[:, :, :3])


def _to_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return np.round(array / 257.0).astype(np.uint8)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 1:
            raise InputError(f"vision: a float image spans {low:g} to {high:g}; its values must be in [0, 1].")
        return np.round(array * 255.0).astype(np.uint8)
    raise InputError(f"vision: an image of dtype {array.dtype} is not accepted; use uint8, uint16 or floats in [0, 1].")


def read(image: Any) -> Image:
    """Open a picture as RGB, turned as its EXIF says: a path, a PIL image, or an array as `preprocess` takes.

    Raises
    ------
    InputError
        It is missing, damaged, empty, or of a shape or dtype that is no picture.
    """
    Image, _ = _pillow()
    if not isinstance(image, (str, os.PathLike, Image.Image)):
        return Image.fromarray(_from_array(image))  # type: ignore[no-any-return]
    what = "a PIL image" if isinstance(image, Image.Image) else str(Path(image))
    if not isinstance(image, Image.Image) and not Path(image).is_file():
        raise InputError(f"vision: {what} is not a file; pass the path of a picture.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's advice about large pictures and odd EXIF; the limit is below
            if isinstance(image, Image.Image):
                return _upright(image, what)
            with Image.open(Path(image)) as opened:
                return _upright(opened, what)
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"vision: {what} cannot be read as a picture ({error}); check the file.") from error


def _upright(opened: Image, what: str) -> Image:
    """Return an opened picture as RGB, turned as its EXIF says; wide grey values keep their upper eight bits."""
    Image, ImageOps = _pillow()
    if opened.width * opened.height > _MOST_PIXELS:
        raise InputError(f"vision: {what} has {opened.size} pixels; the limit is {_MOST_PIXELS:,} in all.")
    turned = ImageOps.exif_transpose(opened)
    if turned.mode.startswith("I;16"):  # convert("RGB") would cut these off at 255
        return Image.fromarray(_from_array(np.asarray(turned, np.uint16)))  # type: ignore[no-any-return]
    if turned.mode in ("I", "F"):
        values = np.asarray(turned)
        if turned.mode == "I" and values.min() >= 0 and values.max() < 1 << 16:  # how some files store 16 bits
            values = values.astype(np.uint16)
        return Image.fromarray(_from_array(values))  # type: ignore[no-any-return]
    return turned.convert("RGB")  # type: ignore[no-any-return]


def preprocess(image: Any, size: int = 512, patch: int = 16, square_ok: bool = False) -> Prepared:
    """Scale a picture's long side to `size` and cut it to whole patches, as the published networks expect.

    The rule of DUSt3R's loader (Wang et al., 2024): Lanczos when shrinking, bicubic when enlarging; a centred cut to
    multiples of `patch`; a square becomes 4:3 unless `square_ok`. At ``size=224`` the short side becomes 224 and the
    middle square is taken.

    Parameters
    ----------
    image
        Path, PIL image, or array: uint8, uint16 or floats in [0, 1], [height, width] or [height, width, 3 or 4].
    size
        Long side in pixels.
    patch
        Side of a patch.
    square_ok
        Keep squares square.

    Raises
    ------
    InputError
        The picture cannot be read, or is so elongated that no whole patch is left.
    """
    if any(isinstance(n, bool) or not isinstance(n, int) for n in (size, patch)) or not size >= patch >= 1:
        raise InputError(f"preprocess: size={size!r}, patch={patch!r}; pass whole numbers, size at least one patch.")
    Image, _ = _pillow()
    opened = read(image)
    W1, H1 = opened.size
    longest = max(W1, H1)
    long_side = round(size * max(W1 / H1, H1 / W1)) if size == 224 else size
    resample = Image.Resampling.LANCZOS if longest > long_side else Image.Resampling.BICUBIC
    W, H = (round(side * long_side / longest) for side in (W1, H1))
    if min(W, H) < patch or max(W, H) > 64 * size:
        raise InputError(
            f"preprocess: a picture of {W1} x {H1} pixels becomes {W} x {H}, without one whole patch of {patch}; "
            "cut it to a less elongated shape."
        )
    resized = opened.resize((W, H), resample)
    cx, cy = W // 2, H // 2
    if size == 224:
        half = 2 * min(cx, cy) // patch * patch // 2
        box = (cx - half, cy - half, cx + half, cy + half)
    else:
        half_w, half_h = (2 * cx) // patch * patch / 2, (2 * cy) // patch * patch / 2
        if W == H and not square_ok:
            half_h = 3 * half_w / 4
        # Pillow rounds a box by itself; patches of odd side would lose a pixel to that.
        left, top = int(cx - half_w), int(cy - half_h)
        box = (left, top, left + int(2 * half_w), top + int(2 * half_h))
    array = np.array(resized.crop(box), dtype=np.uint8)
    if array.shape[0] % patch or array.shape[1] % patch:
        raise InputError(
            f"preprocess: size={size} leaves {array.shape[1]} x {array.shape[0]} pixels, no multiple of {patch}; "
            f"choose a size that is a multiple of {4 * patch}."
        )
    return Prepared(array, (W / W1, H / H1), tuple(float(v) for v in box), (W1, H1))  # type: ignore[arg-type]


def prepared(image: Any, size: int, patch: int, square_ok: bool) -> Prepared:
    """Return a uint8 [height, width, 3] array that is at network size already as it is, anything else preprocessed.

    At network size: both sides whole patches, the long side `size` (cut to whole patches).
    """
    if isinstance(image, Prepared):
        height, width = image.array.shape[:2]
        if height % patch or width % patch:
            raise InputError(f"vision: a prepared image of {width} x {height} has no whole patches of {patch}.")
        return image
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        height, width = image.shape[:2]
        whole = height % patch == 0 and width % patch == 0 and min(height, width) > 0
        if whole and max(height, width) == size // patch * patch:
            box = (0.0, 0.0, float(width), float(height))
            return Prepared(np.ascontiguousarray(image), (1.0, 1.0), box, (width, height))
    return preprocess(image, size, patch, square_ok)
