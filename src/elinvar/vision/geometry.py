"""Cameras from points: focal length, pose, similarity between two sets of points."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError, MissingDependency

__all__ = ["Pose", "camera_matrix", "focal", "pixel_grid", "relative_pose", "rigid_inverse", "similarity", "unproject"]

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Pose:
    """A camera's pose in the frame its points are in.

    Attributes
    ----------
    matrix
        [4, 4]: camera to that frame; its last column is the camera's centre.
    inliers
        bool [n]: which of the given points agree.
    rms
        Root mean square of the inliers' reprojection errors, pixels.
    """

    matrix: Array
    inliers: NDArray[np.bool_]
    rms: float

    @property
    def R(self) -> Array:  # noqa: N802
        """Rotation [3, 3], camera to frame."""
        return self.matrix[:3, :3]

    @property
    def t(self) -> Array:
        """Centre of the camera [3]."""
        return self.matrix[:3, 3]


def _array(name: str, x: Any, *shape: int | None) -> Array:
    if hasattr(x, "numpy") and not isinstance(x, np.ndarray):
        x = x.numpy()
    array = np.asarray(x, np.float64)
    if array.ndim != len(shape) or any(
        want is not None and n != want for n, want in zip(array.shape, shape, strict=True)
    ):
        wanted = ", ".join("n" if n is None else str(n) for n in shape)
        raise InputError(f"vision: {name} has shape {array.shape}; pass [{wanted}].")
    return array


def camera_matrix(focal: Any, principal_point: Any) -> Array:
    """Return the 3x3 camera matrix of a focal length (one number, or fx and fy) and a principal point, pixels."""
    fx, fy = np.broadcast_to(np.asarray(focal, np.float64), 2)
    cx, cy = np.asarray(principal_point, np.float64)
    if not (fx > 0 and fy > 0 and np.isfinite([fx, fy, cx, cy]).all()):
        raise InputError(f"vision: a camera with focal length {fx:g}, {fy:g}; pass finite numbers above 0.")
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def pixel_grid(height: int, width: int) -> Array:
    """Return (x, y) of every pixel: [height, width, 2]."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    return np.stack([x, y], -1)


def unproject(depth: Any, K: Any) -> Array:
    """Return the points [height, width, 3] of a depth map (z) seen by a camera."""
    depth = _array("depth", depth, None, None)
    K = _array("K", K, 3, 3)
    rays = (pixel_grid(*depth.shape) - K[[0, 1], [2, 2]]) / K[[0, 1], [0, 1]]
    return np.concatenate([rays * depth[..., None], depth[..., None]], -1)


