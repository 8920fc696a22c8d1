"""Made-up scenes with known answers: textured spheres and boxes in a room, rendered from known cameras.

For tests, examples and training: every pixel's point and every camera are known exactly.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

from .geometry import camera_matrix, pixel_grid, rigid_inverse

__all__ = ["Room", "Shot", "room", "shots"]

Array = NDArray[np.float64]
_FAR = np.inf


@dataclasses.dataclass(frozen=True, eq=False)
class Shot:
    """One rendered image.

    Attributes
    ----------
    image
        uint8 [height, width, 3].
    points
        [height, width, 3] in the scene's frame.
    pose
        [4, 4], camera to scene.
    K
        [3, 3].
    """

    image: NDArray[np.uint8]
    points: Array
    pose: Array
    K: Array

    def points_in(self, other: Shot) -> Array:
        """Return this image's points in another camera's frame."""
        back = rigid_inverse(other.pose)
        return np.asarray(self.points @ back[:3, :3].T + back[:3, 3])


@dataclasses.dataclass(frozen=True, eq=False)
class Room:
    """Spheres (centre, radius), boxes (lower, upper corner) and the room's own walls, all textured."""

    spheres: Array
    boxes: Array
    walls: Array
    colours: Array
    seed: int


def room(seed: int, spheres: int = 5, boxes: int = 4) -> Room:
    """Draw a room of about 8 x 5 x 8 m with things in it."""
    make = np.random.default_rng(seed)
    centre = np.stack(
        [make.uniform(-2.5, 2.5, spheres), make.uniform(-1, 1.2, spheres), make.uniform(2, 5, spheres)], 1
    )
    corner = np.stack([make.uniform(-3, 2.2, boxes), make.uniform(-1.5, 1.0, boxes), make.uniform(2.2, 5, boxes)], 1)
    side = make.uniform(0.4, 1.2, (boxes, 3))
    return Room(
        np.concatenate([centre, make.uniform(0.25, 0.7, (spheres, 1))], 1),
        np.concatenate([corner, corner + side], 1),
        np.array([-4.0, -2.5, -2.0, 4.0, 2.0, 6.5]) + make.uniform(-0.3, 0.3, 6),
        make.uniform(0.25, 1.0, (spheres + boxes + 6, 3)),
        seed,
    )


def _slabs(origin: Array, direction: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Return where rays enter and leave a box (Kay and Kajiya, 1986)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (lower - origin) / direction, (upper - origin) / direction
    return np.nanmax(np.minimum(a, b), -1), np.nanmin(np.maximum(a, b), -1)


def _noise(at: Array, seed: int) -> Array:
    """Return smooth noise in [0, 1]: values hashed at integer points, blended (Perlin, 1985, in its value form)."""
    whole = np.floor(at)
    part = at - whole
    part = part * part * (3 - 2 * part)
    corner = whole.astype(np.int64)
    total = np.zeros(at.shape[:-1])
    for dx in (0, 1):
        for dy in (0, 1):
            for dz in (0, 1):
                x, y, z = (corner[..., k] + d for k, d in enumerate((dx, dy, dz)))
                mixed = (x * 374761393 + y * 668265263 + z * 2147483647 + seed * 974634777) & 0xFFFFFFFF
                mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & 0xFFFFFFFF
                value = ((mixed ^ (mixed >> 16)) & 0xFFFF) / 65535.0
                weight = np.abs(1 - dx - part[..., 0]) * np.abs(1 - dy - part[..., 1]) * np.abs(1 - dz - part[..., 2])
                total += value * weight
    return total


def _hit(things: Room, origin: Array, rays: Array) -> tuple[Array, NDArray[np.int64]]:
    """Return the distance along each ray to the first surface, and which thing it is."""
    _, best = _slabs(origin, rays, things.walls[:3], things.walls[3:])
    place = origin + best[..., None] * rays
    away = np.minimum(np.abs(place - things.walls[:3]), np.abs(place - things.walls[3:]))
    which = len(things.spheres) + len(things.boxes) + away.argmin(-1)
    for k, (*centre, radius) in enumerate(things.spheres):
        to = origin - np.array(centre)
        b = (rays * to).sum(-1)
        square = b * b - (rays * rays).sum(-1) * ((to * to).sum() - radius * radius)
        t = np.where(square > 0, (-b - np.sqrt(np.maximum(square, 0))) / (rays * rays).sum(-1), _FAR)
        nearer = (t > 0.05) & (t < best)
        best, which = np.where(nearer, t, best), np.where(nearer, k, which)
    for k, corners in enumerate(things.boxes, len(things.spheres)):
        enter, leave = _slabs(origin, rays, corners[:3], corners[3:])
        nearer = (enter > 0.05) & (enter < leave) & (enter < best)
        best, which = np.where(nearer, enter, best), np.where(nearer, k, which)
    return best, which


def _shot(things: Room, pose: Array, K: Array, size: tuple[int, int]) -> Shot:
    width, height = size
    inside = np.concatenate(
        [(pixel_grid(height, width) - K[:2, 2]) / K[[0, 1], [0, 1]], np.ones((height, width, 1))], -1
    )
    rays = inside @ pose[:3, :3].T
    distance, which = _hit(things, pose[:3, 3], rays)
    points = pose[:3, 3] + distance[..., None] * rays
    shade = 0.55 * _noise(points * 2.3, things.seed) + 0.3 * _noise(points * 9.0, things.seed + 1)
    shade += 0.15 * _noise(points * 31.0, things.seed + 2)
    colour = things.colours[which] * (0.25 + 1.1 * shade[..., None])
    return Shot(np.clip(255 * colour, 0, 255).astype(np.uint8), points, pose, K)


def _look(eye: Array, target: Array, roll: float) -> Array:
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(np.array([np.sin(roll), np.cos(roll), 0.0]), forward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    pose[:3, 3] = eye
    return pose


def shots(
    seed: int,
    count: int = 2,
    size: tuple[int, int] = (256, 192),
    *,
    baseline: float = 0.5,
    focal: float | None = None,
) -> list[Shot]:
    """Render a random room from cameras that look at the same things.

    Parameters
    ----------
    seed
        Of the room and the cameras.
    count
        Images.
    size
        (width, height) in pixels.
    baseline
        About how far neighbouring cameras are apart, metres.
    focal
        Focal length in pixels; by default drawn between 0.8 and 1.3 of the width.

    Returns
    -------
    list of Shot
        Points and poses in the room's frame: y down, z forward, metres.
    """
    if count < 1 or min(size) < 2:
        raise InputError(f"synthetic.shots: count={count}, size={size}; ask for at least one image of 2 x 2 pixels.")
    things = room(seed)
    make = np.random.default_rng([seed, 1])
    width, height = size
    f = focal if focal is not None else float(make.uniform(0.8, 1.3)) * width
    K = camera_matrix(f, ((width - 1) / 2, (height - 1) / 2))
    target = np.array([0.0, 0.0, 3.8]) + make.uniform(-0.4, 0.4, 3)
    out = []
    for k in range(count):
        eye = np.array([(k - (count - 1) / 2) * baseline, 0.0, -0.6]) + make.uniform(-0.15, 0.15, 3)
        out.append(
            _shot(things, _look(eye, target + make.uniform(-0.2, 0.2, 3), float(make.uniform(-0.05, 0.05))), K, size)
        )
    return out
