"""No small change to a shipped kernel goes unnoticed by its own self-check on the emulator.

A survivor is either a test that is missing (let the kernel's `example` vary with its seed until it is not), or code
that does nothing (delete it). One that provably cannot change a result is listed below with the proof.
"""

from __future__ import annotations

import pytest

from elinvar.runtime import kernels
from elinvar.testing.kernelcheck import kernel_survivors

EQUIVALENT: dict[tuple[str, str], dict[str, str]] = {}
SHIPPED = [
    pytest.param(item.name, item.version, id=f"{item.name} {item.version}")
    for name in kernels.default_registry.names()
    for item in kernels.versions(name)
    if item.source is not None and item.example is not None
]


@pytest.mark.gxx
@pytest.mark.mutation
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "version"), SHIPPED)
def test_no_mutant_survives(name: str, version: str) -> None:
    alive = kernel_survivors(name, version, equivalent=EQUIVALENT.get((name, version)))
    assert not alive, "not noticed:\n" + "\n".join(map(str, alive))
