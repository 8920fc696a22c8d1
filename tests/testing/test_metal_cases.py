"""Every Metal case on every device present; on the CPU that is the emulator, in three orders, one of them racing."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

import pytest
import torch

from elinvar.errors import KernelRejected
from elinvar.runtime.device import device, devices
from elinvar.testing.metal_cases import CASES, MetalCase, verify

GPUS = [str(one) for one in devices() if one.kind != "cpu"]
needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++: apt install g++")
ORDERS = [
    pytest.param({}, id="forward"),
    pytest.param({"schedule": "reverse"}, id="reverse"),
    pytest.param({"schedule": "random", "seed": 3, "races": True}, id="random with race detector"),
]


def test_names_and_sizes() -> None:
    assert len(CASES) >= 30
    for name, case in CASES.items():
        given = case.arguments()
        assert name == case.name
        for index, want in case.expect(given).items():
            assert want.numel() == given[index].numel(), name


@needs_gxx
@pytest.mark.parametrize("options", ORDERS)
@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_on_the_emulator(case: MetalCase, options: dict[str, Any]) -> None:
    assert verify(case, "cpu", **options) <= case.tolerance


@pytest.mark.skipif(not GPUS, reason="needs a GPU")
@pytest.mark.parametrize("where", GPUS)
@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_on_a_gpu(case: MetalCase, where: str) -> None:
    assert verify(case, device(where)) <= case.tolerance


@needs_gxx
def test_a_wrong_answer_is_shown() -> None:
    case = CASES["no thread runs beyond the grid"]
    wrong = dataclasses.replace(case, expect=lambda given: {0: case.expect(given)[0] + (torch.arange(70) == 7)})
    with pytest.raises(KernelRejected, match=r"argument 0 is 47 at element 7, not 48 .* 1 elements differ"):
        verify(wrong, "cpu")
