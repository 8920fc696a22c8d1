from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from elinvar import metal
from elinvar.errors import InputError
from elinvar.metal import emulator_build
from elinvar.runtime import kernels
from elinvar.testing.kernelcheck import KernelCheck, kernel_survivors, substituted

pytestmark = pytest.mark.gxx

SOURCE = """#include <metal_stdlib>
using namespace metal;
kernel void reverse_sum(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
    constant uint& n [[buffer(2)]], uint i [[thread_position_in_grid]], uint lid [[thread_position_in_threadgroup]])
{
    threadgroup float tile[32];
    tile[lid] = i < n ? x[i] : 0.0f;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float sum = 0.0f;
    for (uint k = 0; k <= lid; k++) { sum += tile[31 - k]; }
    if (i < n) { out[i] = sum; }
}
"""


def reference(x: torch.Tensor) -> torch.Tensor:
    padded = torch.nn.functional.pad(x, (0, -len(x) % 32)).reshape(-1, 32)
    return padded.flip(1).cumsum(1).reshape(-1)[: len(x)]


def tile(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randn(40 + seed, generator=torch.Generator().manual_seed(seed)),), {}


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[Path]:
    """A kernel that keeps its compiled library for ever, as kernels do."""
    path = tmp_path / "reverse.metal"
    path.write_text(SOURCE)

    @cache
    def library(device: Any) -> Any:
        return metal.compile(path, device)

    def launch(x: torch.Tensor, *, device: Any) -> torch.Tensor:
        out = torch.empty_like(x)
        library.cache_clear()  # not in a module of kernels, where `substituted` would find it
        threads = -(-len(x) // 32) * 32
        library(device).reverse_sum(x, out, len(x), threads=threads, group_size=32)
        return out

    kernels.register("test.reverse", "v1", reference=reference, metal=launch, source=path, example=tile, tolerance=1e-5,
                     summary="")  # fmt: skip
    yield path
    del kernels.default_registry._versions["test.reverse"]


def test_the_kernel_itself_passes(registered: Path) -> None:
    assert KernelCheck("test.reverse", "v1")(SOURCE)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("threadgroup_barrier(mem_flags::mem_threadgroup)", "((void)0)"),
        ("k <= lid", "k < lid"),
        ("sum += tile[31 - k]", "sum += tile[31 - k] / 2"),
        ("if (i < n) { out[i] = sum; }", "if (i <= n) { out[i] = sum; }"),  # only AddressSanitizer sees it
        ("i < n ? x[i]", "i <= n ? x[i]"),
        ("tile[32]", "tile[oops]"),
    ],
)
def test_changes_are_noticed(registered: Path, before: str, after: str) -> None:
    assert before in SOURCE
    check = KernelCheck("test.reverse", "v1", seeds=(0, 1), raced=(0,), sanitized=(0,))
    try:
        passed = check(SOURCE.replace(before, after))
    except Exception:  # noqa: BLE001  (noticed, whatever it is)
        passed = False
    assert not passed


def test_changed_text_is_kept_out_of_the_users_cache(
    registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(folder: Path) -> int:
        return sum(1 for _ in folder.rglob("*.so"))

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        emulator_build.lend(folder)
    lent = count(ours)
    monkeypatch.setenv("ELINVAR_CACHE", str(ours))
    check = KernelCheck("test.reverse", "v1", seeds=(0,), raced=(), sanitized=(), scratch=str(theirs))
    assert check(SOURCE)
    assert (count(ours), count(theirs)) == (lent + 1, lent)
    assert check(SOURCE + "\n// changed")
    assert (count(ours), count(theirs)) == (lent + 1, lent + 1)
    assert os.environ["ELINVAR_CACHE"] == str(ours)


def test_other_sources_are_left_alone(registered: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.metal"
    other.write_text(
        "kernel void fill(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) { x[i] = 3; }"
    )
    compiled = metal.compile
    with substituted(registered, "kernel void changed(device float* x [[buffer(0)]]) { x[0] = 1; }", {}):
        assert metal.compile(other, "cpu").kernels == ("fill",)
        assert metal.compile(str(registered), "cpu").kernels == ("changed",)
    assert metal.compile is compiled


def test_a_kernel_without_metal_source_is_refused() -> None:
    kernels.register("test.plain", "v1", reference=reference, cpu=reference, example=tile, tolerance=0, summary="")
    try:
        with pytest.raises(InputError, match="has no Metal source"):
            KernelCheck("test.plain", "v1")("")
        with pytest.raises(InputError, match="has no Metal source"):
            kernel_survivors("test.plain", "v1")
    finally:
        del kernels.default_registry._versions["test.plain"]
