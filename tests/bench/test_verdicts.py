"""The verdict rule on synthetic sample sets whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from elinvar.bench import Load, Samples, Yardstick, compare, noise
from elinvar.errors import BenchError, InputError


def synthetic(centre: float, spread: float = 0.01, n: int = 31, seed: int = 0, **more: object) -> Samples:
    """Normal samples around `centre` with relative standard deviation `spread`; the same for the same seed."""
    noise_ = np.random.default_rng(seed).standard_normal(n)
    values = np.maximum(centre * (1 + spread * noise_), 0.01 * centre)
    return Samples(f"s{centre}", tuple(values.tolist()), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("centre", "spread", "word"),
    [
        (10.0, 0.005, "same"),
        (10.4, 0.005, "same"),
        (10.6, 0.005, "worse"),
        (12.0, 0.01, "worse"),
        (9.6, 0.005, "same"),
        (9.4, 0.005, "better"),
        (5.0, 0.01, "better"),
        (10.4, 0.30, "inconclusive"),
        (10.6, 0.30, "inconclusive"),
    ],
)
def test_separate_measurements(centre: float, spread: float, word: str, seed: int) -> None:
    verdict = compare(synthetic(10.0, spread, seed=2 * seed), synthetic(centre, spread, seed=2 * seed + 1))
    assert verdict.word == word, verdict
    assert not verdict.paired


@pytest.mark.parametrize(
    ("centre", "word"),
    [(10.4, "same"), (10.6, "worse"), (9.4, "better"), (9.6, "same"), (10.5, "inconclusive"), (9.524, "inconclusive")],
)
def test_interleaving_cancels_drift(centre: float, word: str) -> None:
    """The machine slows down by 40 % during the run; round by round nothing changes."""
    drift = np.linspace(1.0, 1.4, 31)
    a = np.array(synthetic(10.0, 0.004, seed=1).values) * drift
    b = np.array(synthetic(centre, 0.004, seed=2).values) * drift
    first, second = (Samples(n, tuple(v.tolist())) for n, v in (("a", a), ("b", b)))
    assert compare(first, second).word == "inconclusive"  # measured apart: the baseline contradicts itself
    verdict = compare(replace(first, rounds="r"), replace(second, rounds="r"))
    assert verdict.paired
    assert verdict.word == word, verdict
    assert verdict.ratio == pytest.approx(centre / 10, rel=0.01)


def test_a_noisy_baseline_still_confirms_a_large_change() -> None:
    a, b = synthetic(10.0, 0.10, seed=4), synthetic(20.0, 0.10, seed=5)
    assert noise(a) > 0.02
    assert compare(a, b).word == "worse"
    assert compare(b, a).word == "better"
    # A baseline that moved by 4 %: 7.7 % beyond the threshold of 5 % may be that move, 12 % may not.
    moved = Samples("a", (10.0,) * 15 + (10.4,) * 16)
    assert compare(moved, Samples("b", (11.2,) * 31)).word == "inconclusive"
    assert compare(moved, Samples("b", (11.8,) * 31)).word == "worse"
    assert compare(moved, Samples("b", (9.2,) * 31)).word == "inconclusive"
    assert compare(moved, Samples("b", (8.9,) * 31)).word == "better"


def test_noise_of_two_halves() -> None:
    steady = Samples("a", (1.0, 1.0, 1.0, 1.0))
    step = Samples("a", (1.0, 1.0, 1.1, 1.1))
    assert noise(steady) == 0
    assert noise(step) == pytest.approx(0.1)
    assert noise(step, interleaved=True) == 0  # even against odd rounds: 1.05 against 1.05
    assert noise(Samples("a", (1.0, 1.0))) == np.inf


def test_noise_alone_makes_same_inconclusive() -> None:
    """First half 3 % off the second, spread tiny: nothing within 5 % can be promised."""
    values = (10.0,) * 15 + (10.3,) * 16
    assert compare(Samples("a", values), Samples("b", values)).word == "inconclusive"
    values = (10.0,) * 15 + (10.1,) * 16
    assert compare(Samples("a", values), Samples("b", values)).word == "same"


def test_few_samples_are_inconclusive_however_far_apart() -> None:
    verdict = compare(Samples("a", (1.0,) * 5), Samples("b", (9.0,) * 31))
    assert verdict.word == "inconclusive"
    assert "at least 6" in verdict.why
    assert compare(Samples("a", (1.0,) * 6), Samples("b", (9.0,) * 6)).word == "worse"


def test_contention_spoils_separate_measurements_but_not_interleaved_ones() -> None:
    busy = Load(wall_seconds=1.0, cores=2, foreign_cpu=1.0)
    a, b = synthetic(10.0), synthetic(10.6, 0.005, seed=1)
    assert compare(a, replace(b, load=busy)).word == "inconclusive"
    assert "others used" in compare(replace(a, load=busy), b).why
    pair = replace(a, load=busy, rounds="r"), replace(synthetic(12.0, seed=1), load=busy, rounds="r")
    assert compare(*pair).word == "worse"


def test_a_machine_that_changed_speed_between_two_runs_is_noticed() -> None:
    quick, slow = Yardstick(90.0, 250.0), Yardstick(45.0, 250.0)
    a = replace(synthetic(10.0), before=quick, after=quick)
    b = replace(synthetic(20.0), before=slow, after=slow)
    verdict = compare(a, b)
    assert verdict.word == "inconclusive"
    assert "speed differs by 100 %" in verdict.why
    assert compare(a, replace(b, before=quick, after=quick)).word == "worse"


def test_machines_and_clocks_are_never_mixed() -> None:
    a = replace(synthetic(10.0), machine="1", machine_name="old box")
    b = replace(synthetic(10.0), machine="2", machine_name="new box")
    with pytest.raises(BenchError, match=r"old box.*new box"):
        compare(a, b)
    with pytest.raises(BenchError, match=r"wall.*process_cpu"):
        compare(a, replace(a, clock="process_cpu"))


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.0, float("nan")])
def test_threshold_is_a_relative_change(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold"):
        compare(synthetic(1.0), synthetic(1.0), threshold)


def test_the_threshold_decides() -> None:
    a, b = synthetic(10.0, 0.005), synthetic(10.8, 0.005, seed=1)
    assert compare(a, b, 0.05).word == "worse"
    assert compare(a, b, 0.10).word == "same"


def test_answers_repeat() -> None:
    a, b = synthetic(10.0), synthetic(10.3, seed=1)
    assert compare(a, b) == compare(a, b)
    assert "same" in str(compare(a, a))
