"""Every registered fused operation against its reference in float64: numba, and Metal on the emulator or a GPU."""

import importlib

import pytest
import torch

from elinvar.runtime import kernels
from elinvar.tensor.kernels import NAMES

# Metal text on the emulator costs a C++ compilation each: one element-wise operation and the reductions stand for all.
EMULATED = ("tensor.affine_relu", "tensor.layer_norm", "tensor.logsumexp")
CASES = [
    case for case in kernels.cases(NAMES) if case.backend != "metal" or case.device != "cpu" or case.name in EMULATED
]


@pytest.mark.gxx
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_its_reference(case):
    for seed in (0, 1) if case.name == "tensor.affine_relu" or case.device != "cpu" else (0,):
        kernels.check(case.name, case.version, case.device, backend=case.backend, seed=seed).require()


def test_all_are_listed_and_chosen():
    listed = {info.name: info for info in kernels.kernels("cpu")}
    for name in NAMES:
        assert listed[name].version == "fused"


@pytest.mark.parametrize("name", ["small_gemm", "small_linear"])
def test_examples_do_not_depend_on_torchs_defaults(name):
    make = importlib.import_module(f"elinvar.tensor.kernels.{name}").example
    with torch.device("meta"):
        given, _ = make(0)
    assert all(t.device.type == "cpu" for t in given)
    assert all(torch.equal(a, b) for a, b in zip(given, make(0)[0], strict=True))
