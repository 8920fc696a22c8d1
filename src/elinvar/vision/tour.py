"""Vision in ``elinvar tour``: matches of a real pair, its depth in the viewer, the engine beside plain torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from elinvar.errors import MissingDependency, WeightsError

from . import synthetic
from .drawing import draw_matches, shade
from .geometry import camera_matrix, focal, pixel_grid, relative_pose, unproject
from .matching import match
from .timing import time_pair
from .viewer import fragment, script

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from elinvar.report import Page
    from elinvar.runtime.device import Device

__all__ = ["StereoPair", "patch_descriptors", "stereo_pair", "tour"]


FREE = "elinvar_free"


class Context(Protocol):
    """What the tour's runner gives an engine."""

    device: Device
    quick: bool
    out: Path

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time and announce one stage."""
        ...

    def jit(self, what: str) -> AbstractContextManager[None]:
        """Time compilation on a line of its own."""
        ...


@dataclass(frozen=True, eq=False)
class StereoPair:
    """A pair of pictures with known geometry.

    Attributes
    ----------
    name
        For captions.
    left, right
        uint8 [height, width, 3].
    points
        [height, width, 3] of the left picture in its camera's frame, metres; NaN where unknown.
    pixels
        [height, width, 2]: where the left picture's pixels are in the right one.
    K_left, K_right
        [3, 3].
    baseline
        Distance of the cameras, metres.
    """

    name: str
    left: NDArray[np.uint8]
    right: NDArray[np.uint8]
    points: NDArray[np.float64]
    pixels: NDArray[np.float64]
    K_left: NDArray[np.float64]
    K_right: NDArray[np.float64]
    baseline: float


def _motorcycle() -> tuple[Any, Any, Any] | None:
    """Return left, right and disparity of Middlebury's motorcycle, if ``ELINVAR_DATA`` or scikit-image have it."""
    from PIL import Image

    folder = Path(os.environ.get("ELINVAR_DATA", "")) / "vision" / "motorcycle"
    names = [folder / f"motorcycle_{part}" for part in ("left.png", "right.png", "disp.npz")]
    if all(name.is_file() for name in names):
        pictures = []
        for name in names[:2]:
            with Image.open(name) as opened:
                pictures.append(np.asarray(opened.convert("RGB")))
        with np.load(names[2]) as data:
            return pictures[0], pictures[1], data["arr_0"]
    try:
        from skimage.data import stereo_motorcycle  # type: ignore[import-not-found]
    except ImportError:
        return None
    try:
        left, right, disparity = stereo_motorcycle()
    except (OSError, ModuleNotFoundError):  # it would have to be downloaded
        return None
    return left, right, disparity


def stereo_pair() -> StereoPair:
    """Return the Middlebury motorcycle (Scharstein et al., 2014) where its files are at hand, else a made-up room."""
    found = _motorcycle()
    if found is None:
        one, two = synthetic.shots(11, 2, (480, 360), baseline=0.3)
        inside = one.points_in(two)
        pixels = (inside @ two.K.T)[..., :2] / inside[..., 2:]
        distance = float(np.linalg.norm(one.pose[:3, 3] - two.pose[:3, 3]))
        return StereoPair(
            "A made-up room (the motorcycle pair is not on this machine)",
            one.image, two.image, one.points_in(one), pixels, one.K, two.K, distance,
        )  # fmt: skip
    left, right, given = found
    disparity = np.asarray(given, np.float64)
    # The dataset's calibration, for pictures a quarter of the originals' size; lengths in metres.
    f, cx, cy, shift, baseline = 3979.911 / 4, 1244.772 / 4, 1019.507 / 4, 124.343 / 4, 0.193001
    known = np.isfinite(disparity) & (disparity > 0)
    depth = np.where(known, baseline * f / (np.where(known, disparity, 1) + shift), np.nan)
    K_left = camera_matrix(f, (cx, cy))
    pixels = pixel_grid(*depth.shape)
    pixels[..., 0] -= disparity
    points = unproject(depth, K_left)
    return StereoPair(
        "Middlebury motorcycle", left, right, points, pixels, K_left, camera_matrix(f, (cx + shift, cy)), baseline
    )