def focal(pts3d: Any, principal_point: Any = None, *, weights: Any = None, iterations: int = 20) -> float:
    """Estimate the focal length of the camera that sees a map of points, in pixels.

    Minimises the sum of distances between pixels and projections ``f * (x, y) / z`` by Weiszfeld's iteration
    (Weiszfeld, 1937; as in DUSt3R, section 3.3): robust to points that are wrong.

    Parameters
    ----------
    pts3d
        [height, width, 3] in the camera's own frame.
    principal_point
        (x, y); by default the image's centre.
    weights
        [height, width], for example the confidence.
    iterations
        Of the reweighting.

    Raises
    ------
    InputError
        No point is finite and in front of the camera.
    """
    points = _array("pts3d", pts3d, None, None, 3)
    height, width = points.shape[:2]
    centre = ((width - 1) / 2, (height - 1) / 2) if principal_point is None else principal_point
    pixels = (pixel_grid(height, width) - np.asarray(centre, np.float64)).reshape(-1, 2)
    flat = points.reshape(-1, 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        rays = flat[:, :2] / flat[:, 2:]
    good = np.isfinite(rays).all(1) & (flat[:, 2] > 0)
    given = np.ones(len(flat)) if weights is None else _array("weights", weights, height, width).reshape(-1)
    good &= np.isfinite(given) & (given > 0)
    rays, pixels, given = rays[good], pixels[good], given[good]
    along, square = (pixels * rays).sum(1), (rays * rays).sum(1)
    if len(rays) < 2 or not (given * square).sum() > 0:
        raise InputError("focal: no point is finite and in front of the camera; pass points in the camera's own frame.")
    f = float((given * along).sum() / (given * square).sum())
    for _ in range(iterations):
        distance = np.linalg.norm(pixels - f * rays, axis=1)
        w = given / np.maximum(distance, 1e-8)
        f = float((w * along).sum() / (w * square).sum())
    if not f > 0:
        raise InputError(f"focal: the points give {f:g}; are they in another camera's frame?")
    return f


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingDependency("Poses need OpenCV; install it with `pip install elinvar[vision]`.") from error
    return cv2


def relative_pose(
    points: Any,
    pixels: Any,
    K: Any,
    *,
    threshold: float = 3.0,
    iterations: int = 1000,
    seed: int = 0,
) -> Pose:
    """Find the camera that sees points at pixels: PnP inside RANSAC, refined on the inliers.

    With points in camera 1's frame and the pixels of image 2 they were matched to, this is camera 2's pose relative to
    camera 1, metric if the points are.

    Parameters
    ----------
    points
        [n, 3].
    pixels
        [n, 2], (x, y).
    K
        [3, 3] of the camera to be found.
    threshold
        Largest reprojection error of an inlier, pixels.
    iterations, seed
        Of RANSAC.

    Raises
    ------
    InputError
        Fewer than four finite points, or no pose that at least four agree with.
    MissingDependency
        OpenCV is not installed.
    """
    cv2 = _opencv()
    points, pixels = _array("points", points, None, 3), _array("pixels", pixels, None, 2)
    K = _array("K", K, 3, 3)
    if len(points) != len(pixels):
        raise InputError(f"relative_pose: {len(points)} points and {len(pixels)} pixels; pass one pixel per point.")
    good = np.isfinite(points).all(1) & np.isfinite(pixels).all(1)
    if good.sum() < 4:
        raise InputError(f"relative_pose: {int(good.sum())} finite points; at least four are needed.")
    # The origin moves to the points' middle and the scale to their spread: float32 inside OpenCV keeps its digits.
    middle = np.median(points[good], 0)
    spread = float(np.median(np.linalg.norm(points[good] - middle, axis=1))) or 1.0
    object_points, image_points = ((points[good] - middle) / spread)[:, None], pixels[good][:, None]
    cv2.setRNGSeed(int(seed))
    found, r, t, inside = cv2.solvePnPRansac(
        object_points, image_points, K, None, iterationsCount=int(iterations), reprojectionError=float(threshold),
        confidence=0.9999, flags=cv2.SOLVEPNP_SQPNP,
    )  # fmt: skip
    if not found or inside is None or len(inside) < 4:
        raise InputError("relative_pose: no camera agrees with four of the points; check K, and that they are matched.")
    chosen = inside[:, 0]
    for _ in range(2):
        r, t = cv2.solvePnPRefineLM(object_points[chosen], image_points[chosen], K, None, r, t)
        projected = cv2.projectPoints(object_points, r, t, K, None)[0][:, 0]
        error = np.linalg.norm(projected - image_points[:, 0], axis=1)
        chosen = np.flatnonzero(error <= threshold)
        if len(chosen) < 4:
            raise InputError("relative_pose: the refined camera lost its points; they are too close to a line.")
    rotation = cv2.Rodrigues(r)[0]
    matrix = np.eye(4)
    matrix[:3, :3] = rotation.T
    matrix[:3, 3] = -rotation.T @ t[:, 0] * spread + middle
    inliers = np.zeros(len(points), np.bool_)
    inliers[np.flatnonzero(good)[chosen]] = True
    return Pose(matrix, inliers, float(np.sqrt((error[chosen] ** 2).mean())))


def rigid_inverse(matrix: Array) -> Array:
    """Invert a [4, 4] pose."""
    out = np.eye(4)
    out[:3, :3] = matrix[:3, :3].T
    out[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return out


def similarity(source: Any, target: Any, weights: Any = None) -> tuple[float, Array, Array]:
    """Return scale, rotation and translation with ``target ~ scale * R @ source + t`` (Umeyama, 1991), weighted.

    Raises
    ------
    InputError
        Fewer than three points, or all in one place.
    """
    a, b = _array("source", source, None, 3), _array("target", target, None, 3)
    w = np.ones(len(a)) if weights is None else _array("weights", weights, None)
    if len(a) != len(b) or len(a) < 3 or not w.sum() > 0:
        raise InputError(f"similarity: {len(a)} and {len(b)} points; pass at least three pairs with weights above 0.")
    w = w / w.sum()
    ma, mb = w @ a, w @ b
    da, db = a - ma, b - mb
    spread = float((w * (da**2).sum(1)).sum())
    if spread <= 0:
        raise InputError("similarity: all source points are in one place; no scale fits them.")
    U, S, Vt = np.linalg.svd((w[:, None] * db).T @ da)
    sign = np.diag([1.0, 1.0, float(np.sign(np.linalg.det(U) * np.linalg.det(Vt)))])
    R = U @ sign @ Vt
    scale = float(np.trace(np.diag(S) @ sign)) / spread
    return scale, R, mb - scale * R @ ma
