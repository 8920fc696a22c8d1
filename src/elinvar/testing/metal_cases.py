"""Metal programs with known answers, one per feature, to be run on every way of running Metal.

The emulator's tests, the GPU check and anybody's port to a new device share this table: `CASES` by name, and
``verify(case, device)``, which launches one and compares what it wrote with an oracle written in numpy.
"""

from __future__ import annotations

from .cases.case import MetalCase, verify
from .cases.launching import CASES as LAUNCHING
from .cases.maths import CASES as MATHS
from .cases.simd import CASES as SIMD
from .cases.storage import CASES as STORAGE

__all__ = ["CASES", "MetalCase", "verify"]

CASES: dict[str, MetalCase] = {case.name: case for case in (*LAUNCHING, *STORAGE, *SIMD, *MATHS)}
