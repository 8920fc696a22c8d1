"""A parsed Metal source as a CUDA program: the translation, one entry point per kernel, compiled and kept on disk.

Needs NVRTC, but neither a GPU nor torch: `nvidia` loads what this makes, `cubin` reports on it.

Options are the precise ones (no ``--use_fast_math``): IEEE division and square root, subnormals kept. Products and
sums are contracted to fma (``--fmad=true``) because Metal's compiler does so by default too; code whose result must not
depend on that says `fma` or keeps its operands exact. ``fast::`` functions are the approximate ones, where asked for.

Registers are the compiler's choice unless a kernel bounds them: ``[[max_total_threads_per_threadgroup(256)]]`` with
``#define ELINVAR_CUDA_GROUPS 6`` (in the file or through ``defines=``) asks for code of which six groups of 256 fit a
multiprocessor. Measure it: fewer registers are not always faster.

``#define ELINVAR_CUDA_EARLY 1`` lets a kernel's groups take their places while the launch before it on its stream still
runs (programmatic dependent launch, compute capability 9.0): worth half a microsecond or more where a kernel is short.
Its entry point waits, before anything of the kernel runs, until all that came before is complete and its writes can be
seen; then it lets its successor take places. Whatever came before, and whatever a kernel reads or overwrites, results
are those of an ordinary launch. (Other people's kernels that are launched early have to wait likewise, as CUDA asks of
them: one that did not would now be early indeed.) Buffers that are only read lose ``__restrict__``, because loads
through the read-only cache may be moved ahead of the wait.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from elinvar.errors import MetalError, MetalSyntaxError
from elinvar.runtime.files import atomic_write, cache_dir

from . import nvrtc
from .language import Source
from .signature import Attribute, Buffer, Signature
from .translate import translate

__all__ = ["OPTIONS", "Entry", "Program", "by_value", "compile_entries", "entry"]

OPTIONS = (
    "--std=c++17",
    "--device-as-default-execution-space",
    "--fmad=true",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
    "--disable-warnings",
    "--ptxas-options=-v",
)
_PRELUDE = Path(__file__).with_name("prelude")
_COMPLAINT = re.compile(r"^(?P<file>[^\n(]+)\((?P<line>\d+)\): (?:catastrophic )?error: (?P<what>[^\n]+)", re.MULTILINE)
_REPEATED = re.compile(r"\b(?:constexpr |static )*ELINVAR_CONSTANT (?:constexpr |static )*")
_GROUPS = re.compile(r"^[ \t]*#[ \t]*define[ \t]+ELINVAR_CUDA_GROUPS[ \t]+(\d+)", re.MULTILINE)
_EARLY = re.compile(r"^[ \t]*#[ \t]*define[ \t]+ELINVAR_CUDA_EARLY[ \t]+(\d+)", re.MULTILINE)
# All launches before this one are complete and their writes visible; then this one's successor may take its places.
_AFTER_OTHERS = """\
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
"""
_MOST_WORDS = 64  # values above 512 bytes travel through device memory
_AXES = {
    "thread_position_in_grid": "elinvar_p.at[{}]",
    "threads_per_grid": "elinvar_p.grid[{}]",
    "grid_size": "elinvar_p.grid[{}]",
    "grid_origin": "0u",
    "thread_position_in_threadgroup": "elinvar_p.inside[{}]",
    "threadgroup_position_in_grid": "elinvar_p.group[{}]",
    "threads_per_threadgroup": "elinvar_p.size[{}]",
    "dispatch_threads_per_threadgroup": "elinvar_p.size[{}]",
    "threadgroups_per_grid": "elinvar_groups(elinvar_p, {})",
}
_THREADS = "(elinvar_p.size[0] * elinvar_p.size[1] * elinvar_p.size[2])"
_NUMBERS = {
    "thread_index_in_threadgroup": "elinvar_index_in_group(elinvar_p)",
    "thread_index_in_simdgroup": "elinvar_lane()",
    "simdgroup_index_in_threadgroup": "elinvar_simdgroup(elinvar_p)",
    "simdgroups_per_threadgroup": f"(({_THREADS} + 31u) / 32u)",
    "dispatch_simdgroups_per_threadgroup": f"(({_THREADS} + 31u) / 32u)",
    "threads_per_simdgroup": "32u",
    "thread_execution_width": "32u",
    "thread_index_in_quadgroup": "(elinvar_lane() & 3u)",
    "quadgroup_index_in_threadgroup": "(elinvar_index_in_group(elinvar_p) >> 2)",
    "quadgroups_per_threadgroup": f"(({_THREADS} + 3u) / 4u)",
    "dispatch_quadgroups_per_threadgroup": f"(({_THREADS} + 3u) / 4u)",
}


@dataclass(frozen=True)
class Entry:
    """One ``__global__`` function made for a kernel.

    Attributes
    ----------
    signature
        The kernel.
    symbol
        The entry point's name.
    aliased
        Some buffer the kernel only reads overlaps one it writes: reads may not go through the read-only cache.
    pointers
        Indices of ``constant T&`` arguments that arrive as device addresses instead of values.
    early
        It waits for what came before by itself, so it may be launched before that has ended.
    """

    signature: Signature
    symbol: str
    aliased: bool = False
    pointers: frozenset[int] = frozenset()
    early: bool = False

    @cached_property
    def slots(self) -> tuple[tuple[int, bool], ...]:
        """For each buffer in the entry point's order: its place among ``signature.buffers``, and whether by value."""
        places = {buffer.index: place for place, buffer in enumerate(self.signature.buffers)}
        return tuple(
            (places[one.index], one.index not in self.pointers and by_value(one) is not None)
            for one in self.signature.order
            if isinstance(one, Buffer)
        )


