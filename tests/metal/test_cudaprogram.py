"""The CUDA text that is made of Metal source, compiled by g++ and run with one host thread per GPU thread."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elinvar.errors import MetalSyntaxError
from elinvar.metal import cudaprogram, nvidia, nvrtc
from elinvar.metal.language import parse
from elinvar.metal.launch import Launch, bind
from elinvar.testing.cases.case import MetalCase, differences
from elinvar.testing.metal_cases import CASES

# What each inline assembly statement of the headers does, in C.
ASSEMBLY = [
    (r'asm\("mov\.u32 %0, %%laneid;"[^;]*\);', "lane = emulated_lane();"),
    (r'asm\("cvt\.rn\.f16\.f32[^;]*;"[^;]*\);', "result = elinvar_half_soft(value);"),
    (r'asm\("cvt\.f32\.f16[^;]*;"[^;]*\);', "result = elinvar_half_value_soft(bits);"),
    (r'asm\("fma\.rn\.f16[^;]*;"[^;]*\);', "r = half(float(x) * float(y) + float(z)).bits;"),
    (r'asm\("fma\.rn\.bf16[^;]*;"[^;]*\);', "r = bfloat(float(x) * float(y) + float(z)).bits;"),
    (
        r'asm\("\{\.reg \.b32 a, b, c;.*?y\.v\[1\]\.bits\)\);',
        'for (int i = 0; i < 2; i++) r.v[i] = op[1] == "max"[1] ? fmax(x.v[i], y.v[i]) : fmin(x.v[i], y.v[i]);',
    ),
    (r'asm\(instruction " %0, %1;"[^;]*\);', "r = emulated_instruction(instruction, x);"),
    # NVRTC lets constexpr functions call what is not; g++ 12 does not.
    (r"ELINVAR_FN (int elinvar_(?:popcount|clz|ctz)\(u(?:int|long) x\) \{ return)", r"ELINVAR_FN constexpr \1"),
]
# Not run: 65 600 groups of barriers between host threads take too long; test_flat_grids covers what is special there.
SLOW = {"more than 65 535 groups in y"}

needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++: apt install g++")


GXX = ["g++", "-std=c++20", "-O1", "-w", "-fno-strict-aliasing", "-ffp-contract=off", "-fPIC", "-pthread"]


def compiled(*arguments: str) -> None:
    done = subprocess.run([*GXX, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]


class Preludes:
    """What programs begin with, as g++ can read it, compiled ahead: half of a program's compilation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, Path] = {}

    def __call__(self, head: str) -> Path:
        """Return the folder in which ``prelude.h`` is CUDA on threads and then `head`."""
        if head not in self.made:
            folder = self.made[head] = self.folder / str(len(self.made))
            folder.mkdir()
            for name, header in cudaprogram._headers().items():
                for pattern, meaning in ASSEMBLY:
                    header = re.sub(pattern, meaning, header, flags=re.DOTALL)
                assert "asm(" not in header, f"{name} has assembly that this test does not know"
                (folder / name).write_text(header)
            (folder / "prelude.h").write_text('#include "cuda_on_threads.h"\n' + head)
            ahead = ["-x", "c++-header", str(folder / "prelude.h"), "-o", str(folder / "prelude.h.gch")]
            compiled(f"-I{Path(__file__).parent}", *ahead)
        return self.made[head]


class OnThreads:
    """One source as a shared library."""

    def __init__(self, text: str, defines: Any, folder: Path, preludes: Preludes) -> None:
        self.source = parse(text, defines)
        self.folder = folder
        self.preludes = preludes
        self.libraries: dict[tuple[cudaprogram.Entry, ...], ctypes.CDLL] = {}

    def library(self, entries: tuple[cudaprogram.Entry, ...]) -> ctypes.CDLL:
        if entries not in self.libraries:
            folder = self.folder / str(len(self.libraries))
            folder.mkdir()
            before, include, text = cudaprogram.program_text(self.source, entries).partition('#include "msl_cuda.h"\n')
            program, built = folder / "program.cpp", folder / "program.so"
            program.write_text('#include "prelude.h"\n' + text)
            compiled(f"-I{self.preludes(before + include)}", "-shared", str(program), "-o", str(built))
            self.libraries[entries] = ctypes.CDLL(str(built))
        return self.libraries[entries]

    def run(self, name: str, launch: Launch, *, laid: int = 0) -> None:
        signature = self.source.kernels[name]
        pointers = nvidia.by_address(signature, launch)
        made = cudaprogram.entry(self.source, name, aliased=nvidia.overlapping(signature, launch), pointers=pointers)
        library = self.library((made,))
        held: list[torch.Tensor] = []

        def address(data: bytes) -> int:
            held.append(torch.frombuffer(bytearray(data), dtype=torch.uint8))
            return held[-1].data_ptr()

        grid, needs = nvidia.geometry(name, launch.threads, launch.group)
        assert not needs & 1
        if laid & 1:
            grid = (int(np.prod(grid)), 1, 1)
        given = nvidia.arguments(made, launch, laid=needs | laid, address=address)
        words = [*given, *[0] * (24 - len(given))]
        kernel = ctypes.cast(library[made.symbol], ctypes.c_void_p)
        unsigned = (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*launch.group)
        library.emulated_launch(kernel, *unsigned, (ctypes.c_long * 24)(*words))


