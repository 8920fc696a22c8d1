"""Two views of a made-up room: cameras, matches and a point cloud, with files to look at. No weights needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from elinvar import vision
from elinvar.report import png
from elinvar.vision.alignment import PairPoints
from elinvar.vision.drawing import draw_matches
from elinvar.vision.tour import patch_descriptors

out = Path("two_views")
shots = vision.synthetic.shots(seed=11, count=2, size=(256, 192))
left, right = (shot.image for shot in shots)

# Where a network would give points and descriptors, the renderer's own points and patches of brightness stand in.
matches = vision.match(patch_descriptors(left, 1), patch_descriptors(right, 1), subsample=4)
print(f"{len(matches)} reciprocal matches in {matches.match_ms:.0f} ms")

points = [shot.points_in(shots[0]) for shot in shots]
print(f"focal length {vision.focal(points[0]):.2f} px, true {shots[0].K[0, 0]:.2f}")

conf = np.full((192, 256), 2.0, np.float32)
pair = PairPoints(0, 1, points[0].astype(np.float32), points[1].astype(np.float32), conf, conf)
scene = vision.align([pair], [vision.preprocess(image, 256) for image in (left, right)], names=["left", "right"])
true = np.linalg.norm(shots[0].pose[:3, 3] - shots[1].pose[:3, 3])
print(f"baseline {np.linalg.norm(scene.poses[1][:3, 3] - scene.poses[0][:3, 3]):.4f} m, true {true:.4f} m")

for name in ("points.ply", "viewer.html", "colmap"):
    print(scene.export(out / name))
(out / "matches.png").write_bytes(png.encode(draw_matches(left, right, matches.xy_1, matches.xy_2)))