@dataclass(frozen=True)
class Program:
    """A compiled program: machine code, whether it is PTX, the assembler's report, and the entries in it."""

    code: bytes
    is_ptx: bool
    log: str
    entries: tuple[Entry, ...]


def by_value(buffer: Buffer) -> int | None:
    """Return how many 64-bit words carry a ``constant T&`` argument; None when it has to lie in device memory."""
    if not (buffer.is_reference and buffer.space == "constant") or buffer.type is None:
        return None
    words = -(-buffer.type.size // 8)
    return words if words <= _MOST_WORDS else None


def entry(source: Source, name: str, *, aliased: bool = False, pointers: frozenset[int] = frozenset()) -> Entry:
    """Return the entry point of one kernel of a source."""
    signature = source.kernels[name]
    number = list(source.kernels).index(name)
    needed = {b.index for b in signature.buffers if b.is_reference and b.space == "constant" and by_value(b) is None}
    asked = _EARLY.search(source.text)  # the first is the one from defines=
    symbol = f"elinvar_{number}_{re.sub(r'[^A-Za-z0-9_]', '_', name)}"
    return Entry(signature, symbol, aliased, pointers | needed, asked is not None and int(asked[1]) > 0)


def _attribute(one: Attribute) -> str:
    if one.attribute in _NUMBERS:
        return f"{one.type_name}({_NUMBERS[one.attribute]})"
    axes = (f"{one.scalar}({_AXES[one.attribute].format(axis)})" for axis in range(one.count))
    return f"{one.type_name}({', '.join(axes)})"


def _wrapper(made: Entry, groups: str | None) -> str:
    signature = made.signature
    parameters = ["ulong elinvar_xy", "ulong elinvar_z", "ulong elinvar_laid"]
    given: list[str] = []
    body: list[str] = []
    for place, one in enumerate(signature.order):
        if isinstance(one, Attribute):
            given.append(_attribute(one))
            continue
        kind = f"elinvar_S::at<{place}>"
        value = by_value(one) if one.index not in made.pointers else None
        if value is not None:
            names = [f"elinvar_b{one.index}_{word}" for word in range(value)]
            parameters += [f"ulong {name}" for name in names]
            holder = f"elinvar_holder<metal::remove_reference_t<{kind}>>"
            body.append(f"  const auto elinvar_v{one.index} = elinvar_from_words<{holder}>({', '.join(names)});")
            given.append(f"elinvar_v{one.index}.value")
            continue
        restrict = " __restrict__" if one.is_const and not (made.aliased or made.early) else ""
        parameters.append(f"{'const ' if one.is_const else ''}void*{restrict} elinvar_b{one.index}")
        if one.is_reference:
            given.append(f"*static_cast<metal::remove_reference_t<{kind}>*>(elinvar_b{one.index})")
        else:
            given.append(f"static_cast<{kind}>(elinvar_b{one.index})")
    check = "  if ((elinvar_laid & 2ul) == 0ul && elinvar_outside(elinvar_p)) return;\n"  # whole groups need none
    bounds = "" if signature.needs_group else check
    wait = _AFTER_OTHERS if made.early else ""  # before anything that touches memory
    limit = ""
    if signature.max_threads:
        limit = f" __launch_bounds__({signature.max_threads}{f', {groups}' if groups else ''})"
    return (
        f'extern "C" __global__ void{limit} {made.symbol}({", ".join(parameters)}) {{\n'
        f"  typedef elinvar_signature<decltype(&{signature.function})> elinvar_S;\n"
        f"  const elinvar_place elinvar_p = elinvar_where(elinvar_xy, elinvar_z, (elinvar_laid & 1ul) != 0ul);\n"
        f"{wait}{bounds}" + "".join(f"{line}\n" for line in body) + f"  {signature.function}({', '.join(given)});\n}}\n"
    )


def program_text(source: Source, entries: Sequence[Entry]) -> str:
    """Return the CUDA C++ text of a source with the given entry points."""
    groups = _GROUPS.search(source.text)
    wrappers = "".join(_wrapper(made, groups[1] if groups else None) for made in entries)
    body = _REPEATED.sub("ELINVAR_CONSTANT ", translate(source))
    unused = "" if "pack" in body else "#define ELINVAR_NO_PACKING\n"
    return (
        f'{unused}#include "msl_cuda.h"\nnamespace elinvar_msl {{\n'
        f'{body}\n#line 1 "elinvar_entries"\n{wrappers}}}  // namespace elinvar_msl\n'
    )


@cache
def _headers() -> dict[str, str]:
    return {path.name: path.read_text("ascii") for path in sorted(_PRELUDE.glob("msl_*.h"))}


def compile_entries(source: Source, entries: Sequence[Entry], arch: str) -> Program:
    """Compile a source with the given entry points, or find the result of an earlier compilation on disk.

    Parameters
    ----------
    source
        From `elinvar.metal.language.parse`.
    entries
        From `entry`.
    arch
        ``"sm_90"``.

    Returns
    -------
    Program

    Raises
    ------
    MetalSyntaxError
        With the user's file and line.
    MissingDependency
        NVRTC is not installed.
    """
    text, headers = program_text(source, entries), _headers()
    version = ".".join(map(str, nvrtc.library_version()))
    parts = [text, *headers, *headers.values(), arch, *OPTIONS, version]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    stored = cache_dir() / "metal" / f"{key}.{arch}.cuda"
    found = _read(stored)
    if found is None:
        try:
            found = nvrtc.compile_program(text, source.file or "source.metal", arch, OPTIONS, headers)
        except nvrtc.NvrtcError as error:
            raise _translated(error) from None
        _write(stored, found)
    return Program(found.code, found.is_ptx, found.log, tuple(entries))


def _read(path: Path) -> nvrtc.Compiled | None:
    try:
        head, _, code = path.read_bytes().partition(b"\0code\0")
    except OSError:
        return None
    kind, _, log = head.decode().partition("\n")
    return nvrtc.Compiled(code, kind == "ptx", log) if code else None


def _write(path: Path, made: nvrtc.Compiled) -> None:
    head = f"{'ptx' if made.is_ptx else 'cubin'}\n{made.log}".encode()
    with atomic_write(path) as temporary:
        temporary.write_bytes(head + b"\0code\0" + made.code)


def _translated(error: nvrtc.NvrtcError) -> MetalError:
    """Return NVRTC's complaint as one about the user's Metal line."""
    found = _COMPLAINT.search(error.log)
    if found is None:
        return MetalSyntaxError(f"{error}: {error.log.strip()[:500]}") if error.log else error
    log = error.log.strip()[:2000]
    return MetalSyntaxError(f"{found['file']}:{found['line']}: {found['what']} (NVRTC; its log:\n{log})")
