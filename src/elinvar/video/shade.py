"""Running a chain of point-wise passes: one generated kernel over a frame, into planes or straight into codes."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elinvar.errors import InputError
from elinvar.runtime.files import atomic_write, cache_dir
from elinvar.runtime.parallel import parallel_for
from elinvar.video.kernels.bloom.metal import aligned, cores
from elinvar.video.shadecode import Chain, Op, digest, numba_text, read
from elinvar.video.yuv import SITINGS, Coding

__all__ = ["Given", "apply", "chain_of", "encode", "packed", "reference"]

Defines = tuple[tuple[str, int | str], ...]
Given = tuple[Any, Any]
"""Floats and integers of a chain: lists, or tensors on the device."""
_CHUNK = 32  # rows, or row pairs, handed to a thread at a time; fixed, so that results never depend on threads
_LIGHT = 256  # the same without passes, when a row is done in a microsecond: every call reads cold memory of its own


def chain_of(frame: torch.Tensor, ops: Sequence[Op], extras: Sequence[torch.Tensor], *, strict: bool = False) -> Chain:
    """Return everything the kernel's text depends on."""
    stored = tuple("f16" if x.dtype == torch.float16 else "f32" for x in (frame, *extras))
    return Chain(tuple(op.function for op in ops), tuple(op.extras for op in ops), stored, strict)


