"""Launches under AddressSanitizer: in a process of their own, every buffer in a heap block of exactly its size."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import torch

from elinvar.errors import MetalError, MetalLaunchError

from .emulator_build import with_lines
from .emulator_report import Place, fault_error, user_line

__all__ = ["run_sanitized"]

_KIND = re.compile(r"ERROR: AddressSanitizer:? ([\w-]+)")
_ACCESS = re.compile(r"^(READ|WRITE) of size (\d+) at (0x[0-9a-f]+)", re.MULTILINE)
_FRAME = re.compile(r"^\s+#\d+ 0x[0-9a-f]+ in .*? (\S+?):(\d+)(?::\d+)?$", re.MULTILINE)
_NEAR = re.compile(
    r"is located (\d+) bytes (after|before|inside of|to the right of|to the left of) (\d+)-byte region \[(0x[0-9a-f]+)"
)
_REGION = re.compile(r"^elinvar-region (\d+) (0x[0-9a-f]+) (\d+)$", re.MULTILINE)
_OPTIONS = "detect_leaks=0:exitcode=99:allocator_may_return_null=1:max_malloc_fill_size=0"


def _regions(place: Place) -> tuple[list[bytes | torch.Tensor], list[tuple[int, int, int]], list[list[int]]]:
    """Return blocks of memory, ``(buffer index, region, offset)`` of each buffer, and the arguments in each block.

    Tensors that overlap share a block, because the kernel sees one through the other.
    """
    spans: list[tuple[int, int, int]] = []
    for number, value in enumerate(place.launch.values):
        if isinstance(value, torch.Tensor):
            spans.append((value.data_ptr(), value.data_ptr() + value.numel() * value.element_size(), number))
    blocks: list[bytes | torch.Tensor] = []
    members: list[list[int]] = []
    table: dict[int, tuple[int, int]] = {}
    start = end = 0
    for low, high, number in sorted(spans):
        if not members or low >= end or low == high:
            start, end = low, high
            members.append([])
            blocks.append(b"")
        end = max(end, high)
        members[-1].append(number)
        table[number] = (len(members) - 1, low - start)
        blocks[-1] = ctypes.string_at(start, end - start) if end > start else b""
    for number, value in enumerate(place.launch.values):
        if isinstance(value, bytes):
            table[number] = (len(blocks), 0)
            blocks.append(value)
            members.append([number])
    buffers = place.signature.buffers
    return blocks, [(buffers[n].index, *table[n]) for n in range(len(buffers))], members


def run_sanitized(place: Place, schedule: int, seed: int) -> None:
    """Run one launch under AddressSanitizer and copy what it wrote back into the tensors.

    Raises
    ------
    MetalLaunchError
        With kernel, source line and buffer, for an access outside a buffer or a threadgroup array.
    """
    blocks, table, members = _regions(place)
    launch = place.launch
    words = [list(place.source.kernels).index(place.signature.name), int(place.signature.needs_group), schedule, seed]
    words += [*launch.threads, *launch.group, len(blocks), len(table)]
    with tempfile.TemporaryDirectory(prefix="elinvar-") as folder:
        request, answer = Path(folder) / "request", Path(folder) / "answer"
        with request.open("wb") as file:
            file.write(struct.pack(f"<{len(words)}Q", *(w & (2**64 - 1) for w in words)))
            for block in blocks:
                file.write(struct.pack("<Q", len(block)))
                file.write(block)  # type: ignore[arg-type]
            for row in table:
                file.write(struct.pack("<3Q", *row))
        done = _execute([str(place.build.path), str(request), str(answer)])
        if done.returncode:  # once more with lines, which few launches need: it is the same launch in the same order
            lined = with_lines(place.source, place.build)
            done = done if lined is None else _execute([str(lined), str(request), str(answer)])
            raise _report(done.returncode, done.stderr, place, members)
        data = answer.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    text = data[8 : 8 + length].decode(errors="replace")
    if not text.startswith("0 "):
        raise fault_error(text, place)
    _copy_back(place, blocks, table, data[8 + length :])


def _execute(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ASAN_OPTIONS": _OPTIONS}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    setarch = shutil.which("setarch")
    if done.returncode and not _REGION.search(done.stderr) and setarch:
        # It died before main: older sanitizers cannot live with all of newer kernels' address randomisation.
        command = [setarch, "-R", *command]
        again = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        return again if _REGION.search(again.stderr) else done
    return done


def _copy_back(
    place: Place, blocks: list[bytes | torch.Tensor], table: list[tuple[int, int, int]], data: bytes
) -> None:
    starts = [0]
    for block in blocks:
        starts.append(starts[-1] + len(block))
    for value, buffer, (_, region, offset) in zip(place.launch.values, place.signature.buffers, table, strict=True):
        if isinstance(value, torch.Tensor) and not buffer.is_const and value.numel():
            begin = starts[region] + offset
            size = value.numel() * value.element_size()
            ctypes.memmove(value.data_ptr(), data[begin : begin + size], size)


def _report(code: int, log: str, place: Place, members: list[list[int]]) -> MetalError:
    name = place.signature.name
    kind = _KIND.search(log)
    if kind is None:
        return MetalError(f"[{name}] the sanitized run failed with exit status {code}: {log.strip()[-500:]}")
    files = {Path(file).name for file in place.files}
    frames = [(Path(file).name, int(line)) for file, line in _FRAME.findall(log)]
    mine = next(((file, line) for file, line in frames if file in files), None)
    where = f" in {user_line(place, *mine)}" if mine else ""
    access = _ACCESS.search(log)
    what = f"{access[1].lower()} of {access[2]} bytes" if access else kind[1]
    return MetalLaunchError(f"[{name}] {what} outside {_which(log, place, members)}{where} ({kind[1]})")


def _which(log: str, place: Place, members: list[list[int]]) -> str:
    near = _NEAR.search(log)
    if near is None:
        return "a private array" if "stack" in log else "every buffer"
    distance, side = int(near[1]), {"to the right of": "after", "to the left of": "before"}.get(near[2], near[2])
    regions = {int(address, 16): (int(number), int(size)) for number, address, size in _REGION.findall(log)}
    found = regions.get(int(near[4], 16))
    if found is None:
        return f"threadgroup memory, {distance} bytes {side} a {near[3]}-byte variable"
    names = [place.signature.buffers[n] for n in members[found[0]]]
    named = " and ".join(f"{b.name} (buffer {b.index})" for b in names)
    return f"{named}, {distance} bytes {side} its {found[1]} bytes"
