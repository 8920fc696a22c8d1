"""A point cloud in one HTML file: three.js draws it, the points and the library are inside, no network.

``data/three.min.js`` is what the viewer needs of three.js (MIT licence, in the file), made by
``scripts/bundle_three.sh``; ``viewer.js`` is what this package says to it.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.files import write_text

if TYPE_CHECKING:
    from .scene import Scene

__all__ = ["fragment", "script", "view_points", "view_scene"]

_STYLE = """
.cloud{position:relative;margin:0;background:#171a1f;border-radius:6px}
@media (prefers-color-scheme:light){.cloud{background:#f2f3f5}}
.cloud canvas{width:100%;height:100%;display:block;touch-action:none;cursor:grab;border-radius:6px}
.cloud-bar{position:absolute;left:10px;bottom:10px;margin-right:10px;display:flex;gap:14px;
align-items:center;flex-wrap:wrap;color:#e8e8e8;background:rgba(20,22,26,.72);
padding:6px 10px;border-radius:6px;font:13px system-ui,sans-serif}
.cloud-bar input{width:90px;vertical-align:middle}.cloud-bar button{font:inherit}.cloud-data{display:none}
"""
_HALF_VIEW = 0.42  # tangent of half the vertical angle of view in viewer.js
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _back(offset: NDArray[np.float64]) -> float:
    """Return how far before the middle to begin, so that nearly all points lie ahead, inside a 3:2 window."""
    across = np.maximum(np.abs(offset[:, 0]) / 1.5, np.abs(offset[:, 1]))
    return float(np.quantile(across / _HALF_VIEW - offset[:, 2], 0.97))


def script() -> str:
    """Return the JavaScript that starts every viewer above it in the page: three.js (0.56 MB) and ours, once."""
    here = Path(__file__).parent
    return "\n".join((here / name).read_text(encoding="utf-8") for name in ("data/three.min.js", "viewer.js"))


def fragment(
    xyz: Any,
    rgb: Any,
    conf: Any = None,
    cameras: Sequence[NDArray[np.float32]] = (),
    *,
    height: str = "480px",
    scripts: bool = True,
) -> str:
    """Return HTML that shows points, to be put into a page; several may be on one page.

    Parameters
    ----------
    xyz
        [n, 3]: x right, y down, z away from the first camera. Positions are stored to a 65535th of the cloud's size.
    rgb
        uint8 [n, 3].
    conf
        [n]: a slider hides the least confident; None for none.
    cameras
        Line segments [k, 2, 3] each.
    height
        CSS height.
    scripts
        Whether `script()` is part of it. A page with several viewers has it once, after the last of them.

    Raises
    ------
    InputError
        No points, values that are not finite, or columns of different lengths.
    """
    points = np.asarray(xyz, np.float64).reshape(-1, 3)
    colours = np.ascontiguousarray(np.asarray(rgb, np.uint8).reshape(-1, 3))
    n = len(points)
    trust = np.ones(n) if conf is None else np.asarray(conf, np.float64).reshape(-1)
    if n == 0 or len(colours) != n or len(trust) != n or not np.isfinite(points).all():
        raise InputError(
            f"view_points: {n} points, {len(colours)} colours, {len(trust)} confidences; pass equally many, finite, at "
            "least one."
        )
    lower, upper = points.min(0), points.max(0)
    size = np.maximum(upper - lower, 1e-9)
    quantised = np.round((points - lower) / size * 65535).astype("<u2")
    # Ranks, not values: confidences have a long tail, and a slider should hide evenly many.
    rank = np.argsort(np.argsort(trust, kind="stable"), kind="stable") / max(1, n - 1)
    packed = quantised.tobytes() + colours.tobytes() + np.round(255 * rank).astype(np.uint8).tobytes()
    segments = (
        np.concatenate([np.asarray(c, "<f4").reshape(-1, 3) for c in cameras])
        if len(cameras)
        else np.zeros((0, 3), "<f4")
    )
    middle = np.median(points, 0)
    reach = float(np.quantile(np.linalg.norm(points - middle, axis=1), 0.9)) or 1.0
    info = {
        "count": n,
        "lower": lower.tolist(),
        "size": size.tolist(),
        "target": middle.tolist(),
        "distance": max(reach, _back(points - middle)),
        "reach": reach,
    }
    return (
        f"<style>{_STYLE}</style>"
        f'<div class="cloud" style="height:{html.escape(height, quote=True)}" '
        f'data-info="{html.escape(json.dumps(info), quote=True)}">'
        f'<canvas tabindex="0" aria-label="Point cloud of {n} points; drag to turn, wheel to zoom"></canvas>'
        '<div class="cloud-bar"><span class="cloud-note">'
        f"{n:,} points: drag turns, shift-drag moves, wheel zooms</span>"
        '<label>size <input class="cloud-size" type="range" min="1" max="8" step="0.5" value="2"></label>'
        '<label>hide doubtful <input class="cloud-least" type="range" min="0" max="1" step="0.01" value="0"></label>'
        '<button class="cloud-reset" type="button">reset</button></div>'
        f'<div class="cloud-data cloud-points">{_text(packed)}</div>'
        f'<div class="cloud-data cloud-lines">{_text(segments.astype("<f4").tobytes())}</div></div>'
        + (f"<script>{script()}</script>" if scripts else "")
    )


def view_points(
    path: str | Path, xyz: Any, rgb: Any, conf: Any = None, cameras: Sequence[Any] = (), *, title: str = "Points"
) -> Path:
    """Write a self-contained page that shows points; see `fragment`. Works from ``file://``, without network."""
    body = fragment(xyz, rgb, conf, cameras, height="100vh")
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title>"
        "<style>body{margin:0}body>.cloud,body>.cloud canvas{border-radius:0}</style></head>"
        f"<body>{body}</body></html>\n"
    )
    write_text(path, page)
    return Path(path)


def view_scene(path: str | Path, scene: Scene, *, min_conf: float = 0.0, max_points: int | None = 400_000) -> Path:
    """Write a page that shows a scene's points and cameras."""
    from .export import frusta

    cloud = scene.cloud(min_conf, max_points)
    return view_points(
        path,
        cloud.xyz,
        cloud.rgb,
        cloud.conf,
        frusta(scene),
        title=f"elinvar: {len(scene)} images, {len(cloud):,} points",
    )
