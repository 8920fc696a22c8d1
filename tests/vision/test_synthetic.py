from __future__ import annotations

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.vision import synthetic


def test_points_project_to_their_pixels(shots):
    for shot in shots:
        inside = shot.points_in(shot)
        assert inside[..., 2].min() > 0
        xy = (inside @ shot.K.T)[..., :2] / inside[..., 2:]
        y, x = np.mgrid[:48, :64]
        assert np.abs(xy - np.stack([x, y], -1)).max() < 1e-9


def test_two_views_see_one_surface(shots):
    """What both see has one colour: the pictures agree where the geometry says they show the same point."""
    one, two = shots[0], shots[1]
    inside = one.points_in(two)
    xy = np.rint((inside @ two.K.T)[..., :2] / inside[..., 2:]).astype(int)
    seen = (inside[..., 2] > 0) & (xy >= 0).all(-1) & (xy < (64, 48)).all(-1)
    other = two.points_in(two)[xy[seen][:, 1], xy[seen][:, 0], 2]
    same = np.abs(inside[seen][:, 2] / other - 1) < 0.01
    assert same.sum() > 800
    difference = np.abs(one.image[seen][same].astype(int) - two.image[xy[seen][same][:, 1], xy[seen][same][:, 0]])
    assert np.median(difference) < 12


def test_seeds(shots):
    again = synthetic.shots(3, 3, (64, 48))
    assert np.array_equal(again[1].image, shots[1].image)
    assert not np.array_equal(synthetic.shots(4, 1, (64, 48))[0].image, shots[0].image)
    with pytest.raises(InputError, match="synthetic"):
        synthetic.shots(0, 0)
