"""MASt3R and DUNE: from photographs to points, matches and cameras.

::

    from elinvar import vision

    engine = vision.Engine("mast3r_vit_large").load("weights/")
    result = engine.infer("left.jpg", "right.jpg")
    points = result.pts3d_1.numpy()             # [height, width, 3], metres, first camera's frame
    matches = engine.match(result)

Pixels are (x, y) with the centre of the first at (0, 0); cameras look along +z with y down. Names are loaded on first
use. The published weights have licences of their own and are yours to bring; a small network that is free comes along:
``vision.Engine("free").load()``, trained on made-up rooms alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from elinvar._lazy import lazy

_HOME = {
    "Engine": "engine",
    "LazyTensor": "result",
    "Matches": "matching",
    "PairResult": "result",
    "Pairs": "pairs",
    "Paths": "layers",
    "Pose": "geometry",
    "Prepared": "images",
    "RetrievalResult": "retrieval",
    "Scene": "scene",
    "Variant": "catalogue",
    "align": "alignment",
    "available": "availability",
    "export_points": "export",
    "focal": "geometry",
    "match": "matching",
    "match_coarse_to_fine": "coarse",
    "image_pairs": "graphs",
    "preprocess": "images",
    "register_variant": "catalogue",
    "relative_pose": "geometry",
    "variants": "catalogue",
    "view_points": "viewer",
}
_MODULES = ("asmk", "plain", "rooms", "synthetic", "training")

__all__ = [
    "Engine",
    "LazyTensor",
    "Matches",
    "PairResult",
    "Pairs",
    "Paths",
    "Pose",
    "Prepared",
    "RetrievalResult",
    "Scene",
    "Variant",
    "align",
    "asmk",
    "available",
    "export_points",
    "focal",
    "image_pairs",
    "match",
    "match_coarse_to_fine",
    "plain",
    "preprocess",
    "register_variant",
    "relative_pose",
    "rooms",
    "synthetic",
    "training",
    "variants",
    "view_points",
]

if TYPE_CHECKING:
    from . import asmk, plain, rooms, synthetic, training
    from .alignment import align
    from .availability import available
    from .catalogue import Variant, register_variant, variants
    from .coarse import match_coarse_to_fine
    from .engine import Engine
    from .export import export_points
    from .geometry import Pose, focal, relative_pose
    from .graphs import image_pairs
    from .images import Prepared, preprocess
    from .layers import Paths
    from .matching import Matches, match
    from .pairs import Pairs
    from .result import LazyTensor, PairResult
    from .retrieval import RetrievalResult
    from .scene import Scene
    from .viewer import view_points

__getattr__, __dir__ = lazy(__name__, _HOME, _MODULES)
