"""Geometry on measured ground truth: focal length, baseline, pixels mapped back, and what they cost.

Rows
----
focal, 343 k points
    ``vision.focal`` of the Middlebury motorcycle's points.
pose, 6.9 k matches
    ``vision.relative_pose`` of the right camera from points of the left one at rounded pixels.
align, four views
    ``vision.align`` of six pairs of a made-up room (256 x 192, points with 1 % noise, each pair at its own scale).

The motorcycle's files come with scikit-image, or lie in ``ELINVAR_DATA``. Thread CPU time, one thread.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from elinvar.bench import Result, interleave
from elinvar.vision import align, focal, relative_pose, synthetic
from elinvar.vision.alignment import PairPoints
from elinvar.vision.geometry import similarity
from elinvar.vision.images import prepared
from elinvar.vision.tour import stereo_pair


def room() -> tuple[Any, Any, Any]:
    shots = synthetic.shots(3, 4, (256, 192))
    make = np.random.default_rng(0)
    pairs = []
    for i in range(4):
        for j in range(i + 1, 4):
            scale = make.uniform(0.5, 2)
            points = [
                (shots[k].points_in(shots[i]) * scale * (1 + 0.01 * make.standard_normal((192, 256, 1)))).astype(
                    np.float32
                )
                for k in (i, j)
            ]
            conf = np.full((192, 256), 3.0 if j == i + 1 else 2.0, np.float32)
            pairs.append(PairPoints(i, j, *points, conf, conf))
    return shots, [prepared(shot.image, 256, 16, False) for shot in shots], pairs


def run(*, runs: int = 5, warmup: int = 1) -> Result:
    torch.set_num_threads(1)
    pair = stereo_pair()
    known = np.flatnonzero(np.isfinite(pair.points).all(-1).reshape(-1))[::50]
    points, pixels = pair.points.reshape(-1, 3)[known], np.rint(pair.pixels.reshape(-1, 2)[known])
    shots, images, pairs = room()
    kept: dict[str, Any] = {}
    ways = {
        "focal": lambda: kept.update(f=focal(pair.points, pair.K_left[:2, 2])),
        "pose": lambda: kept.update(pose=relative_pose(points, pixels, pair.K_right)),
        "align, four views": lambda: kept.update(scene=align(pairs, images)),
    }
    samples = interleave(ways, runs=runs, warmup=warmup, clock="thread_cpu")
    true = np.stack([shot.pose[:3, 3] for shot in shots])
    ours = kept["scene"].poses[:, :3, 3]
    scale, R, t = similarity(ours, true)
    extras = {
        "pair": pair.name,
        "focal error, px (bar 0.1)": abs(kept["f"] - pair.K_left[0, 0]),
        "translation error, mm (bar 0.2)": 1e3 * abs(float(np.linalg.norm(kept["pose"].t)) - pair.baseline),
        "alignment: camera error, mm": float(1e3 * np.linalg.norm(scale * ours @ R.T + t - true, axis=1).max()),
        "alignment: focal error, %": float(100 * np.abs(kept["scene"].focals / shots[0].K[0, 0] - 1).max()),
    }
    return Result(name="vision_geometry", samples=samples, extras=extras)


if __name__ == "__main__":
    result = run()
    result.write("vision_geometry.json")
    for name, row in result.samples.items():
        print(f"{name:30s} {1e3 * row.median:8.1f} ms")
    print(json.dumps(result.extras, indent=1))
