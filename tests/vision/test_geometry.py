from __future__ import annotations

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.vision import focal, relative_pose
from elinvar.vision.geometry import camera_matrix, pixel_grid, rigid_inverse, similarity, unproject


@pytest.fixture
def motorcycle(reference_data):
    """Points of the left image (mm), its camera, and the right image's camera and pixels: Middlebury's ground truth."""
    disparity = np.load(reference_data("vision/motorcycle/motorcycle_disp.npz"))["arr_0"].astype(np.float64)
    f, cx, cy, shift, baseline = 3979.911 / 4, 1244.772 / 4, 1019.507 / 4, 124.343 / 4, 193.001
    known = np.isfinite(disparity) & (disparity > 0)
    depth = np.where(known, baseline * f / (disparity + shift), np.nan)
    points = unproject(depth, camera_matrix(f, (cx, cy)))
    pixels = pixel_grid(*depth.shape)
    pixels[..., 0] -= disparity
    return points, pixels, known, f, (cx, cy), camera_matrix(f, (cx + shift, cy))


def test_focal_of_the_motorcycle(motorcycle):
    points, _, _, f, centre, _ = motorcycle
    assert focal(points, centre) == pytest.approx(f, abs=0.1)


def test_baseline_of_the_motorcycle(motorcycle):
    points, pixels, known, _, _, camera = motorcycle
    some = np.flatnonzero(known.ravel())[::50]
    pose = relative_pose(points.reshape(-1, 3)[some], np.rint(pixels.reshape(-1, 2)[some]), camera)
    assert np.linalg.norm(pose.t) == pytest.approx(193.0, abs=0.2)
    assert np.allclose(pose.R, np.eye(3), atol=1e-3)


def test_focal_ignores_wrong_points(shots):
    shot = shots[0]
    points = shot.points_in(shot)
    assert focal(points) == pytest.approx(shot.K[0, 0], abs=1e-6)
    make = np.random.default_rng(0)
    wrong = points + (make.random(points.shape[:2]) < 0.3)[..., None] * make.standard_normal(points.shape)
    wrong[0, 0] = np.nan
    assert focal(wrong) == pytest.approx(shot.K[0, 0], rel=5e-3)
    weights = np.ones(points.shape[:2])
    weights[:24] = 0
    assert focal(points, weights=weights) == pytest.approx(shot.K[0, 0], abs=1e-6)
    for bad in (np.full((4, 4, 3), np.nan), points * [1, 1, -1], points * [-1, -1, 1], np.zeros((3, 3))):
        with pytest.raises(InputError):
            focal(bad)


def test_pose_with_outliers(shots):
    one, two = shots[0], shots[1]
    make = np.random.default_rng(0)
    pixels = pixel_grid(48, 64).reshape(-1, 2)
    pixels[make.random(len(pixels)) < 0.3] += 15
    pose = relative_pose(two.points_in(one).reshape(-1, 3), pixels, two.K)
    true = rigid_inverse(one.pose) @ two.pose
    assert np.allclose(pose.matrix, true, atol=1e-6)
    assert 0.6 < pose.inliers.mean() < 0.8
    assert pose.rms < 1e-3
    assert np.allclose(pose.matrix, relative_pose(two.points_in(one).reshape(-1, 3), pixels, two.K).matrix)


def test_bad_poses():
    points, pixels = np.random.default_rng(0).random((9, 3)), np.random.default_rng(1).random((9, 2))
    K = camera_matrix(100.0, (50, 50))
    for arguments in (
        (points[:3], pixels[:3], K),
        (points, pixels[:8], K),
        (points, pixels, np.eye(4)),
        (np.full((9, 3), np.nan), pixels, K),
        (points[:, :2], pixels, K),
    ):
        with pytest.raises(InputError):
            relative_pose(*arguments)
    with pytest.raises(InputError, match="focal length"):
        camera_matrix(0.0, (1, 1))


def test_similarity_is_recovered():
    make = np.random.default_rng(0)
    a = make.standard_normal((40, 3))
    R, _ = np.linalg.qr(make.standard_normal((3, 3)))
    R *= np.sign(np.linalg.det(R))
    b = 2.5 * a @ R.T + [1, 2, 3]
    b[0] += 50
    weights = np.ones(40)
    weights[0] = 0
    scale, rotation, shift = similarity(a, b, weights)
    assert scale == pytest.approx(2.5)
    assert np.allclose(rotation, R)
    assert np.allclose(shift, [1, 2, 3])
    mirrored = similarity(a, a * [1, 1, -1])[1]
    assert np.linalg.det(mirrored) == pytest.approx(1.0)
    for bad in (a[:2], np.zeros((5, 3))):
        with pytest.raises(InputError, match="similarity"):
            similarity(bad, bad)
