"""True convolution, offline and as a stream: gain exactly 1, no added latency, stereo and matrices of responses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.parallel import parallel_for
from elinvar.runtime.trace import trace

from . import _overlap
from . import _partition as kernel
from ._check import Array, Signal, choice, count, finite, number, rate, rows_of, signal, write_out
from ._convolve_torch import convolve_tensor, wants_torch
from ._ladder import Ladder, choose, measured_costs, uniform
from ._layout import State, build, claim, fill, publish, reset
from ._processor import Processor

__all__ = ["Convolver", "convolve"]

DIRECT = 32
"""Longest response that is filtered directly by default: shorter than any transform is worth."""
_TICKS = (64, 128, 256, 512)


def _responses(operation: str, ir: Any, empty: bool = False) -> tuple[Array, NDArray[np.int64], tuple[int, int]]:
    """Return distinct responses [shapes, taps], paths (input, output, response), and (inputs, outputs); 0 is any."""
    taps, _ = signal(operation, ir, "ir", empty=empty)
    finite(operation, taps, "ir")
    if taps.ndim == 1:
        return taps[None], np.zeros((1, 3), np.int64), (0, 0)
    if taps.ndim == 2:
        n = taps.shape[0]
        if n == 1:
            return taps, np.zeros((1, 3), np.int64), (0, 0)
        return taps, np.repeat(np.arange(n)[:, None], 3, axis=1), (n, n)
    if taps.ndim == 3:
        outputs, inputs = taps.shape[:2]
        paths = [(i, o, o * inputs + i) for o in range(outputs) for i in range(inputs) if taps[o, i].any()]
        if not paths:
            raise InputError(f"{operation}: all {outputs} x {inputs} impulse responses are zero; give one that is not.")
        return taps.reshape(outputs * inputs, -1), _overlap.path_table(paths), (inputs, outputs)
    raise InputError(
        f"{operation}: ir has shape {taps.shape}; give [taps], [channels, taps] or [outputs, inputs, taps]."
    )


def _spread(paths: NDArray[np.int64], channels: tuple[int, int], inputs: int, operation: str) -> NDArray[np.int64]:
    """Paths for so many input channels: one response serves them all."""
    if channels == (0, 0):
        return _overlap.path_table([(c, c, 0) for c in range(inputs)])
    if channels[0] != inputs:
        raise InputError(
            f"{operation}: the signal has {inputs} channels and the impulse response is for {channels[0]}; give as "
            "many, or one response [taps] for all."
        )
    return paths


def convolve(x: Signal, ir: Signal, *, mode: str = "full", method: str = "auto", out: Any = None) -> Any:
    """Convolve a whole signal with an impulse response: ``y[t] = sum over k of ir[k] x[t - k]``.

    Parameters
    ----------
    x
        Samples [..., time] or, for several responses, [..., channels, time]; numpy array or torch tensor.
    ir
        [taps] for all channels, [channels, taps], or [outputs, inputs, taps] whose outputs are sums over inputs.
    mode
        "full": n + taps - 1 samples; "same": the first n, so that time 0 stays where it was.
    method
        "auto", "direct" (a sum over taps) or "fft" (overlap-save; block by measured cost).
    out
        Where to write; the result's shape.

    Returns
    -------
    numpy.ndarray or torch.Tensor
        float32, on x's device. A tensor that requires gradients, or lies on a GPU, goes through torch's transforms.

    Raises
    ------
    InputError
        When samples are NaN or infinite, when channels do not match, or for other dtypes.
    """
    choice("convolve", "mode", mode, ("full", "same"))
    choice("convolve", "method", method, ("auto", "direct", "fft"))
    if wants_torch(x, ir):
        return write_out("convolve", convolve_tensor(x, ir, mode), out)
    samples, back = signal("convolve", x)
    responses, paths, channels = _responses("convolve", ir)
    finite("convolve", samples)
    return write_out("convolve", back(_offline(samples, responses, paths, channels, mode, method)), out)


@trace("audio.convolve")
def _offline(
    x: Array, responses: Array, paths: NDArray[np.int64], channels: tuple[int, int], mode: str, method: str
) -> Array:
    n, taps = x.shape[-1], responses.shape[1]
    length = n + taps - 1 if mode == "full" else n
    if channels == (0, 0):
        rows = rows_of(x)
        y = np.empty((len(rows), length), np.float32)
        _rows(rows, y, responses[0], method)
        return y.reshape(*x.shape[:-1], length)
    inputs, outputs = channels
    if x.ndim < 2 or x.shape[-2] != inputs:
        got = 1 if x.ndim < 2 else x.shape[-2]
        _spread(paths, channels, got, "convolve")
    batches = x.reshape(math.prod(x.shape[:-2]), inputs, n)
    y = np.empty((len(batches), outputs, length), np.float32)
    size = _overlap.block_size(n, taps)
    spectra, f, at, parts = _spectra(responses, size, inputs)
    for batch, sink in zip(batches, y, strict=True):
        _overlap.through(f, at, batch, sink, spectra, paths, parts, size)
    return y.reshape(*x.shape[:-2], outputs, length)


def _spectra(responses: Array, size: int, inputs: int) -> tuple[Array, Array, int, int]:
    parts = -(-responses.shape[1] // size)
    f, at = _overlap.workspace(size, inputs, parts)
    spectra = np.empty((len(responses), parts, 2 * size), np.float32)
    for response, rows in zip(responses, spectra, strict=True):
        _overlap.spectra(f, at, response, rows, size)
    return spectra.ravel(), f, at, parts


def _rows(rows: Array, y: Array, response: Array, method: str) -> None:
    """One response for every row, rows in parallel."""
    n, taps = rows.shape[1], len(response)
    if method == "direct" or (method == "auto" and taps <= DIRECT):

        def one(begin: int, end: int) -> None:
            for r in range(begin, end):
                whole = np.empty(n + taps - 1, np.float32)
                _overlap.direct(rows[r], response, whole)
                y[r] = whole[: y.shape[1]]
    else:
        size = _overlap.block_size(n, taps)
        spectra, _, _, parts = _spectra(response[None], size, 1)
        path = np.zeros((1, 3), np.int64)

        def one(begin: int, end: int) -> None:
            f, at = _overlap.workspace(size, 1, parts)
            for r in range(begin, end):
                _overlap.through(f, at, rows[r : r + 1], y[r : r + 1], spectra, path, parts, size)

    parallel_for(len(rows), one, chunk=1)


class Convolver(Processor):
    """Convolution with one impulse response, as a stream of blocks of any length or offline.

    ::

        room = audio.Convolver(ir)
        room.prepare(48000, max_block=64, channels=2)   # all memory and compilation
        for block in stream:                             # float32 [2, n], any n
            room.process(block, out=block)               # no latency, no allocation

    Parameters
    ----------
    ir
        float32 [taps] for all channels, [channels, taps], or [outputs, inputs, taps]; inputs share their transforms.
    mode
        How a stream is convolved. "partitioned": the first taps directly, the others in stages of growing blocks whose
        work is spread over the callbacks (Gardner 1995). "fft": one stage. "direct": a sum over all taps. "auto": the
        cheapest by measured cost.
    block_size
        The smallest block in samples, a power of two from 64; by default what costs least for `max_block`.
    sample_rate
        Rate of the impulse response in Hz; then `prepare` refuses another one instead of playing it too slowly.
    ladder
        Sizes of all stages instead of the measured choice, smallest first: same rounding on every machine.

    Notes
    -----
    Gain is exactly 1: the response is used as given. NaN and infinite input samples become silence and are counted in
    `nonfinite`: one of them would otherwise sound for as long as the response is.
    """

    def __init__(
        self,
        ir: Signal,
        mode: str = "auto",
        block_size: int | None = None,
        *,
        sample_rate: float | None = None,
        ladder: tuple[int, ...] | None = None,
    ) -> None:
        self._mode = choice("Convolver", "mode", mode, ("auto", "direct", "fft", "partitioned"))
        self._responses, self._paths, self._channels = _responses("Convolver", ir)
        self._block_size = None if block_size is None else _power("Convolver", "block_size", block_size)
        self._ladder = None if ladder is None else tuple(_power("Convolver", "ladder", size) for size in ladder)
        if self._ladder is not None and any(b < 2 * a for a, b in zip(self._ladder, self._ladder[1:], strict=False)):
            raise InputError(f"Convolver: ladder is {self._ladder}; each size is at least twice the one before.")
        self._rate = None if sample_rate is None else rate("Convolver", sample_rate)
        self._state: State | None = None
        self._hertz = 0.0
        self._crossfade = 0.0

    _kernel = staticmethod(kernel.process)
    _entry = kernel.process_entry

    @property
    def tail_length(self) -> int:
        """Samples that still come after the last input: taps - 1."""
        return int(self._responses.shape[1]) - 1

    @property
    def ladder(self) -> Ladder | None:
        """Sizes of direct head and stages, once prepared."""
        return None if self._state is None else self._state.ladder

    @property
    def nonfinite(self) -> int:
        """NaN and infinite input samples taken for silence since `prepare`."""
        return int(self._prepared().m[kernel.BAD])

    @property
    def fading(self) -> bool:
        """Whether a new impulse response is waiting or being faded to."""
        m = self._prepared().m
        return bool(m[kernel.TARGET] >= 0 or m[kernel.MAILBOX] % 4 == kernel.FULL)

    @property
    def memory_bytes(self) -> int:
        """What `prepare` allocated."""
        state = self._prepared()
        return state.m.nbytes + state.f.nbytes + state.h.nbytes

    def prepare(
        self, sample_rate: float, max_block: int, channels: int = 1, *, crossfade: float = 0.02, max_taps: int = 0
    ) -> Convolver:
        """Allocate, transform the impulse response and compile; nothing of that happens afterwards.

        Parameters
        ----------
        sample_rate
            Hz of the stream.
        max_block
            Longest block in samples the work is planned for; longer ones are accepted.
        channels
            Input channels.
        crossfade
            Seconds of the fade of `set_ir`.
        max_taps
            Longest impulse response `set_ir` shall accept; at least this one's.

        Returns
        -------
        Convolver
            Itself.
        """
        hertz = rate("Convolver.prepare", sample_rate)
        if self._rate is not None and hertz != self._rate:
            raise InputError(
                f"Convolver.prepare: the stream has {hertz:g} Hz and the impulse response {self._rate:g} Hz; "
                "bring one to the other's rate with audio.resample."
            )
        block = count("Convolver.prepare", "max_block", max_block)
        inputs = count("Convolver.prepare", "channels", channels)
        self._crossfade = self._fade(crossfade, "Convolver.prepare")
        paths = _spread(self._paths, self._channels, inputs, "Convolver.prepare")
        outputs = self._channels[1] or inputs
        length = max(int(self._responses.shape[1]), max_taps)
        ladder = self._choose(block, length, inputs, outputs, len(paths))
        table = [(int(i), int(o), int(s)) for i, o, s in paths]
        state = build(
            table, len(self._responses), inputs, outputs, length, ladder, measured_costs(),
            round(self._crossfade * hertz),
        )  # fmt: skip
        reset(state)
        fill(state, int(state.m[kernel.ACTIVE]), self._responses)
        self._state, self._hertz = state, hertz
        self._ready((state.m, state.f, state.h), state.root, inputs, outputs)
        self.warmup()
        return self

    def _choose(self, block: int, length: int, inputs: int, outputs: int, paths: int) -> Ladder:
        if self._ladder is not None:
            return Ladder(self._ladder[0], self._ladder[0], self._ladder)
        if self._mode == "direct":
            tick = min(8192, max(64, 2 ** math.ceil(math.log2(length))))
            return Ladder(tick, length, ())
        largest = max(64, 2 ** int(math.log2(block)))
        if self._mode == "fft":
            return uniform(self._block_size or min(largest, 65536), length)
        ticks = (self._block_size,) if self._block_size else tuple(t for t in _TICKS if t <= largest)
        return choose(length, ticks, measured_costs(), inputs, outputs, paths, len(self._responses))

    def _fade(self, seconds: float | None, operation: str) -> float:
        return self._crossfade if seconds is None else number(operation, "crossfade", seconds, low=0.0, high=10.0)

    def _prepared(self) -> State:
        if self._state is None:
            raise InputError("Convolver: not prepared; call prepare(sample_rate, max_block, channels) first.")
        return self._state

    def reset(self) -> None:
        """Forget everything heard; not while another thread processes."""
        reset(self._prepared())

    def set_ir(self, ir: Signal, crossfade: float | None = None) -> None:
        """Change the impulse response without a click, while another thread processes.

        The response is transformed here and handed over without a lock; of several in a row the last one wins. Taps in
        the first blocks fade at once, those of a stage of block B within 2 B samples, over `crossfade` seconds; from
        then on the output is the whole past convolved with the new response.

        Parameters
        ----------
        ir
            As many responses as before, at most as long as `prepare` was told.
        crossfade
            Seconds; None takes what `prepare` was told.
        """
        state = self._prepared()
        responses, paths, channels = _responses("Convolver.set_ir", ir)
        if channels != self._channels or not np.array_equal(paths, self._paths):
            raise InputError(
                f"Convolver.set_ir: the new ir connects {channels} (inputs, outputs; 0 is any), this convolver "
                f"{self._channels}; make a new Convolver."
            )
        if responses.shape[1] > state.length:
            raise InputError(
                f"Convolver.set_ir: the new ir has {responses.shape[1]} taps and prepare reserved {state.length}; "
                "prepare again with max_taps."
            )
        bank = claim(state.m)
        if bank < 0:
            raise InputError("Convolver.set_ir: another thread is setting an impulse response; set them from one.")
        state.m[kernel.FADES + bank] = round(self._hertz * self._fade(crossfade, "Convolver.set_ir"))
        fill(state, bank, responses)
        self._responses = responses
        publish(state.m, bank)

    def convolve(self, x: Signal, *, mode: str = "full", out: Any = None) -> Any:
        """Convolve a whole signal [..., channels, time] offline with the present response; see `audio.convolve`."""
        shape = self._responses if self._channels != (0, 0) else self._responses[0]
        if self._channels[0] and len(self._responses) != self._channels[0]:
            shape = self._responses.reshape(self._channels[1], self._channels[0], -1)
        method = {"direct": "direct", "fft": "fft"}.get(self._mode, "auto")
        return convolve(x, shape, mode=mode, method=method, out=out)


def _power(operation: str, name: str, value: object) -> int:
    size = count(operation, name, value, minimum=64)
    if size & (size - 1) or size > 65536:
        raise InputError(f"{operation}: {name} is {size}; give a power of two from 64 to 65536.")
    return size
