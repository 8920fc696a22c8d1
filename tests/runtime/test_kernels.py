from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from elinvar.errors import (
    ConfigError,
    DeviceOutOfMemory,
    InputError,
    KernelError,
    KernelRejected,
    UnknownKernel,
)
from elinvar.runtime import selfcheck
from elinvar.runtime.device import device
from elinvar.runtime.kernelinfo import version_order
from elinvar.runtime.kernels import CATALOGUE, Registry, kernels
from elinvar.runtime.tuning import save_tuned

Calls = list[str]


def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def tile(seed: int) -> tuple[tuple[torch.Tensor], dict[str, Any]]:
    return (torch.randn(5 + seed, generator=torch.Generator().manual_seed(seed)),), {}


def implementation(calls: Calls, name: str, factor: float = 2.0) -> Callable[..., torch.Tensor]:
    def run(x: torch.Tensor, device: Any = None) -> torch.Tensor:
        calls.append(name)
        return x * factor

    return run


@pytest.fixture
def calls() -> Calls:
    return []


@pytest.fixture
def registry(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Three versions of one kernel, all right, v2 the default and v10 the newest."""
    monkeypatch.delenv("ELINVAR_KERNELS", raising=False)
    made = Registry()
    for version, default in (("v10", False), ("baseline", False), ("v2", True)):
        add(made, calls, version, default=default)
    return made


def add(registry: Registry, calls: Calls, version: str, factor: float = 2.0, **options: Any) -> None:
    options = {"example": tile, "cpu": implementation(calls, version, factor), **options}
    registry.register("demo.double", version, reference=double, tolerance=1e-6, summary="twice", **options)


# -- choosing --------------------------------------------------------------------------------------------------------


def test_versions_are_ordered_by_number() -> None:
    assert sorted(["v10", "v2", "v1.2", "v1.10", "baseline"], key=version_order) == [
        "baseline", "v1.2", "v1.10", "v2", "v10",
    ]  # fmt: skip


def test_the_highest_default_version_is_chosen(registry: Registry) -> None:
    chosen = registry.kernel("demo.double", "cpu")
    assert (chosen.version, chosen.backend, str(chosen.device)) == ("v2", "cpu", "cpu")
    assert "highest default version" in chosen.why
    assert "self-check" in chosen.why
    assert torch.equal(chosen(torch.ones(2)), torch.full((2,), 2.0))


def test_without_a_default_the_highest_version_is_chosen(calls: Calls) -> None:
    registry = Registry()
    add(registry, calls, "v1")
    add(registry, calls, "v3")
    assert registry.kernel("demo.double", "cpu").version == "v3"


def test_wishes_are_heard_in_order(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def now(**given: str) -> tuple[str, str]:
        chosen = registry.kernel("demo.double", "cpu", **given)
        return chosen.version, chosen.why

    assert registry.configure({"demo.double": "v10"}) == {}
    assert now()[0] == "v10"
    assert "configuration" in now()[1]
    monkeypatch.setenv("ELINVAR_KERNELS", "other.kernel=v1, demo.double=baseline")
    assert now()[0] == "baseline"
    assert "ELINVAR_KERNELS" in now()[1]
    with registry.use("demo.double=v10"):
        assert now()[0] == "v10"
        assert "use()" in now()[1]
        with registry.use("demo.double=reference"):
            assert now()[0] == "reference"
        assert now(version="v2")[0] == "v2"
        assert "argument" in now(version="v2")[1]
    assert now()[0] == "baseline"
    assert registry.configure(None) == {"demo.double": "v10"}


def test_use_does_not_leak_into_other_threads(registry: Registry) -> None:
    seen: list[str] = []
    with registry.use("demo.double=v10"):
        thread = threading.Thread(target=lambda: seen.append(registry.kernel("demo.double", "cpu").version))
        thread.start()
        thread.join()
    assert seen == ["v2"]


def test_the_tuned_version_comes_before_the_default(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path))
    save_tuned(device("cpu").profile, "kernel.demo.double", "baseline")
    chosen = registry.kernel("demo.double", "cpu")
    assert chosen.version == "baseline"
    assert "fastest on this device when tuned" in chosen.why


@pytest.mark.parametrize("text", ["demo.double", "demo.double=", "=v2", "demo double=v2"])
def test_malformed_wishes_name_what_is_wrong(registry: Registry, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ELINVAR_KERNELS", text)
    with pytest.raises(ConfigError, match=r"ELINVAR_KERNELS has .* not name=version"):
        registry.kernel("demo.double", "cpu")


def test_unknown_names_and_versions_list_what_there_is(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownKernel, match=r"'demo.triple'; registered are: demo.double"):
        registry.kernel("demo.triple", "cpu")
    with pytest.raises(UnknownKernel, match="no version 'v7'; it has v10, v2, baseline and 'reference'"):
        registry.kernel("demo.double", "cpu", version="v7")
    with pytest.raises(UnknownKernel, match="v7"), registry.use("demo.double=v7"):
        pass
    monkeypatch.setenv("ELINVAR_KERNELS", "demo.triple=v1")
    with pytest.raises(UnknownKernel, match=r"demo\.triple"):
        registry.kernels("cpu")


def test_a_version_without_an_implementation_here_gives_way(calls: Calls) -> None:
    registry = Registry()
    add(registry, calls, "v1")
    add(registry, calls, "v2", cpu=None, metal=implementation(calls, "v2"), default=True)
    chosen = registry.kernel("demo.double", "cpu")
    assert chosen.version == "v1"
    assert chosen.why.startswith("v2 has no implementation for cpu; v1 is the next version; self-check")
    with pytest.raises(UnknownKernel, match="no implementation for cpu; it runs on cuda, mps"):
        registry.kernel("demo.double", "cpu", version="v2")


# -- self-check ------------------------------------------------------------------------------------------------------


def test_a_wrong_version_falls_back_before_any_output_and_says_so_once(
    registry: Registry, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    add(registry, calls, "v11", factor=2.1, default=True)
    with caplog.at_level(logging.WARNING, logger="elinvar.kernels"):
        for _ in range(3):
            chosen = registry.kernel("demo.double", "cpu")
            assert torch.equal(chosen(torch.ones(2)), torch.full((2,), 2.0))
    assert chosen.version == "v10"
    assert "v11 failed its self-check (relative error 5.0e-02 > 1.0e-06)" in chosen.why
    assert len(caplog.records) == 1
    assert calls.count("v11") == 1


@pytest.mark.parametrize("broken", ["raise ", "missing module", "missing attribute"])
def test_a_version_that_cannot_run_falls_back_to_the_reference(broken: str) -> None:
    def fails(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("error: expected ';'\nmore")

    registry = Registry()
    lazy = {"missing module": "no.such.module:f", "missing attribute": "math:no_such_function"}
    registry.register("demo.double", "v1", reference=double, cpu=lazy.get(broken, fails), example=tile, tolerance=0,
                      summary="")  # fmt: skip
    chosen = registry.kernel("demo.double", "cpu")
    assert (chosen.version, chosen.backend) == ("reference", "reference")
    assert "v1 could not run (" in chosen.why
    assert chosen.why.endswith("the reference is what is left")
    assert torch.equal(chosen(torch.ones(1)), torch.full((1,), 2.0))


def test_an_explicit_version_never_falls_back(registry: Registry, calls: Calls) -> None:
    add(registry, calls, "v11", factor=2.1)
    for _ in range(2):
        with pytest.raises(KernelRejected, match=r"v11 \(cpu on cpu\) disagrees with its reference.* > 1.00e-06"):
            registry.kernel("demo.double", "cpu", version="v11")

    def fails(x: torch.Tensor) -> torch.Tensor:
        raise ValueError("cannot compile")

    add(registry, calls, "v12", cpu=fails)
    with registry.use("demo.double=v12"), pytest.raises(KernelRejected, match=r"use\(\).*ValueError: cannot compile"):
        registry.kernel("demo.double", "cpu")


@pytest.mark.parametrize("error", [MemoryError(), DeviceOutOfMemory("full"), torch.OutOfMemoryError("full")])
def test_out_of_memory_is_raised_and_not_remembered(error: Exception) -> None:
    tries = [error]

    def run(x: torch.Tensor) -> torch.Tensor:
        if tries:
            raise tries.pop()
        return x * 2

    registry = Registry()
    registry.register("demo.double", "v1", reference=double, cpu=run, example=tile, tolerance=0, summary="")
    with pytest.raises(type(error)):
        registry.kernel("demo.double", "cpu")
    assert registry.kernel("demo.double", "cpu").version == "v1"


def test_user_errors_reach_the_user(registry: Registry) -> None:
    chosen = registry.kernel("demo.double", "cpu")
    with pytest.raises(TypeError):
        chosen(None)
    assert registry.kernel("demo.double", "cpu").version == "v2"


def test_a_broken_reference_is_not_hidden_behind_a_fallback() -> None:
    def wrong(x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("oops")

    registry = Registry()
    registry.register("demo.double", "v1", reference=wrong, cpu=double, example=tile, tolerance=0, summary="")
    with pytest.raises(KernelError, match=r"reference of kernel 'demo.double' v1 raised on its own example"):
        registry.check("demo.double", "v1")


def test_without_an_example_nothing_is_checked_and_why_says_so() -> None:
    registry = Registry()
    registry.register("demo.double", "v1", reference=double, cpu=double, tolerance=0, summary="")
    assert "not checked" in registry.kernel("demo.double", "cpu").why
    with pytest.raises(InputError, match="registered without example="):
        registry.check("demo.double", "v1")


def test_the_check_runs_once_whatever_the_threads(registry: Registry, calls: Calls) -> None:
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        registry.kernel("demo.double", "cpu")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["v2"]


def test_the_callers_modes_do_not_reach_the_check(registry: Registry) -> None:
    class Refuse(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            raise AssertionError("an operation of the caller's thread")

    with Refuse(), torch.inference_mode():
        assert registry.kernel("demo.double", "cpu").version == "v2"
    assert not [thread for thread in threading.enumerate() if thread.name == "elinvar-self-check"]


def test_check_reports_the_error(registry: Registry, calls: Calls) -> None:
    add(registry, calls, "v3", factor=2.002)
    report = registry.check("demo.double", "v3", seed=2)
    assert not report.ok
    assert report.error == pytest.approx(1e-3, rel=1e-2)
    assert report.max_error == pytest.approx(1e-3, rel=1e-2)
    with pytest.raises(KernelRejected, match=r"disagrees.*seed 2"):
        report.require()
    assert registry.check("demo.double", "v2").require().ok


def test_metal_implementations_get_the_device(registry: Registry, calls: Calls) -> None:
    seen: list[Any] = []

    def run(x: torch.Tensor, *, device: Any) -> torch.Tensor:
        seen.append(device)
        return x * 2

    add(registry, calls, "v20", cpu=None, metal=run)
    assert registry.check("demo.double", "v20", "cpu", backend="metal").ok
    assert seen == [device("cpu")]
    with pytest.raises(UnknownKernel, match="has no cpu implementation"):
        registry.check("demo.double", "v20", "cpu")


def test_results_written_into_arguments_are_compared() -> None:
    def add_into(image: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        image += x
        return image

    def forgets_nothing_but_spoils_input(image: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        image += x
        x.zero_()
        return image

    registry = Registry()
    both = {"reference": add_into, "example": lambda seed: ((torch.ones(3), torch.ones(3)), {}), "tolerance": 0.0}
    registry.register("demo.add", "v1", cpu=add_into, summary="", **both)  # type: ignore[arg-type]
    registry.register("demo.add", "v2", cpu=forgets_nothing_but_spoils_input, summary="", **both)  # type: ignore[arg-type]
    assert registry.check("demo.add", "v1").ok
    assert not registry.check("demo.add", "v2").ok


# -- the measure -----------------------------------------------------------------------------------------------------


def test_difference() -> None:
    nan, inf = float("nan"), float("inf")
    assert selfcheck.difference(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == (
        pytest.approx(0.5 / np.hypot(3, 4.5)),
        pytest.approx(0.5 / 4.5),
    )
    assert selfcheck.difference([torch.tensor([nan, inf, 1])], [np.array([nan, inf, 1])]) == (0.0, 0.0)
    assert selfcheck.difference(torch.tensor([nan, 1]), torch.tensor([0.0, 1]))[0] == inf
    assert selfcheck.difference(torch.tensor([inf, 1]), torch.tensor([-inf, 1]))[0] == inf
    assert selfcheck.difference(torch.ones(2), torch.ones(3))[0] == inf
    assert selfcheck.difference((1, 2), (1,))[0] == inf
    assert selfcheck.difference({"a": 1j}, {"a": 1j}) == (0.0, 0.0)
    assert selfcheck.difference(torch.tensor([1.5], dtype=torch.bfloat16), np.array([1.5])) == (0.0, 0.0)
    assert selfcheck.difference(np.array([1e-9]), np.array([0.0])) == (1e-9, 1e-9)
    assert selfcheck.difference(np.zeros(0), np.zeros(0)) == (0.0, 0.0)


def test_the_reference_sees_float64_copies() -> None:
    given = {"x": torch.ones(2), "n": torch.ones(2, dtype=torch.int32), "c": np.ones(2, np.complex64), "k": 3}
    wide = selfcheck.as_float64(given)
    assert [wide["x"].dtype, wide["n"].dtype, wide["c"].dtype, wide["k"]] == [
        torch.float64,
        torch.int32,
        np.complex128,
        3,
    ]
    wide["n"][0] = 7
    assert given["n"][0] == 1


# -- registering and listing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "two words"}, "no kernel name"),
        ({"version": "reference"}, "which every kernel has"),
        ({"version": ""}, "no version"),
        ({"tolerance": -1.0}, "0 or more"),
        ({"tolerance": float("nan")}, "0 or more"),
        ({"cpu": None}, "neither cpu= nor metal="),
        ({"cpu": "nocolon"}, "callable or 'package.module:name'"),
        ({"reference": None}, "reference of kernel"),
    ],
)
def test_register_refuses(options: dict[str, Any], message: str) -> None:
    given = {
        "name": "a.b",
        "version": "v1",
        "reference": double,
        "cpu": double,
        "tolerance": 0.0,
        "summary": "",
        **options,
    }
    with pytest.raises(InputError, match=message):
        Registry().register(given.pop("name"), given.pop("version"), **given)


def test_registering_the_same_twice_is_harmless_and_a_different_one_is_not(registry: Registry, calls: Calls) -> None:
    again = Registry()
    for _ in range(2):
        again.register("a.b", "v1", reference=double, cpu=double, tolerance=0, summary="")
    with pytest.raises(InputError, match="already has a version 'v1'"):
        again.register("a.b", "v1", reference=double, cpu=double, tolerance=1, summary="")


def test_listing_runs_nothing_and_serialises(registry: Registry, calls: Calls) -> None:
    [info] = registry.kernels("cpu")
    assert calls == []
    assert (info.name, info.version, info.checked, info.versions) == (
        "demo.double", "v2", None, {"v10": ("cpu",), "v2": ("cpu",), "baseline": ("cpu",)},
    )  # fmt: skip
    registry.kernel("demo.double", "cpu")
    assert registry.kernels("cpu")[0].checked is True
    assert json.loads(json.dumps(info.to_dict()))["version"] == "v2"


def test_cases_and_prepare(registry: Registry, calls: Calls) -> None:
    add(registry, calls, "v20", metal=implementation(calls, "emulated"))
    cases = registry.cases(devices=["cpu"])
    assert [str(case) for case in cases] == [
        "demo.double-v20-cpu",
        "demo.double-v20-emulator",
        "demo.double-v10-cpu",
        "demo.double-v2-cpu",
        "demo.double-baseline-cpu",
    ]
    for case in cases:
        assert registry.check(*case[:3], backend=case.backend).ok
    for version in ("v2", "reference"):
        assert registry.prepare("demo.double", version)().shape == (5,)


def test_source_paths(registry: Registry, calls: Calls, tmp_path: Any) -> None:
    (tmp_path / "a.metal").write_text("kernel void k() {}")
    for number, (source, found) in enumerate(
        [
            (tmp_path / "a.metal", True),
            ("elinvar.runtime.kernels:kernelinfo.py", True),
            ("runtime/kernels.py", True),
            ("nowhere/at_all.metal", False),
        ]
    ):
        add(registry, calls, f"s{number}", source=source)
        item = registry.version("demo.double", f"s{number}")
        if found:
            assert item.source_path is not None
            assert item.source_path.is_file()
        else:
            with pytest.raises(InputError, match="is no file"):
                _ = item.source_path


@pytest.fixture
def plugin(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "elinvar_test_plugin.py").write_text(
        "from elinvar.runtime.kernels import register\n"
        "register('plugin.double', 'v1', reference='operator:neg', cpu='operator:neg', tolerance=0, summary='minus')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    CATALOGUE.append("elinvar_test_plugin")
    yield "plugin.double"
    CATALOGUE.remove("elinvar_test_plugin")


def test_engines_and_plugins_are_discovered(plugin: str) -> None:
    assert plugin in {info.name for info in kernels("cpu")}


def test_registering_imports_no_torch() -> None:
    code = (
        "import sys; from elinvar.runtime.kernels import register\n"
        "register('a.b', 'v1', reference='x:y', cpu='x:y', tolerance=0, summary='')\n"
        "assert not {'torch', 'numpy', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
