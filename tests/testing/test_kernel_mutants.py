"""No small change to a shipped kernel goes unnoticed by its own self-check on the emulator.

A survivor is either a test that is missing (let the kernel's `example` vary with its seed until it is not), or code
that does nothing (delete it). One that provably cannot change a result is listed below with the proof.
"""

from __future__ import annotations

import pytest

from elinvar.runtime import kernels
from elinvar.testing.kernelcheck import kernel_survivors

LIST = "decides which of two lists a trace lands in, and both add the same where they meet: costs time, changes nothing"
EQUIVALENT: dict[tuple[str, str], dict[str, str]] = {
    ("seismic.migrate", "v2"): {
        "line 177: '< n_traces': < becomes <=": "at first == n_traces no lane has k < n_traces, so the round is skipped",
        "line 185: '<= shape.x': bound + 1": "lets traces beyond the radius into the lists, where each sample is asked",
        "line 185: '<= latest * latest': <= becomes <": "a bound with room of 0.1 samples: what it cuts adds nothing",
        "line 185: '<= latest * latest': bound + 1": "lets in traces that end earlier, which the lists find out",
        "line 196: '<= tolerance': <= becomes <": LIST,
        "line 199: '> last + 0.01f': > becomes >=": "beyond the end either way, where nothing contributes",
        "line 199: '> last + 0.01f': bound + 1": "keeps a trace that ends before the block; its list adds nothing",
        "line 199: '< -0.01f': < becomes <=": "before the start either way, where nothing contributes",
        "line 199: '< -0.01f': bound - 1": "keeps a trace that starts after the block; the exact list adds nothing",
        "line 200: '>= 0.01f': >= becomes >": LIST,
        "line 202: '> last - 0.01f': > becomes >=": LIST,
        "line 202: '<= shape.y': <= becomes <": LIST,
        "line 264: '< place.w + 0.02f': < becomes <=": "0.02 samples beyond the end, exactly() says no as well",
        "line 266: '<= place.w - 0.02f': <= becomes <": "0.02 samples before the end, exactly() agrees with the cubic",
    },
}
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
