"""Metal programs with known answers, one per feature, to be run on every way of running Metal.

The emulator's tests, the GPU check and anybody's port to a new device share this table: `CASES` by name, and
``verify(case, device)``, which launches one and compares what it wrote with an oracle written in numpy.
"""

from __future__ import annotations

from .cases import launching, maths, simd, storage
from .cases.case import MetalCase, verify

__all__ = ["CASES", "MetalCase", "verify"]

CASES: dict[str, MetalCase] = {
    case.name: case for case in (*launching.CASES, *storage.CASES, *simd.CASES, *maths.CASES)
}
