from __future__ import annotations

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.vision import export_points, preprocess
from elinvar.vision.export import quaternion
from elinvar.vision.geometry import camera_matrix, unproject
from elinvar.vision.scene import Scene, Tracks, View


@pytest.fixture(scope="module")
def scene(shots):
    """Two views cut from larger originals, with points that truly project to their pixels."""
    views = []
    for shot, name in zip(shots[:2], ("left image.png", "right.png"), strict=True):
        large = np.kron(shot.image, np.ones((3, 2, 1), np.uint8))  # 128 x 144
        prepared = preprocess(large, 96)
        height, width = prepared.array.shape[:2]
        K = camera_matrix(80.0, (width / 2, height / 2))
        depth = 2 + np.random.default_rng(0).random((height, width))
        points = unproject(depth, K) @ shot.pose[:3, :3].T + shot.pose[:3, 3]
        conf = np.linspace(1, 3, height * width, dtype=np.float32).reshape(height, width)
        views.append(View(name, shot.pose, K, points.astype(np.float32), conf, prepared))
    tracks = Tracks(np.zeros(5, int), np.arange(5) * 100 + 3000, np.ones(5, int), np.arange(5) * 90 + 3500)
    return Scene(tuple(views), 0.0, tracks)


def test_ply_is_read_back(scene, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    path = scene.export(tmp_path / "a.ply", min_conf=2.0)
    cloud = scene.cloud(2.0)
    again = trimesh.load(path)
    assert np.allclose(again.vertices, cloud.xyz)
    assert np.array_equal(np.asarray(again.colors)[:, :3], cloud.rgb)
    assert b"property float conf" in path.read_bytes()[:400]


def test_glb_is_read_back(scene, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    again = trimesh.load(scene.export(tmp_path / "a.glb", max_points=500))
    clouds = [g for g in again.geometry.values() if isinstance(g, trimesh.PointCloud)]
    paths = [g for g in again.geometry.values() if not isinstance(g, trimesh.PointCloud)]
    assert len(clouds[0].vertices) == 500
    assert len(paths) == 2
    assert np.allclose(clouds[0].vertices * [1, -1, -1], scene.cloud(max_points=500).xyz, atol=1e-5)


def test_npz_holds_everything(scene, tmp_path):
    with np.load(scene.export(tmp_path / "a.npz")) as data:
        assert np.allclose(data["poses"], scene.poses)
        assert np.array_equal(data["points_1"], scene.views[1].points)
        assert np.allclose(data["depth_0"], scene.views[0].depth)
        assert data["depth_0"].min() > 1.9
        assert np.allclose(data["intrinsics_original"][0], scene.views[0].K_original)


def test_points_fall_on_their_original_pixels(scene):
    for view in scene.views:
        height, width = view.conf.shape
        some = np.arange(0, height * width, 71)
        xy = view.prepared.to_original(np.stack([some % width, some // width], 1))
        assert np.abs(view.project(view.points.reshape(-1, 3)[some]) - xy).max() < 0.01
    assert np.isnan(scene.views[0].project(scene.views[0].pose[None, :3, 3] - scene.views[0].pose[:3, 2])).all()


@pytest.mark.parametrize("tracked", [True, False])
def test_colmap_is_read_back(scene, tmp_path, tracked):
    shown = scene if tracked else Scene(scene.views)
    folder = shown.export(tmp_path / "model")
    assert sorted(p.name for p in folder.iterdir()) == ["cameras.txt", "images.txt", "points3D.txt"]
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(str(folder))
    assert len(model.images) == 2
    assert len(model.points3D) == (5 if tracked else 2 * scene.views[0].conf.size)
    for k, view in enumerate(scene.views):
        image = model.images[k + 1]
        assert " " not in image.name
        pose = image.cam_from_world
        matrix = (pose() if callable(pose) else pose).matrix()
        assert np.allclose(matrix[:, :3], view.pose[:3, :3].T, atol=1e-9)
        assert np.allclose(-matrix[:, :3].T @ matrix[:, 3], view.pose[:3, 3], atol=1e-9)
        camera = model.cameras[image.camera_id]
        assert (camera.width, camera.height) == view.prepared.size
        for point in list(image.points2D)[:20]:
            if not tracked:  # a track's point is the mean of both ends
                xyz = model.points3D[point.point3D_id].xyz
                assert np.abs(image.project_point(xyz) - point.xy).max() < 0.5


def test_html_and_unknown(scene, tmp_path):
    page = scene.export(tmp_path / "v.html").read_text()
    assert "left image" in page or "2 images" in page
    with pytest.raises(InputError, match="ends in"):
        scene.export(tmp_path / "a.obj")
    with pytest.raises(InputError, match="confidence 99"):
        scene.export(tmp_path / "b.ply", min_conf=99)
    assert not (tmp_path / "b.ply").exists()


def test_points_alone(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    xyz = np.random.default_rng(0).random((9, 3))
    for name in ("p.ply", "p.glb"):
        export_points(tmp_path / name, xyz, np.full((9, 3), 7, np.uint8))
    assert np.allclose(trimesh.load(tmp_path / "p.ply").vertices, xyz)
    for arguments in (
        (tmp_path / "x.xyz", xyz),
        (tmp_path / "x.ply", xyz[:0]),
        (tmp_path / "x.ply", xyz, np.ones((3, 3))),
    ):
        with pytest.raises(InputError, match="export_points"):
            export_points(*arguments)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.glb", "p.ply"]


def test_quaternions():
    make = np.random.default_rng(0)
    for _ in range(20):
        R, _ = np.linalg.qr(make.standard_normal((3, 3)))
        R *= np.sign(np.linalg.det(R))
        w, x, y, z = quaternion(R)
        back = np.array([
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ])  # fmt: skip
        assert np.allclose(back, R)
        assert w >= 0


def test_a_cloud_has_points(scene):
    assert len(scene.cloud(max_points=7)) == 7
    for few in (0, -1):
        with pytest.raises(InputError, match="max_points"):
            scene.cloud(max_points=few)
    with pytest.raises(InputError, match="ask for less"):
        scene.cloud(99.0)
