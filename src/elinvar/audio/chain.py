"""Processors in series: one object that works offline, as a stream, and as a C callback."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from elinvar.errors import InputError

from . import _chain as kernel
from ._check import Array, Signal, count, rate, signal, write_out
from ._processor import Processor

__all__ = ["Chain"]


class Chain(Processor):
    """Processors in series, run without returning to Python between them.

    ::

        chain = audio.Chain([audio.Biquad.highpass(80, 0.7, 48000), audio.Compressor(), audio.Convolver(ir)])
        wet = chain(x, 48000)                        # offline: latency removed, tail kept out
        chain.prepare(48000, max_block=64, channels=2)
        chain.process(block, out=block)              # live, from Python
        chain.portaudio_callback, chain.root         # live, from C: no GIL, no allocation

    Parameters
    ----------
    processors
        `Convolver`, filters, dynamics, `Delay`, `Gain`, other chains: at least one.
    """

    _kernel = staticmethod(kernel.process)
    _entry = kernel.process_entry

    def __init__(self, processors: Iterable[Processor]) -> None:
        self._nodes = list(processors)
        if not self._nodes:
            raise InputError("Chain: no processors; give at least one.")
        for node in self._nodes:
            if not isinstance(node, Processor):
                raise InputError(
                    f"Chain: {type(node).__name__} is not a processor; give a Convolver, Biquad, Compressor, ... "
                    "or a subclass of audio.Processor."
                )
        if len({id(node) for node in self._nodes}) < len(self._nodes):
            raise InputError("Chain: one processor stands twice; its state cannot serve two places. Make another one.")

    @property
    def processors(self) -> tuple[Processor, ...]:
        """What is in the chain, in order."""
        return tuple(self._nodes)

    @property
    def latency(self) -> int:
        """Sum of the processors' latencies, in samples."""
        return sum(node.latency for node in self._nodes)

    @property
    def tail_length(self) -> int:
        """Sum of the processors' tails, in samples."""
        return sum(node.tail_length for node in self._nodes)

    @property
    def nonfinite(self) -> int:
        """NaN and infinite samples taken for silence by any processor since `prepare`."""
        return sum(node.nonfinite for node in self._nodes)

    def prepare(self, sample_rate: float, max_block: int, channels: int = 1) -> Chain:
        """Prepare every processor; one with a matrix of impulse responses changes the channels of those behind it."""
        hertz = rate("Chain.prepare", sample_rate)
        block = count("Chain.prepare", "max_block", max_block)
        width = inputs = count("Chain.prepare", "channels", channels)
        widest, table = width, []
        for node in self._nodes:
            node.prepare(hertz, block, width)
            width = node.outputs
            widest = max(widest, width)
            table += [node.entry, node.root.ctypes.data, width]
        f = np.zeros(2 * widest * block, np.float32)
        head = [len(self._nodes), inputs, width, block, f.ctypes.data, widest, 0, 0]
        m = np.array([*head, *table], np.int64)
        root = np.array([m.ctypes.data, m.size, f.ctypes.data, f.size], np.int64)
        self._ready((m, f), root, inputs, width)
        return self

    def reset(self) -> None:
        """Reset every processor."""
        m, f = self._checked()
        for node in self._nodes:
            node.reset()
        f[:] = 0.0
        m[kernel.CALLS] = 0

    @property
    def calls(self) -> int:
        """Blocks processed since `reset`."""
        return int(self._checked()[0][kernel.CALLS])

    @property
    def interleaved_entry(self) -> int:
        """As `entry`, for interleaved buffers ``[frames][channels]``."""
        self._checked()
        return kernel.interleaved_entry.address

    @property
    def portaudio_callback(self) -> int:
        """Address of a PaStreamCallback; its user data is the address of `root`."""
        self._checked()
        return kernel.portaudio_entry.address

    def __call__(self, x: Signal, sample_rate: float, *, out: Any = None) -> Any:
        """Process a whole signal [channels, time] or [time]; the result has its length, latency removed.

        The chain is prepared for the signal and left reset.
        """
        samples, back = signal("Chain", x)
        rows = np.array(np.atleast_2d(samples))
        if rows.ndim != 2:
            raise InputError(f"Chain: the signal has shape {samples.shape}; give [channels, time] or [time].")
        self.prepare(sample_rate, 4096, rows.shape[0])
        y: Array = np.empty((self.outputs, rows.shape[1] + self.latency), np.float32)
        padded = np.concatenate([rows, np.zeros((rows.shape[0], self.latency), np.float32)], axis=1)
        m, f = self._checked()
        self._kernel(m, f, padded, y)
        self.reset()
        y = y[:, y.shape[1] - rows.shape[1] :]
        return write_out("Chain", back(y[0] if samples.ndim == 1 and self.outputs == 1 else y), out)
