from __future__ import annotations

import numpy as np
import pytest
import torch

from elinvar.vision import rendering, rooms


@pytest.fixture(scope="module")
def pairs():
    return rooms.draw_pairs(6, 3, (64, 48), matches=64)


def _first(scenes, origin, ray):
    """Return the nearest distance along one ray, thing by thing, each by the textbook's own equation."""
    s, n, c = scenes.counts
    best = np.inf
    for k in range(s + n + c):
        turn, middle, half = (np.asarray(t[0, k], np.float64) for t in (scenes.turn, scenes.centre, scenes.half))
        o, d = (origin - middle) @ turn, ray @ turn
        found = []
        if k < s:
            found = list(np.roots([d @ d, 2 * o @ d, o @ o - half[0] ** 2]))
        elif k < s + n:
            for axis in range(3):
                for sign in (-1, 1):
                    t = (sign * half[axis] - o[axis]) / d[axis]
                    rest = np.delete(np.abs(o + t * d) - half, axis)
                    found += [t] if (rest <= 0).all() else []
        else:
            flat_o, flat_d = o[[0, 2]], d[[0, 2]]
            sides = np.roots([flat_d @ flat_d, 2 * flat_o @ flat_d, flat_o @ flat_o - half[0] ** 2])
            found = [t for t in sides if np.isreal(t) and abs(o[1] + t.real * d[1]) <= half[1]]
            for sign in (-1, 1):
                t = (sign * half[1] - o[1]) / d[1]
                found += [t] if np.linalg.norm(flat_o + t * flat_d) <= half[0] else []
        ahead = [t.real for t in found if np.isreal(t) and t.real > 0.05]
        best = min([best, *ahead])
    middle, half = (np.asarray(t[0, -1], np.float64) for t in (scenes.centre, scenes.half))
    out = [(sign * half[a] + middle[a] - origin[a]) / ray[a] for a in range(3) for sign in (-1, 1)]
    return min([best, *(t for t in out if t > 0)])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_geometry_is_the_textbooks(seed):
    scenes = rooms.draw_scenes(1, seed)
    one, _, K = rooms.draw_cameras(scenes, (32, 24), seed)
    cameras = rendering.Cameras(one.double(), K.double())
    origin, rays = cameras.rays(32, 24)
    scenes = scenes.to("cpu", torch.float64)
    factor, which = rendering.cast(scenes, origin, rays)
    want = [_first(scenes, origin[0, 0].numpy(), ray) for ray in rays[0].numpy()[::7]]
    assert np.abs(factor[0, ::7].numpy() / want - 1).max() < 1e-6
    assert len(which.unique()) > 2
    # Every point lies on the surface it is said to lie on.
    points = origin + factor[..., None] * rays
    local = torch.einsum("pij,pi->pj", scenes.turn[0][which[0]], points[0] - scenes.centre[0][which[0]])
    unit = (local / scenes.half[0][which[0]]).abs()
    ball, tube = unit.norm(dim=-1), torch.maximum(unit[:, [0, 2]].norm(dim=-1), unit[:, 1])
    s, n, c = scenes.counts
    rod = (which[0] >= s + n) & (which[0] < s + n + c)
    on = torch.where(which[0] < s, ball, torch.where(rod, tube, unit.amax(-1)))
    assert float((on - 1).abs().max()) < 1e-9


def test_single_precision_is_as_good(pairs):
    scenes = rooms.draw_scenes(6, 3)
    exact = rendering.cast(scenes.to("cpu", torch.float64), *(t.double() for t in pairs.cameras[0].rays(64, 48)))[0]
    depth = pairs.points[0].flatten(1, 2)[..., 2]
    off = (depth / exact - 1).abs()
    assert float(off.median()) < 1e-6
    assert float((off > 1e-3).float().mean()) < 2e-3  # outlines


def test_points_are_in_the_first_cameras_frame(pairs):
    first, second = pairs.cameras
    y, x = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    pixel = torch.stack([x, y], -1).flatten(0, 1).float()
    own = rendering.Cameras(torch.eye(4).expand(6, 4, 4), first.K)
    assert float((own.project(pairs.points[0].flatten(1, 2))[0] - pixel).abs().max()) < 0.01
    to_first = torch.linalg.inv(first.pose.double()) @ second.pose.double()
    there = rendering.Cameras(to_first.float(), second.K)
    assert float((there.project(pairs.points[1].flatten(1, 2))[0] - pixel).abs().max()) < 0.01


def test_matches_see_one_point(pairs):
    a, b = (
        torch.take_along_dim(points.flatten(1, 2), pixels[..., None], 1)
        for points, pixels in zip(pairs.points, pairs.pixels, strict=True)
    )
    assert float(pairs.valid.float().mean()) > 0.99
    assert all(len(row.unique()) == 64 for row in pairs.pixels[0])
    apart = (a - b).norm(dim=-1)[pairs.valid] / a.norm(dim=-1)[pairs.valid]
    assert float(apart.median()) < 0.02  # a pixel here is a seventieth of the distance
    one, two = (
        torch.take_along_dim(image.flatten(1, 2).float(), pixels[..., None], 1)
        for image, pixels in zip(pairs.images, pairs.pixels, strict=True)
    )
    shuffled = (one - two.roll(1, 1)).abs()[pairs.valid].mean()
    assert float((one - two).abs()[pairs.valid].mean()) < 0.6 * float(shuffled)


def test_enough_is_seen_by_both():
    many = rooms.draw_pairs(48, 11, (32, 24), matches=256)
    assert float(many.overlap.min()) >= rooms.OVERLAP
    assert 0.45 < float(many.overlap.median()) < 0.9
    # The estimate from a few rays against the share of all matches drawn: seen() on every pixel.
    scenes = rooms.draw_scenes(48, 11)
    points = many.points[0].flatten(1, 2) @ many.cameras[0].pose[:, :3, :3].transpose(1, 2)
    points = points + many.cameras[0].pose[:, None, :3, 3]
    share = rendering.seen(scenes, many.cameras[1], points, (32, 24))[0].float().mean(1)
    assert float((share - many.overlap).abs().max()) < 0.1
    assert float(share.min()) > 0.25
    nearest = torch.stack([points[..., 2].amin((1, 2)) for points in many.points[:1]])
    assert float(nearest.min()) > 0.1


def test_a_seed_is_a_batch(pairs):
    again = rooms.draw_pairs(6, 3, (64, 48), matches=64)
    assert all(torch.equal(a, b) for a, b in zip(pairs.images + pairs.points, again.images + again.points, strict=True))
    other = rooms.draw_pairs(6, 4, (64, 48), matches=64)
    assert not torch.equal(pairs.images[0], other.images[0])


def test_pictures_have_detail(pairs):
    """Neighbouring pixels differ: there is something to match."""
    picture = pairs.images[0].float()
    assert float((picture[:, :, 1:] - picture[:, :, :-1]).abs().mean()) > 4
    assert 60 < float(picture.mean()) < 190
