from __future__ import annotations

import pytest
import torch

from elinvar.audio._download import Download


@pytest.mark.parametrize("length", [1, 700, 1500])
def test_parts_land_where_they_belong(length: int) -> None:
    parts, out = torch.randn(2, 2, length), torch.full((2, 2, length), float("nan"))
    with Download(out, torch.device("cpu"), behind=4) as download:
        for start in range(0, length, 700):
            download.put(start, parts[..., start : start + 700])
    assert torch.equal(out, parts)


def test_an_error_inside_comes_out() -> None:
    with pytest.raises(ZeroDivisionError), Download(torch.empty(1, 1, 4), torch.device("cpu"), behind=1) as download:
        download.put(0, torch.zeros(1, 1, 2))
        raise ZeroDivisionError
