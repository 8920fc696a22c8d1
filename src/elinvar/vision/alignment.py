"""From pairs to one scene: a spanning tree of the best pairs, then one sparse refinement of everything.

Each pair gives points of both images in its first image's frame, at a scale of its own. The maximum spanning tree of
the pairs' confidences places every image once (PnP for the pose, a median of depth ratios for the scale); then
poses, focal lengths, depth scales and pair scales are refined together on a few hundred pixels per pair, robustly, in
torch. Of a pair stay its points and confidences, 16 bytes a pixel; descriptors are forgotten once they are matched.
"""

# torch leaves Tensor.split and Tensor.unflatten without types.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elinvar.errors import InputError

from .geometry import camera_matrix, focal, pixel_grid, relative_pose, rigid_inverse
from .images import Prepared
from .pairs import Pairs
from .scene import Scene, Tracks, View

__all__ = ["PairPoints", "align"]

Array = NDArray[np.float64]
_PNP_POINTS = 4000
_SHORTEST, _LONGEST = 0.2, 50.0  # focal lengths over image sides that a photograph can have
_log = logging.getLogger("elinvar.vision")


@dataclasses.dataclass(frozen=True, eq=False)
class PairPoints:
    """What one pair says: points of images i and j in i's frame, and how much to trust them.

    Attributes
    ----------
    i, j
        Images.
    points_1, points_2
        [height, width, 3] each.
    conf_1, conf_2
        [height, width] each, above 0.
    matches
        Flat pixel indices of image i and of image j that see the same point; empty where unknown.
    """

    i: int
    j: int
    points_1: NDArray[np.float32]
    points_2: NDArray[np.float32]
    conf_1: NDArray[np.float32]
    conf_2: NDArray[np.float32]
    matches: tuple[NDArray[np.int64], NDArray[np.int64]] = (np.empty(0, np.int64), np.empty(0, np.int64))

    @property
    def score(self) -> float:
        """How good the pair is: the geometric mean confidence of its weaker image."""
        return min(float(np.log(np.maximum(c, 1e-6)).mean()) for c in (self.conf_1, self.conf_2))


def _read(pairs: Pairs, matched: bool) -> list[PairPoints]:
    from .matching import match

    out = []
    everything = zip(pairs.indices, pairs, strict=True)
    for batch, group in itertools.groupby(everything, lambda item: item[1].batch):
        with batch.passing():  # descriptors of all pairs at once would be many gigabytes
            for (i, j), r in group:
                both: tuple[Any, Any] = (np.empty(0, np.int64), np.empty(0, np.int64))
                if matched:
                    found = match(r.desc_1.torch(), r.desc_2.torch(), subsample=8)
                    both = (found.idx_1, found.idx_2)
                points, trust = (r.pts3d_1.numpy(), r.pts3d_2.numpy()), (r.conf_1.numpy(), r.conf_2.numpy())
                out.append(PairPoints(i, j, points[0], points[1], trust[0], trust[1], both))
    return out


def _tree(n: int, pairs: Sequence[PairPoints]) -> list[int]:
    """Return the indices of the pairs of a maximum spanning tree (Kruskal, 1956)."""
    root = list(range(n))

    def find(k: int) -> int:
        while root[k] != k:
            root[k] = root[root[k]]
            k = root[k]
        return k

    chosen = []
    for index in sorted(range(len(pairs)), key=lambda k: (-pairs[k].score, k)):
        a, b = find(pairs[index].i), find(pairs[index].j)
        if a != b:
            root[a] = b
            chosen.append(index)
    lonely = sorted({k for k in range(n) if find(k) != find(0)})
    if lonely:
        raise InputError(f"align: image(s) {lonely[:5]} are connected to image 0 by no pair; use a denser graph.")
    return chosen


def _weighted_median(values: Array, weights: Array) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, 0.5 * total[-1])])


