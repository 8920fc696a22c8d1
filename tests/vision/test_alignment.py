from __future__ import annotations

import numpy as np
import pytest
import torch

from elinvar.errors import InputError, StaleLease
from elinvar.vision import align, synthetic
from elinvar.vision.alignment import PairPoints
from elinvar.vision.geometry import rigid_inverse, similarity
from elinvar.vision.images import prepared


@pytest.fixture(scope="module")
def four():
    return synthetic.shots(7, 4, (96, 80))


def ready(shots):
    return [prepared(shot.image, 96, 16, False) for shot in shots]


def pair(shots, i, j, noise=0.0, scale=1.0, trust=2.0, seed=0):
    make = np.random.default_rng([seed, i, j])

    def spoiled(points):
        return (points * scale * (1 + noise * make.standard_normal((*points.shape[:2], 1)))).astype(np.float32)

    conf = np.full(shots[i].points.shape[:2], trust, np.float32)
    return PairPoints(i, j, spoiled(shots[i].points_in(shots[i])), spoiled(shots[j].points_in(shots[i])), conf, conf)


def errors(scene, shots):
    """Camera positions (metres) and directions (degrees) after the best similarity."""
    true = np.stack([shot.pose for shot in shots])
    scale, R, t = similarity(scene.poses[:, :3, 3], true[:, :3, 3])
    place = np.linalg.norm(scale * scene.poses[:, :3, 3] @ R.T + t - true[:, :3, 3], axis=1)
    turn = [np.degrees(np.arccos(np.clip((np.trace((R @ a[:3, :3]).T @ b[:3, :3]) - 1) / 2, -1, 1)))
            for a, b in zip(scene.poses, true, strict=True)]  # fmt: skip
    return place.max(), max(turn)


def test_a_chain_with_different_scales(four):
    pairs = [pair(four, 0, 1, scale=0.5), pair(four, 2, 1, scale=3.0), pair(four, 2, 3, scale=1.4)]
    scene = align(pairs, ready(four), iterations=0)
    place, turn = errors(scene, four)
    assert place < 1e-3
    assert turn < 0.05
    assert scene.focals == pytest.approx([shot.K[0, 0] for shot in four], rel=1e-3)
    for view, shot in zip(scene.views, four, strict=True):
        a, b = view.points.reshape(-1, 3)[::37], shot.points.reshape(-1, 3)[::37]
        scale, R, t = similarity(a, b)
        assert np.abs(scale * a @ R.T + t - b).max() < 0.01


def test_refinement_helps_where_pairs_disagree(four):
    pairs = [pair(four, i, j, noise=0.03, scale=1 + 0.3 * i, trust=2.0 + j) for i in range(4) for j in range(i + 1, 4)]
    # A pair that is bent: the tree would believe it, the others overrule it.
    bent = pair(four, 0, 3, trust=9.0)
    tilt = rigid_inverse(four[0].pose) @ four[3].pose
    tilt[:3, 3] += [0.3, 0.0, 0.0]
    points = four[3].points_in(four[3]) @ tilt[:3, :3].T + tilt[:3, 3]
    pairs = [p for p in pairs if (p.i, p.j) != (0, 3)]
    pairs.append(PairPoints(0, 3, bent.points_1, points.astype(np.float32), bent.conf_1, bent.conf_2))
    rough, fine = (align(pairs, ready(four), iterations=n) for n in (0, 60))
    assert fine.residual < rough.residual
    assert errors(fine, four)[0] < 0.7 * errors(rough, four)[0]


@pytest.mark.parametrize("where", [900.0, -8.0, float("nan")])
def test_a_refinement_that_runs_away_is_undone(four, monkeypatch, caplog, where):
    class Away:
        def __init__(self, unknown, **_):
            self.unknown = unknown

        def zero_grad(self):
            pass

        def step(self, _):
            with torch.no_grad():
                for t in self.unknown:
                    t.fill_(where)

    pairs = [pair(four, 0, 1, noise=0.01, scale=0.5), pair(four, 1, 2, noise=0.01), pair(four, 2, 3, noise=0.01)]
    want = align(pairs, ready(four), iterations=0)
    monkeypatch.setattr(torch.optim, "LBFGS", Away)
    scene = align(pairs, ready(four))
    assert "contradict" in caplog.text
    assert np.array_equal(scene.poses, want.poses)
    assert np.array_equal(scene.focals, want.focals)
    assert scene.residual == want.residual


