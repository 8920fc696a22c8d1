"""Two pictures through the network that comes with elinvar: points, matches, cameras and files to look at.

Pass two pictures of your own, or none for a made-up room. It is small and was trained on made-up rooms alone: weak on
photographs, and without true size.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from elinvar import vision
from elinvar.report import png
from elinvar.vision.drawing import draw_matches

pictures: list[object] = [Path(name) for name in sys.argv[1:3]]
room = None
if len(pictures) < 2:
    room = vision.rooms.draw_pairs(1, vision.training.HELD_OUT + 1, (256, 192))
    pictures = [image[0].numpy() for image in room.images]

engine = vision.Engine("free", device="cpu").load()
result = engine.infer(*pictures)
matches = engine.match(result, None, subsample=8)
print(f"{len(matches)} matches; focal length {vision.focal(result.pts3d_1.numpy()):.0f} network pixels")

if room is not None:
    guess, truth = result.pts3d_1.numpy(), room.points[0][0].numpy()
    distance = np.linalg.norm(truth, axis=-1)
    guess = guess * np.median(distance / np.linalg.norm(guess, axis=-1))  # a pair does not know its scale
    error = np.median(np.linalg.norm(guess - truth, axis=-1) / distance)
    print(f"true focal length {float(room.cameras[0].K[0, 0, 0]):.0f}; points off by {100 * error:.1f} % in the median")

out = Path("free_network")
scene = vision.align(engine.infer_pairs(pictures))
for name in ("points.ply", "viewer.html"):
    print(scene.export(out / name, min_conf=1.5))
xy = matches.to_original(result.prepared_1, result.prepared_2)
(out / "matches.png").write_bytes(png.encode(draw_matches(*pictures, *xy)))
