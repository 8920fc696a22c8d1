from __future__ import annotations

from pathlib import Path

import pytest

from elinvar.bench import benchmark, benchmarks, find_checkout
from elinvar.bench import registry as registry_module
from elinvar.errors import BenchError


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    return tmp_path


def script(checkout: Path, name: str, text: str) -> Path:
    path = checkout / "benchmarks" / f"{name}.py"
    path.write_text(text)
    return path


def test_scripts_are_listed_without_being_run(checkout: Path) -> None:
    script(checkout, "boom", '"""Goes boom.\n\nMore."""\nraise SystemExit(3)\ndef ci_cases(): ...\n')
    script(checkout, "_private", "")
    script(checkout, "torn", "def (")
    found = {entry.name: entry for entry in benchmarks(checkout)}
    assert found["boom"].summary == "Goes boom."
    assert not found["boom"].shipped
    assert registry_module.offers_ci(found["boom"].path)
    assert not registry_module.offers_ci(found["torn"].path)
    assert found["torn"].summary == ""
    assert "_private" not in found
    assert found["copy"].shipped


def test_a_checkout_s_script_wins_over_a_shipped_suite(checkout: Path) -> None:
    script(checkout, "copy", '"""Mine."""')
    assert benchmark("copy", checkout).summary == "Mine."


def test_the_checkout_is_found_from_below(checkout: Path, tmp_path: Path) -> None:
    below = checkout / "a" / "b"
    below.mkdir(parents=True)
    assert find_checkout(below) == checkout.resolve()
    (checkout / "pyproject.toml").unlink()
    assert find_checkout(below) is None


def test_unknown_names_list_the_known_ones(checkout: Path) -> None:
    with pytest.raises(BenchError, match=r"'nope'.*copy.*gemm"):
        benchmark("nope", checkout)


def test_a_script_that_fails_to_import_can_be_loaded_again_when_mended(checkout: Path) -> None:
    path = script(checkout, "s", "1 / 0")
    with pytest.raises(ZeroDivisionError):
        registry_module.load(path)
    path.write_text("x = 22\n")
    assert registry_module.load(path).x == 22


@pytest.mark.parametrize("name", ["copy", "gemm", "roofline"])
def test_shipped_suites_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = registry_module.load(benchmark(name).path)
    if name == "copy":
        monkeypatch.setattr(module, "SIZES_MB", (0.25,))
    if name == "gemm":
        monkeypatch.setattr(module, "EDGES", {"cpu": (32,)})
    result = registry_module.run(benchmark(name), runs=2, warmup=0, device="cpu")
    assert result.name == name
    assert all(len(samples) == 2 for samples in result.samples.values())
    if name == "roofline":
        roof = result.extras["roofline"]
        assert roof["copy_gbps"] > 0
        assert roof["f32_gflops"] > 0


@pytest.mark.parametrize("entry", [e for e in benchmarks() if e.shipped and registry_module.offers_ci(e.path)])
def test_shipped_ci_cases_are_callable(entry: registry_module.Benchmark) -> None:
    for name, case in registry_module.load(entry.path).ci_cases().items():
        assert name
        case.fn()


def test_a_roofline_says_when_it_was_measured_on_a_busy_machine() -> None:
    from elinvar.bench import Load, Samples, Work
    from elinvar.bench.ceilings import from_samples

    rows = {
        "copy": Samples("copy", (0.1,), work=Work(bytes=8e9)),
        "gemm fp32": Samples("gemm fp32", (0.1,), work=Work(flops=2e10)),
    }
    roof = from_samples(rows, "box")
    assert (roof.copy_gbps, roof.f32_gflops, roof.bf16_gflops, roof.contended) == (80.0, 200.0, None, False)
    busy = Samples("copy", (0.1,), work=Work(bytes=8e9), load=Load(1.0, 2, 1.0))
    assert from_samples(rows | {"copy": busy}).contended
