"""What everything in a `Chain` has in common: prepared once, then processed block by block, from Python or from C."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

from ._check import Array, Signal, signal, write_out
from ._jit import Entry

__all__ = ["Processor"]

_WARM = 64  # samples of silence that compile and touch everything


class Processor(ABC):
    """A block of live signal processing: a Convolver, a filter, a compressor, or a whole Chain.

    A subclass gives `prepare` and `reset`, a kernel ``_kernel(*arrays, x, y)`` and its entry for C. NaN and infinite
    input samples are taken for silence and counted, so that one of them cannot stay in a recursion for ever.
    """

    _kernel: ClassVar[Any]
    _entry: ClassVar[Entry]

    _arrays: tuple[Any, ...] | None = None
    _root: NDArray[np.int64] | None = None
    _inputs = 0
    _outputs = 0

    @property
    def latency(self) -> int:
        """Samples between an input and its first effect; 0 unless said otherwise."""
        return 0

    @property
    def tail_length(self) -> int:
        """Samples that still matter after the last input."""
        return 0

    @property
    def inputs(self) -> int:
        """Input channels, once prepared."""
        return self._inputs

    @property
    def outputs(self) -> int:
        """Output channels, once prepared."""
        return self._outputs

    @property
    def root(self) -> NDArray[np.int64]:
        """What C passes to `entry` as state; keep this object alive as long as C uses it."""
        self._checked()
        assert self._root is not None
        return self._root

    @property
    def entry(self) -> int:
        """Address of ``int64 f(int64 *state, float *input, float *output, int64 frames)``, planar; no GIL."""
        return self._entry.address

    @abstractmethod
    def prepare(self, sample_rate: float, max_block: int, channels: int = 1) -> Any:
        """Allocate and compile; return self."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything heard; not while another thread processes."""

    @property
    def nonfinite(self) -> int:
        """NaN and infinite input samples taken for silence since `prepare`."""
        return 0

    def _ready(self, arrays: tuple[Any, ...], root: NDArray[np.int64], inputs: int, outputs: int) -> None:
        """Take prepared memory into use."""
        self._arrays, self._root, self._inputs, self._outputs = arrays, root, inputs, outputs
        self.warmup()

    def _checked(self) -> tuple[Any, ...]:
        if self._arrays is None:
            name = type(self).__name__
            raise InputError(f"{name}: not prepared; call prepare(sample_rate, max_block, channels) first.")
        return self._arrays

    def warmup(self) -> None:
        """Run the kernel on silence, so that nothing is compiled or first touched later; then `reset`."""
        arrays = self._checked()
        x, y = np.zeros((self._inputs, _WARM), np.float32), np.zeros((self._outputs, _WARM), np.float32)
        for _ in range(4):
            self._kernel(*arrays, x, y)
        self.reset()

    def process(self, block: Signal, out: Any = None) -> Any:
        """Process the next block.

        Parameters
        ----------
        block
            float32 [channels, n], or [n] for one channel; any n, also 0.
        out
            [outputs, n]; may be `block` itself. Without it the result is allocated.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            [outputs, n].
        """
        if (
            self._arrays is not None and type(block) is np.ndarray and type(out) is np.ndarray
            and block.dtype == out.dtype == np.float32 and block.ndim == 2 and block.shape[0] == self._inputs
            and out.shape == (self._outputs, block.shape[1]) and block.flags.carray and out.flags.carray
        ):  # fmt: skip
            self._kernel(*self._arrays, block, out)
            return out
        return self._process_any(block, out)

    def _process_any(self, block: Signal, out: Any) -> Any:
        arrays, name = self._checked(), type(self).__name__
        samples, back = signal(f"{name}.process", block, "the block")
        mono = samples.ndim == 1
        if samples.ndim > 2 or (1 if mono else samples.shape[0]) != self._inputs:
            raise InputError(
                f"{name}.process: the block has shape {samples.shape}; prepared for {self._inputs} channels, give "
                f"[{self._inputs}, n]."
            )
        result = np.empty((self._outputs, samples.shape[-1]), np.float32)
        source = np.array(np.atleast_2d(samples))  # writable, for one signature of the kernel
        self._kernel(*arrays, source, result)
        return write_out(f"{name}.process", back(result[0] if mono and self._outputs == 1 else result), out)

    def flush(self) -> Array:
        """Return what is still to come after the last input, [outputs, latency + tail_length], and `reset`."""
        arrays, n = self._checked(), self.latency + self.tail_length
        tail = np.zeros((self._outputs, n), np.float32)
        self._kernel(*arrays, np.zeros((self._inputs, n), np.float32), tail)
        self.reset()
        return tail
