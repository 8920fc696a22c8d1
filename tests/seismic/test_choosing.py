from __future__ import annotations

import pytest

from elinvar.runtime import kernels
from elinvar.runtime.device import device
from elinvar.seismic.choosing import choose
from elinvar.seismic.kernels.migrate import FEATURES

CPU = device("cpu")


def test_what_every_version_does_changes_nothing():
    found = choose("seismic.migrate", CPU, None, {})
    assert found == kernels.kernel("seismic.migrate", CPU)
    assert choose("seismic.migrate", CPU, None, ["interpolation", "bank"]) == found


@pytest.mark.parametrize("name", ["seismic.migrate", "seismic.demigrate"])
def test_the_fastest_version_that_can_and_why(name):
    usual = kernels.kernel(name, CPU).version
    assert choose(name, CPU, None, ["mute", "limits", "relief"]).version == usual
    found = choose(name, CPU, None, ["mute", "zones", "curved_relief"])
    assert (found.version, found.backend) == ("baseline", "cpu")
    assert found.why.startswith("the fastest version on cpu for these options")
    lacking = "mutes that begin behind the first sample or curved legs from elevations (datum)"
    assert f"{usual} does not do {lacking}" in found.why


def test_who_insists_is_refused_by_name():
    with pytest.raises(NotImplementedError, match="version v1 does not do mute; choose baseline"):
        choose("seismic.migrate", CPU, "v1", ["mute"])
    with (
        kernels.use("seismic.migrate=v2"),
        pytest.raises(NotImplementedError, match="version v2 does not do limits of angles"),
    ):
        choose("seismic.migrate", CPU, None, ["limits", "angles"])
    assert choose("seismic.migrate", CPU, "baseline", ["limits"]).version == "baseline"
    assert choose("seismic.migrate", CPU, "reference", FEATURES["reference"]).version == "reference"


def test_the_reference_is_not_taken_in_silence(monkeypatch, caplog):
    caplog.set_level("INFO", "elinvar.seismic")
    assert choose("seismic.migrate", CPU, None, ["angles"]).version == "baseline"
    monkeypatch.setitem(FEATURES, "baseline", set())
    assert choose("seismic.migrate", CPU, None, ["angles"]).version == "reference"
    first, second = caplog.records
    assert first.levelname == "INFO"
    assert second.levelname == "WARNING"
    assert "limits of angles (leg_dip, stretch) (torch in float64: slow)" in second.getMessage()
