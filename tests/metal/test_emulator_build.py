"""Compiling for the emulator: what the compiler says, what is kept, what happens without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from elinvar import metal
from elinvar.errors import MetalError, MetalSyntaxError
from elinvar.metal import emulator_build

Compile = Callable[..., Any]
HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
FILL = HEAD + "kernel void fill(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) { x[i] = VALUE; }\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path / "a cache"))
    return tmp_path / "a cache" / "emulator"


# ---- messages -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "line", "says"),
    [
        ("x[i] = foo(i);", 5, "'foo' was not declared"),
        ("\n  float4 v = float3(1);", 6, "float3"),
        ("x[i] = max(1u, 2);", 5, "ambiguous"),
        ("float2 a; a.xx = float2(1);", 5, "names each component once"),
        ("int2 a = 1; a *= 1.5f;", 5, "operator*="),
        ("half3 h = float3(1);", 5, ""),
        ("atomic_fetch_max_explicit((device atomic_float*)x, 1.0f, memory_order_relaxed);", 5, "no atomic_fetch_max"),
        ("float3 v; v.xyzw = 1;", 5, "xyzw"),
        ("float y = erf(1.0f);", 5, "erf"),
        ("#pragma unroll\n for (;;) ;\n y = 1;", 7, "'y' was not declared"),
        ("MACRO(q)", 5, "'q' was not declared"),
    ],
)
def test_errors_are_in_the_users_lines(body: str, line: int, says: str, emulator: Compile) -> None:
    text = HEAD + "#define MACRO(v) x[i] = v;\n"
    with pytest.raises(MetalSyntaxError) as caught:
        emulator(
            text + f"kernel void k(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {{\n{body}\n}}\n"
        )
    message = str(caught.value)
    assert message.startswith(f"<source>:{line}: "), message
    assert says in message
    assert "elinvar_msl::" not in message


def test_errors_in_files_and_how_many(tmp_path: Path, emulator: Compile) -> None:
    file = tmp_path / "bad.metal"
    file.write_text("kernel void k() {\n  a = 1;\n  b = 2;\n  c = 3;\n}\n")
    with pytest.raises(
        MetalSyntaxError, match=r"^bad\.metal:2: 'a' was not declared.* \(and 2 more lines with errors\)$"
    ):
        emulator(file)


# ---- names ----------------------------------------------------------------------------------------------------------
def test_a_forgotten_namespace_is_told_of(emulator: Compile) -> None:
    body = "{ x[i] = sin(x[i]); }"
    head = "kernel void f(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]])"
    with pytest.raises(MetalSyntaxError, match=r"'sin' was not declared.* `using namespace metal;` above"):
        emulator(f"{head}\n{body}")
    with pytest.raises(MetalSyntaxError, match=r"'sine' was not declared in this scope$"):
        emulator(f"#include <metal_stdlib>\nusing namespace metal;\n{head}\n{{ x[i] = sine(x[i]); }}")


def test_names_of_c_and_of_the_prelude_are_the_users(emulator: Compile) -> None:
    lib = emulator("""#include <metal_stdlib>
