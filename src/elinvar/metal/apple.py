"""Metal on Apple GPUs, through ``torch.mps.compile_shader``.

torch passes Python numbers as float32 and int64, so every constant is given in a form that puts exactly the bytes of
the kernel's type into its buffer: a float as it is; int, half and bfloat with torch's casts; vectors of those as lists;
all else, structs among it, as a uint8 tensor with the very bytes.
"""

from __future__ import annotations

import re
import struct
from typing import Any

import torch

from elinvar.errors import DeviceOutOfMemory, MetalError, MetalLaunchError, MetalSyntaxError

from .backends import Constants, fitting_group
from .language import Source
from .launch import SIMD_WIDTH, Launch, Library, Limits
from .signature import Buffer, Signature

__all__ = ["AppleBackend", "load"]

_MOST_INLINE = 256
# scalar -> (struct code, torch's cast); torch needs none for float32 and int64
_FORMS: dict[str, tuple[str, str | None]] = {
    "float": ("f", None),
    "half": ("e", "fp16"),
    "int": ("i", "int32"),
    "uint": ("i", "int32"),
    "long": ("q", None),
    "ulong": ("q", None),
}
_FLOATS = {"float", "half", "bfloat"}


class AppleBackend:
    """Runs the kernels of one source on the Apple GPU.

    Parameters
    ----------
    source
        From `elinvar.metal.language.parse`; its `text` is what Apple's compiler sees.
    device
        ``torch.device("mps")``.

    Raises
    ------
    MetalSyntaxError
        Apple's compiler refused the source.
    MetalError
        This torch has no ``torch.mps.compile_shader``.
    """

    def __init__(self, source: Source, device: torch.device) -> None:
        compile_shader = getattr(torch.mps, "compile_shader", None)
        if compile_shader is None:
            raise MetalError("[metal] this torch has no torch.mps.compile_shader; install torch 2.7 or newer")
        try:
            self._library = compile_shader(source.text)
        except (SyntaxError, RuntimeError) as error:
            raise _syntax_error(error, source) from error
        self._device = device
        self._constants = Constants()

    def _kernel(self, signature: Signature) -> Any:
        return getattr(self._library, signature.name)

    def limits(self, signature: Signature) -> Limits:
        """Return what Apple's compiler made of the kernel."""
        kernel = self._kernel(signature)
        return Limits(
            int(kernel.max_threads_per_threadgroup),
            int(getattr(kernel, "thread_execution_width", SIMD_WIDTH)),
            int(getattr(kernel, "static_thread_group_memory_length", 0)),
        )

    def run(self, signature: Signature, launch: Launch) -> None:
        """Encode a checked launch on torch's stream."""
        group = fitting_group(signature, launch.group, self.limits(signature).max_threads)
        last = max((buffer.index for buffer in signature.buffers), default=-1)
        given: list[Any] = [0] * (last + 1)  # an index the kernel does not use gets a number nobody reads
        casts: dict[int, str] = {}
        for buffer, value in zip(signature.buffers, launch.values, strict=True):
            given[buffer.index], cast = (value, None) if isinstance(value, torch.Tensor) else self._form(buffer, value)
            if cast is not None:
                casts[buffer.index] = cast
        options = {"arg_casts": casts} if casts else {}
        try:
            self._kernel(signature)(*given, threads=list(launch.threads), group_size=list(group), **options)
        except RuntimeError as error:
            if "out of memory" in str(error).lower():
                raise DeviceOutOfMemory(f"[{signature.name}] {error}") from error
            raise MetalLaunchError(f"[{signature.name}] torch did not launch it: {error}") from error

    def _form(self, buffer: Buffer, data: bytes) -> tuple[Any, str | None]:
        """Return (argument, cast) that put exactly `data` into a buffer."""
        kind = buffer.type
        inline = kind is not None and kind.kind in {"scalar", "vector", "packed"} and len(data) <= _MOST_INLINE
        if kind is None or not inline or kind.scalar not in {*_FORMS, "bfloat"}:
            return self._constants.tensor(data, self._device), None
        if kind.scalar == "bfloat":
            wide = torch.frombuffer(bytearray(data), dtype=torch.bfloat16)
            numbers: list[Any] = wide.tolist()
            cast: str | None = "bf16"
        else:
            code, cast = _FORMS[kind.scalar]
            numbers = list(struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data))
        return (numbers[0] if len(numbers) == 1 else numbers), cast


def _syntax_error(error: Exception, source: Source) -> MetalError:
    """Return Apple's first complaint with the user's file and line."""
    text = str(error)
    found = re.search(r"([\w./-]+):(\d+):\d+: error: ([^\n]+)", text)
    if found is None:
        return MetalSyntaxError(f"{source.file or '<source>'}: {text.strip()[:1000]}")
    file = source.file or "<source>" if found[1] == "program_source" else found[1]
    return MetalSyntaxError(f"{file}:{found[2]}: {found[3]} (Apple's compiler; its log:\n{text.strip()[:2000]})")


def load(source: Source, device: torch.device) -> Library:
    """Compile a parsed source for the Apple GPU."""
    return Library(source.kernels, AppleBackend(source, device), device)
