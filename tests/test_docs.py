"""What the README and the documentation say is executed, exists, and is true now.

Python blocks of one page run in order in one namespace. ``<!-- needs: gxx -->`` above a block names a tool (see
conftest.py); ``<!-- not run: why -->`` exempts a block.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from elinvar.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
FENCE = re.compile(
    r"(?:^<!-- (?P<note>(?:needs|not run): [^>]+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)
PROGRAMS = {"gxx": "g++", "chromium": "chromium"}


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int
    note: str

    @property
    def needs(self) -> str | None:
        return self.note.removeprefix("needs: ") if self.note.startswith("needs: ") else None


def _blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["code"], text[: found.start("code")].count("\n"), found["note"] or "")
        for found in FENCE.finditer(text)
    ]


def _id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _run(script: Path, folder: Path) -> None:
    # A process of its own: what a page registers or configures stays in it.
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")], ids=_id)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    lines = [""] * (page.read_text(encoding="utf-8").count("\n") + 1)
    wanting: set[str] = set()
    for block in _blocks(page):
        if block.language != "python" or block.note.startswith("not run"):
            continue
        if block.needs is not None and shutil.which(PROGRAMS[block.needs]) is None:
            wanting.add(PROGRAMS[block.needs])
            continue
        code = block.code.splitlines()
        lines[block.line : block.line + len(code)] = code  # where it is on the page: a traceback names its line
    script = tmp_path / f"page_{page.stem}.py"
    script.write_text("\n".join(lines), encoding="utf-8")
    _run(script, tmp_path)
    if wanting:
        pytest.skip(f"a block needs {', '.join(sorted(wanting))}")


@pytest.mark.parametrize("example", EXAMPLES, ids=_id)
def test_examples_run(example: Path, tmp_path: Path) -> None:
    if "needs: g++" in example.read_text(encoding="utf-8") and shutil.which("g++") is None:
        pytest.skip("needs g++")
    _run(example, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_commands_on_the_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    shell = [block.code for block in _blocks(page) if block.language in {"sh", "bash", "console"}]
    words = "\n".join([*shell, *re.findall(r"`([^`\n]+)`", text)])
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    used = set(re.findall(r"(?:^|\s)make ([a-z]+)", words))
    assert used <= targets
    commands = set(re.findall(r"(?:^|\s|/)elinvar ([a-z]+)", words))
    assert commands <= COMMANDS.keys()


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)|<img[^>]+src=\"([^\"]+)\"", text)
    local = [one or other for one, other in targets if not (one or other).startswith(("http", "mailto"))]
    assert [target for target in local if not (page.parent / target).exists()] == []


APPLE = (
    "ANE",
    "Core ML",
    "coremltools",
    "BNNS",
    "Accelerate",
    "vDSP",
    "AMX",
    "MPSGraph",
    "MPS (Metal Performance Shaders)",
    "MPSGraphCompilationDescriptor",
    "MPSGraphOptimizationLevel1",
    "MPSGraphExecutionDescriptor",
    "scaled dot-product attention",
    "IOSurface",
    "MTLHeap",
    "MTLTexture",
    "MTLBuffer",
    "MTLDevice",
    "MTLCommandQueue",
    "memoryless",
    "tile memory",
    "CVPixelBuffer",
    "CVMetalTextureCache",
    "getBytes",
    "MTLSharedEvent",
    "VideoToolbox",
    "AVFoundation",
    "AVAssetWriterInputPixelBufferAdaptor",
    "Instruments",
    "Metal System Trace",
    "os_signpost",
    "powermetrics",
    "metal-profiler",
    "xctrace",
    "leaks",
    "MallocStackLogging",
    "MTLIndirectCommandBuffer",
    "function constants",
    "MTLResourceStorageModeShared",
    "newBufferWithBytesNoCopy",
    "unified memory",
    "r16Float",
    "thermalState",
    "memory-pressure",
    "threadExecutionWidth",
    "maxTotalThreadsPerThreadgroup",
    "dispatchThreads",
    "threadgroup memory",
    "simd_shuffle",
    "simd_ballot",
    "simd_vote",
    "simdgroup_matrix",
    "addCompletedHandler",
    "DispatchSemaphore",
    "concurrentPerform",
    "persistent kernels",
    "recommendedMaxWorkingSetSize",
    "hazard tracking",
    "XCTest.measure",
    "ProMotion",
    "Metal 4",
    "iOS",
    "Intel Macs",
    "GPU families",
    "shouldUseGPU",
    "[[unroll]]",
)
"""What the five documents name that only Apple systems have, and what people ask about beside them."""


@pytest.mark.parametrize("mechanism", APPLE)
def test_every_apple_mechanism_has_a_row_with_an_answer(mechanism: str) -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "docs" / "apple.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    answers = [row[2] for row in rows if len(row) == 3 and mechanism in row[0]]
    assert answers, f"{mechanism} has no row"
    assert all(answers)


def _results_from_a_mac() -> list[Path]:
    found = []
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        machine = json.loads(path.read_text(encoding="utf-8")).get("machine", {})
        if isinstance(machine, dict) and machine.get("system") == "Darwin":
            found.append(path)
    return found


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/apple.md"])
def test_apple_hardware_is_not_claimed_before_a_result_exists(page: str) -> None:
    if _results_from_a_mac():
        return
    text = " ".join((ROOT / page).read_text(encoding="utf-8").replace(">", " ").split()).lower()
    assert "not yet verified on apple hardware" in text


@pytest.mark.parametrize("engine", ["audio", "vision", "video", "tensor"])
@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_an_engine_that_is_not_there_is_not_promised(page: str, engine: str) -> None:
    rows = [line for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if f"`elinvar.{engine}`" in line]
    absent = not getattr(importlib.import_module(f"elinvar.{engine}"), "__all__", ())
    assert len(rows) == 1
    assert ("designed, not built" in rows[0]) == absent


def test_every_page_is_in_the_navigation() -> None:
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = set(re.findall(r"[\w-]+\.md", json.dumps(config["nav"])))
    assert named == {page.name for page in (ROOT / "docs").glob("*.md")}
    assert config["theme"]["font"] is False  # nothing from the network
