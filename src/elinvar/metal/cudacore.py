"""The one place that knows cuda-core, NVIDIA's Python interface to the driver: load machine code, ask, launch.

cuda-core moved its names from ``cuda.core.experimental`` to ``cuda.core`` and turned kernel attributes from methods
into properties; both forms work here. Everything a kernel is given travels as a Python int, which cuda-core has always
passed as 64 bits.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch

from elinvar.errors import DeviceLost, DeviceOutOfMemory, MetalLaunchError, MissingDependency

__all__ = ["Module", "api", "current_stream", "driver_version", "launcher", "stream_here"]

_LEGACY_STREAM = 1  # CU_STREAM_LEGACY: torch's default stream is handle 0, which cuda-core takes for "no stream"


@cache
def api() -> ModuleType:
    """Return cuda-core's module.

    Raises
    ------
    MissingDependency
        It is not installed, or lacks its bindings or the driver.
    """
    reasons: list[str] = []
    for name in ("cuda.core", "cuda.core.experimental"):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            reasons.append(str(error))
            continue
        if hasattr(module, "launch"):
            return module
    raise MissingDependency(
        f"[metal] running Metal on an NVIDIA GPU needs cuda-core ({'; '.join(reasons) or 'too old'}): "
        "pip install elinvar[cuda]"
    )


_bindings: Any = torch._C  # noqa: SLF001
_raw_stream: Callable[[int], int] | None = getattr(_bindings, "_cuda_getCurrentRawStream", None)


def current_stream(index: int) -> int:
    """Return the handle of torch's current stream on a device."""
    if _raw_stream is not None:  # what Triton uses too: a tenth of a microsecond instead of one
        return _raw_stream(index)
    return int(torch.cuda.current_stream(index).cuda_stream)


def stream_here(index: int) -> Callable[[], int | None]:
    """Return a function giving torch's current stream on a device, or None while another device is the current one."""
    device: Callable[[], int] = getattr(_bindings, "_cuda_getDevice", torch.cuda.current_device)
    stream = _raw_stream or current_stream

    def here() -> int | None:
        return stream(index) if device() == index else None

    return here


@cache
def _driver() -> ctypes.CDLL | None:
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def driver_version() -> int:
    """Return the newest CUDA release the driver knows, 12030 for 12.3; 0 without a driver."""
    found = ctypes.c_int(0)
    ask = getattr(_driver(), "cuDriverGetVersion", None)
    return 0 if ask is None or ask(ctypes.byref(found)) else found.value


def launcher() -> Callable[..., int] | None:
    """Return the driver's ``cuLaunchKernelEx(config, function, arguments, extra)``, which needs a driver of 11.8.

    Called directly, because cuda-core makes objects of a launch's numbers every time. The interpreter's lock is free
    meanwhile: a full queue makes a launch wait, and what it waits for may need the lock.
    """
    start = getattr(_driver(), "cuLaunchKernelEx", None)
    if start is not None:
        start.argtypes, start.restype = [ctypes.c_void_p] * 4, ctypes.c_int
    return start


class Module:
    """Loaded machine code on one device.

    Parameters
    ----------
    code, is_ptx
        From `cudaprogram.compile_entries`.
    index
        The CUDA device's number.
    """

    def __init__(self, code: bytes, *, is_ptx: bool, index: int) -> None:
        self._core = api()
        self._index = index
        torch.cuda.init()  # type: ignore[no-untyped-call]
        self._device = self._core.Device(index)
        self._device.set_current()  # the primary context, which is the one torch uses
        make = self._core.ObjectCode.from_ptx if is_ptx else self._core.ObjectCode.from_cubin
        self._object = make(code)
        self._kernels: dict[str, Any] = {}
        self._streams: dict[int, Any] = {}
        self._functions: dict[str, int] = {}

    def kernel(self, symbol: str) -> Any:
        """Return cuda-core's handle of one entry point."""
        found = self._kernels.get(symbol)
        if found is None:
            found = self._kernels[symbol] = self._object.get_kernel(symbol)
        return found

    def function(self, symbol: str) -> int:
        """Return the driver's handle of an entry point, bound to this device's primary context.

        Launching it while another context is current fails instead of running elsewhere.
        """
        found = self._functions.get(symbol)
        if found is None:
            with torch.cuda.device(self._index):
                self._device.set_current()
                handle = ctypes.c_void_p()
                kernel = ctypes.c_void_p(int(self.kernel(symbol).handle))
                status = getattr(_driver(), "cuKernelGetFunction")(ctypes.byref(handle), kernel)  # noqa: B009
            if status or not handle.value:
                raise MetalLaunchError(f"[metal] the driver has no function for {symbol} (error {status})")
            found = self._functions[symbol] = handle.value
        return found

    def attribute(self, symbol: str, name: str) -> int:
        """Return a kernel attribute, e.g. ``max_threads_per_block``."""
        with torch.cuda.device(self._index):
            self._device.set_current()
            value = getattr(self.kernel(symbol).attributes, name)
            return int(value() if callable(value) else value)

    def launch(
        self,
        symbol: str,
        stream: int,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[int],
    ) -> None:
        """Start a kernel on a stream, from `current_stream`; return without waiting.

        Raises
        ------
        MetalLaunchError, DeviceOutOfMemory, DeviceLost
            What the driver said, by kind.
        """
        if torch.cuda.current_device() != self._index:
            with torch.cuda.device(self._index):
                self._start(symbol, stream, grid, block, arguments)
        else:
            self._start(symbol, stream, grid, block, arguments)

    def _start(
        self,
        symbol: str,
        handle: int,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[int],
    ) -> None:
        self._device.set_current()  # contexts are current per thread, and other libraries change them
        stream = self._streams.get(handle)
        if stream is None:
            stream = self._streams[handle] = self._core.Stream.from_handle(handle or _LEGACY_STREAM)
        try:
            config = self._core.LaunchConfig(grid=grid, block=block)
            self._core.launch(stream, config, self.kernel(symbol), *arguments)
        except Exception as error:
            raise _translated(error, symbol) from error


def _translated(error: Exception, symbol: str) -> Exception:
    """Return a driver error as the library's own kind."""
    text = f"{type(error).__name__}: {error}"
    if "OUT_OF_MEMORY" in text:
        return DeviceOutOfMemory(f"[metal] the driver had no memory to launch {symbol} ({text})")
    if any(word in text for word in ("ILLEGAL", "LAUNCH_FAILED", "ASSERT", "MISALIGNED", "ECC", "HARDWARE")):
        return DeviceLost(f"[metal] the GPU faulted at or before {symbol} ({text}): start a new process")
    return MetalLaunchError(f"[metal] {symbol} was not launched ({text})")
