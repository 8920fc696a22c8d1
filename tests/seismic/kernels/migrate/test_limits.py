"""The limits beside the radius, by what they mean rather than by their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from elinvar.errors import InputError
from elinvar.seismic.kernels.migrate import Limits
from elinvar.seismic.kernels.migrate.limits import limited

T0 = torch.tensor([0.4, 0.8, 1.6], dtype=torch.float64)
V = torch.full((3,), 2500.0, dtype=torch.float64)  # depths 500, 1000, 2000 m
ORIGIN = torch.zeros(2, dtype=torch.float64)


def ends(*pairs):
    """Sources and receivers from (sx, sy, rx, ry)."""
    both = torch.tensor(pairs, dtype=torch.float64)
    return both[:, :2], both[:, 2:]


def found(limits, *pairs):
    inside, weight = limited(limits, *ends(*pairs), ORIGIN, V, T0)
    return inside.tolist(), weight.tolist()


def test_each_axis_has_its_own_limit():
    limits = Limits(x=300.0, y=100.0, taper=0.5)
    inside, weight = found(limits, (300, 0, 300, 0), (301, 0, 301, 0), (0, 50, 0, 100), (0, 101, 0, 101), (9, 0, -9, 0))
    assert [row[0] for row in inside] == [True, False, True, False, True]
    assert [row[0] for row in weight] == pytest.approx([0, 0, 0.5, 0, 1])
    both = limited(limits, *ends((225, 75, 225, 75)), ORIGIN, V, T0)[1]
    assert both[0, 0] == pytest.approx(0.25)  # the weights multiply


def test_no_leg_is_steeper_than_its_limit():
    # 45 degrees: a leg to 1000 m depth reaches 1000 m.
    limits = Limits(tan_leg=1.0)
    inside, _ = found(limits, (-1000, 0, 1000, 0), (0, 0, 1001, 0), (0, 1001, 0, 0), (0, 0, 0, 0))
    assert inside == [[False, True, True], [False, False, True], [False, False, True], [True, True, True]]
    shallow, _ = found(Limits(tan_leg=1.0, minimum=600.0), (-600, 0, 0, 0), (601, 0, 0, 0))
    assert shallow == [[True, True, True], [False, True, True]]


def test_the_stretch_of_a_horizontal_reflector_is_that_of_normal_moveout():
    for offset in (300.0, 1200.0, 2500.0):
        t = torch.sqrt(T0**2 + (offset / V) ** 2)
        for i, ratio in enumerate((t / T0).tolist()):
            for limit, known in ((ratio * 1.0001, True), (ratio * 0.9999, False)):
                if limit > 1:
                    inside, _ = found(Limits(stretch=limit), (-offset / 2, 0, offset / 2, 0))
                    assert inside[0][i] is known


def test_zero_offset_is_never_stretched_however_steep():
    inside, weight = found(Limits(stretch=1.01, taper=1.0), (5000, 300, 5000, 300))
    assert all(inside[0])
    assert weight[0] == pytest.approx([1, 1, 1])


def test_a_rim_is_half_a_cosine():
    # Half the angle between the legs is 36.87 degrees: a stretch of 1.25, in the middle of the rim of 1 to 1.3333.
    middle = 1 / math.cos(math.atan(0.75))
    limits = Limits(stretch=1 + (middle - 1) / 0.75, taper=0.5)
    _, weight = found(limits, (-750, 0, 750, 0))
    assert weight[0][1] == pytest.approx(0.5)
    assert weight[0][2] == pytest.approx(1)
    assert found(limits, (-750, 0, 750, 0))[0][0] == [False, True, True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"x": 0.0}, "x is 0"),
        ({"tan_leg": -1.0}, "tan_leg is -1"),
        ({"y": math.nan}, "y is nan"),
        ({"stretch": 1.0}, "stretch is 1"),
        ({"taper": 2.0}, "taper 2"),
        ({"minimum": -1.0}, "minimum -1"),
    ],
)
def test_wrong_limits_are_named(options, words):
    with pytest.raises(InputError, match=words):
        Limits(**options)
