from __future__ import annotations

import pytest
import torch

from elinvar.errors import MetalLaunchError
from elinvar.metal.backends import Constants, fitting_group
from elinvar.metal.language import parse

CPU = torch.device("cpu")


def test_equal_bytes_are_one_tensor_and_the_least_used_go_first() -> None:
    constants = Constants(kept=2)
    one, two = constants.tensor(b"one", CPU), constants.tensor(b"two", CPU)
    assert bytes(one.tolist()) == b"one"
    assert constants.tensor(b"one", CPU) is one
    constants.tensor(b"three", CPU)
    assert constants.tensor(b"one", CPU) is one
    assert constants.tensor(b"two", CPU) is not two


def test_nothing_is_something_to_point_at() -> None:
    assert Constants().tensor(b"", CPU).numel() == 1


GROUPED = "kernel void k(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) { x[i] = 0; }\n"
FREE = "kernel void k(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) { x[i] = 0; }\n"


@pytest.mark.parametrize(
    ("group", "most", "expected"),
    [
        ((256, 1, 1), 256, (256, 1, 1)),
        ((256, 1, 1), 255, (128, 1, 1)),
        ((32, 8, 1), 100, (32, 2, 1)),
        ((32, 8, 1), 16, (16, 1, 1)),
        ((8, 1, 8), 20, (8, 1, 2)),
    ],
)
def test_default_groups_shrink(group: tuple[int, int, int], most: int, expected: tuple[int, int, int]) -> None:
    assert fitting_group(parse(FREE).kernels["k"], group, most) == expected


def test_needed_groups_do_not() -> None:
    with pytest.raises(MetalLaunchError, match=r"\[k\] group_size \(256, 1, 1\) is 256 threads.* allows 128"):
        fitting_group(parse(GROUPED).kernels["k"], (256, 1, 1), 128)