Make = Callable[..., OnThreads]


@pytest.fixture(scope="module")
def preludes(tmp_path_factory: pytest.TempPathFactory) -> Preludes:
    return Preludes(tmp_path_factory.mktemp("preludes"))


@pytest.fixture
def on_threads(tmp_path: Path, preludes: Preludes) -> Make:
    return partial(OnThreads, folder=tmp_path, preludes=preludes)


@needs_gxx
@pytest.mark.parametrize("case", [c for c in CASES.values() if c.name not in SLOW], ids=lambda case: case.name)
def test_case(case: MetalCase, on_threads: Make) -> None:
    program = on_threads(case.text, case.defines)
    given = case.arguments()
    expected = {index: want.clone() for index, want in case.expect(given).items()}
    launch = bind(program.source.kernels[case.kernel], given, case.threads, case.group_size, torch.device("cpu"))
    program.run(case.kernel, launch)
    differences(case, given, expected)


@needs_gxx
def test_flat_grids(on_threads: Make) -> None:
    case = CASES["every thread attribute"]
    program = on_threads(case.text, case.defines)
    given = case.arguments()
    launch = bind(program.source.kernels[case.kernel], given, case.threads, case.group_size, torch.device("cpu"))
    program.run(case.kernel, launch, laid=1)
    differences(case, given, case.expect(case.arguments()))


QUADS = """
kernel void quads(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
    uint i [[thread_position_in_grid]], uint q [[thread_index_in_quadgroup]], uint n [[quadgroup_index_in_threadgroup]])
{
    device float* row = out + i * 8;
    row[0] = quad_sum(x[i]);
    row[1] = quad_max(x[i]);
    row[2] = quad_shuffle_xor(x[i], 1);
    row[3] = quad_broadcast(x[i], 2);
    row[4] = quad_prefix_exclusive_sum(x[i]);
    row[5] = float(n * 4 + q);
    row[6] = simd_shuffle_rotate_down(x[i], 5);
    row[7] = simd_shuffle_and_fill_up(x[i], -x[i], 3);
}
"""


@needs_gxx
def test_quadgroups_and_rotations(on_threads: Make) -> None:
    program = on_threads("using namespace metal;\n" + QUADS, None)
    x = torch.arange(64, dtype=torch.float32) ** 2 % 37
    out = torch.zeros(64, 8)
    program.run("quads", bind(program.source.kernels["quads"], [x, out], 64, 64, torch.device("cpu")))
    fours, warps = x.reshape(-1, 4), x.reshape(-1, 32)
    assert torch.equal(out[:, 0], fours.sum(1).repeat_interleave(4))
    assert torch.equal(out[:, 1], fours.amax(1).repeat_interleave(4))
    assert torch.equal(out[:, 2], fours[:, [1, 0, 3, 2]].reshape(-1))
    assert torch.equal(out[:, 3], fours[:, 2].repeat_interleave(4))
    assert torch.equal(out[:, 4], (fours.cumsum(1) - fours).reshape(-1))
    assert torch.equal(out[:, 5], torch.arange(64.0))
    assert torch.equal(out[:, 6], warps.roll(-5, 1).reshape(-1))
    filled = torch.cat([-warps[:, 29:], warps[:, :29]], 1)
    assert torch.equal(out[:, 7], filled.reshape(-1))


ADDRESSES = """
struct Big { float v[200]; };
kernel void addresses(device float* out [[buffer(4)]], constant Big& big [[buffer(0)]],
    constant float& scale [[buffer(2)]], constant float* list [[buffer(1)]], constant float (&fixed)[3] [[buffer(3)]],
    uint i [[thread_position_in_grid]])
{
    out[i] = big.v[i] * scale + list[i % 2] + fixed[i % 3];
}
"""


@needs_gxx
@pytest.mark.parametrize("scale", [2.0, torch.tensor([2.0])], ids=["value", "tensor"])
def test_constants_by_value_and_by_address_in_any_buffer_order(on_threads: Make, scale: Any) -> None:
    program = on_threads("using namespace metal;\n" + ADDRESSES, None)
    signature = program.source.kernels["addresses"]
    assert cudaprogram.by_value(signature.buffers[0]) is None  # 800 bytes
    out = torch.zeros(200)
    big = torch.arange(200, dtype=torch.float32)
    given = [big.numpy().tobytes(), [10.0, 20.0], scale, [0.25, 0.5, 0.75], out]
    program.run("addresses", bind(signature, given, 200, None, torch.device("cpu")))
    i = np.arange(200)
    want = i * 2 + np.array([10, 20])[i % 2] + np.array([0.25, 0.5, 0.75])[i % 3]
    assert out.tolist() == want.tolist()


