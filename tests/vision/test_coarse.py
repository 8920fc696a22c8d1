from __future__ import annotations

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.vision import match_coarse_to_fine
from elinvar.vision.coarse import _boxes


class Stand:
    """An engine whose descriptors are the colours around a pixel: matches of a shifted picture are known."""

    resolution = 64

    def prepare(self, image):
        from elinvar.vision.images import Prepared, prepared

        return image if isinstance(image, Prepared) else prepared(image, 64, 16, True)

    def infer(self, one, two):
        return [self.prepare(x) for x in (one, two)]

    def match(self, result, top_k=None, subsample=None):
        from elinvar.vision import match

        rows = []
        for p in result:
            padded = np.pad(p.array.astype(np.float32) - 128, ((1, 1), (1, 1), (0, 0)))
            h, w = p.array.shape[:2]
            x = np.concatenate([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)], -1)
            rows.append(x / np.linalg.norm(x, axis=-1, keepdims=True).clip(1e-6))
        return match(*rows, subsample=subsample, top_k=top_k)


def test_windows_find_what_the_whole_cannot():
    make = np.random.default_rng(0)
    large = make.integers(0, 256, (160, 208, 3), np.uint8)
    one, two = large[:, :192], large[:, 16:]
    found = match_coarse_to_fine(Stand(), one, two, subsample=4, coverage=0.95)
    assert 1 <= len(found.windows) <= 16
    assert len(found) > 50
    shift = found.xy_1 - found.xy_2
    right = (np.abs(shift - [16, 0]) < 0.01).all(1)
    assert right.mean() > 0.6
    assert (np.diff(found.confidence) <= 1e-6).all()
    assert len(match_coarse_to_fine(Stand(), one, two, subsample=4, top_k=7)) == 7


def test_small_pictures_are_matched_as_they_are(engine, images):
    found = match_coarse_to_fine(engine, images[0], images[1])
    assert found.windows == ()


def test_windows_cover_the_picture():
    boxes = _boxes((200, 90), (64, 48), 0.5)
    covered = np.zeros((90, 200), bool)
    for left, top, right, bottom in boxes:
        assert (right - left, bottom - top) == (64, 48)
        covered[top:bottom, left:right] = True
    assert covered.all()
    assert _boxes((30, 20), (64, 48), 0.5) == [(0, 0, 30, 20)]


def test_bad_options(engine, images):
    for options in ({"overlap": 1.0}, {"coverage": 0.0}, {"max_windows": 0}):
        with pytest.raises(InputError, match="match_coarse_to_fine"):
            match_coarse_to_fine(engine, images[0], images[1], **options)
