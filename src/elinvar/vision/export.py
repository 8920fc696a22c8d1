"""Writing points and scenes: PLY and GLB (trimesh), npz, COLMAP's text model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError, MissingDependency
from elinvar.runtime.files import atomic_directory, atomic_write

if TYPE_CHECKING:
    from .scene import Cloud, Scene, View

__all__ = ["FORMATS", "export_points", "export_scene", "quaternion"]

FORMATS = ("ply", "glb", "npz", "colmap", "html")
_COLMAP_POINTS = 20_000  # without tracks: points written for each image


def _trimesh() -> Any:
    try:
        import trimesh
    except ImportError as error:
        raise MissingDependency("Writing GLB needs trimesh; install it with `pip install elinvar[vision]`.") from error
    return trimesh


def export_points(path: str | Path, xyz: Any, rgb: Any = None, conf: Any = None) -> Path:
    """Write points to a binary ``.ply`` (with confidence) or a ``.glb``.

    Parameters
    ----------
    path
        The suffix decides.
    xyz
        [n, 3].
    rgb
        uint8 [n, 3]; grey where None.
    conf
        [n]; 1 where None. PLY only.

    Raises
    ------
    InputError
        Another suffix, no points, or columns of different lengths.
    """
    from .scene import Cloud

    points = np.ascontiguousarray(np.asarray(xyz, np.float32).reshape(-1, 3))
    n = len(points)
    colours = np.full((n, 3), 160, np.uint8) if rgb is None else np.asarray(rgb, np.uint8).reshape(-1, 3)
    trust = np.ones(n, np.float32) if conf is None else np.asarray(conf, np.float32).reshape(-1)
    if n == 0 or len(colours) != n or len(trust) != n:
        raise InputError(
            f"export_points: {n} points, {len(colours)} colours, {len(trust)} confidences; they must agree."
        )
    target = Path(path)
    cloud = Cloud(points, colours, trust)
    if target.suffix.lower() == ".ply":
        return _ply(target, cloud)
    if target.suffix.lower() == ".glb":
        return _glb(target, cloud, ())
    raise InputError(f"export_points: {target.name} ends in {target.suffix!r}; use .ply or .glb.")


def _ply(path: Path, cloud: Cloud) -> Path:
    """Write a binary little-endian PLY (Turk, 1994)."""
    kinds = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("conf", "<f4")]
    rows = np.empty(len(cloud), kinds)
    for k, name in enumerate("xyz"):
        rows[name] = cloud.xyz[:, k]
    for k, name in enumerate(("red", "green", "blue")):
        rows[name] = cloud.rgb[:, k]
    rows["conf"] = cloud.conf
    words = {"<f4": "float", "u1": "uchar"}
    lines = ["ply", "format binary_little_endian 1.0", "comment elinvar.vision", f"element vertex {len(rows)}"]
    lines += [f"property {words[kind]} {name}" for name, kind in kinds]
    with atomic_write(path) as temporary:
        temporary.write_bytes(("\n".join([*lines, "end_header"]) + "\n").encode("ascii") + rows.tobytes())
    return path


def _frustum(view: View, size: float) -> NDArray[np.float32]:
    """Return the eight line segments of a camera, [8, 2, 3], in the scene's frame."""
    height, width = view.prepared.array.shape[:2]
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)
    rays = np.concatenate([(corners - view.K[:2, 2]) / view.K[[0, 1], [0, 1]], np.ones((4, 1))], 1) * size
    ends = rays @ view.pose[:3, :3].T + view.pose[:3, 3]
    centre = np.broadcast_to(view.pose[:3, 3], (4, 3))
    sides = np.stack([centre, ends], 1)
    frame = np.stack([ends, np.roll(ends, -1, 0)], 1)
    return np.concatenate([sides, frame]).astype(np.float32)


def frustum_size(scene: Scene) -> float:
    """Return a length for drawn cameras: a twentieth of the median depth."""
    depths = np.concatenate([view.depth.reshape(-1)[::101] for view in scene.views])
    usable = depths[np.isfinite(depths) & (depths > 0)]
    return 0.05 * float(np.median(usable)) if len(usable) else 0.1


def frusta(scene: Scene) -> list[NDArray[np.float32]]:
    """Return every camera as line segments [8, 2, 3]."""
    size = frustum_size(scene)
    return [_frustum(view, size) for view in scene.views]


def _glb(path: Path, cloud: Cloud, cameras: Any) -> Path:
    trimesh = _trimesh()
    # glTF's y points up and its z to the viewer; ours are down and away.
    turn = np.array([1.0, -1.0, -1.0], np.float32)
    colours = np.concatenate([cloud.rgb, np.full((len(cloud), 1), 255, np.uint8)], 1)
    shown = trimesh.Scene([trimesh.PointCloud(cloud.xyz * turn, colors=colours)])
    for k, segments in enumerate(cameras):
        shown.add_geometry(trimesh.load_path(segments * turn), geom_name=f"camera_{k}")
    body = shown.export(file_type="glb")
    with atomic_write(path) as temporary:
        temporary.write_bytes(body)
    return path