def _some(weights: NDArray[Any], points: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return flat indices of up to `count` of the more trusted half of the usable pixels, evenly spread."""
    flat = weights.reshape(-1)
    usable = np.isfinite(points).reshape(len(flat), 3).all(1) & np.isfinite(flat) & (flat > 0)
    if not usable.any():
        raise InputError("align: a pair has no finite point; check the weights that made it.")
    usable &= flat >= np.median(flat[usable])
    where = np.flatnonzero(usable)
    return where[np.linspace(0, len(where) - 1, min(count, len(where))).astype(np.int64)]


class _Placing:
    """Places images one after the other along the tree."""

    def __init__(self, images: Sequence[Prepared], pairs: Sequence[PairPoints], K: list[Array | None]) -> None:
        self.images, self.pairs = images, pairs
        self.K = K
        self.poses: dict[int, Array] = {}
        self.depth: dict[int, Array] = {}
        self.conf: dict[int, NDArray[Any]] = {}
        self.scale: dict[int, float] = {}

    def focal_of(self, k: int) -> None:
        """Estimate an image's camera from the pair that trusts it most as first image, if it is one anywhere."""
        if self.K[k] is not None:
            return
        mine = [pair for pair in self.pairs if pair.i == k]
        height, width = self.images[k].array.shape[:2]
        f = 0.0
        if mine:
            best = max(mine, key=lambda pair: pair.score)
            try:
                f = focal(best.points_1, weights=best.conf_1)
            except InputError as error:
                _log.warning("Image %d: %s A camera like the others' is assumed.", k, error)
        if not _SHORTEST < f / max(height, width) < _LONGEST:
            # Never a first image: the photographs of one job mostly come from one camera.
            known = [
                float(c[0, 0]) / max(self.images[i].array.shape[:2]) for i, c in enumerate(self.K) if c is not None
            ]
            f = float(np.median(known)) * max(height, width) if known else 1.2 * max(height, width)
        self.K[k] = camera_matrix(f, ((width - 1) / 2, (height - 1) / 2))

    def relative(self, pair: PairPoints) -> Array:
        """Return image j's pose in image i's frame at the pair's scale."""
        where = _some(pair.conf_2, pair.points_2, _PNP_POINTS)
        height, width = pair.points_2.shape[:2]
        pixels = pixel_grid(height, width).reshape(-1, 2)[where]
        camera = self.K[pair.j]
        assert camera is not None
        limit = max(2.0, 0.01 * max(height, width))
        return relative_pose(pair.points_2.reshape(-1, 3)[where], pixels, camera, threshold=limit).matrix

    def _own(self, pair: PairPoints, k: int, relative: Array) -> tuple[Array, NDArray[Any]]:
        """Return image k's depth map and confidence as the pair sees them."""
        if k == pair.i:
            return np.asarray(pair.points_1[..., 2], np.float64), pair.conf_1
        inside = (pair.points_2 - relative[:3, 3]) @ relative[:3, :3]
        return np.asarray(inside[..., 2], np.float64), pair.conf_2

    def place(self, index: int) -> None:
        """Place a pair's unplaced image; if none is placed, the first one is the scene's frame."""
        pair = self.pairs[index]
        relative = self.relative(pair)
        if not self.poses:
            self.poses[pair.i] = np.eye(4)
            self.depth[pair.i], self.conf[pair.i] = self._own(pair, pair.i, relative)
        known, new = (pair.i, pair.j) if pair.i in self.poses else (pair.j, pair.i)
        seen, weight = self._own(pair, known, relative)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self.depth[known] / seen
        good = np.isfinite(ratio) & (ratio > 0)
        if not good.any():
            raise InputError(f"align: pair ({pair.i}, {pair.j}) does not agree with the others; leave it out.")
        scale = _weighted_median(ratio[good], np.minimum(weight, self.conf[known])[good].astype(np.float64))
        step = relative.copy()
        step[:3, 3] *= scale
        self.poses[new] = self.poses[known] @ (step if new == pair.j else rigid_inverse(step))
        depth, conf = self._own(pair, new, relative)
        self.depth[new], self.conf[new] = scale * depth, conf
        self.scale[index] = scale


def _rotation(v: Tensor) -> Tensor:
    """Return rotation matrices [n, 3, 3] of axis-angle vectors, smooth at zero."""
    zero = torch.zeros_like(v[:, 0])
    x, y, z = v.unbind(1)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
    return torch.linalg.matrix_exp(cross)


@dataclasses.dataclass
class _Terms:
    """Sampled pixels of all pairs: image, pair, pixel of each, and the pair's point in its first image's frame."""

    image: Tensor
    first: Tensor
    pair: Tensor
    ray: Tensor
    depth: Tensor
    target: Tensor
    weight: Tensor


def _terms(placed: _Placing, count: int) -> _Terms:
    columns: list[list[Any]] = [[] for _ in range(7)]
    for index, pair in enumerate(placed.pairs):
        for k, points, conf in ((pair.i, pair.points_1, pair.conf_1), (pair.j, pair.points_2, pair.conf_2)):
            where = _some(conf, points, count)
            pixels = pixel_grid(*points.shape[:2]).reshape(-1, 2)[where]
            depth = placed.depth[k].reshape(-1)[where]
            good = np.isfinite(depth) & (depth > 0)
            camera = placed.K[k]
            assert camera is not None
            n = int(good.sum())
            trust = conf.reshape(-1)[where][good].astype(np.float64)
            values = (
                np.full(n, k), np.full(n, pair.i), np.full(n, index), (pixels - camera[:2, 2])[good], depth[good],
                points.reshape(-1, 3)[where][good], trust / trust.mean() if n else trust,
            )  # fmt: skip
            for column, value in zip(columns, values, strict=True):
                column.append(value)
    whole = [torch.from_numpy(np.concatenate(column)) for column in columns]
    floats = [t.double() for t in whole[3:]]
    return _Terms(whole[0], whole[1], whole[2], floats[0], floats[1], floats[2], floats[3])


def _refine(placed: _Placing, fixed_poses: bool, fixed_focals: set[int], count: int, iterations: int) -> float:
    """Refine poses, focal lengths, depth scales and pair scales; return the relative residual."""
    n, terms = len(placed.images), _terms(placed, count)
    base = torch.from_numpy(np.stack([placed.poses[k] for k in range(n)]))
    cameras = [c for c in placed.K if c is not None]
    f0 = torch.tensor([[c[0, 0], c[1, 1]] for c in cameras], dtype=torch.float64)
    start = torch.tensor([np.log(placed.scale[k]) for k in range(len(placed.pairs))], dtype=torch.float64)
    size = terms.depth.median()
    turn, move = torch.zeros(n, 3, dtype=torch.float64), torch.zeros(n, 3, dtype=torch.float64)
    stretch, zoom = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    pair_scale = start.clone()
    free = torch.ones(n, 1, dtype=torch.float64)
    free[int(min(placed.poses, key=lambda k: np.abs(placed.poses[k] - np.eye(4)).sum()))] = 0  # the scene's own frame
    if fixed_poses:
        free[:] = 0
    zoomable = torch.tensor([k not in fixed_focals for k in range(n)], dtype=torch.float64)
    unknown = [turn, move, stretch, zoom, pair_scale]
    for t in unknown:
        t.requires_grad_()

    def error() -> Tensor:
        R = base[:, :3, :3] @ _rotation(turn * free)
        t = base[:, :3, 3] + move * free * size
        # Without a fixed scale everything could shrink to nothing: log-scales have mean zero.
        grow = (stretch if fixed_poses else stretch - stretch.mean()).exp()
        depth = terms.depth * grow.index_select(0, terms.image)
        ray = terms.ray / (f0 * (zoom * zoomable).exp()[:, None]).index_select(0, terms.image)
        inside = torch.cat([ray, torch.ones_like(ray[:, :1])], 1) * depth[:, None]
        target = terms.target * pair_scale.exp().index_select(0, terms.pair)[:, None]
        mine = (R.index_select(0, terms.image) * inside[:, None]).sum(2) + t.index_select(0, terms.image)
        theirs = (R.index_select(0, terms.first) * target[:, None]).sum(2) + t.index_select(0, terms.first)
        return torch.linalg.vector_norm(mine - theirs, dim=1) / terms.depth

    def loss() -> Tensor:
        r = error() / 0.02
        cost = terms.weight * (torch.sqrt(1 + r * r) - 1)  # like a square near zero, like a distance far away
        return cost.mean() + 1e-4 * (zoom**2).mean()

    if iterations:
        solver = torch.optim.LBFGS(unknown, max_iter=iterations, history_size=20, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            solver.zero_grad()
            value = loss()
            value.backward()
            return value

        solver.step(closure)
    with torch.no_grad():
        sides = torch.tensor([max(image.array.shape[:2]) for image in placed.images], dtype=torch.float64)
        lengths = (f0 * (zoom * zoomable).exp()[:, None]).amax(1) / sides
        sane = (zoomable == 0) | ((lengths > _SHORTEST) & (lengths < _LONGEST))
        if not (all(bool(torch.isfinite(t).all()) for t in unknown) and bool(sane.all())):
            _log.warning("The pairs contradict each other: cameras stay where the first pass put them.")
            for t, value in zip(unknown, (0.0, 0.0, 0.0, 0.0, start), strict=True):
                t.copy_(torch.as_tensor(value))
        R, t = base[:, :3, :3] @ _rotation(turn * free), base[:, :3, 3] + move * free * size
        grow = (stretch if fixed_poses else stretch - stretch.mean()).exp()
        lens = (f0 * (zoom * zoomable).exp()[:, None]).numpy()
        for k in range(n):
            placed.poses[k] = np.eye(4)
            placed.poses[k][:3, :3], placed.poses[k][:3, 3] = R[k].numpy(), t[k].numpy()
            placed.depth[k] = placed.depth[k] * float(grow[k])
            placed.K[k] = camera_matrix(lens[k], cameras[k][:2, 2])
        return float(error().square().mul(terms.weight).mean().sqrt())


def _numbers(name: str, given: Any) -> Array:
    try:
        return np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"align: {name} are no matrices of numbers ({error}); pass one matrix per image.") from error


def given_cameras(n: int, intrinsics: Any = None, poses: Any = None) -> tuple[Array | None, Array | None]:
    """Return given cameras [n, 3, 3] and poses [n, 4, 4] of n images as arrays, checked; None where none are given.

    Raises
    ------
    InputError
        They are no finite matrices of numbers, or not as many as images.
    """
    K, pose = None, None
    if intrinsics is not None:
        K = _numbers("intrinsics", intrinsics)
        if K.shape == (3, 3):
            K = np.broadcast_to(K, (n, 3, 3))
        if K.shape != (n, 3, 3) or not np.isfinite(K).all() or K[:, [0, 1], [0, 1]].min() <= 0:
            raise InputError(
                f"align: intrinsics have shape {K.shape}; pass [3, 3] or [{n}, 3, 3], finite, focal lengths above 0."
            )
    if poses is not None:
        pose = _numbers("poses", poses)
        if pose.shape != (n, 4, 4) or not np.isfinite(pose).all():
            raise InputError(f"align: poses have shape {pose.shape}; pass finite [{n}, 4, 4], camera to world.")
        turns = pose[:, :3, :3]
        if np.abs(turns @ turns.transpose(0, 2, 1) - np.eye(3)).max() > 1e-3 or np.linalg.det(turns).min() < 0:
            raise InputError("align: a pose's upper left 3x3 part is no rotation; pass camera-to-world matrices.")
    return K, pose


def _use_given_poses(placed: _Placing, given: Array) -> None:
    """Replace the tree's poses by given ones, and bring depths and pair scales to their scale."""
    n = len(placed.images)
    ours = np.stack([placed.poses[k][:3, 3] for k in range(n)])
    spread = [float(np.linalg.norm(c - c.mean(0), axis=1).sum()) for c in (given[:, :3, 3], ours)]
    if min(spread) <= 0:
        raise InputError("align: the given cameras are all in one place; their scale cannot be found, leave poses out.")
    factor = spread[0] / spread[1]
    for k in range(n):
        placed.poses[k] = given[k].copy()
        placed.depth[k] = placed.depth[k] * factor
    placed.scale = {index: scale * factor for index, scale in placed.scale.items()}


def align(
    pairs: Pairs | Sequence[PairPoints],
    images: Sequence[Prepared] | None = None,
    *,
    intrinsics: Any = None,
    poses: Any = None,
    names: Sequence[str] | None = None,
    matched: bool = True,
    points_per_pair: int = 400,
    iterations: int = 100,
) -> Scene:
    """Bring the pairs of a graph into one scene.

    Parameters
    ----------
    pairs
        What `Engine.infer_pairs` returned, or `PairPoints` of your own with `images`.
    images
        The images at network size; with `Pairs` they are known.
    intrinsics
        [3, 3] or [n, 3, 3] camera matrices of the original pictures; estimated where None.
    poses
        [n, 4, 4] camera-to-world matrices to keep; estimated where None.
    names
        For the exported files.
    matched
        Match descriptors as well, for COLMAP's tracks.
    points_per_pair
        Pixels of each image of each pair in the refinement.
    iterations
        Of the refinement; 0 keeps the spanning tree's result.

    Returns
    -------
    Scene
        In the frame of the best pair's first image, or of the given poses; metric if the network is.

    Raises
    ------
    InputError
        An image that no pair connects, shapes that do not fit, or points that agree with no camera.
    """
    if isinstance(pairs, Pairs):
        images = pairs.images
        given_cameras(len(images), intrinsics, poses)  # before the heads run
        known: list[PairPoints] = _read(pairs, matched)
    else:
        known = list(pairs)
    if not images or not known:
        raise InputError("align: no images or no pairs; pass what Engine.infer_pairs returned.")
    n = len(images)
    if names is not None and len(names) != n:
        raise InputError(f"align: {len(names)} names for {n} images; pass one each.")
    cameras, fixed_poses = given_cameras(n, intrinsics, poses)
    inside: list[Array | None] = [None] * n
    if cameras is not None:
        inside = [image.intrinsics(K) for image, K in zip(images, cameras, strict=True)]
    placed = _Placing(images, known, inside)
    fixed = {k for k, K in enumerate(placed.K) if K is not None}
    for k in sorted(range(n), key=lambda k: -max([p.score for p in known if p.i == k], default=-np.inf)):
        placed.focal_of(k)
    _place_all(placed, _tree(n, known))
    if fixed_poses is not None:
        _use_given_poses(placed, fixed_poses)
    residual = _refine(placed, fixed_poses is not None, fixed, points_per_pair, iterations)
    return _scene(placed, names, residual, _tracks(known))


def _place_all(placed: _Placing, tree: list[int]) -> None:
    """Place along the tree, always the best pair that touches what is placed; then give the other pairs a scale."""
    waiting = list(tree)
    while waiting:
        ready = [k for k in waiting if not placed.poses or {placed.pairs[k].i, placed.pairs[k].j} & set(placed.poses)]
        index = ready[0]  # the tree is in order of score
        placed.place(index)
        waiting.remove(index)
    for index, pair in enumerate(placed.pairs):
        if index not in placed.scale:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = placed.depth[pair.i] / pair.points_1[..., 2]
            good = np.isfinite(ratio) & (ratio > 0)
            weights = pair.conf_1[good].astype(np.float64)
            placed.scale[index] = _weighted_median(ratio[good], weights) if good.any() else 1.0


def _tracks(pairs: Sequence[PairPoints]) -> Tracks | None:
    parts = [(pair, *pair.matches) for pair in pairs if len(pair.matches[0])]
    if not parts:
        return None
    return Tracks(
        np.concatenate([np.full(len(a), pair.i) for pair, a, _ in parts]),
        np.concatenate([a for _, a, _ in parts]),
        np.concatenate([np.full(len(b), pair.j) for pair, _, b in parts]),
        np.concatenate([b for _, _, b in parts]),
    )


def _scene(placed: _Placing, names: Sequence[str] | None, residual: float, tracks: Tracks | None) -> Scene:
    views = []
    for k, image in enumerate(placed.images):
        camera = placed.K[k]
        assert camera is not None
        pose, depth = placed.poses[k], placed.depth[k]
        rays = (pixel_grid(*depth.shape) - camera[:2, 2]) / camera[[0, 1], [0, 1]]
        inside = np.concatenate([rays * depth[..., None], depth[..., None]], -1)
        points = (inside @ pose[:3, :3].T + pose[:3, 3]).astype(np.float32)
        name = names[k] if names is not None else f"image_{k:04d}"
        views.append(View(name, pose, camera, points, np.asarray(placed.conf[k], np.float32), image))
    return Scene(tuple(views), residual, tracks)