def patch_descriptors(image: Any, step: int = 2, side: int = 11) -> NDArray[np.float32]:
    """Return normalised patches of brightness as descriptors, [height / step, width / step, 24]: no network needed.

    Each patch is projected on 24 fixed random directions, so that the matcher sees the shape it will see in earnest.
    """
    from numpy.lib.stride_tricks import sliding_window_view

    grey = np.asarray(image, np.float32).mean(2)
    half = side // 2
    windows = sliding_window_view(np.pad(grey, half, mode="reflect"), (side, side))[::step, ::step]
    flat = windows.reshape(*windows.shape[:2], -1)
    flat = flat - flat.mean(-1, keepdims=True)
    flat = flat / (flat.std(-1, keepdims=True) + 4.0)
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((side * side, 24)))[0].astype(np.float32)
    out = flat @ basis
    return np.asarray(out / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-6), np.float32)


def tour(page: Page, context: Context) -> None:
    """Add the vision section to the tour's page."""
    for library in ("PIL", "cv2"):
        try:
            __import__(library)
        except ImportError as error:
            raise MissingDependency(
                f"The vision tour needs {library}; install it with `pip install elinvar[vision]`."
            ) from error
    step = 4 if context.quick else 2
    with context.stage("read a pair with ground truth"):
        pair = stereo_pair()
    with context.jit("the matching kernel"):
        match(torch.eye(8), torch.eye(8))
    with context.stage("match"):
        one, two = (patch_descriptors(image, step) for image in (pair.left, pair.right))
        found = match(one, two, subsample=4)
    with context.stage("geometry"):
        known = np.isfinite(pair.points).all(-1)
        f = focal(pair.points, pair.K_left[:2, 2])
        some = np.flatnonzero(known.reshape(-1))[::200]
        pose = relative_pose(pair.points.reshape(-1, 3)[some], np.rint(pair.pixels.reshape(-1, 2)[some]), pair.K_right)
    model, size = ("mast3r_tiny", 64) if context.quick else ("mast3r_tiny", 256)
    with context.stage("network, engine and plain"):
        samples = time_pair(model, size, device=str(context.device), runs=2 if context.quick else 5)
    _write(page, pair, found, step, f, pose, samples, f"{model}, long side {size}")
    _free(page, context, pair)


