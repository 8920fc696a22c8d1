"""The pair as SciPy and PyLops see it, and what least squares make of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elinvar import seismic
from elinvar.errors import InputError

EXAMPLE = Path(__file__).parents[2] / "examples" / "least_squares_migration.py"


@pytest.fixture(scope="module")
def pair() -> tuple[seismic.Survey, seismic.LinearOperator]:
    whole = seismic.synthetic.diffractors([(100, 100, 250)], extent=200, spacing=50, nt=120, dt=0.004, noise=0.1)
    samples = whole.read()
    samples[3] = 0
    live = np.ones(len(whole), bool)
    live[4] = False
    survey = seismic.Survey.from_arrays(
        samples, whole.source, whole.receiver, whole.dt, live=live, bin_size=whole.bin_size
    )
    grid = seismic.Grid.from_survey(whole, nt=100)
    return survey, seismic.LinearOperator(survey, whole.velocity, grid, device="cpu")


def test_the_shapes_of_both_sides(pair: Any) -> None:
    survey, operator = pair
    assert operator.dimsd == (25, 120)
    assert operator.dims == (5, 5, 100)
    assert operator.shape == (3000, 2500)
    assert operator.dtype == np.float32
    assert operator.live.sum() == 23
    assert survey.live.sum() == 24  # the given survey stays as it is


def test_both_directions_are_the_public_functions(pair: Any, relative: Any) -> None:
    survey, operator = pair
    grid, velocity = operator._options.grid, operator._options.velocity
    migrated = seismic.migrate(survey, velocity, grid, device="cpu")
    assert relative(operator.rmatvec(survey.read().ravel()), migrated.values.ravel()) < 1e-6
    made = seismic.demigrate(migrated, survey.select(operator.live), velocity, device="cpu").read()
    there = operator.matvec(migrated.values.ravel()).reshape(operator.dimsd)
    assert relative(there[operator.live], made) < 1e-6
    assert not there[~operator.live].any()


def test_dead_and_silent_traces_take_no_part(pair: Any) -> None:
    survey, operator = pair
    data = survey.read()
    data[[3, 4]] = 1e6
    assert np.array_equal(operator.migrate(data), operator.migrate(survey.read()))
    everyone = seismic.LinearOperator(
        survey, operator._options.velocity, operator._options.grid, device="cpu", skip_silent=False
    )
    assert everyone.live.sum() == 24
    assert everyone.demigrate(np.ones(operator.dims))[3].any()


def test_nothing_comes_from_nothing(pair: Any) -> None:
    _, operator = pair
    assert not operator.rmatvec(np.zeros(operator.shape[0])).any()
    assert not operator.matvec(np.zeros(operator.shape[1])).any()


def test_repeats_do_not_change_a_bit(pair: Any) -> None:
    survey, operator = pair
    images = [operator.rmatvec(survey.read().ravel()) for _ in range(3)]
    made = [operator.matvec(images[0]) for _ in range(3)]
    for results in (images, made):
        assert all(np.array_equal(results[0], other) for other in results)


def test_pylops_passes_it(pair: Any) -> None:
    pylops = pytest.importorskip("pylops")
    _, operator = pair
    np.random.seed(4)  # noqa: NPY002  (pylops draws from it)
    assert pylops.utils.dottest(pylops.aslinearoperator(operator), *operator.shape, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "words"), [(np.zeros(7), "give real"), (np.full(2500, np.inf), "not finite"), ([], "give real")]
)
def test_bad_vectors(pair: Any, values: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        pair[1].demigrate(values)


def test_a_survey_of_silence_is_refused(pair: Any) -> None:
    survey, operator = pair
    silent = survey.with_traces(seismic.survey.ArrayTraces(np.zeros((25, 120), np.float32)))
    with pytest.raises(InputError, match="zero throughout"):
        seismic.LinearOperator(silent, operator._options.velocity, operator._options.grid)


def test_least_squares_beat_migration(capsys: pytest.CaptureFixture[str]) -> None:
    """The worked example: sharper where scatterers are, and right about traces that neither image has seen."""
    spec = importlib.util.spec_from_file_location("least_squares_migration", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    scores = example.main()
    assert "unexplained" in capsys.readouterr().out
    assert scores["residual"] < 0.3
    assert scores["focus, least squares"] > 1.25 * scores["focus, migrated"]
    assert scores["unseen misfit, least squares"] < 0.85 * scores["unseen misfit, migrated"]
