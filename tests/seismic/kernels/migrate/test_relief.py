"""Legs that begin above or below the datum, against closed forms and ray tracing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from elinvar.errors import InputError
from elinvar.seismic.kernels.migrate import Relief
from elinvar.seismic.kernels.migrate.physics import leg
from elinvar.seismic.kernels.migrate.relief import layer, raised_leg

H = torch.tensor([0.0, 150.0, 900.0, 2500.0], dtype=torch.float64)[:, None]
T0 = torch.tensor([0.0, 0.3, 0.8, 2.0], dtype=torch.float64)


def legs(above, v, *, replacement=None, physics="straight", medium=None, eta=None, h=H, t0=T0):
    up = torch.full_like(h, float(above))
    speed = torch.as_tensor(v, dtype=torch.float64).expand(len(t0))
    bent = None if eta is None else torch.full_like(t0, eta)
    return raised_leg(physics, h.square(), up, layer(up, replacement, medium), t0, speed, medium, bent)


@pytest.mark.parametrize("above", [-150.0, 0.0, 80.0, 700.0])
def test_in_a_constant_velocity_the_leg_is_exact(above):
    v = 2500.0
    z = 0.5 * v * T0
    known = torch.sqrt(H.square() + (z + above).square()) / v
    found = legs(above, v, replacement=v)
    there = (z + above > 0).expand_as(known) if above else torch.ones_like(known, dtype=torch.bool)
    assert torch.isnan(found[~there]).all()  # no leg to points above the end
    torch.testing.assert_close(found[there], known[there], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("physics", ["straight", "vti"])
def test_on_the_datum_a_leg_is_what_it_was(physics):
    eta = 0.12 if physics == "vti" else None
    bent = None if eta is None else torch.full_like(T0, eta)
    known = leg(physics, H.square(), T0, torch.tensor(2300.0).double().expand(4), None, bent)
    torch.testing.assert_close(legs(0.0, 2300.0, replacement=900.0, physics=physics, eta=eta), known)
    curved = leg("curved", H.square(), T0, torch.tensor(2300.0).double(), (1900.0, 0.6), None)
    torch.testing.assert_close(legs(0.0, 2300.0, physics="curved", medium=(1900.0, 0.6)), curved)


@pytest.mark.parametrize("k", [0.6, -0.2])
@pytest.mark.parametrize("above", [-200.0, 300.0])
def test_curved_rays_go_on_in_their_medium(k, above):
    """The same point seen from a datum moved to the end: there the leg is the ordinary one, in v0 - k above + k z."""
    v0 = 2000.0
    z = v0 / k * torch.expm1(k * T0 / 2)
    v1 = v0 - k * above
    moved = 2 / k * torch.log((v0 + k * z) / v1)  # two-way time from the end's own level
    known = leg("curved", H.square(), moved, torch.tensor(v1), (v1, k), None)
    found = legs(above, 2000.0, physics="curved", medium=(v0, k))
    there = (z + above >= 0).expand_as(found)
    torch.testing.assert_close(found[there], known[there], rtol=1e-11, atol=1e-13)
    assert torch.isnan(found[~there]).all()
    straight = legs(above, v0, physics="curved", medium=(v0, 0.0))
    torch.testing.assert_close(straight[:, 2:], legs(above, v0, replacement=v0)[:, 2:])


def snell(h, layers):
    """Time of the ray that reaches h through (thickness, velocity) layers, by bisection on its parameter."""
    low, high = 0.0, (1 - 1e-12) / max(v for _, v in layers)
    for _ in range(200):
        p = 0.5 * (low + high)
        reach = sum(d * p * v / math.sqrt(1 - (p * v) ** 2) for d, v in layers)
        low, high = (p, high) if reach < h else (low, p)
    return sum(d / (v * math.sqrt(1 - (p * v) ** 2)) for d, v in layers)


def test_through_another_layer_it_is_as_good_as_a_straight_ray_is():
    """2500 m/s under a replacement layer of 1500 m/s, against Snell's law."""
    t0, above, v, slow = 1.2, 120.0, 2500.0, 1500.0
    deep = 0.5 * v * t0
    for h, error in ((50.0, 1e-6), (500.0, 6e-5), (1200.0, 1.2e-3)):
        known = snell(h, [(above, slow), (deep, v)])
        found = float(legs(above, v, replacement=slow, h=torch.tensor([[h]]).double(), t0=torch.tensor([t0]).double()))
        assert found == pytest.approx(known, rel=error)
        vertical = math.hypot(deep, h) / v + above / slow  # what statics assume
        if h > 100:
            assert abs(found - known) < 0.2 * abs(vertical - known)


def test_effective_eta_is_that_of_the_whole_column():
    """A VTI layer under an isotropic one: removing that layer again gives the leg through the VTI layer alone."""
    above, slow = 150.0, 1500.0
    up = torch.tensor([[above]], dtype=torch.float64)
    t0, v, eta = torch.tensor([1.0]).double(), torch.tensor([2400.0]).double(), torch.tensor([0.1]).double()
    add = layer(up, slow, None)
    tau = t0 / 2 + add.time
    second = v**2 * t0 / 2 + add.second
    whole = ((1 + 8 * eta) * v**4 * t0 / 2 + add.fourth) * tau / second**2
    column = ((2 * tau).ravel(), (second / tau).sqrt().ravel(), ((whole - 1) / 8).ravel())
    h2 = torch.tensor([[800.0**2]], dtype=torch.float64)
    down = raised_leg("vti", h2, -up, layer(-up, slow, None), column[0], column[1], None, column[2])
    torch.testing.assert_close(down, leg("vti", h2, t0, v, None, eta))
    there = raised_leg("vti", h2, up, add, t0, v, None, eta)
    torch.testing.assert_close(there, leg("vti", h2, column[0], column[1], None, column[2]))


def test_a_medium_that_ends_below_an_end_has_no_leg():
    assert torch.isnan(legs(4000.0, 2000.0, physics="curved", medium=(2000.0, 0.6))).all()


@pytest.mark.parametrize(
    ("relief", "physics", "words"),
    [
        (Relief(torch.zeros(3, 2), torch.zeros(1), None), "straight", "need m/s"),
        (Relief(torch.zeros(3, 2), torch.zeros(1), 1500.0), "curved", "continue their own medium"),
        (Relief(torch.zeros(3, 2), torch.zeros(1), -1.0), "straight", "replacement -1"),
        (Relief(torch.zeros(2, 2), torch.zeros(1), 1500.0), "straight", r"heights \(2, 2\)"),
        (Relief(torch.zeros(3, 2), torch.zeros(5), 1500.0), "straight", r"level \(5,\)"),
    ],
)
def test_wrong_reliefs_are_named(relief, physics, words):
    with pytest.raises(InputError, match=words):
        relief.check(physics, 3, 4)
    assert np.isfinite(relief.level.numpy()).all()
