"""What an audio thread may use: a pool and a ring without locks, live input and output, and memory that gives way.

A Python callback is not real-time safe: it waits for the interpreter lock and for the garbage collector. Processors
therefore have entry points for C (`Chain.portaudio_callback`, `Chain.root`), and what is here never blocks:

* `BufferPool.try_acquire` returns None when nothing is free; it never raises and never waits.
* `Ring` carries samples from one thread to another.
* `Live`, `Player` and `Recorder` run a chain, play and record with a sound card, through sounddevice and PortAudio.
* `Workspace` is memory that a pressure callback may take away between two calls; `Fallback` is a device that gives way
  to the CPU while the machine is too hot.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import DoubleRelease, ForeignLease, InputError, MissingDependency
from elinvar.runtime.device import Device
from elinvar.runtime.device import device as find_device

from . import _live as live
from . import _ring as kernel
from ._check import Array, count, rate
from .chain import Chain

__all__ = [
    "Buffer",
    "BufferPool",
    "Fallback",
    "Live",
    "Player",
    "Recorder",
    "Ring",
    "Workspace",
    "portaudio_available",
    "prepare_player",
    "prepare_recorder",
]


class Buffer:
    """A buffer of a `BufferPool`, handed out once; `array` is float32 [size]."""

    __slots__ = ("_pool", "array", "handle")

    def __init__(self, pool: BufferPool, handle: int, array: Array) -> None:
        self._pool, self.handle, self.array = pool, handle, array

    def release(self) -> None:
        """Give it back; the same as ``pool.release(buffer)``."""
        self._pool.release(self)

    def __enter__(self) -> Array:
        return self.array

    def __exit__(self, *error: object) -> None:
        self.release()


class BufferPool:
    """A fixed number of equal buffers that threads take and give back without a lock.

    Parameters
    ----------
    size
        float32 samples of a buffer.
    count
        How many there are, at most a million.

    Notes
    -----
    The free list is one word with a tag, changed by compare-and-swap (Treiber 1986). A thread that is stopped in the
    middle holds up nobody.
    """

    def __init__(self, size: int, count: int) -> None:
        self.size = _count("BufferPool", "size", size)
        self.count = _count("BufferPool", "count", count)
        if self.count > (1 << 20) - 2:
            raise InputError(f"BufferPool: count is {count}; at most {(1 << 20) - 2} buffers are accepted.")
        self._memory = np.zeros((self.count, self.size), np.float32)
        self._m = np.zeros(kernel.NODE_AT + 2 * self.count, np.int64)
        self._m[kernel.COUNT] = self.count
        self._m[kernel.FREE] = 1
        self._m[kernel.NODE_AT : kernel.NODE_AT + self.count - 1] = np.arange(2, self.count + 1)
        self._arrays = list(self._memory)
        self.release(self._warm())

    def _warm(self) -> Buffer:
        buffer = self.try_acquire()
        assert buffer is not None
        return buffer

    def try_acquire(self) -> Buffer | None:
        """Return a free buffer, or None. Its samples are what the last user left."""
        handle = kernel.acquire(self._m)
        return None if handle < 0 else Buffer(self, handle, self._arrays[handle & kernel._MASK])  # noqa: SLF001

    def release(self, buffer: Buffer) -> None:
        """Give a buffer back.

        Raises
        ------
        DoubleRelease
            When it was given back before; nothing changes.
        ForeignLease
            When it is of another pool; nothing changes.
        """
        if not isinstance(buffer, Buffer) or buffer._pool is not self:  # noqa: SLF001  (same module)
            raise ForeignLease("BufferPool.release: the buffer is not of this pool; release it to its own.")
        result = kernel.release(self._m, buffer.handle)
        if result == 1:
            raise DoubleRelease("BufferPool.release: the buffer was given back already; release it once.")
        if result == 2:
            raise ForeignLease("BufferPool.release: the handle was never handed out by this pool.")

    @property
    def free(self) -> int:
        """Buffers nobody holds; exact while no thread acquires."""
        generations = self._m[kernel.NODE_AT + self.count : kernel.NODE_AT + 2 * self.count]
        return int((generations % 2 == 0).sum())


_count = count


class Ring:
    """Samples from one writing to one reading thread, without a lock.

    Parameters
    ----------
    capacity
        Samples per channel.
    channels
        Rows of every block.
    """

    def __init__(self, capacity: int, channels: int = 1) -> None:
        self.capacity, self.channels = count("Ring", "capacity", capacity), count("Ring", "channels", channels)
        self._m = np.zeros(24, np.int64)
        self._m[kernel.CAPACITY], self._m[kernel.CHANNELS] = self.capacity, self.channels
        self._f = np.zeros(self.capacity * self.channels, np.float32)
        addresses = [self._m.ctypes.data, self._m.size, self._f.ctypes.data, self._f.size]
        self.root: NDArray[np.int64] = np.array(addresses, np.int64)
        """State for `write_entry` and `read_entry`."""
        self.write(np.zeros((self.channels, 1), np.float32))
        self.read(1)
        self.clear()

    @property
    def available(self) -> int:
        """Samples that can be read now."""
        return int(kernel.readable(self._m))

    @property
    def space(self) -> int:
        """Samples that can be written now."""
        return self.capacity - self.available

    @property
    def overruns(self) -> int:
        """Samples that did not fit and were dropped by `write`."""
        return int(self._m[kernel.OVERRUNS])

    @property
    def underruns(self) -> int:
        """Samples of silence `read` had to put in."""
        return int(self._m[kernel.UNDERRUNS])

    def _block(self, operation: str, x: Array) -> Array:
        if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim != 2 or x.shape[0] != self.channels:
            raise InputError(
                f"Ring.{operation}: got {getattr(x, 'dtype', type(x).__name__)} of shape {getattr(x, 'shape', '?')}; "
                f"give float32 [{self.channels}, n]."
            )
        return x if x.flags.carray else np.array(x)

    def write(self, x: Array) -> int:
        """Append samples [channels, n]; return how many fitted. The others are dropped and counted."""
        return int(kernel.write(self._m, self._f, self._block("write", x)))

    def read(self, n: int, out: Array | None = None) -> Array:
        """Return the n oldest samples [channels, n], silence where there are none."""
        y = np.empty((self.channels, n), np.float32) if out is None else out
        kernel.read(self._m, self._f, y, False)
        return y

    def peek(self, n: int) -> Array:
        """Return the n oldest samples and leave them."""
        y = np.empty((self.channels, n), np.float32)
        kernel.read(self._m, self._f, y, True)
        return y

    def skip(self, n: int) -> int:
        """Drop up to n of the oldest samples; return how many there were."""
        return int(kernel.skip(self._m, n))

    def clear(self) -> None:
        """Forget everything; not while another thread reads or writes."""
        self._m[[kernel.WRITTEN, kernel.TAKEN, kernel.OVERRUNS, kernel.UNDERRUNS]] = 0

    @property
    def write_entry(self) -> int:
        """Address of ``int64 f(root, input, NULL, frames)``: planar; returns the frames written."""
        return kernel.write_entry.address

    @property
    def read_entry(self) -> int:
        """Address of ``int64 f(root, NULL, output, frames)``: planar; returns the frames read."""
        return kernel.read_entry.address


class Workspace:
    """Memory that is there when needed and may be taken away between calls.

    Parameters
    ----------
    make
        Builds it; called at the first use, and once after each release.
    size
        Bytes of what `make` built.
    on_pressure
        Asked by `relieve` whether to release: True does it.
    """

    def __init__(
        self, make: Callable[[], Any], size: Callable[[Any], int], on_pressure: Callable[[int], bool] | None = None
    ) -> None:
        self._make, self._size, self._ask = make, size, on_pressure
        self._made: Any = None
        self.built = 0
        """How often it was built."""

    @property
    def bytes(self) -> int:
        """Bytes held now."""
        return 0 if self._made is None else self._size(self._made)

    def get(self) -> Any:
        """Return the memory, building it if it is not there."""
        if self._made is None:
            self._made, self.built = self._make(), self.built + 1
        return self._made

    def watch(self, monitor: Any) -> Callable[[], None]:
        """Let an `elinvar.runtime.pressure.Monitor` ask for this memory; return the function that ends it."""

        def changed(change: Any) -> None:
            if change.kind == "memory" and change.new > change.old:
                self.relieve(int(change.new))

        forget: Callable[[], None] = monitor.on_change(changed)
        return forget

    def relieve(self, level: int = 2) -> int:
        """Ask the callback, obey it, and return the bytes released; without a callback, critical levels (2) release."""
        held = self.bytes
        obey = bool(self._ask(level)) if self._ask is not None else level >= 2
        if not obey or held == 0:
            return 0
        self._made = None
        return held


class Fallback:
    """Where to compute: on a device, or on the CPU while the machine is too hot for it.

    Parameters
    ----------
    device
        The device wanted; see `elinvar.device`.
    level
        Thermal pressure from which the CPU takes over: 1 warning, 2 critical.
    """

    def __init__(self, device: str = "auto", level: int = 2) -> None:
        self._wanted, self._cpu = find_device(device), find_device("cpu")
        self._level, self._thermal = count("Fallback", "level", level), 0

    @property
    def device(self) -> Device:
        """The device to use for the next block; reading it costs nothing."""
        return self._cpu if self._thermal >= self._level else self._wanted

    def watch(self, monitor: Any) -> Callable[[], None]:
        """Follow an `elinvar.runtime.pressure.Monitor`; return the function that ends it."""

        def changed(change: Any) -> None:
            if change.kind == "thermal":
                self._thermal = int(change.new)

        forget: Callable[[], None] = monitor.on_change(changed)
        return forget


def _sounddevice(operation: str) -> Any:
    try:
        return importlib.import_module("sounddevice")
    except ImportError:
        raise MissingDependency(
            f"{operation} needs sounddevice, which is not installed; run: pip install sounddevice"
        ) from None
    except OSError as error:  # the wheel is there, the system library is not
        raise MissingDependency(
            f"{operation} needs PortAudio ({error}); on Debian: sudo apt-get install libportaudio2"
        ) from None


def portaudio_available() -> bool:
    """Whether sounddevice and PortAudio are there and see a device."""
    try:
        return len(_sounddevice("portaudio_available").query_devices()) > 0
    except MissingDependency:
        return False


class _Stream:
    """A sound card's stream whose callback is C, with no Python in between; `keep` is what the callback uses."""

    def __init__(self, kind: str, entry: int, root: NDArray[np.int64], keep: object, **options: Any) -> None:
        library = _sounddevice(type(self).__name__)
        ffi = library._ffi  # noqa: SLF001  (how sounddevice takes C callbacks, as python-rtmixer does)
        callback = ffi.cast("PaStreamCallback*", entry)
        userdata = ffi.cast("void*", root.ctypes.data)
        self._kept = (root, keep)
        self._stream = library._StreamBase(  # noqa: SLF001
            kind=kind, dtype="float32", callback=callback, userdata=userdata, **options
        )

    def start(self) -> Self:
        """Begin."""
        self._stream.start()
        return self

    def stop(self) -> None:
        """End and close the device."""
        self._stream.stop()
        self._stream.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Live(_Stream):
    """A chain between a sound card's input and its output.

    ::

        with realtime.Live(chain, 48000, channels=2, block=64):
            input("Enter ends it")

    Parameters
    ----------
    chain
        Prepared here.
    sample_rate
        Hz.
    channels
        Input channels.
    block
        Samples per callback.
    device
        As sounddevice takes it: names or numbers, or a pair for input and output.
    """

    def __init__(
        self, chain: Chain, sample_rate: float, *, channels: int = 2, block: int = 64, device: Any = None
    ) -> None:
        hertz = rate("Live", sample_rate)
        chain.prepare(hertz, block, channels)
        super().__init__(
            "duplex", chain.portaudio_callback, chain.root, chain, samplerate=hertz, blocksize=block,
            channels=(chain.inputs, chain.outputs), device=device,
        )  # fmt: skip