namespace mine { inline float select(float a) { return a + 1; } inline int printf(int x) { return x; } }
inline float square(float x) { return x * x; }
struct vector2 { float x, y; };
template <typename T> inline T abs(T x) { return x < 0 ? -x : x; }
kernel void index(device float* x [[buffer(0)]], uint stdout [[thread_position_in_grid]]) {
    float round = mine::select(x[stdout]), y1 = mine::printf(2), j0 = ::square(3), exp = abs(-4.0f);
    x[stdout] = round + y1 + j0 + exp + metal::abs(-5.0f) + ::metal::max(6.0f, 1.0f);
}
""")
    x = torch.zeros(1)
    lib.index(x)
    assert x.item() == 1 + 2 + 9 + 4 + 5 + 6


def test_a_kernel_may_be_called_as_a_function_of_metal(emulator: Compile) -> None:
    lib = emulator(HEAD + "kernel void transpose(device float* x) { x[0] = 1; }\nkernel void main0() {}\n")
    x = torch.zeros(1)
    lib.transpose(x)
    assert x.item() == 1


def test_every_header_of_torch_compiles(emulator: Compile) -> None:
    names = ("atomic", "common", "error", "expm1f", "igamma", "indexing", "random", "reduction_utils", "special_math")
    lib = emulator(
        "".join(f"#include <c10/metal/{name}.h>\n" for name in names)
        + """kernel void k(device float* x [[buffer(0)]], device half* h [[buffer(1)]], device uint* n [[buffer(2)]],
    uint i [[thread_position_in_grid]])
{
    x[i] = c10::metal::erf(0.5f) + c10::metal::log_gamma(5.0f);
    c10::metal::AtomicType<half>::atomic_add((device metal::atomic<uint>*)h, 1, half(i));
    n[i] = c10::metal::randint64(42, i, 0, 100);
}
"""
    )
    x, h, n = torch.ones(64), torch.zeros(2, dtype=torch.float16), torch.zeros(64, dtype=torch.int32)
    lib.k(x, h, n)
    assert torch.allclose(x, torch.erf(torch.tensor(0.5)) + torch.lgamma(torch.tensor(5.0)))
    assert h.tolist() == [0, sum(range(64))]
    assert 0 <= n.min() <= n.max() < 100


# ---- the cache ------------------------------------------------------------------------------------------------------
def test_what_is_compiled_is_kept_under_everything_that_made_it(cache: Path, emulator: Compile) -> None:
    def built() -> int:
        return len(list(cache.glob("metal-*")))

    emulator(FILL, defines={"VALUE": 1})
    before = {path: path.stat().st_ino for path in cache.glob("metal-*")}
    emulator(FILL, defines={"VALUE": 1}, schedule="reverse", seed=7)
    assert {path: path.stat().st_ino for path in cache.glob("metal-*")} == before
    assert built() == 1
    emulator(FILL, defines={"VALUE": 2})
    assert built() == 2
    emulator(FILL, defines={"VALUE": 2}, races=True)
    assert built() == 3
    assert not list(cache.glob("*.part"))


def test_a_damaged_file_is_built_again(cache: Path, emulator: Compile) -> None:
    make = emulator_build.make(metal.parse(FILL, {"VALUE": 31}), "plain")
    make.path.write_bytes(b"nonsense")
    x = torch.zeros(1)
    emulator(FILL, defines={"VALUE": 31}).fill(x)
    assert x.item() == 31


def test_old_kernels_are_forgotten(cache: Path, emulator: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator_build, "_KEPT", 4)
    for value in range(7):
        emulator(FILL, defines={"VALUE": value})
    assert 3 <= len(list(cache.glob("metal-*"))) <= 5


def test_a_failed_compilation_leaves_nothing(cache: Path, emulator: Compile) -> None:
    with pytest.raises(MetalSyntaxError):
        emulator(FILL, defines={"VALUE": "undeclared"})
    assert not list(cache.glob("metal-*"))
    assert not list(cache.glob(".*"))


# ---- the prelude compiled ahead, lines when they are asked for ------------------------------------------------------
def ahead(cache: Path) -> list[Path]:
    return list(cache.glob("prelude-*/emulator.h.gch"))


needs_gcc = pytest.mark.skipif(
    shutil.which("g++") is None or "clang" in emulator_build.compiler()[1].lower(), reason="needs g++ itself"
)


@needs_gcc
def test_the_prelude_is_compiled_ahead_from_the_second_kernel_on(cache: Path, emulator: Compile) -> None:
    old = cache / "prelude-plain-of-an-older-version"
    emulator(FILL, defines={"VALUE": 1})
    assert not ahead(cache)
    old.mkdir()
    for value in (2, 3):
        emulator(FILL, defines={"VALUE": value})
        [made] = ahead(cache)
    assert made.parent.name.startswith("prelude-plain-")
    assert not old.exists()


@needs_gcc
def test_another_cache_is_lent_what_all_kernels_need(cache: Path, emulator: Compile, tmp_path: Path) -> None:
    emulator(FILL, defines={"VALUE": 1})
    other = tmp_path / "other"
    emulator_build.lend(other)
    lent = {file.relative_to(other / "emulator"): file.stat().st_ino for file in other.rglob("*") if file.is_file()}
    assert len(lent) == 6  # a runtime and a prelude for each kind of build
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELINVAR_CACHE", str(other))
        x = torch.zeros(1)
        emulator(FILL, defines={"VALUE": 5}).fill(x)
    assert x.item() == 5
    assert {file: (other / "emulator" / file).stat().st_ino for file in lent} == lent
    [built] = (other / "emulator").glob("metal-*")
    assert not (cache / built.name).exists()


@needs_gcc
@pytest.mark.parametrize("left", [0, 1000, 1 << 20])
def test_a_cut_off_prelude_is_not_believed(cache: Path, emulator: Compile, left: int) -> None:
    for value in (1, 2):
        emulator(FILL, defines={"VALUE": value})
    [made] = ahead(cache)
    os.truncate(made, left)
    x = torch.zeros(1)
    emulator(FILL, defines={"VALUE": 3}).fill(x)
    assert x.item() == 3


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF")
@pytest.mark.parametrize("mode", ["plain", "races", "sanitize"])
def test_a_build_with_lines_is_the_same_machine_code(mode: emulator_build.Mode) -> None:
    source = metal.parse(Path(metal.__file__).parents[1] / "video/kernels/bloom/bloom.metal", None)
    build = emulator_build.make(source, mode)
    lined = emulator_build.with_lines(source, build)
    assert lined is not None
    assert lined != build.path
    assert emulator_build._code(lined) == emulator_build._code(build.path) != []
    assert lined.stat().st_size > build.path.stat().st_size


def test_lines_of_other_machine_code_are_not_told(tmp_path: Path) -> None:
    source = metal.parse(FILL, {"VALUE": 1})
    other = tmp_path / "other.so"
    for content in (emulator_build.make(metal.parse(FILL, {"VALUE": 2}), "plain").path.read_bytes(), b"not ELF"):
        other.write_bytes(content)
        assert emulator_build.with_lines(source, emulator_build.Build(other, "plain", ("fill",))) is None


# ---- the compiler ---------------------------------------------------------------------------------------------------
def _fresh(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout + done.stderr


SCRIPT = """
from elinvar import metal
from elinvar.errors import MetalError
try:
    metal.compile("kernel void k() {}\\n", "cpu")
