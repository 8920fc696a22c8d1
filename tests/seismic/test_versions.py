from __future__ import annotations

import numpy as np
import pytest

from elinvar.errors import InputError, UnknownKernel
from elinvar.runtime.device import device
from elinvar.runtime.files import cache_dir
from elinvar.runtime.tuning import tuned
from elinvar.seismic import migrate, versions


@pytest.fixture(scope="module")
def case():
    return versions.setup("tiny", 2e6)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """One without settings; what is compiled for the emulator is everybody's."""
    (cache_dir() / "emulator").mkdir(parents=True, exist_ok=True)
    (tmp_path / "emulator").symlink_to(cache_dir() / "emulator")
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path))


def test_as_much_of_the_image_as_is_asked_for(case):
    image = migrate(case.survey, case.velocity, case.grid, device="cpu")
    assert 0.2 * 2e6 < image.contributions < 3 * 2e6
    assert case.share == case.grid.size / case.whole.size < 0.1
    whole = versions.setup("tiny", 1e12)
    assert whole.grid.shape == whole.whole.shape
    assert whole.share == 1


def test_a_survey_too_large_to_hold_is_noise(monkeypatch):
    monkeypatch.setattr(versions, "_HELD", 1000)
    survey = versions.setup("tiny", 1e6).survey
    data = survey.read(np.array([5, 2, 900]))
    assert data.shape == (3, 501)
    assert data.std() == pytest.approx(1, abs=0.1)
    assert np.array_equal(data[1], survey.read(np.array([2]))[0])


def test_versions_beside_each_other():
    found = versions.compare_versions(["baseline", "v2"], ["tiny"], runs=2, warmup=0, device="cpu", most=2e6)
    assert list(found.samples) == ["tiny baseline", "tiny v2"]
    told = found.extras["datasets"]["tiny"]
    assert (told["traces"], told["samples"], told["data"]) == (1764, 501, "synthetic")
    for version, row in told["versions"].items():
        assert set(row["seconds"]) == {"compile", "prepare", "transfer", "kernel", "store", "total"}
        assert row["relative_l2"] <= versions.AGREE
        assert row["same_fold"]
        assert row["same_bits_every_run"]
        assert row["bar"] == versions.BARS.get(version)
        assert set(row["speedup"]) == {"kernel", "whole"}
        assert found.samples[f"tiny {version}"].work.items == told["contributions"]
    assert type(found).from_json(found.to_json()).extras["datasets"]["tiny"] == told


def test_what_cannot_be_compared():
    with pytest.raises(InputError, match="choose one of tiny, small, medium, large"):
        versions.compare_versions(["v2"], ["huge"], device="cpu")
    with pytest.raises(UnknownKernel, match="no version 'v99'"):
        versions.compare_versions(["v99"], ["tiny"], device="cpu")
    with pytest.raises(InputError, match="the emulator cannot time"):
        versions.sweep(device="cpu")


def test_the_rate_for_the_planner(case, monkeypatch):
    monkeypatch.setattr(versions, "setup", lambda *_: case)
    assert 1e7 < versions.tuned_rate(device("cpu")) < 1e12


@pytest.mark.gxx
def test_every_setting_of_a_sweep_makes_the_same_image(case, monkeypatch):
    """On the emulator, whose times mean nothing."""
    small = versions.Setup(case.name, case.survey, case.velocity, versions.lines(case.whole, [3], [4, 5]), case.whole)
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 3)
    place = device("cpu")
    found = versions._sweep(small, (64,), (1, 2), "v2", place, 1, 0, keep=True)
    settings = found.extras["settings"]
    assert list(settings) == ["group 64, unroll 1", "group 64, unroll 2"]
    assert max(row["relative_l2"] for row in settings.values()) < versions.AGREE
    best = settings[found.extras["best"]]
    kept = tuned(place.profile).options["seismic.migrate.v2"]
    assert kept == {"simdgroups": best["simdgroups"], "samples": best["samples"]}
    from elinvar.errors import MetalLaunchError
    from elinvar.seismic.kernels.migrate import metal

    real = metal.migrate_v2

    def launch(*args, tuning, **options):
        if tuning.samples == 2:
            raise MetalLaunchError("too many registers.")
        real(*args, tuning=tuning, **options)

    monkeypatch.setattr(versions, "_launch", lambda _: launch)
    some = versions._sweep(small, (64,), (1, 2), "v2", place, 1, 0, keep=False)
    assert list(some.samples) == ["group 64, unroll 1"]
    assert some.extras["refused"] == {"group 64, unroll 2": "too many registers."}
    with pytest.raises(InputError, match="no setting runs on cpu: too many registers"):
        versions._sweep(small, (64,), (2,), "v2", place, 1, 0, keep=False)
    monkeypatch.undo()
    with pytest.raises(InputError, match="33 is no multiple of 32"):
        versions._sweep(small, (33,), (1,), "v2", place, 1, 0, keep=False)
    with pytest.raises(InputError, match="no group size and unroll"):
        versions._sweep(small, (32,), (1,), "baseline", place, 1, 0, keep=False)


def test_which_versions_have_settings():
    assert {v: versions._launch(v) is not None for v in ("baseline", "v1", "v2", "v3")} == {
        "baseline": False, "v1": False, "v2": True, "v3": True
    }  # fmt: skip


def test_what_was_fastest_is_used_and_part_of_a_job(monkeypatch):
    from types import SimpleNamespace

    from elinvar.runtime.device import Device, DeviceProfile
    from elinvar.runtime.tuning import save_tuned
    from elinvar.seismic import checkpoint
    from elinvar.seismic.kernels.migrate import metal

    profile = DeviceProfile.fake(kind="cuda", name="a GPU")
    place = Device(device("cpu").runtime, "cuda", 7)
    monkeypatch.setattr(Device, "profile", property(lambda self: profile))
    monkeypatch.setattr(metal, "resolve", lambda spec: spec)
    kernel = SimpleNamespace(version="v2", backend="metal", device=place)
    try:
        assert metal.tuned_for("v2", place) == metal.Tuning()
        assert checkpoint._settings(kernel) == ""
        metal.tuned_for.cache_clear()
        save_tuned(profile, "option.seismic.migrate.v2", {"simdgroups": 8, "samples": 4})
        assert metal.tuned_for("v2", place) == metal.Tuning(simdgroups=8, samples=4)
        assert checkpoint._settings(kernel) == ", 8 simdgroups of 4 samples"
        metal.tuned_for.cache_clear()
        save_tuned(profile, "option.seismic.migrate.v2", "broken")
        assert metal.tuned_for("v2", place) == metal.Tuning()
    finally:
        metal.tuned_for.cache_clear()
