from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elinvar.errors import InputError
from elinvar.runtime.device import DeviceProfile
from elinvar.runtime.precision import FORMATS, Precision

PLAIN = DeviceProfile.fake(fast=frozenset({"fp32"}))
ZEN5 = DeviceProfile.fake(fast=frozenset({"fp32", "bf16"}))
GPU = DeviceProfile.fake(kind="cuda", name="H", fast=frozenset({"fp32", "bf16", "fp16"}))


@pytest.mark.parametrize(
    ("spec", "profile", "formats"),
    [
        ("fp32", PLAIN, ("fp32", "fp32", "fp32")),
        ("fp16", PLAIN, ("fp16", "fp32", "fp32")),
        ("fp16", ZEN5, ("fp16", "fp32", "fp32")),
        ("bf16", ZEN5, ("bf16", "bf16", "fp32")),
        ("bf16", PLAIN, ("bf16", "fp32", "fp32")),
        ("fp16", GPU, ("fp16", "fp16", "fp32")),
        ("fp64", PLAIN, ("fp64", "fp64", "fp64")),
        ("auto", GPU, ("fp32", "fp32", "fp32")),
    ],
)
def test_storage_is_what_was_asked_and_slow_arithmetic_is_widened(spec, profile, formats):
    p = Precision.resolve(spec, profile)
    assert (p.storage, p.compute, p.accumulate) == formats


@pytest.mark.parametrize(
    ("allowed", "profile", "storage"),
    [
        (("fp16", "bf16", "fp32"), GPU, "fp16"),
        (("fp16", "bf16", "fp32"), ZEN5, "bf16"),
        (("fp16", "bf16", "fp32"), PLAIN, "fp32"),
        (("fp16",), PLAIN, "fp32"),
        ((), GPU, "fp32"),
    ],
)
def test_auto_takes_the_best_allowed_format_that_is_fast(allowed, profile, storage):
    assert Precision.resolve("auto", profile, allowed).storage == storage


@given(spec=st.sampled_from([*FORMATS, "auto"]), fast=st.frozensets(st.sampled_from(["fp16", "bf16", "fp32"])))
def test_a_resolved_precision_never_computes_in_a_slow_half_and_sums_in_fp32_or_wider(spec, fast):
    p = Precision.resolve(spec, DeviceProfile.fake(fast=fast), FORMATS[:3])
    assert p.compute in ("fp32", "fp64") or p.compute in fast
    assert p.accumulate in ("fp32", "fp64")


def test_an_explicit_precision_is_kept_or_refused_never_changed():
    wanted = Precision("fp16", "fp16", "fp64")
    assert Precision.resolve(wanted, GPU) is wanted
    with pytest.raises(InputError, match=r"compute='fp16'.*not fast"):
        Precision.resolve(wanted, ZEN5)


def test_defaults_dtypes_and_text():
    p = Precision("bf16")
    assert (p.compute, p.accumulate, p.bytes) == ("bf16", "fp32", 2)
    assert (p.storage_dtype, p.compute_dtype, p.accumulate_dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert str(p) == "bf16 stored, bf16 computed, fp32 summed"
    assert str(Precision()) == "fp32"
    assert Precision("fp64").accumulate_dtype is torch.float64


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: Precision("f16"), "storage='f16'"),
        (lambda: Precision("fp32", "half"), "compute='half'"),
        (lambda: Precision("fp16", accumulate="fp16"), "accumulate='fp16'"),
        (lambda: Precision("fp64", accumulate="fp32"), "accumulate='fp32'"),
        (lambda: Precision.resolve("float32", PLAIN), "'float32' is unknown"),
        (lambda: Precision.resolve(32, PLAIN), "32 is unknown"),
    ],
)
def test_wrong_formats_are_named(call, named):
    with pytest.raises(InputError, match=named):
        call()
