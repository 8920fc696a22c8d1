"""A sequence of layers whose intermediate results share two buffers."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from elinvar.errors import InputError
from elinvar.runtime.device import device
from elinvar.runtime.memory import Lease, Pool

__all__ = ["BufferStats", "Sequential"]


@dataclasses.dataclass(frozen=True)
class BufferStats:
    """What `Sequential.build` planned.

    Attributes
    ----------
    layers, buffers
        Layers, and buffers they write to.
    bytes, bytes_without
        Of the buffers, and of one per layer.
    """

    layers: int
    buffers: int
    bytes: int
    bytes_without: int

    @property
    def saved(self) -> float:
        """Part of the memory that sharing saves."""
        return 1.0 - self.bytes / self.bytes_without if self.bytes_without else 0.0

    def __str__(self) -> str:
        return f"{self.layers} layers, {self.buffers} buffers ({100 * self.saved:.0f} % memory saved)"


# Activations that can write where they are told to.
_INTO: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], Any]] = {
    nn.ReLU: lambda _, x, out: torch.clamp_min(x, 0.0, out=out),
    nn.Sigmoid: lambda _, x, out: torch.sigmoid(x, out=out),
    nn.Tanh: lambda _, x, out: torch.tanh(x, out=out),
    nn.SiLU: lambda _, x, out: torch.sigmoid(x, out=out).mul_(x),
    nn.Softmax: lambda m, x, out: torch.softmax(x, m.dim, out=out),
}


class Sequential(nn.Sequential):
    """``torch.nn.Sequential`` with `build`: two buffers, written in turn, hold what passes between the layers.

    Layers with an ``out=`` argument (this package's) and common activations write into them directly; the results of
    others are copied. Before `build`, with other shapes, or under autograd it is torch's.
    """

    _shape: tuple[int, ...] | None = None
    _stats: BufferStats | None = None

    def build(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, pool: Pool | None = None) -> Self:
        """Plan for inputs of `shape` and lease the buffers; returns the sequence.

        Raises
        ------
        InputError
            A layer does not accept what the one before it makes; the message names it.
        """
        self.release()
        place = next((p.device for p in self.parameters()), torch.device("cpu"))
        x = torch.zeros(shape, dtype=dtype, device=place)
        shapes, before = [], tuple(shape)
        with torch.no_grad():
            for i, layer in enumerate(self):
                try:
                    x = layer(x)
                except (RuntimeError, ValueError, IndexError) as error:
                    reason = str(error).splitlines()[0]
                    raise InputError(
                        f"Sequential.build: layer {i} ({type(layer).__name__}) does not accept {before}: {reason}"
                    ) from None
                if not isinstance(x, Tensor):
                    raise InputError(
                        f"Sequential.build: layer {i} ({type(layer).__name__}) returns {type(x).__name__}, no tensor."
                    )
                before = tuple(x.shape)
                shapes.append((x.shape, x.dtype))
        self._plan(tuple(shape), shapes, pool or device(place).pool)
        return self

    def _plan(self, shape: tuple[int, ...], shapes: list[tuple[torch.Size, torch.dtype]], pool: Pool) -> None:
        sizes = [math.prod(s) * d.itemsize for s, d in shapes]
        slots = [max(sizes[k::2], default=0) for k in range(2)]
        self._leases: list[Lease] = [pool.acquire((n,), torch.uint8) for n in slots if n]
        self._views = []
        for i, (s, d) in enumerate(shapes):
            flat = self._leases[i % len(self._leases)].tensor[: sizes[i]] if sizes[i] else None
            self._views.append(
                torch.empty(s, dtype=d, device=pool.device.torch) if flat is None else flat.view(d).view(s)
            )
        self._writers = [self._writer(layer) for layer in self]
        self._shape = shape
        self._stats = BufferStats(len(shapes), len(self._leases), sum(slots), sum(sizes))

    @staticmethod
    def _writer(layer: nn.Module) -> Callable[[Tensor, Tensor], Any]:
        if type(layer) in _INTO:
            into = _INTO[type(layer)]
            return lambda x, out: into(layer, x, out)
        if "out" in inspect.signature(layer.forward).parameters:
            return lambda x, out: layer(x, out=out)
        return lambda x, out: out.copy_(layer(x))

    @property
    def buffer_stats(self) -> BufferStats:
        """What was planned."""
        if self._stats is None:
            raise InputError("Sequential.buffer_stats: nothing is planned yet; call build(shape) first.")
        return self._stats

    @property
    def buffer_bytes(self) -> int:
        """Bytes leased now."""
        return self._stats.bytes if self._stats is not None else 0

    def forward(self, x: Tensor) -> Tensor:
        """Run all layers; after `build` the result is in a shared buffer, valid until the next call."""
        if self._shape != tuple(x.shape) or torch.is_grad_enabled():
            result: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return result
        for write, view in zip(self._writers, self._views, strict=True):
            write(x, view)
            x = view
        return x

    def release(self) -> None:
        """Give the buffers back; `build` leases them anew."""
        self._views, self._writers = [], []
        leases = getattr(self, "_leases", [])
        self._leases = []
        for lease in leases:
            with contextlib.suppress(Exception):
                lease.release()
        self._shape = self._stats = None