# ---- through NVRTC --------------------------------------------------------------------------------------------------

needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="needs NVRTC: pip install nvidia-cuda-nvrtc")


def ptx(text: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> str:
    """Return the PTX for sm_90: NVRTC gives it for an architecture it does not assemble for."""
    monkeypatch.setattr(nvrtc, "supported_archs", lambda: (75, 90))
    source = parse("using namespace metal;\n" + text)
    made = [cudaprogram.entry(source, name, **options) for name in source.kernels]
    return cudaprogram.compile_entries(source, made, "sm_91").code.decode()


COPY = """kernel void copy(device const float4* x [[buffer(0)]], device float4* y [[buffer(1)]],
    device half4* h [[buffer(2)]], uint i [[thread_position_in_grid]])
{
    float4 v = x[i] * 2.0f;
    y[i] = v;
    h[i] = half4(v);
}
"""


@needs_nvrtc
def test_reads_are_wide_and_cached_writes_are_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    text = ptx(COPY, monkeypatch)
    assert re.search(r"ld\.global\.nc\.v4\.[fu]32", text)
    assert re.search(r"st\.global\.v4\.[fb]32", text)
    assert re.search(r"st\.global\.v4\.[ub]16", text)
    assert not re.search(r"(ld|st)\.local", text)


@needs_nvrtc
def test_overlapping_buffers_are_not_read_through_the_read_only_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    text = ptx(COPY, monkeypatch, aliased=True)
    assert "ld.global.nc" not in text
    assert "ld.global.v4" in text


@needs_nvrtc
def test_precise_and_fast_square_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    body = "kernel void k(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {{ x[i] = {}; }}"
    assert "sqrt.rn.f32" in ptx(body.format("sqrt(x[i])"), monkeypatch)
    assert "sqrt.approx.ftz.f32" in ptx(body.format("fast::sqrt(x[i])"), monkeypatch)
    reciprocal = ptx(body.format("fast::divide(1.0f, x[i])"), monkeypatch)
    assert "rcp.approx.ftz.f32" in reciprocal
    assert "mul.f32" not in reciprocal
    assert "div.rn.f32" in ptx(body.format("3.0f / x[i]"), monkeypatch)


@needs_nvrtc
def test_threadgroup_memory_is_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["barriers in a helper given a threadgroup pointer"]
    text = ptx(case.source, monkeypatch)
    assert "ld.shared.f32" in text
    assert "bar.sync" in text
    assert not re.search(r"\bld\.f32|\bst\.f32", text), "generic addressing where shared is known"


@needs_nvrtc
def test_integer_reductions_take_one_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    body = "kernel void k(device int* x [[buffer(0)]], uint i [[thread_position_in_grid]]) { x[i] = simd_sum(x[i]); }"
    assert "redux.sync.add.s32" in ptx(body, monkeypatch)


@needs_nvrtc
@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_case_assembles_for_hopper(case: MetalCase) -> None:
    source = parse(case.text, case.defines)
    program = cudaprogram.compile_entries(source, [cudaprogram.entry(source, name) for name in source.kernels], "sm_90")
    assert program.code[:4] == b"\x7fELF"


@needs_nvrtc
def test_errors_name_the_users_line() -> None:
    text = "using namespace metal;\nkernel void k(device float* x [[buffer(0)]]) {\n\n    x[0] = undeclared;\n}\n"
    source = parse(text)
    with pytest.raises(MetalSyntaxError, match=r"source.metal:4: identifier \"undeclared\" is undefined"):
        cudaprogram.compile_entries(source, [cudaprogram.entry(source, "k")], "sm_90")


@needs_nvrtc
def test_the_second_compilation_comes_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path))
    source = parse(COPY)
    made = [cudaprogram.entry(source, "copy")]
    first = cudaprogram.compile_entries(source, made, "sm_90")

    def refuse(*_: Any) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(nvrtc, "compile_program", refuse)
    assert cudaprogram.compile_entries(source, made, "sm_90") == first
    [stored] = (tmp_path / "metal").glob("*.cuda")
    stored.write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="compiled again"):
        cudaprogram.compile_entries(source, made, "sm_90")


@needs_nvrtc
def test_an_architecture_too_old_is_refused() -> None:
    with pytest.raises(nvrtc.NvrtcError, match="sm_35 is older than"):
        nvrtc.compile_program("", "x", "sm_35")


def test_packing_is_compiled_only_where_something_packs() -> None:
    plain = "kernel void k(device float4* x [[buffer(0)]], uint i [[thread_position_in_grid]]) { x[i] = 0; }\n"
    packs = plain.replace("= 0", "= unpack_unorm4x8_to_float(i)")
    for text, without in ((plain, True), (packs, False)):
        source = parse(text)
        made = cudaprogram.program_text(source, [cudaprogram.entry(source, "k")])
        assert made.startswith("#define ELINVAR_NO_PACKING\n") is without
        if nvrtc.available():
            cudaprogram.compile_entries(source, [cudaprogram.entry(source, "k")], "sm_90")