def _free(page: Page, context: Context, pair: StereoPair) -> None:
    """Show what the free network makes of rooms it was never shown, and of photographs, if its weights are here."""
    from .engine import Engine
    from .rooms import draw_pairs
    from .training import HELD_OUT, relative_errors

    try:
        engine = Engine(FREE, device=str(context.device)).load()
    except WeightsError:
        return
    size = (engine.resolution, engine.resolution * 3 // 4)
    errors, results = [], []
    with context.stage("the free network"):
        # The first rooms of benchmarks/vision_training.py, which has 128.
        batches = [draw_pairs(1, HELD_OUT + (1 << 16) + k, size, matches=1) for k in range(3 if context.quick else 32)]
        for batch in batches:
            results.append(engine.infer(*(image[0].numpy() for image in batch.images)))
            points = [np.array(getattr(results[-1], f"pts3d_{view}").numpy()) for view in (1, 2)]
            out = {f"pts3d_{k}": torch.from_numpy(p)[None] for k, p in enumerate(points, 1)}
            errors.append(100 * float(relative_errors(out, batch)))
        found = engine.match(results[0], None, subsample=4)
        photographs = engine.infer(pair.left, pair.right)
        alike = engine.match(photographs, None, subsample=8)
    one, two = (image[0].numpy() for image in batches[0].images)
    points = [np.array(getattr(results[0], f"pts3d_{view}").numpy()) for view in (1, 2)]
    where = alike.to_original(photographs.prepared_1, photographs.prepared_2)
    page.section(
        "Vision: the free network",
        "Small, and trained on made-up rooms alone by the recipe that comes with elinvar. It does not replace the "
        "published networks on photographs. These rooms were not among those it was trained on.",
    )
    page.facts(
        [
            (f"{np.median(errors):.1f} %", f"median relative error of the points of {len(errors)} rooms"),
            (f"{errors[0]:.1f} %", "of the first one, shown here"),
            (f"{len(found):,}", "reciprocal matches of learned descriptors"),
        ]
    )
    page.image(draw_matches(one, two, found.xy_1, found.xy_2), "80 of the matches.", alt="Two rendered views, matched")
    flat = np.concatenate([p.reshape(-1, 3)[::3] for p in points])
    colours = np.concatenate([image.reshape(-1, 3)[::3] for image in (one, two)])
    page.html(fragment(flat, colours, height="460px", scripts=False))
    page.script(script())
    page.text("The points of both images as the network gives them, in the first camera's frame.")
    page.image(
        draw_matches(pair.left, pair.right, *where),
        f"{pair.name}: 80 of {len(alike):,} matches by the free network, which has never seen a photograph; "
        f"{100 * _near(pair, *where):.0f} % of them are within 3 pixels of the truth.",
        alt="Two pictures with lines between points that the free network matched",
    )


def _near(pair: StereoPair, one: NDArray[Any], two: NDArray[Any]) -> float:
    """Return the share of matches [n, 2] in the pictures' pixels within 3 pixels of the truth, where it is known."""
    at = np.rint(one).astype(np.int64)
    at = np.clip(at, 0, np.array(pair.left.shape[1::-1]) - 1)
    known = np.isfinite(pair.points[at[:, 1], at[:, 0]]).all(1)
    error = np.linalg.norm(pair.pixels[at[:, 1], at[:, 0]][known] - two[known], axis=1)
    return float((error <= 3).mean()) if known.any() else 0.0


def _right(pair: StereoPair, found: Any, step: int) -> float:
    """Return the share of matches within two steps of the ground truth, of those whose truth is known."""
    a, b = found.xy_1.astype(np.int64) * step, found.xy_2 * step
    truth = pair.pixels[a[:, 1], a[:, 0]]
    known = np.isfinite(pair.points[a[:, 1], a[:, 0]]).all(1)
    error = np.linalg.norm(truth[known] - b[known], axis=1)
    return float((error <= 2 * step).mean()) if known.any() else 0.0


def _write(
    page: Page, pair: StereoPair, found: Any, step: int, f: float, pose: Any, samples: Any, network: str
) -> None:
    engine, plain = samples["engine"], samples["plain PyTorch"]
    page.section(
        "Vision: two photographs become points",
        "The networks' own weights are not free, so none come with elinvar. What surrounds them is shown on a real "
        "pair with measured depth; the network itself runs with random weights, for its speed alone.",
    )
    page.facts(
        [
            (f"{len(found):,}", f"reciprocal matches in {found.match_ms / 1e3:.2f} s"),
            (f"{100 * _right(pair, found, step):.0f} %", f"of them within {2 * step} pixels of the truth"),
            (f"{1e3 * float(np.linalg.norm(pose.t)):.2f} mm", f"baseline by PnP (true: {1e3 * pair.baseline:.2f} mm)"),
            (f"{plain.median / engine.median:.1f}x", "plain PyTorch (float32), same network, same weights"),
        ]
    )
    page.image(
        draw_matches(pair.left, pair.right, found.xy_1 * step, found.xy_2 * step),
        f"{pair.name}: 80 of {len(found):,} matches, with patches of brightness in place of learned descriptors.",
        alt="Two photographs with lines between matched points",
    )
    known = np.isfinite(pair.points).all(-1)
    thin = known & (np.add.outer(np.arange(known.shape[0]), np.arange(known.shape[1])) % 2 == 0)
    page.html(fragment(pair.points[thin], pair.left[thin], height="460px", scripts=False))
    page.script(script())
    page.text(
        f"The pair's measured depth as {int(thin.sum()):,} points in the viewer that `reconstruct --viewer` writes: "
        f"drag it. Focal length by Weiszfeld's iteration: **{f:.2f} px** (true: {pair.K_left[0, 0]:.2f})."
    )
    with page.row():
        page.image(pair.left, "Left photograph.", alt="The left photograph of the pair")
        page.image(shade(pair.points[..., 2]), "Measured depth, near (dark) to far (bright).", alt="Depth map")
    page.table(
        [{"what": name, "ms per pair": f"{1e3 * row.median:.0f}"} for name, row in samples.items()],
        caption=f"{network}, random weights, all eight outputs, medians of {len(engine.values)} interleaved runs.",
    )
