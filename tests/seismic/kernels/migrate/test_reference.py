"""The float64 reference against the definition written out for one contribution, and its rules at every edge."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from elinvar.errors import InputError
from elinvar.seismic.kernels.migrate import RadiusAperture, reference, rim_weight


def by_hand(case: Any) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the module's docstring, term by term."""
    (image, fold, data, source, receiver, pillars, vrms), o = case
    out, count = np.zeros(image.shape), np.zeros(fold.shape, int)
    for p, i, k in np.ndindex(len(pillars), image.shape[1], len(data)):
        t0, v = o["t0_out"] + i * o["dt_out"], float(vrms[p % len(vrms), i])
        legs = [math.hypot(t0 / 2, math.dist(end[k].tolist(), pillars[p].tolist()) / v) for end in (source, receiver)]
        x = (sum(legs) - o["start"]) / o["dt"]
        middle = [(a + b) / 2 for a, b in zip(source[k].tolist(), receiver[k].tolist(), strict=True)]
        distance, weight = math.dist(middle, pillars[p].tolist()), 1.0
        aperture = o["aperture"]
        if aperture is not None:
            radius = min(max(aperture.minimum, v * t0 / 2 * aperture.tan_dip), aperture.maximum)
            inner = radius * (1 - aperture.taper)
            if distance > radius:
                continue
            if distance > inner:
                weight = 0.5 * (1 + math.cos(math.pi * (distance - inner) / (radius - inner)))
        if not 0 <= x <= data.shape[1] - 1:
            continue
        left = min(int(x), data.shape[1] - 2)
        value = float(data[k, left]) * (1 - (x - left)) + float(data[k, left + 1]) * (x - left)
        if o["amplitude"] == "true":
            weight *= 0 if t0 == 0 else 2 * t0 / (math.pi * v**2 * sum(legs) ** 2) * o["area"]
        out[p, i] += weight * value
        count[p, i] += 1
    return out, count


@pytest.mark.parametrize("amplitude", ["true", "none"])
@pytest.mark.parametrize("aperture", [None, RadiusAperture(0.7, 300.0, 50.0, 0.4), RadiusAperture(0.7)])
def test_is_the_definition(
    survey: Callable[..., Any], expected: Callable[..., Any], amplitude: str, aperture: Any
) -> None:
    case = survey(
        traces=9, ns=60, nt=40, pillars=2, amplitude=amplitude, aperture=aperture, rows=2, offset=90, spread=120
    )
    image, fold = expected(case)
    want, count = by_hand(case)
    assert np.array_equal(fold.numpy(), count)
    assert count.sum() > 0
    np.testing.assert_allclose(image.numpy(), want, rtol=1e-10, atol=1e-12)


def at_pillar(survey: Callable[..., Any], **changes: Any) -> Any:
    """One trace whose source and receiver lie at the only pillar: T = t0."""
    case = survey(
        **{"traces": 1, "pillars": 1, "ns": 6, "nt": 10, "dt": 1.0, "gradient": 0.0, "aperture": None, **changes}
    )
    for position in case[0][3:6]:
        position.zero_()
    return case


def test_both_ends_of_a_trace_contribute(survey: Callable[..., Any], expected: Callable[..., Any]) -> None:
    case = at_pillar(survey, amplitude="none")
    image, fold = expected(case)
    assert fold[0].tolist() == [1] * 6 + [0] * 4
    assert torch.equal(image[0, :6], case[0][2][0].double())


def test_no_energy_at_time_zero(survey: Callable[..., Any], expected: Callable[..., Any]) -> None:
    image, fold = expected(at_pillar(survey))
    assert image[0, 0] == 0
    assert fold[0, 0] == 1
    assert torch.isfinite(image).all()


def test_accumulates_and_does_without_fold(survey: Callable[..., Any], expected: Callable[..., Any]) -> None:
    tensors, options = survey(traces=8, ns=80, nt=50)
    image, _ = expected((tensors, options))
    again = image.clone()
    reference.migrate(again, None, *tensors[2:], **options)
    torch.testing.assert_close(again, 2 * image)


def test_rim_weight() -> None:
    distance = torch.tensor([0.0, 80.0, 90.0, 100.0, 101.0], dtype=torch.float64)
    hundred = torch.tensor(100.0, dtype=torch.float64)
    torch.testing.assert_close(
        rim_weight(distance, hundred, 0.2), torch.tensor([1.0, 1.0, 0.5, 0.0, 0.0], dtype=torch.float64)
    )
    assert rim_weight(distance, hundred, 0.0).tolist() == [1, 1, 1, 1, 0]
    assert rim_weight(distance, torch.tensor(math.inf), 1.0).tolist() == [1, 1, 1, 1, 1]
    assert rim_weight(distance, torch.tensor(0.0), 0.5).tolist() == [1, 0, 0, 0, 0]


def test_radius_follows_the_dip_between_its_limits() -> None:
    aperture = RadiusAperture(tan_dip=0.5, minimum=100.0, maximum=400.0)
    radius = aperture.radius(torch.full((1, 4), 2000.0), torch.tensor([0.0, 0.1, 0.5, 1.0]))
    assert radius.tolist() == [[100.0, 100.0, 250.0, 400.0]]
    assert RadiusAperture().radius(torch.ones(1, 2), torch.zeros(2)).tolist() == [[math.inf, math.inf]]


@pytest.mark.parametrize(
    "bad",
    [{"tan_dip": -1.0}, {"tan_dip": math.nan}, {"minimum": 5.0, "maximum": 4.0}, {"minimum": -1.0}, {"taper": 1.1}],
)
def test_impossible_apertures_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match="aperture"):
        RadiusAperture(**bad)