def apply(
    frame: torch.Tensor,
    ops: Sequence[Op],
    extras: Sequence[torch.Tensor] = (),
    *,
    out: torch.Tensor | None = None,
    backend: str | None = None,
    values: Given | None = None,
) -> torch.Tensor:
    """Run `ops` one after the other on every pixel.

    Parameters
    ----------
    frame : Tensor[3 or 4, H, W]
        float32 or float16; channels beyond the third are not read.
    ops
        What to do, see `Op`.
    extras
        The extra inputs of all ops in order: frames [3, H, W], half-resolution frames [3, ceil(H/2), ceil(W/2)], tables
        [n, n, n, 4].
    out : Tensor[3, H, W] float32, optional
        Receives the result.
    backend
        None chooses by the frame's device: numba on a CPU, Metal elsewhere. "metal" on a CPU is the emulator.
    values
        The values of the ops for Metal, when they lie on the device already; see `packed`.

    Raises
    ------
    InputError
        Shapes, dtypes or devices do not fit together.
    """
    frame, extras = _checked(frame, ops, extras)
    if out is None:
        out = torch.empty((3, *frame.shape[1:]), dtype=torch.float32, device=frame.device)
    chain = chain_of(frame, ops, extras)
    height, width = out.shape[1:]
    if (backend or _backend(frame)) == "metal":
        from elinvar.video.kernels.shade.text import GROUP, resident

        floats, integers = _given(ops, 0) if values is None else values
        fitting = resident(len(ops))
        how: Defines = (("WIDE", int(_in_pairs(frame, extras, ops, [out]))), ("ELINVAR_CUDA_GROUPS", fitting))
        units, rows = _walk(-(-width // (2 * GROUP)), -(-height // 2), fitting * cores(frame.device))
        _library(chain, frame.device, "shade_planes", how).shade_planes(
            *_arrays(frame, extras), floats, integers, out, width, height, units,
            threads=(-(-width // 2), rows), group_size=(GROUP, 1),
        )  # fmt: skip
        return out
    # In place, the loop's overlap test would choose its scalar half.
    target = torch.empty_like(out) if out.data_ptr() in {x.data_ptr() for x in (frame, *extras)} else out
    kernel = _module(chain).shade_planes
    rest = (*_numpy(frame, extras), *_value_arrays(ops), target.numpy())
    parallel_for(height, lambda first, last: kernel(first, last, *rest), chunk=_CHUNK)
    return out if target is out else out.copy_(target)


def encode(
    frame: torch.Tensor,
    ops: Sequence[Op],
    extras: Sequence[torch.Tensor],
    coding: Coding,
    planes: Sequence[torch.Tensor] | None = None,
    *,
    seed: int = 0,
    backend: str | None = None,
    values: Given | None = None,
) -> tuple[torch.Tensor, ...]:
    """Run `ops` and write the result, taken as R'G'B', as Y'CbCr codes.

    Parameters
    ----------
    coding
        Format, matrix, range, siting, dither.
    planes
        Receive the codes; made when None.
    seed
        Of the dither: the frame's number, so that the noise moves.
    values
        As for `apply`.

    Returns
    -------
    tuple of Tensor
        Y [H, W] and CbCr [h, w, 2], or Y, Cb [h, w], Cr [h, w].
    """
    frame, extras = _checked(frame, ops, extras)
    height, width = frame.shape[1:]
    form = coding.format
    if planes is None:
        planes = form.empty(width, height, frame.device)
    elif tuple([p.shape for p in planes]) != form.shapes(width, height) or not all(
        p.dtype == form.dtype and p.device == frame.device for p in planes
    ):
        raise InputError(
            f"color.to_yuv: planes do not fit {form.name} of {width} x {height}; give {form.shapes(width, height)}."
        )
    if (backend or _backend(frame)) == "metal":
        chain = chain_of(frame, ops, extras, strict=not ops)
        _encode_metal(chain, frame, ops, extras, coding, planes, _given(ops, seed) if values is None else values)
        return tuple(planes)
    if not all(p.is_contiguous() for p in planes):
        made = encode(frame, ops, extras, coding, seed=seed)
        return tuple([p.copy_(codes) for p, codes in zip(planes, made, strict=True)])
    *constants, shift = _numbers(coding)
    numbers = (*constants, np.int32(_dither_seed(seed)), shift, form.interleaved)
    if ops:
        arrays = [p.numpy() for p in planes]
        flat = arrays[1].reshape(arrays[1].shape[0], -1)
        chroma = (flat, flat) if form.interleaved else (flat, arrays[2])
        kernel = _module(chain_of(frame, ops, extras)).shade_yuv
        rest = (*_numpy(frame, extras), *_value_arrays(ops), *numbers, arrays[0], *chroma)
    else:
        kernel, kinds, nothing = _converting(frame.dtype, form.dtype)
        memory = (frame.data_ptr(), planes[0].data_ptr(), planes[1].data_ptr(), planes[-1].data_ptr())
        rest = (memory, (height, width), kinds, *nothing, *numbers)
    chunk = (_CHUNK if ops else _LIGHT) // form.down
    parallel_for(-(-height // form.down), lambda first, last: kernel(first, last, *rest), chunk=chunk)
    return tuple(planes)


def _encode_metal(
    chain: Chain,
    frame: torch.Tensor,
    ops: Sequence[Op],
    extras: Sequence[torch.Tensor],
    coding: Coding,
    planes: Sequence[torch.Tensor],
    values: Given,
) -> None:
    from elinvar.video.kernels.shade.text import COLUMNS, GROUP, resident, turns

    form = coding.format
    height, width = frame.shape[1:]
    floats, integers = values
    if form.interleaved:
        flat = planes[1].reshape(-1)
        chroma: tuple[torch.Tensor, ...] = (flat, flat[1:])
    else:
        chroma = (planes[1], planes[2])
    name = "shade_yuv444" if form.across == 1 else "shade_yuv"
    how: Defines = (
        ("WORD", "uchar" if form.bits == 8 else "ushort"), ("WIDE", int(_in_pairs(frame, extras, ops, planes))),
        ("DITHER", int(coding.dither)), ("SITING", SITINGS[coding.siting]), ("DOWN", form.down),
        ("PITCH", 1 + form.interleaved), ("SHIFT", form.shift), ("ELINVAR_CUDA_GROUPS", resident(len(ops))),
    )  # fmt: skip
    columns = (width + 1) // 2
    across = columns if form.across == 1 else -(-columns // (GROUP // 32 * COLUMNS)) * GROUP
    fitting = resident(len(ops)) * cores(frame.device)
    units, rows = _walk(-(-across // GROUP), -(-height // 2), fitting, turns(len(ops)))
    getattr(_library(chain, frame.device, name, how), name)(
        *_arrays(frame, extras), floats, integers, planes[0], width, height, units, *chroma, coding.vector().tobytes(),
        threads=(across, rows), group_size=(GROUP, 1),
    )  # fmt: skip


@functools.lru_cache(maxsize=256)
def _walk(groups: int, lines: int, places: int, turns: int = 1) -> tuple[int, int]:
    """Return pairs of rows for a thread to walk, a multiple of `turns`, and threads along y.

    `groups` lie beside each other, `places` can be worked on at a time. What a thread does before its first rows takes
    as long as 0.4 pairs of rows; the longer the walks, the longer the last groups leave processors without work, about
    0.3 times their length. Both were fitted to times on an H200.
    """

    def cost(units: int) -> float:
        return max(1.0, groups * -(-lines // units) / places) * (units + 0.4) + 0.3 * units

    units = min(range(turns, min(lines, 64) + turns, turns), key=cost)
    return units, -(-lines // units)


def packed(ops: Sequence[Op], seed: int = 0) -> tuple[list[float], list[int]]:
    """Return what Metal kernels of a chain are given as values: floats, and integers with the dither's seed first."""
    floats, integers = _values(ops)
    return floats or [0.0], [_dither_seed(seed), *integers]


def _given(ops: Sequence[Op], seed: int) -> Given:
    return packed(ops, seed)


def _dither_seed(seed: int) -> int:
    return seed * 3 & 0x7FFFFFFF


def _in_pairs(
    frame: torch.Tensor, extras: Sequence[torch.Tensor], ops: Sequence[Op], written: Sequence[torch.Tensor]
) -> bool:
    """Tell whether everything can be read and written two samples at a time."""
    scales = [scale for op in ops for scale in op.extras]
    frames = [frame, *(x for x, scale in zip(extras, scales, strict=True) if scale == "full")]
    return all(aligned(x, 2 * x.element_size()) for x in (*frames, *written))


def reference(frame: torch.Tensor, ops: Sequence[Op], extras: Sequence[torch.Tensor] = ()) -> torch.Tensor:
    """Run `ops` as plain torch in the frame's own precision: the oracle, and the way to gradients.

    Half-resolution extras are doubled bilinearly with ``torch.nn.functional.interpolate``.
    """
    _, height, width = frame.shape
    places: dict[str, Any] = {
        "ix": torch.arange(width, device=frame.device)[None, :],
        "iy": torch.arange(height, device=frame.device)[:, None],
        "width": float(width),
        "height": float(height),
    }
    places |= {"x": places["ix"].to(frame.dtype), "y": places["iy"].to(frame.dtype)}
    r, g, b = frame[0], frame[1], frame[2]
    remaining = list(extras)
    for op in ops:
        arguments: dict[str, Any] = {n: v for n, v in places.items() if n in _argument_names(op)}
        arguments |= op.values
        for j, scale in enumerate(op.extras):
            extra = remaining.pop(0)
            if scale == "table":
                arguments["table"] = extra
                continue
            if scale == "half":
                extra = _doubled(extra.to(frame.dtype), height, width)
            arguments |= {f"{c}{j + 1}": extra[k].to(frame.dtype) for k, c in enumerate("rgb")}
        r, g, b = op.function(r, g, b, **arguments)
    return torch.stack([torch.broadcast_to(torch.as_tensor(c, dtype=frame.dtype), (height, width)) for c in (r, g, b)])


def _doubled(half: torch.Tensor, height: int, width: int) -> torch.Tensor:
    up: torch.Tensor = torch.nn.functional.interpolate(half[None], scale_factor=2, mode="bilinear", align_corners=False)
    return up[0, :, :height, :width]


@functools.lru_cache(maxsize=512)
def _names_of(function: Callable[..., Any]) -> frozenset[str]:
    code = function.__code__
    return frozenset(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


def _argument_names(op: Op) -> frozenset[str]:
    return _names_of(op.function)


def _backend(frame: torch.Tensor) -> str:
    return "numba" if frame.device.type == "cpu" else "metal"


def _checked(
    frame: torch.Tensor, ops: Sequence[Op], extras: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    if frame.dtype not in (torch.float32, torch.float16):
        frame = frame.float()
    if not (ops or extras):
        return frame.contiguous(), []
    _, height, width = frame.shape
    shapes = {"full": (height, width), "half": (-(-height // 2), -(-width // 2))}
    scales = [scale for op in ops for scale in op.extras]
    if len(scales) != len(extras):
        raise InputError(f"shade: {len(extras)} extra inputs were given, the passes take {len(scales)}; give one each.")
    ready = []
    for scale, extra in zip(scales, extras, strict=True):
        if scale != "table" and tuple(extra.shape[-2:]) != shapes[scale]:
            raise InputError(
                f"shade: a {scale}-resolution input has shape {tuple(extra.shape)} beside a frame of {width} x "
                f"{height}; "
                f"give [3, {shapes[scale][0]}, {shapes[scale][1]}]."
            )
        if extra.device != frame.device:
            raise InputError(f"shade: inputs are on {frame.device} and {extra.device}; move them to one device.")
        narrow = extra.dtype == torch.float16 and scale == "full"
        ready.append(extra.contiguous() if narrow else extra.float().contiguous())
    return frame.contiguous(), ready


def _values(ops: Sequence[Op]) -> tuple[list[float], list[int]]:
    """Return the values of all ops in the order of the kernel's text."""
    floats: list[float] = []
    integers: list[int] = []
    for op in ops:
        reading = read(op.function)
        missing = {*reading.floats, *reading.integers} ^ set(op.values)
        if missing:
            raise InputError(
                f"point-wise pass {op.name}: values {sorted(missing)} are missing or unknown; give each once."
            )
        floats += [float(op.values[name]) for name in reading.floats]
        integers += [_wrapped(int(op.values[name])) for name in reading.integers]
    return floats, integers


def _wrapped(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def _value_arrays(ops: Sequence[Op]) -> tuple[Any, Any]:
    floats, integers = _values(ops)
    return np.array(floats or [0.0], np.float32), np.array(integers or [0], np.int32)


def _numpy(frame: torch.Tensor, extras: Sequence[torch.Tensor]) -> list[Any]:
    return [(x.view(torch.int16) if x.dtype == torch.float16 else x).detach().numpy() for x in (frame, *extras)]


def _arrays(frame: torch.Tensor, extras: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [x.reshape(-1) for x in (frame, *extras)]


# What a conversion looks up is kept: behind 25 MB of pixels no cache knows Python any more, and finding it all again
# would take a tenth of the conversion's time.
@functools.cache
def _converting(pixels: torch.dtype, codes: torch.dtype) -> tuple[Any, tuple[Any, Any], tuple[Any, Any]]:
    """Return the kernel from pixels to codes without passes, arrays of these types, and its values: none."""
    half = pixels == torch.float16
    chain = Chain((), (), ("f16" if half else "f32",), strict=True)
    kinds = np.empty(0, np.int16 if half else np.float32), np.empty(0, np.uint8 if codes == torch.uint8 else np.uint16)
    return _module(chain).convert, kinds, _value_arrays(())


@functools.lru_cache(maxsize=128)
def _numbers(coding: Coding) -> tuple[Any, int, int, int, Any]:
    form = coding.format
    siting = SITINGS[coding.siting] if form.across == 2 else 0
    return coding.vector(), form.across, form.down, siting, np.int32(form.shift)


@functools.lru_cache(maxsize=128)
def _module(chain: Chain) -> Any:
    """Return the functions of a chain."""
    return _imported(f"from {_words()} import *\nfrom {_words()} import _CONTRACT\n\n\n{numba_text(chain)}")


@functools.cache
def _words() -> str:
    """Return the name of the module that all chains import, so that numba compiles what is in it once for all."""
    spec = importlib.util.find_spec("elinvar.metal.fuse.cpu_math")
    assert spec is not None
    assert spec.origin is not None
    here = Path(__file__).parent / "kernels" / "shade"
    files = [Path(spec.origin), here / "cpu_math.py", here / "cpu_codes.py"]
    return str(_imported("\n\n".join(path.read_text(encoding="utf-8") for path in files)).__name__)


def _imported(text: str) -> Any:
    """Write a module beside numba's own cache and import it; the file is what numba's cache is keyed on.

    Its name is its content: what a chain was compiled with is what stands there.
    """
    name = f"elinvar_shade_{digest(text)}"
    path = cache_dir() / "shade" / f"{name}.py"
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    made = importlib.util.spec_from_file_location(name, path)
    assert made is not None
    assert made.loader is not None
    module = importlib.util.module_from_spec(made)
    sys.modules[name] = module  # numba's cache looks its functions up by module name
    made.loader.exec_module(module)
    return module


@functools.lru_cache(maxsize=128)
def _library(chain: Chain, device: torch.device, kernel: str, how: Defines) -> Any:
    from elinvar import metal
    from elinvar.video.shademetal import metal_text

    return metal.compile(metal_text(chain, [kernel]), str(device), defines=dict(how))
