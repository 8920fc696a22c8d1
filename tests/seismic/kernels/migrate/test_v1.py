"""What v1 keeps between calls: the tables of the last block, as long as they are right and somebody's."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from elinvar.seismic.kernels.migrate import kept as keeping
from elinvar.seismic.kernels.migrate import v1
from elinvar.seismic.kernels.migrate.tables import prepare


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every set of tables that is made."""
    calls: list[Any] = []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(options)
        return prepare(*args, **options)

    monkeypatch.setattr(keeping, "prepare", counted)
    keeping._kept.clear()
    yield calls
    keeping._kept.clear()


def run(case: Any) -> torch.Tensor:
    tensors, options = case
    image = torch.zeros_like(tensors[0])
    v1.migrate(image, None, *tensors[2:], **options)
    return image


def test_blocks_of_one_job_share_their_tables(survey: Any, made: list[Any]) -> None:
    case = survey(nt=60, rows=5)
    first = run(case)
    case[0][2] = 2 * case[0][2]
    assert torch.equal(run(case), 2 * first)
    assert len(made) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, options: tensors[6].mul_(1.1),
        lambda tensors, options: tensors[6].numpy().__imul__(1.1),  # where torch keeps no count of changes
        lambda tensors, options: tensors.__setitem__(6, tensors[6][:1].clone()),
        lambda tensors, options: options.__setitem__("area", 7.0),
        lambda tensors, options: options.__setitem__("start", 0.02),
        lambda tensors, options: options.__setitem__("aperture", None),
        lambda tensors, options: options.update(physics="vti", eta=torch.full((1, 60), 0.1)),
    ],
)
def test_another_job_gets_tables_of_its_own(change: Any, survey: Any, made: list[Any]) -> None:
    tensors, options = survey(nt=60, rows=5)
    run((tensors, options))
    change(tensors, options)
    kept = run((tensors, options))
    assert len(made) == 2
    keeping._kept.clear()
    assert torch.equal(run((tensors, options)), kept)


def test_nothing_outlives_the_velocities(survey: Any) -> None:
    tensors, options = survey(nt=60)
    run((tensors, options))
    assert len(keeping._kept) == 1
    del tensors[6]
    gc.collect()
    assert not keeping._kept


def test_a_view_of_velocities_counts_as_they_do(survey: Any, made: list[Any]) -> None:
    tensors, options = survey(nt=60, rows=5)
    whole = torch.cat([tensors[6], tensors[6]])
    for _ in range(3):
        tensors[6] = whole[:5]
        run((tensors, options))
    assert len(made) == 1
