"""Metal everywhere: one ``.metal`` text on Apple GPUs, NVIDIA GPUs and, for verification, on any CPU.

`compile` is ``torch.mps.compile_shader`` that also runs on CUDA and on the CPU, with the same checks on all three::

    lib = metal.compile('''
        #include <metal_stdlib>
        kernel void scale(device float* x [[buffer(0)]], constant float& by [[buffer(1)]],
                          uint i [[thread_position_in_grid]]) { x[i] *= by; }
    ''')
    lib.scale(tensor, 2.0)

On the CPU a source is compiled by g++ and every GPU thread is a fibre: slow, but it finds races, divergent barriers and
writes out of bounds (see `elinvar.metal.emulator`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from elinvar.errors import InputError
from elinvar.runtime.device import Device
from elinvar.runtime.device import device as _resolve

from .language import Signature, Source, parse
from .launch import Kernel, Library

if TYPE_CHECKING:
    from .cubin import CubinReport, KernelResources, build_cubin

__all__ = [
    "CubinReport",
    "Kernel",
    "KernelResources",
    "Library",
    "Signature",
    "Source",
    "build_cubin",
    "compile",
    "parse",
]
_LAZY = {"CubinReport": "cubin", "KernelResources": "cubin", "build_cubin": "cubin"}
Schedule = Literal["forward", "reverse", "random"]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'elinvar.metal' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def compile(  # noqa: A001  (the contract's name, after torch.mps.compile_shader)
    source: str | Path,
    device: str | Device | torch.device = "auto",
    *,
    defines: Mapping[str, int | float | str] | None = None,
    sanitize: bool = False,
    schedule: Schedule = "forward",
    seed: int = 0,
    races: bool = False,
) -> Library:
    """Compile Metal source for a device.

    Parameters
    ----------
    source
        Metal text (a string with a newline or ``kernel void`` in it), or the path of a ``.metal`` file.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or a device.
    defines
        Macros defined before the first line, on every device alike: how sizes and variants are specialised.
    sanitize
        Emulator only: run every launch under AddressSanitizer, in a process of its own.
    schedule, seed
        Emulator only: the order in which threads and groups run, ``"forward"``, ``"reverse"`` or ``"random"``.
    races
        Emulator only: raise when two threads touch a byte with nothing to order them and one of them writes.

    Returns
    -------
    Library
        Its kernels are attributes; ``kernels`` names them.

    Raises
    ------
    MetalSyntaxError
        The source does not compile, or uses what is refused on every device; with file and line.
    MetalError
        The compiler for this device is missing; the message says how to install it.
    DeviceUnavailable
        There is no such device.
    """
    chosen = _resolve(device)
    if schedule not in ("forward", "reverse", "random"):
        raise InputError(f"[metal.compile] schedule {schedule!r} is not 'forward', 'reverse' or 'random'")
    parsed = parse(source, defines)
    if chosen.kind == "cpu":
        from . import emulator

        return emulator.load(parsed, sanitize=sanitize, schedule=schedule, seed=seed, races=races)
    if sanitize or races or schedule != "forward":
        raise InputError(f"[metal.compile] sanitize, races and schedule belong to the emulator; {chosen} has none")
    backend = importlib.import_module(".nvidia" if chosen.kind == "cuda" else ".apple", __name__)
    loaded: Library = backend.load(parsed, chosen.torch)
    return loaded
