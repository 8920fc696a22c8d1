from __future__ import annotations

import numpy as np
import pytest
import torch

from elinvar.errors import InputError
from elinvar.vision import match


def descriptors(seed, *size, width=8):
    x = np.random.default_rng(seed).standard_normal((*size, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def brute(one, two):
    s = one.reshape(-1, one.shape[-1]) @ two.reshape(-1, two.shape[-1]).T
    there, back = s.argmax(1), s.argmax(0)
    return {(int(i), int(there[i])) for i in range(len(s)) if back[there[i]] == i}, s


@pytest.fixture
def pair():
    one = descriptors(0, 14, 18)
    two = descriptors(1, 11, 23)
    make = np.random.default_rng(2)
    flat, other = one.reshape(-1, 8), two.reshape(-1, 8)
    for k in make.choice(len(other), 120, replace=False):  # half of image 2 is seen in image 1, with noise
        other[k] = flat[make.integers(len(flat))] + 0.05 * make.standard_normal(8)
    return one, (two / np.linalg.norm(two, axis=-1, keepdims=True)).astype(np.float32)


def test_exact_matches_equal_brute_force(pair):
    want, s = brute(*pair)
    found = match(*pair)
    assert {(int(i), int(j)) for i, j in zip(found.idx_1, found.idx_2, strict=True)} == want
    assert np.allclose(found.similarity, s[found.idx_1, found.idx_2], atol=1e-6)
    assert (np.diff(found.confidence) <= 0).all()
    assert np.array_equal(found.xy_1, np.stack([found.idx_1 % 18, found.idx_1 // 18], 1))
    assert np.array_equal(found.xy_2, np.stack([found.idx_2 % 23, found.idx_2 // 23], 1))
    assert found.pts3d_1 is None


@pytest.mark.parametrize("step", [1, 3, 8])
def test_seeded_matches_are_the_fixed_points(pair, step):
    want, s = brute(*pair)
    there, back = s.argmax(1), s.argmax(0)
    seeds = [y * 18 + x for y in range(step // 2, 14, step) for x in range(step // 2, 18, step)]
    settled = set()
    for here in seeds:
        for _ in range(10):
            new = int(back[there[here]])
            if new == here:
                settled.add((here, int(there[here])))
                break
            here = new
    found = match(*pair, subsample=step)
    pairs = {(int(i), int(j)) for i, j in zip(found.idx_1, found.idx_2, strict=True)}
    assert pairs == settled
    assert pairs <= want
    assert len(pairs) == len(found)


def test_one_sided(pair):
    _, s = brute(*pair)
    found = match(*pair, reciprocal=False)
    order = np.argsort(found.idx_1)
    assert np.array_equal(found.idx_2[order], s.argmax(1))
    assert len(match(*pair, reciprocal=False, subsample=4)) == 3 * 4


def test_top_k_threshold_confidence_and_points(pair):
    make = np.random.default_rng(3)
    conf = [make.uniform(0, 5, x.shape[:2]).astype(np.float32) for x in pair]
    points = [make.standard_normal((*x.shape[:2], 3)).astype(np.float32) for x in pair]
    everything = match(*pair, conf_1=conf[0], conf_2=conf[1], pts3d_1=points[0], pts3d_2=points[1])
    weaker = np.minimum(conf[0].ravel()[everything.idx_1], conf[1].ravel()[everything.idx_2])
    assert np.array_equal(everything.confidence, weaker)
    assert np.array_equal(everything.pts3d_2, points[1].reshape(-1, 3)[everything.idx_2])
    some = match(*pair, conf_1=conf[0], conf_2=conf[1], top_k=7)
    assert np.array_equal(some.idx_1, everything.idx_1[:7])
    strict = match(*pair, conf_1=conf[0], conf_2=conf[1], threshold=2.0)
    assert len(strict) == (everything.confidence >= 2.0).sum() > 0
    assert len(match(*pair, threshold=2.0)) == 0  # no similarity exceeds one


def test_equal_descriptors_do_not_multiply_matches():
    same = np.tile(descriptors(0, 1, 1), (4, 4, 1))
    assert len(match(same, same)) == 1
    assert len(match(same, same, subsample=2)) == 1


def test_flat_lists_lazy_results_and_batches(pair, engine, images):
    one, two = pair
    want = match(one, two)
    flat = match(one.reshape(-1, 8), torch.from_numpy(two.reshape(-1, 8)))
    assert np.array_equal(flat.idx_1, want.idx_1)
    assert np.array_equal(match(one[None], two[None]).idx_2, want.idx_2)
    result = engine.infer(images[0], images[1])
    direct = match(result.desc_1, result.desc_2, top_k=5)
    through = engine.match(result, top_k=5)
    assert np.array_equal(direct.idx_1, through.idx_1)
    assert through.pts3d_1 is None
    assert result.heads_run == ("local_1", "local_2")
    result.compute()
    assert engine.match(result, top_k=5).pts3d_1.shape == (5, 3)
    assert len(engine.match(result, top_k=None, confidence_threshold=1e9)) == 0


def test_nonsense_is_refused(pair):
    one, two = pair
    broken = one.copy()
    broken[3, 3, 3] = np.nan
    cases = [
        ((broken, two), {}, "not finite"),
        ((one, two[..., :4]), {}, "channels"),
        ((one[0, 0], two), {}, "desc_1"),
        ((one[:0], two), {}, "desc_1"),
        ((one.astype(np.int64), two), {}, "desc_1"),
        ((one, two), {"top_k": 0}, "top_k"),
        ((one, two), {"subsample": 0}, "subsample"),
        ((one, two), {"conf_1": np.ones((14, 18))}, "one image only"),
        ((one, two), {"conf_1": np.ones(3), "conf_2": np.ones(3)}, "conf_1"),
        ((one, two), {"pts3d_1": np.ones((14, 18))}, "pts3d_1"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(InputError, match=message):
            match(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 1.5}, "top_k=1.5"),
        ({"top_k": True}, "top_k=True"),
        ({"subsample": 2.0}, "subsample=2.0"),
        ({"threshold": float("nan")}, "not a number"),
    ],
)
def test_options_of_the_wrong_kind(pair, options, message):
    with pytest.raises(InputError, match=message):
        match(*pair, **options)
    assert len(match(*pair, top_k=np.int64(3))) == 3


def test_what_holds_no_numbers(pair, engine):
    for nothing in (None, "left.png", [[None]]):
        with pytest.raises(InputError, match="array or tensor of numbers"):
            match(nothing, pair[1])
        with pytest.raises(InputError, match="pass what Engine"):
            engine.match(nothing)
