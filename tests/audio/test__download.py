from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from elinvar.audio._download import behind, collect


@pytest.mark.parametrize("length", [1, 700, 1500])
def test_parts_land_where_they_belong(length: int) -> None:
    parts, out = torch.randn(2, 2, length), torch.full((2, 2, length), float("nan"))
    made = ((start, parts[..., start : start + 700]) for start in range(0, length, 700))
    collect(made, out, torch.device("cpu"), ahead=4)
    assert torch.equal(out, parts)


def test_an_error_inside_comes_out() -> None:
    def made() -> Iterator[tuple[int, torch.Tensor]]:
        yield 0, torch.zeros(1, 1, 2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        collect(made(), torch.empty(1, 1, 4), torch.device("cpu"), ahead=1)


@pytest.mark.parametrize("n", [0, 2, 9])
def test_parts_wait_for_those_after_them(n: int) -> None:
    made: list[int] = []
    for part in behind((made.append(i) or i for i in range(6)), n):
        assert len(made) == min(6, part + n + 1)
    assert made == list(range(6))