def test_given_cameras_and_poses_are_kept(four):
    pairs = [pair(four, 0, 1, noise=0.01), pair(four, 1, 2, noise=0.01), pair(four, 2, 3, noise=0.01)]
    K, poses = four[0].K, np.stack([shot.pose for shot in four])
    scene = align(pairs, ready(four), intrinsics=K, poses=poses, names=list("abcd"), iterations=30)
    assert np.allclose(scene.poses, poses)
    assert np.allclose([view.K for view in scene.views], K)
    assert [view.name for view in scene.views] == list("abcd")
    wrong = [
        np.median(np.linalg.norm(v.points - s.points, axis=-1) / v.depth)
        for v, s in zip(scene.views, four, strict=True)
    ]
    assert max(wrong) < 0.03


def test_what_cannot_be_aligned(four):
    images = ready(four)
    with pytest.raises(InputError, match=r"image\(s\) \[2, 3\]"):
        align([pair(four, 0, 1)], images)
    with pytest.raises(InputError, match="no images or no pairs"):
        align([], images)
    two = [pair(four, 0, 1)]
    for options, message in (
        ({"intrinsics": np.eye(4)}, "intrinsics"),
        ({"intrinsics": np.zeros((3, 3))}, "focal lengths above 0"),
        ({"intrinsics": np.full((2, 3, 3), np.nan)}, "finite"),
        ({"poses": np.stack([np.eye(4)] * 2)}, "one place"),
        ({"poses": np.zeros((2, 4, 4))}, "no rotation"),
        ({"poses": np.stack([np.diag([1.0, 1, -1, 1])] * 2)}, "no rotation"),
        ({"poses": np.zeros((3, 4, 4))}, "poses"),
        ({"names": ["a"]}, "names"),
        ({"intrinsics": "left.json"}, "intrinsics are no matrices"),
        ({"intrinsics": {"K": 1}}, "intrinsics are no matrices"),
        ({"poses": [[1], [2, 3]]}, "poses are no matrices"),
    ):
        with pytest.raises(InputError, match=message):
            align(two, images[:2], **options)
    nothing = pair(four, 0, 1)
    nothing.points_2[:] = np.nan
    with pytest.raises(InputError, match="no finite point"):
        align([nothing], images[:2])


def test_through_the_engine(engine, images, shots, monkeypatch):
    """What `align` reads from an engine's results, with the answers of random weights replaced by the truth."""
    from elinvar.vision import alignment

    pairs = engine.infer_pairs(images)
    read = alignment._read(pairs, matched=True)
    assert [(p.i, p.j) for p in read] == pairs.indices
    assert read[0].points_2.shape == (48, 64, 3)
    assert len(read[0].matches[0]) == len(read[0].matches[1])

    def true(p):
        points = [shots[k].points_in(shots[p.i]).astype(np.float32) for k in (p.i, p.j)]
        return PairPoints(p.i, p.j, *points, np.ones((48, 64)), np.ones((48, 64)), p.matches)

    monkeypatch.setattr(alignment, "_read", lambda *_: [true(p) for p in read])
    scene = align(pairs, iterations=2)
    assert len(scene) == 3
    assert len(scene.tracks.image_1) == sum(len(p.matches[0]) for p in read)


@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_that_are_read_in_passing_are_not_kept(engine, images, batch, monkeypatch):
    from elinvar.vision import alignment

    pairs = engine.infer_pairs(images, "complete", batch=batch)
    kept = pairs[0].conf_1.numpy().copy()
    ran = []
    head = type(engine._runner()).head
    monkeypatch.setattr(type(engine._runner()), "head", lambda self, *a: ran.append(a[:2]) or head(self, *a))
    read = alignment._read(pairs, matched=True)
    assert len(ran) == (4 * len(pairs) - 1 if batch == 1 else 3)  # once per batch, without the one that had run
    assert pairs[0].heads_run == ("dense_1",)
    assert np.array_equal(pairs[0].conf_1.numpy(), kept)
    assert np.array_equal(read[2].points_2, pairs[2].pts3d_2.numpy())  # computed again
    pairs[0].compute()
    assert len(pairs[0].heads_run) == 4
    alignment._read(pairs, matched=True)
    assert len(pairs[0].heads_run) == 4  # what the caller asked for stays


def test_released_pairs_cannot_be_aligned(engine, images):
    pairs = engine.infer_pairs(images)
    pairs[1].release()
    with pytest.raises(StaleLease, match="released"):
        align(pairs)
