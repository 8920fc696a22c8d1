"""A reconstructed scene: cameras and a map of points for each image, in one frame."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

from .images import Prepared

__all__ = ["Cloud", "Scene", "View"]


@dataclasses.dataclass(frozen=True, eq=False)
class Cloud:
    """Coloured points.

    Attributes
    ----------
    xyz
        float32 [n, 3].
    rgb
        uint8 [n, 3].
    conf
        float32 [n].
    """

    xyz: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    conf: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.xyz)


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """One image of a scene.

    Attributes
    ----------
    name
        For files: the picture's name.
    pose
        [4, 4], camera to scene.
    K
        [3, 3] of the image at network size.
    points
        float32 [height, width, 3] in the scene's frame.
    conf
        float32 [height, width].
    prepared
        The image at network size, and how to map its pixels back to the original.
    """

    name: str
    pose: NDArray[np.float64]
    K: NDArray[np.float64]
    points: NDArray[np.float32]
    conf: NDArray[np.float32]
    prepared: Prepared

    @property
    def K_original(self) -> NDArray[np.float64]:  # noqa: N802
        """[3, 3] of the original picture."""
        return self.prepared.intrinsics_original(self.K)

    @property
    def depth(self) -> NDArray[np.float32]:
        """Distance along the camera's axis, [height, width]."""
        inside = (self.points - self.pose[:3, 3]) @ self.pose[:3, :3]
        return np.asarray(inside[..., 2], np.float32)

    def project(self, xyz: Any) -> NDArray[np.float64]:
        """Return where points [n, 3] of the scene fall in the original picture, [n, 2]; NaN behind the camera."""
        inside = (np.asarray(xyz, np.float64) - self.pose[:3, 3]) @ self.pose[:3, :3]
        with np.errstate(divide="ignore", invalid="ignore"):
            flat = inside @ self.K_original.T
            out = flat[:, :2] / flat[:, 2:]
        out[inside[:, 2] <= 0] = np.nan
        return np.asarray(out)


@dataclasses.dataclass(frozen=True, eq=False)
class Tracks:
    """Pixels of two images that see one point: image and flat pixel index of each end, int64 [n]."""

    image_1: NDArray[np.int64]
    pixel_1: NDArray[np.int64]
    image_2: NDArray[np.int64]
    pixel_2: NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """Cameras and points of several images in the first placed image's frame.

    Attributes
    ----------
    views
        One per image.
    residual
        Root mean square disagreement of the pairs' points after alignment, relative to their depth.
    tracks
        Matched pixels, for COLMAP; may be None.
    """

    views: tuple[View, ...]
    residual: float = 0.0
    tracks: Tracks | None = None

    def __len__(self) -> int:
        return len(self.views)

    @property
    def poses(self) -> NDArray[np.float64]:
        """[n, 4, 4], camera to scene."""
        return np.stack([view.pose for view in self.views])

    @property
    def focals(self) -> NDArray[np.float64]:
        """Mean focal length of each image at network size, pixels."""
        return np.array([(view.K[0, 0] + view.K[1, 1]) / 2 for view in self.views])

    def cloud(self, min_conf: float = 0.0, max_points: int | None = None, seed: int = 0) -> Cloud:
        """Return the points of all images with at least `min_conf`, at most `max_points` of them, drawn evenly.

        Raises
        ------
        InputError
            No point is left.
        """
        if max_points is not None and max_points < 1:
            raise InputError(f"cloud: max_points={max_points}; keep at least one point, or pass None for all.")
        parts = []
        for view in self.views:
            keep = np.isfinite(view.points).all(-1) & (view.conf >= min_conf)
            parts.append((view.points[keep], view.prepared.array[keep], view.conf[keep]))
        xyz, rgb, conf = (np.concatenate(column) for column in zip(*parts, strict=True))
        if len(xyz) == 0:
            highest = max(float(np.nanmax(view.conf)) for view in self.views)
            raise InputError(
                f"cloud: no point has confidence {min_conf:g}; the highest is {highest:.3g}, ask for less."
            )
        if max_points is not None and len(xyz) > max_points:
            some = np.sort(np.random.default_rng(seed).choice(len(xyz), max_points, replace=False))
            xyz, rgb, conf = xyz[some], rgb[some], conf[some]
        return Cloud(
            np.ascontiguousarray(xyz, np.float32), np.ascontiguousarray(rgb), np.ascontiguousarray(conf, np.float32)
        )

    def export(self, path: str | Path, *, min_conf: float = 0.0, max_points: int | None = None) -> Path:
        """Write the scene; the suffix says what: ``.ply``, ``.glb``, ``.npz``, ``.html`` (viewer), or none (COLMAP).

        Returns the path. A file or folder is whole or absent.
        """
        from .export import export_scene

        return export_scene(self, Path(path), min_conf=min_conf, max_points=max_points)
