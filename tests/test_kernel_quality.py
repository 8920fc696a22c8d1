"""Every ``.metal`` file of the package: compiles for the emulator and for Hopper, spills nothing, fills the machine.

``benchmarks/results/metal_sm90.json`` records registers, shared memory and theoretical occupancy of every kernel as it
is normally launched. When a kernel changes, write the record anew and commit it with the kernel::

    ELINVAR_RECORD=1 python -m pytest tests/test_kernel_quality.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import elinvar
from elinvar import metal
from elinvar.metal import nvrtc
from elinvar.metal.cubin import CubinReport
from elinvar.runtime import kernels
from elinvar.runtime.kernels import Version

PACKAGE = Path(elinvar.__file__).parent
FILES = sorted(PACKAGE.rglob("*.metal"))
RECORD = Path(__file__).parents[1] / "benchmarks" / "results" / "metal_sm90.json"
WANTED = 0.75
needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="needs NVRTC: pip install nvidia-cuda-nvrtc")


def registered(path: Path) -> list[Version]:
    """Versions whose source this file is."""
    names = kernels.default_registry.names()
    return [item for name in names for item in kernels.versions(name) if item.source_path == path]


def reports(path: Path) -> dict[str, tuple[CubinReport, Version | None]]:
    """One report for each way the file is normally compiled."""
    known = registered(path)
    if not known:
        return {path.relative_to(PACKAGE).as_posix(): (metal.build_cubin(path), None)}
    return {
        f"{item.name} {item.version}": (
            metal.build_cubin(path, defines=dict(item.defines) or None, group_size=item.group_size),
            item,
        )
        for item in known
    }


def measured() -> dict[str, Any]:
    """What the record should say."""
    rows = {
        f"{label}: {name}": {
            "threads": one.group_size,
            "registers": one.registers,
            "shared_bytes": one.shared_bytes,
            "spill_bytes": one.spill_bytes,
            "stack_bytes": one.stack_bytes,
            "occupancy": round(one.occupancy, 3),
            **({"reason": item.occupancy_reason} if item is not None and item.occupancy_reason else {}),
        }
        for path in FILES
        for label, (report, item) in reports(path).items()
        for name, one in report.kernels.items()
    }
    return {"arch": "sm_90", "nvrtc": ".".join(map(str, nvrtc.library_version())), "kernels": rows}


def test_there_are_kernels() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_compiles_for_the_emulator(path: Path, emulator: Callable[..., Any]) -> None:
    for defines in [dict(item.defines) for item in registered(path)] or [{}]:
        assert emulator(path, defines=defines or None).kernels


@needs_nvrtc
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_compiles_for_hopper_without_spills(path: Path) -> None:
    for label, (report, item) in reports(path).items():
        print(f"\n{label}\n{report}")
        for name, one in report.kernels.items():
            assert one.spill_bytes == 0, f"{label}: {name} spills {one.spill_bytes} bytes of registers:\n{report}"
            reason = "" if item is None else (item.occupancy_reason or "")
            assert one.occupancy >= WANTED or reason.strip(), (
                f"{label}: {name} reaches {one.occupancy:.0%} occupancy with groups of {one.group_size}, below "
                f"{WANTED:.0%}; say why that is right in register(..., occupancy_reason=), as measured:\n{report}"
            )


@needs_nvrtc
def test_the_record_is_true() -> None:
    now = measured()
    if os.environ.get("ELINVAR_RECORD"):
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n")
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if recorded and recorded["nvrtc"] != now["nvrtc"]:
        pytest.skip(f"recorded with NVRTC {recorded['nvrtc']}, here is {now['nvrtc']}; registers differ between them")
    assert recorded == now, "run ELINVAR_RECORD=1 python -m pytest tests/test_kernel_quality.py and commit the record"