except MetalError as error:
    print(type(error).__name__, error)
"""


def test_without_a_compiler_the_message_says_how_to_get_one(tmp_path: Path) -> None:
    said = _fresh(SCRIPT, PATH=str(tmp_path), ELINVAR_CACHE=str(tmp_path))
    assert said.startswith("MetalError [metal] running Metal on the CPU needs a C++17 compiler, and none was found: ")
    assert "apt-get install g++" in said or "xcode-select" in said


def test_a_compiler_can_be_named(tmp_path: Path) -> None:
    said = _fresh(SCRIPT, PATH=str(tmp_path), ELINVAR_CACHE=str(tmp_path), ELINVAR_CXX="no-such-compiler")
    assert "ELINVAR_CXX=no-such-compiler was not found" in said


def test_a_compiler_that_cannot_is_quoted(tmp_path: Path, emulator: Compile) -> None:
    fake = tmp_path / "g++"
    fake.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    fake.chmod(0o755)
    said = _fresh(SCRIPT, PATH=f"{tmp_path}:/usr/bin:/bin", ELINVAR_CACHE=str(tmp_path))
    assert "cannot compile the emulator's runtime: broken" in said


def test_metal_errors_are_one_family() -> None:
    assert issubclass(MetalSyntaxError, MetalError)
