"""Made-up scenes with known answers: a room with textured things in it, rendered from known cameras.

For tests, examples and trying things out: every pixel's point and every camera are known exactly. The renderer is
`elinvar.vision.rendering`, which also draws whole batches on GPUs for training.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from elinvar.errors import InputError

from .geometry import camera_matrix, rigid_inverse
from .rendering import WALLS, Cameras, Scenes, render
from .rooms import paints

__all__ = ["Shot", "room", "shots"]

Array = NDArray[np.float64]


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


def room(seed: int, spheres: int = 5, boxes: int = 4, cylinders: int = 0) -> Scenes:
    """Draw a room of about 8 x 5 x 8 m with things in it."""
    make = np.random.default_rng(seed)
    centre = np.stack(
        [make.uniform(-2.5, 2.5, spheres), make.uniform(-1, 1.2, spheres), make.uniform(2, 5, spheres)], 1
    )
    corner = np.stack([make.uniform(-3, 2.2, boxes), make.uniform(-1.5, 1.0, boxes), make.uniform(2.2, 5, boxes)], 1)
    side = make.uniform(0.4, 1.2, (boxes, 3))
    radius = make.uniform(0.25, 0.7, spheres)
    walls = np.array([-4.0, -2.5, -2.0, 4.0, 2.0, 6.5]) + make.uniform(-0.3, 0.3, 6)
    stand = np.stack(
        [make.uniform(-2.5, 2.5, cylinders), make.uniform(0, 1.2, cylinders), make.uniform(2, 5, cylinders)], 1
    )
    size = make.uniform(0.2, 0.6, (cylinders, 2))
    middle = [centre, corner + side / 2, stand, np.tile((walls[:3] + walls[3:]) / 2, (WALLS, 1))]
    half = [np.tile(radius[:, None], 3), side / 2, size[:, [0, 1, 0]], np.tile((walls[3:] - walls[:3]) / 2, (WALLS, 1))]
    count = spheres + boxes + cylinders + WALLS
    draw = torch.Generator().manual_seed(seed)
    return Scenes(
        (spheres, boxes, cylinders),
        torch.from_numpy(np.concatenate(middle))[None],
        torch.from_numpy(np.concatenate(half))[None],
        torch.eye(3, dtype=torch.float64).expand(1, count, 3, 3),
        paints(draw, 1, count).double(),
        torch.tensor([[0.5, -2.0, 1.0]], dtype=torch.float64),
        torch.tensor([[0.6, 0.5]], dtype=torch.float64),
        torch.tensor([seed % (1 << 20)], dtype=torch.int32),
    )


def _shot(things: Scenes, pose: Array, K: Array, size: tuple[int, int]) -> Shot:
    cameras = Cameras(torch.from_numpy(pose)[None], torch.from_numpy(K)[None])
    colours, points = render(things, cameras, size)
    return Shot((255 * colours[0]).round().to(torch.uint8).numpy(), points[0].numpy(), pose, K)


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