def _npz(path: Path, scene: Scene) -> Path:
    columns: dict[str, Any] = {
        "names": np.array([view.name for view in scene.views]),
        "poses": scene.poses,
        "intrinsics": np.stack([view.K for view in scene.views]),
        "intrinsics_original": np.stack([view.K_original for view in scene.views]),
        "sizes_original": np.array([view.prepared.size for view in scene.views]),
        "scale": np.array([view.prepared.scale for view in scene.views]),
        "crop": np.array([view.prepared.crop for view in scene.views]),
    }
    for k, view in enumerate(scene.views):
        columns |= {f"points_{k}": view.points, f"conf_{k}": view.conf, f"image_{k}": view.prepared.array}
        columns[f"depth_{k}"] = view.depth
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **columns)
    return path


def quaternion(R: Any) -> NDArray[np.float64]:
    """Return (w, x, y, z) of a rotation matrix, w >= 0 (Shepperd, 1978)."""
    m = np.asarray(R, np.float64)
    diagonal = np.array([np.trace(m), *np.diag(m)])
    k = int(diagonal.argmax())
    square = np.empty(4)
    square[0] = 1 + diagonal[0]
    square[1:] = 1 + 2 * np.diag(m) - diagonal[0]
    if k == 0:
        q = np.array([square[0], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    else:
        i = k - 1
        j, n = (i + 1) % 3, (i + 2) % 3
        q = np.empty(4)
        q[0], q[1 + i] = m[n, j] - m[j, n], square[k]
        q[1 + j], q[1 + n] = m[j, i] + m[i, j], m[n, i] + m[i, n]
    q = q / np.linalg.norm(q)
    return np.asarray(q if q[0] >= 0 else -q)


def _observations(scene: Scene, min_conf: float) -> list[list[tuple[int, int]]]:
    """Return the points to write, each a list of (image, flat pixel): tracks, or single pixels without them."""
    out: list[list[tuple[int, int]]] = []
    usable = [(np.isfinite(v.points).all(-1) & (v.conf >= min_conf)).reshape(-1) for v in scene.views]
    if scene.tracks is not None:
        t = scene.tracks
        for i, a, j, b in zip(t.image_1, t.pixel_1, t.image_2, t.pixel_2, strict=True):
            if usable[i][a] and usable[j][b]:
                out.append([(int(i), int(a)), (int(j), int(b))])
        return out
    for k, good in enumerate(usable):
        where = np.flatnonzero(good)
        some = where[np.linspace(0, len(where) - 1, min(_COLMAP_POINTS, len(where))).astype(np.int64)]
        out += [[(k, int(pixel))] for pixel in some]
    return out


def _colmap(path: Path, scene: Scene, min_conf: float) -> Path:
    """Write cameras.txt, images.txt and points3D.txt in the original pictures' pixels (COLMAP's text format)."""
    points = _observations(scene, min_conf)
    seen: list[list[tuple[float, float, int]]] = [[] for _ in scene.views]
    rows = ["# POINT3D_ID X Y Z R G B ERROR TRACK[] as (IMAGE_ID POINT2D_IDX)"]
    for number, track in enumerate(points, 1):
        places = []
        xyz = np.mean([scene.views[k].points.reshape(-1, 3)[p] for k, p in track], 0)
        first, pixel = track[0]
        rgb = scene.views[first].prepared.array.reshape(-1, 3)[pixel]
        for k, p in track:
            view = scene.views[k]
            width = view.prepared.array.shape[1]
            x, y = view.prepared.to_original([p % width, p // width])
            places.append(f"{k + 1} {len(seen[k])}")
            seen[k].append((x + 0.5, y + 0.5, number))  # COLMAP's first pixel has its centre at (0.5, 0.5)
        position = " ".join(f"{v:.9g}" for v in xyz)
        rows.append(f"{number} {position} {rgb[0]} {rgb[1]} {rgb[2]} 0 {' '.join(places)}")
    cameras = ["# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[] (fx fy cx cy)"]
    images = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then POINTS2D[] as (X Y POINT3D_ID)"]
    for k, view in enumerate(scene.views):
        K = view.K_original
        width, height = view.prepared.size
        parameters = f"{K[0, 0]:.12g} {K[1, 1]:.12g} {K[0, 2] + 0.5:.12g} {K[1, 2] + 0.5:.12g}"
        cameras.append(f"{k + 1} PINHOLE {width} {height} {parameters}")
        R = view.pose[:3, :3].T
        t = -R @ view.pose[:3, 3]
        numbers = " ".join(f"{v:.12g}" for v in (*quaternion(R), *t))
        images.append(f"{k + 1} {numbers} {k + 1} {view.name.replace(' ', '_')}")
        images.append(" ".join(f"{x:.6f} {y:.6f} {number}" for x, y, number in seen[k]))
    with atomic_directory(path) as folder:
        for name, lines in (("cameras", cameras), ("images", images), ("points3D", rows)):
            (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def export_scene(scene: Scene, path: Path, *, min_conf: float = 0.0, max_points: int | None = None) -> Path:
    """Write a scene; see `Scene.export`."""
    suffix = path.suffix.lower()
    if suffix == "":
        return _colmap(path, scene, min_conf)
    if suffix == ".npz":
        return _npz(path, scene)
    if suffix == ".html":
        from .viewer import view_scene

        return view_scene(path, scene, min_conf=min_conf, max_points=max_points or 400_000)
    if suffix in (".ply", ".glb"):
        cloud = scene.cloud(min_conf, max_points)
        return _ply(path, cloud) if suffix == ".ply" else _glb(path, cloud, frusta(scene))
    raise InputError(f"export: {path.name} ends in {suffix!r}; use {', '.join(FORMATS)} (a folder name for COLMAP).")
