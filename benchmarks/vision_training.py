"""What the free network can do: held-out made-up rooms, and the motorcycle pair, with the engine as a user runs it.

Rows
----
pair
    One pair at the network's own size, 4:3, all eight outputs, nothing cached. Thread CPU time, one thread.

Extras: median over pairs of the median relative error of points (both images, brought to the true scale by a median;
the bar is 5 %), its spread, focal length from the points, share of reciprocal matches within two and five pixels of the
truth, relative pose from points and matches; in float32, and the rooms also as ``precision="auto"`` computes. The rooms
are never trained on, nor were the weights chosen by them: their seeds begin far behind `HELD_OUT`. The motorcycle's
files come with scikit-image, or lie in ``ELINVAR_DATA``.

``python benchmarks/vision_training.py [weights.safetensors [side]]``: without weights, those that are found for the
network; without a side, the network's own.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch

from elinvar.bench import Result, measure
from elinvar.errors import InputError
from elinvar.vision import Engine, focal, relative_pose
from elinvar.vision.rooms import draw_pairs
from elinvar.vision.tour import stereo_pair
from elinvar.vision.training import HELD_OUT, relative_errors

NAME = "elinvar_free"


def _angle(a: Any, b: Any) -> float:
    return float(np.degrees(np.arccos(np.clip((np.asarray(a) * np.asarray(b)).sum(), -1, 1))))


def _focal(points: Any) -> float:
    """Return the focal length, or 0 where the points have none."""
    try:
        return focal(points)
    except InputError:
        return 0.0


def _pose(pts: Any, found: Any, K: Any, truth: Any) -> tuple[float, float]:
    """Return the errors of turn and direction of a relative pose from points and matches, degrees."""
    flat = np.asarray(pts, np.float64).reshape(-1, 3)
    try:
        pose = relative_pose(flat[found.idx_1], found.xy_2, K)
    except InputError:
        return 180.0, 180.0
    turn = np.asarray(pose.R).T @ truth[:3, :3]
    angle = float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))
    return angle, _angle(pose.t / np.linalg.norm(pose.t), truth[:3, 3] / np.linalg.norm(truth[:3, 3]))


def rooms(engine: Engine, pairs: int, size: tuple[int, int]) -> dict[str, Any]:
    rows: dict[str, list[float]] = {k: [] for k in ("points", "second", "focal", "two", "five", "count", "turn", "way")}
    for k in range(pairs):
        batch = draw_pairs(1, HELD_OUT + (1 << 16) + k, size, matches=1)
        out = engine.infer(*(image[0].numpy() for image in batch.images))
        pts = {f"pts3d_{v}": torch.from_numpy(getattr(out, f"pts3d_{v}").numpy())[None] for v in (1, 2)}
        rows["points"].append(float(relative_errors(pts, batch)))
        truth = batch.points[1][0].double()
        scale = (batch.points[0][0].norm(dim=-1) / pts["pts3d_1"][0].norm(dim=-1)).median()
        rows["second"].append(float(((scale * pts["pts3d_2"][0] - truth).norm(dim=-1) / truth.norm(dim=-1)).median()))
        K = batch.cameras[0].K[0].double().numpy()
        rows["focal"].append(abs(_focal(pts["pts3d_1"][0].numpy()) / K[0, 0] - 1))
        found = engine.match(out, None, subsample=8)
        relative = np.linalg.inv(batch.cameras[1].pose[0].double().numpy()) @ batch.cameras[0].pose[0].double().numpy()
        inside = batch.points[0][0].double().numpy().reshape(-1, 3)[found.idx_1] @ relative[:3, :3].T + relative[:3, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            off = np.linalg.norm((inside @ K.T)[:, :2] / inside[:, 2:] - found.xy_2, axis=1)
        rows["two"].append(float((off < 2).mean()))
        rows["five"].append(float((off < 5).mean()))
        rows["count"].append(len(found))
        turn, way = _pose(pts["pts3d_1"][0], found, K, np.linalg.inv(relative))
        rows["turn"].append(turn)
        rows["way"].append(way)
    mid = {name: float(np.median(values)) for name, values in rows.items()}
    errors = 100 * np.asarray(rows["points"])
    return {
        "pairs": pairs,
        "size": list(size),
        "median relative point error, % (bar 5)": float(np.median(errors)),
        "point error, quarter and three quarters of pairs, %": [float(q) for q in np.quantile(errors, [0.25, 0.75])],
        "point error, mean and worst tenth of pairs, %": [float(errors.mean()), float(np.quantile(errors, 0.9))],
        "pairs below 5 %": float((errors < 5).mean()),
        "second image's points, scale of the first, %": 100 * mid["second"],
        "focal error, %": 100 * mid["focal"],
        "matches per pair": mid["count"],
        "matches within 2 px": mid["two"],
        "matches within 5 px": mid["five"],
        "turn error, degrees": mid["turn"],
        "direction error, degrees": mid["way"],
    }


def motorcycle(engine: Engine) -> dict[str, Any]:
    pair = stereo_pair()
    out = engine.infer(pair.left, pair.right)
    height, width = out.pts3d_1.shape[:2]
    y, x = np.mgrid[:height, :width]
    places = np.stack([x, y], -1).reshape(-1, 2).astype(np.float64)
    there = np.rint(out.prepared_1.to_original(places)).astype(int)
    truth = pair.points[there[:, 1].clip(0, pair.left.shape[0] - 1), there[:, 0].clip(0, pair.left.shape[1] - 1)]
    known = np.isfinite(truth).all(1)
    guess = out.pts3d_1.numpy().reshape(-1, 3)
    length = np.linalg.norm(truth[known], axis=1)
    scale = np.median(length / np.linalg.norm(guess[known], axis=1))
    error = np.linalg.norm(scale * guess[known] - truth[known], axis=1) / length
    depth = np.abs(scale * guess[known][:, 2] / truth[known][:, 2] - 1)
    flat = np.abs(np.median(truth[known][:, 2]) / truth[known][:, 2] - 1)
    found = engine.match(out, None, subsample=8)
    one, two = found.to_original(out.prepared_1, out.prepared_2)
    at = np.rint(one).astype(int)
    right = pair.pixels[at[:, 1], at[:, 0]]
    seen = np.isfinite(pair.points[at[:, 1], at[:, 0]]).all(1)
    off = np.linalg.norm(right[seen] - two[seen], axis=1)
    f = _focal(out.pts3d_1.numpy()) / np.mean(out.prepared_1.scale)
    return {
        "pair": pair.name,
        "network size": [width, height],
        "focal, px": float(f),
        "true focal, px": float(pair.K_left[0, 0]),
        "median relative point error, %": float(100 * np.median(error)),
        "median relative depth error, %": float(100 * np.median(depth)),
        "the same of a plane at the median depth, %": float(100 * np.median(flat)),
        "matches": len(found),
        "matches within 3 px of the photograph": float((off < 3).mean()) if len(off) else 0.0,
        "matches within 10 px of the photograph": float((off < 10).mean()) if len(off) else 0.0,
    }


def run(
    *, runs: int = 5, warmup: int = 1, weights: str | None = None, pairs: int = 128, side: int | None = None
) -> Result:
    torch.set_num_threads(1)
    engine, chosen = (
        Engine(NAME, side, precision=precision, device="cpu", num_threads=1, cache_bytes=0).load(weights)
        for precision in ("fp32", "auto")
    )
    size = (engine.resolution, engine.resolution * 3 // 4)
    batch = draw_pairs(1, HELD_OUT, size, matches=1)
    images = [image[0].numpy() for image in batch.images]
    sample = measure(lambda: engine.infer(*images).compute(), runs=runs, warmup=warmup, name="pair", clock="thread_cpu")
    extras = {
        "weights": engine.info()["weights"].rsplit("/", 1)[-1],
        "rooms": rooms(engine, pairs, size),
        "rooms, upright": rooms(engine, pairs // 2, size[::-1]),
        "precision that the engine chooses": str(chosen.precision),
        "rooms, in that precision": rooms(chosen, pairs // 2, size),
        "motorcycle": motorcycle(engine),
    }
    return Result(name="vision_training", samples={"pair": sample}, extras=extras)


if __name__ == "__main__":
    result = run(
        weights=sys.argv[1] if len(sys.argv) > 1 else None, side=int(sys.argv[2]) if len(sys.argv) > 2 else None
    )
    result.write("vision_training.json")
    print(f"{1e3 * result.samples['pair'].median:.0f} ms per pair")
    print(json.dumps(result.extras, indent=1))
