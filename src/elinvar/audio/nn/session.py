"""Inference with everything prepared: fixed buffers, no allocation by the session, memory given back under pressure."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from elinvar.audio.nn.sequential import Sequential
from elinvar.errors import InputError
from elinvar.runtime.device import device
from elinvar.runtime.memory import Lease, Pool

__all__ = ["InferenceSession"]


class InferenceSession:
    """A module with one input of a fixed shape, prepared once and then run without preparing anything.

    Input and output live in leased buffers. A `Sequential` is built for the shape, so that its intermediate results are
    leased too and a call allocates nothing; other modules allocate what torch allocates inside them.

    Parameters
    ----------
    module
        ``module(x) -> y``, one tensor each.
    shape
        Of the input.
    pool
        Where buffers come from; None is the device's.
    on_pressure
        ``on_pressure(change) -> bool``, asked when memory gets scarce (see `pressure`): True gives the workspace back;
        the next call leases it once more.
    """

    def __init__(
        self,
        module: nn.Module,
        shape: tuple[int, ...],
        *,
        dtype: torch.dtype = torch.float32,
        pool: Pool | None = None,
        on_pressure: Callable[[Any], bool] | None = None,
    ) -> None:
        place = next((p.device for p in module.parameters()), torch.device("cpu"))
        self.module, self.shape, self.dtype = module.eval(), tuple(shape), dtype
        self.pool = pool or device(place).pool
        self._ask = on_pressure
        self._busy = threading.Lock()
        self._leases: list[Lease] = []
        self._prepared = 0
        self._prepare()

    def _prepare(self) -> None:
        if isinstance(self.module, Sequential):
            self.module.build(self.shape, self.dtype, self.pool)
        given = self.pool.acquire(self.shape, self.dtype, clear=True)
        with torch.no_grad():
            y = self.module(given.tensor)
        if not isinstance(y, Tensor):
            raise InputError(f"InferenceSession: the module returns {type(y).__name__}; it must return one tensor.")
        self._leases = [given, self.pool.acquire(tuple(y.shape), y.dtype)]
        self._prepared += 1

    @property
    def preparations(self) -> int:
        """How often the workspace was leased: 1, and one more after each release."""
        return self._prepared

    @property
    def workspace_bytes(self) -> int:
        """Bytes leased now; 0 after a release."""
        own = sum(lease.tensor.nbytes for lease in self._leases)
        return own + (self.module.buffer_bytes if isinstance(self.module, Sequential) else 0)

    def run(self, x: Tensor) -> Tensor:
        """Return the module's output, in a buffer that the next call overwrites; waits while another call runs."""
        with self._busy:
            return self._run(x)

    def try_run(self, x: Tensor) -> Tensor | None:
        """Return the output, or None at once when another call is running."""
        if not self._busy.acquire(blocking=False):
            return None
        try:
            return self._run(x)
        finally:
            self._busy.release()

    def _run(self, x: Tensor) -> Tensor:
        if tuple(x.shape) != self.shape:
            raise InputError(f"InferenceSession: x has shape {tuple(x.shape)}; this session takes {self.shape}.")
        if not self._leases:
            self._prepare()
        given, result = (lease.tensor for lease in self._leases)
        with torch.no_grad():
            given.copy_(x)
            return result.copy_(self.module(given))

    def pressure(self, change: Any = None) -> int:
        """Ask ``on_pressure`` and obey; returns the bytes given back. Fits ``Monitor.on_change`` through `attend`.

        Without a callback, or when it answers anything but True, nothing happens.
        """
        if self._ask is None or self._ask(change) is not True:
            return 0
        return self.release()

    def attend(self, monitor: Any) -> Callable[[], None]:
        """Ask at every memory change to a worse level a `Monitor` sees; returns what ends it."""

        def changed(change: Any) -> None:
            if change.kind == "memory" and change.new > change.old:
                self.pressure(change)

        forget: Callable[[], None] = monitor.on_change(changed)
        return forget

    def release(self) -> int:
        """Give the workspace back to torch; returns its bytes. The next call leases it once more."""
        with self._busy:
            freed = self.workspace_bytes
            if isinstance(self.module, Sequential):
                self.module.release()
            for lease in self._leases:
                lease.release()
            self._leases = []
            self.pool.clear()
            return freed
