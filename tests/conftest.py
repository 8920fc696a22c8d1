"""Tests that need g++ or a browser are skipped without them, in one line that says how to get them.

``ELINVAR_REQUIRE=gxx,chromium`` turns such skips into failures: continuous integration sets it, so that a missing
tool cannot make the suite green by making it smaller.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

TOOLS = {
    "gxx": (("g++", "clang++", "c++"), "the Metal emulator", "sudo apt-get install g++", "xcode-select --install"),
    "chromium": (
        ("chromium", "chromium-browser", "google-chrome", "chrome"),
        "the pages in a browser",
        "sudo apt-get install chromium",
        "brew install --cask chromium",
    ),
}
"""Marker -> programs any of which will do, what they are for, how Debian and macOS install them."""

LONG = (
    "testing/test_kernel_mutants.py",
    "cli/test_tour.py",
    "test_docs.py",
    "seismic/test_combinations.py",
    "seismic/kernels/demigrate/test_versions.py",
    "video/test_exporting.py",
    "metal/fuse/test_fuse.py",
    "metal/test_emulator_build.py",
    "metal/fuse/test_vocabulary.py",
    "tensor/test_everywhere.py",
    "metal/test_cudaprogram.py",
    "vision/test_free_weights.py",
    "testing/test_mutation.py",
    "metal/test_prelude.py",
    "vision/test_network.py",
    "seismic/test_qc.py",
    "seismic/kernels/migrate/test_physics.py",
    "seismic/kernels/migrate/test_cpu_v2.py",
    "seismic/kernels/migrate/test_v3.py",
    "tensor/test_elementwise.py",
    "video/test_shade.py",
    "video/test_graph.py",
    "audio/test_separation_file.py",
    "seismic/kernels/migrate/test_antialias.py",
    "seismic/kernels/migrate/test_metal.py",
    "seismic/test_cluster.py",
    "video/test_budgets.py",
    "testing/test_metal_cases.py",
    "test_kernel_quality.py",
)
"""Files that take longest where nothing is compiled yet, longest first: for what begins last, all workers wait."""

_WORDS = {"gxx": ("g++",), "chromium": ("chromium", "browser")}


def _required() -> set[str]:
    named = {word.strip() for word in os.environ.get("ELINVAR_REQUIRE", "").split(",") if word.strip()}
    unknown = named - TOOLS.keys()
    if unknown:
        raise pytest.UsageError(f"ELINVAR_REQUIRE names {sorted(unknown)}; it knows {sorted(TOOLS)}")
    return named


def _present(tool: str) -> bool:
    return any(shutil.which(program) for program in TOOLS[tool][0])


def require(tool: str) -> None:
    """Skip the running test when a tool is missing; ``ELINVAR_REQUIRE`` turns that into a failure."""
    if not _present(tool):
        pytest.skip(f"needs {TOOLS[tool][0][0]} ({tool})")


@pytest.fixture(scope="module", autouse=True)
def _collections_look_at_this_file_alone() -> None:
    """Take what earlier files left out of the garbage collector's sight.

    Many tests collect to see what is gone. Behind some thousand other tests each of those took up to a second, a
    seventh of the suite's time in all, over objects that stay until the process ends.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def emulator() -> Callable[..., Any]:
    """``emulator(source, **options)``: compile Metal for the CPU."""
    require("gxx")
    from elinvar import metal

    def compile_for_cpu(source: str | Path, **options: Any) -> Any:
        return metal.compile(source, "cpu", **options)

    return compile_for_cpu


@pytest.fixture
def any_device(request: pytest.FixtureRequest) -> str:
    """Every device present in turn, the CPU (Metal's emulator) last."""
    if request.param == "cpu":
        require("gxx")
    return str(request.param)


@pytest.fixture
def reference_data() -> Callable[[str], Path]:
    """``reference_data("seismic/x.npz")``: a file of the optional reference data, or a skip.

    It is looked for in ``ELINVAR_DATA``, else in ``../shared/data`` beside the repository.
    """
    root = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("ELINVAR_DATA", root.parent / "shared" / "data"))

    def find(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"needs reference data {name} (data)")
        return folder / name

    return find


@pytest.fixture
def tour_context(tmp_path: Path) -> Callable[[str], Any]:
    """``tour_context(engine)``: what an engine's part of the tour gets, quick, on the CPU, silent."""
    from elinvar.cli.tour import TourContext
    from elinvar.runtime.device import device

    return lambda engine: TourContext(device("cpu"), tmp_path, quick=True, engine=engine, say=lambda _line: None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "any_device" in metafunc.fixturenames:
        from elinvar.runtime.device import devices

        metafunc.parametrize("any_device", [str(device) for device in devices()], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).resolve().parent
    rank = {here / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_configure() -> None:
    _required()
    # A shell's `command &` ignores Ctrl-C, and so would the programs that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for tool in TOOLS:
        if item.get_closest_marker(tool) is not None:
            require(tool)


def _tool_of(reason: str) -> str | None:
    for tool, words in _WORDS.items():
        if any(word in reason.lower() for word in (tool, *words)):
            return tool
    return None


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """Return why a test was skipped; None when it was not."""
    if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return None
    return str(report.longrepr[2])


def _judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a skip for want of a tool a failure when that tool is required."""
    reason = _reason(report)
    tool = None if reason is None else _tool_of(reason)
    if tool is not None and tool in _required():
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: {reason}, and ELINVAR_REQUIRE={tool} forbids skipping"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _judge(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _judge(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # The reports, not a counter: with pytest-xdist the skips happen in other processes.
    reasons = [_reason(report) or "" for report in terminalreporter.stats.get("skipped", [])]
    tools = Counter(tool for tool in map(_tool_of, reasons) if tool is not None)
    without_data = sum(reason.endswith("(data)") for reason in reasons)
    if without_data:
        terminalreporter.write_line(
            f"elinvar: {without_data} tests were skipped for want of reference data; "
            "enable them with ELINVAR_DATA=/path/to/it."
        )
    for tool, count in sorted(tools.items()):
        programs, purpose, debian, mac = TOOLS[tool]
        terminalreporter.write_line(
            f"elinvar: {count} tests of {purpose} were skipped for want of {programs[0]}; "
            f"enable them with `{debian}` (macOS: `{mac}`)."
        )