class Player(_Stream):
    """Sound from Python through a chain to a sound card.

    Parameters
    ----------
    chain
        Prepared here; ``Chain([Gain()])`` plays as is.
    sample_rate, channels, block, device
        As in `Live`.
    seconds
        Of sound that can be fed ahead.

    Notes
    -----
    `feed` may come from any one thread, as late as it likes: what is missing is silence, and counted in
    ``ring.underruns``.
    """

    def __init__(
        self, chain: Chain, sample_rate: float, *, channels: int = 2, block: int = 64, device: Any = None,
        seconds: float = 1.0,
    ) -> None:  # fmt: skip
        self.ring, entry, root, keep = prepare_player(chain, sample_rate, channels, block, seconds)
        super().__init__(
            "output", entry, root, keep, samplerate=sample_rate, blocksize=block, channels=chain.outputs, device=device
        )

    def feed(self, x: Array) -> int:
        """Hand over samples [channels, n]; return how many fitted."""
        return self.ring.write(x)


class Recorder(_Stream):
    """Sound from a sound card to Python.

    Parameters
    ----------
    sample_rate, channels, block, device
        As in `Live`.
    seconds
        Of sound kept until it is read; what comes then is dropped, and counted in ``ring.overruns``.
    """

    def __init__(
        self, sample_rate: float, *, channels: int = 2, block: int = 64, device: Any = None, seconds: float = 10.0
    ) -> None:
        self.ring, entry = prepare_recorder(sample_rate, channels, seconds)
        super().__init__(
            "input", entry, self.ring.root, self.ring, samplerate=sample_rate, blocksize=block, channels=channels,
            device=device,
        )  # fmt: skip

    def read(self, n: int) -> Array:
        """Return the n oldest samples [channels, n], silence where there are none yet."""
        return self.ring.read(n)


def prepare_player(
    chain: Chain, sample_rate: float, channels: int, block: int, seconds: float
) -> tuple[Ring, int, NDArray[np.int64], object]:
    """Return the ring to feed, the address of a PaStreamCallback, its user data, and what must stay alive."""
    hertz = rate("Player", sample_rate)
    chain.prepare(hertz, block, channels)
    ring = Ring(max(block, round(seconds * hertz)), channels)
    root = np.concatenate([chain.root[:4], ring.root])
    return ring, live.player_entry.address, root, (chain, ring)


def prepare_recorder(sample_rate: float, channels: int, seconds: float) -> tuple[Ring, int]:
    """Return the ring that is filled, whose root is the user data, and the address of a PaStreamCallback."""
    return Ring(round(seconds * rate("Recorder", sample_rate)), channels), live.recorder_entry.address
