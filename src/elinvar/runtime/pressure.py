"""Watch memory, heat and power, and let a running job give way.

::

    with Monitor() as monitor, Pipeline(stages) as p:
        monitor.watch(p, dev.pool)
        monitor.on_change(lambda change: Relief(in_flight=2) if change.kind == "thermal" else None)
        ...

On a level change every callback is asked; what it answers is done. Without an answer the runtime does the little it
may do by itself: lower ``in_flight`` of watched pipelines and shrink watched pools. When pressure is gone, a pipeline
gets back the ``in_flight`` its user chose, never more. None of this can change a result, only when it arrives.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from elinvar.errors import InputError

from .sensors import KINDS, Pressure, Sensor, default_sensors

__all__ = ["Change", "Monitor", "Pressure", "Reading", "Relief", "Sensor", "default_sensors"]

_log = logging.getLogger("elinvar.pressure")


@dataclasses.dataclass(frozen=True)
class Relief:
    """What to do about a level: a callback's answer, and the runtime's proposal to it. ``Relief()`` is "nothing".

    Attributes
    ----------
    in_flight
        Watched pipelines keep at most this many items in flight until the level changes again; None leaves them.
    pool_keep
        Share (0 to 1) of its waiting buffers a watched pool may keep now; None leaves them.
    """

    in_flight: int | None = None
    pool_keep: float | None = None

    def __post_init__(self) -> None:
        if self.in_flight is not None and (isinstance(self.in_flight, bool) or self.in_flight < 1):
            raise InputError(f"Relief got in_flight={self.in_flight!r}; it takes a whole number from 1, or None.")
        if self.pool_keep is not None and not 0 <= self.pool_keep <= 1:
            raise InputError(f"Relief got pool_keep={self.pool_keep!r}; it takes a share from 0 to 1, or None.")


_NOTHING = Relief()
_PROPOSALS = {
    ("memory", Pressure.WARNING): Relief(in_flight=2, pool_keep=0.5),
    ("memory", Pressure.CRITICAL): Relief(in_flight=1, pool_keep=0.0),
    ("thermal", Pressure.WARNING): Relief(in_flight=2),
    ("thermal", Pressure.CRITICAL): Relief(in_flight=1),
    ("power", Pressure.WARNING): Relief(in_flight=2),
    ("power", Pressure.CRITICAL): Relief(in_flight=1),
}


@dataclasses.dataclass(frozen=True)
class Reading:
    """The last look at one sensor: its value (None when unreadable), its level, and when (the clock's seconds)."""

    sensor: Sensor
    value: float | None
    level: Pressure
    at: float


@dataclasses.dataclass(frozen=True)
class Change:
    """One kind of pressure went from one level to another.

    Attributes
    ----------
    kind
        ``"memory"``, ``"thermal"`` or ``"power"``.
    old, new
        The levels.
    reading
        The reading that decided: the worst sensor of the kind.
    proposal
        What the runtime does unless a callback answers otherwise.
    """

    kind: str
    old: Pressure
    new: Pressure
    reading: Reading
    proposal: Relief

    def __str__(self) -> str:
        sensor, value = self.reading.sensor, self.reading.value
        shown = "unreadable" if value is None else f"{value:.3g} {sensor.unit}".strip()
        return f"{self.kind} pressure {self.old} -> {self.new} ({sensor.name}: {shown})"


@runtime_checkable
class _Throttled(Protocol):
    """A pipeline, as far as a monitor is concerned."""

    @property
    def in_flight(self) -> int: ...
    def set_in_flight(self, n: int) -> int: ...


@runtime_checkable
class _Shrinkable(Protocol):
    """A pool, as far as a monitor is concerned."""

    def shrink_to_fit(self, max_bytes: int) -> int: ...
    def stats(self) -> Any: ...


class _Watched:
    """A pipeline under watch: what its user chose, and what we made of it."""

    def __init__(self, pipeline: _Throttled) -> None:
        self.pipeline = weakref.ref(pipeline)
        self.chosen = pipeline.in_flight
        self.set = self.chosen

    def apply(self, cap: int | None) -> None:
        pipeline = self.pipeline()
        if pipeline is None:
            return
        if pipeline.in_flight != self.set:  # its user changed it meanwhile
            self.chosen = pipeline.in_flight
        self.set = self.chosen if cap is None else min(self.chosen, cap)
        if pipeline.in_flight != self.set:
            pipeline.set_in_flight(self.set)


class Monitor:
    """Sample sensors, and give way when they say so.

    Parameters
    ----------
    sensors
        What to read; default what the machine has. Kinds without a sensor stay nominal (``blind`` lists them).
    clock
        Seconds, monotonic.
    hold
        A sensor's level falls only after its value has allowed it for this many seconds.
    interval
        Seconds between samples when used as a context manager.

    Notes
    -----
    ``sample()`` is the whole logic; ``start`` only calls it from a thread. Levels rise at once and fall late: past the
    sensor's margin, and after `hold`.
    """

    def __init__(
        self,
        sensors: Iterable[Sensor] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        hold: float = 10.0,
        interval: float = 1.0,
    ) -> None:
        self.sensors = tuple(default_sensors() if sensors is None else sensors)
        wrong = [sensor for sensor in self.sensors if not isinstance(sensor, Sensor)]
        if wrong:
            raise InputError(f"Monitor got the sensor {wrong[0]!r}; it takes Sensor(kind, name, read, ...).")
        self._clock = clock
        self._hold = _seconds("Monitor", "hold", hold, least=0.0)
        self._interval = _seconds("Monitor", "interval", interval)
        self._lock = threading.RLock()
        self._readings: dict[int, Reading] = {}
        self._calm_since: dict[int, float] = {}
        self._levels = dict.fromkeys(KINDS, Pressure.NOMINAL)
        self._relief: dict[str, Relief] = {}
        self._callbacks: list[Callable[[Change], Relief | None]] = []
        self._pipelines: list[_Watched] = []
        self._pools: list[weakref.ref[_Shrinkable]] = []
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()

    # ---------------------------------------------------------------- state

    @property
    def interval(self) -> float:
        """Seconds between samples."""
        return self._interval

    @property
    def levels(self) -> Mapping[str, Pressure]:
        """The level of each kind."""
        return dict(self._levels)

    @property
    def level(self) -> Pressure:
        """The worst level of all kinds."""
        return max(self._levels.values())

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The last reading of each sensor that was read."""
        with self._lock:
            return tuple(self._readings[i] for i in sorted(self._readings))

    @property
    def blind(self) -> tuple[str, ...]:
        """Kinds of pressure no sensor here can see."""
        return tuple(kind for kind in KINDS if all(sensor.kind != kind for sensor in self.sensors))

    # ---------------------------------------------------------------- who is concerned

    def on_change(self, callback: Callable[[Change], Relief | None]) -> Callable[[], None]:
        """Ask `callback` at every level change; return a function that stops asking.

        It answers with a `Relief`, which is done in place of the proposal, or None for no opinion. Of several answers
        the most careful counts. An exception in it is logged and counts as None.
        """
        if not callable(callback):
            raise InputError(f"Monitor.on_change got {callback!r}; it takes a function of one Change.")
        entry = functools.partial(callback)  # an identity of its own: the same function may be registered twice
        with self._lock:
            self._callbacks.append(entry)

        def forget() -> None:
            with self._lock:
                if entry in self._callbacks:
                    self._callbacks.remove(entry)

        return forget

    def watch(self, *things: object) -> None:
        """Let pipelines and pools give way under pressure, from now on; they are not kept alive by this."""
        with self._lock:
            for thing in things:
                if isinstance(thing, _Throttled):
                    watched = _Watched(thing)
                    self._pipelines.append(watched)
                    watched.apply(self._cap())
                elif isinstance(thing, _Shrinkable):
                    self._pools.append(weakref.ref(thing))
                else:
                    raise InputError(f"Monitor.watch got {thing!r}; it takes pipelines and pools.")

    # ---------------------------------------------------------------- sampling

    def sample(self) -> Mapping[str, Pressure]:
        """Read every sensor once, act on what changed, and return the level of each kind."""
        with self._lock:
            now = self._clock()
            for i, sensor in enumerate(self.sensors):
                self._readings[i] = self._read(i, sensor, now)
            for kind in KINDS:
                readings = [reading for reading in self._readings.values() if reading.sensor.kind == kind]
                if not readings:
                    continue
                worst = max(readings, key=lambda reading: reading.level)
                if worst.level != self._levels[kind]:
                    self._change(kind, worst)
            return self.levels

    def _read(self, i: int, sensor: Sensor, now: float) -> Reading:
        held = self._readings[i].level if i in self._readings else Pressure.NOMINAL
        try:
            value = sensor.read()
        except OSError:
            value = None
        except Exception:  # noqa: BLE001
            _log.warning("The sensor %r failed; its level stays %s.", sensor.name, held, exc_info=True)
            value = None
        if value is None or math.isnan(value):
            return Reading(sensor, None, held, now)  # blindness is no reason to speed up
        level = sensor.level(value, held)
        if level >= held:
            self._calm_since.pop(i, None)
        elif now - self._calm_since.setdefault(i, now) < self._hold:
            level = held
        else:
            self._calm_since.pop(i)
        return Reading(sensor, float(value), level, now)

    def _change(self, kind: str, reading: Reading) -> None:
        old, self._levels[kind] = self._levels[kind], reading.level
        change = Change(kind, old, reading.level, reading, _PROPOSALS.get((kind, reading.level), _NOTHING))
        _log.info("%s", change)
        answers = [answer for callback in tuple(self._callbacks) if (answer := _ask(callback, change)) is not None]
        relief = _strictest(answers) if answers else change.proposal
        self._relief[kind] = relief
        cap = self._cap()
        self._pipelines = [watched for watched in self._pipelines if watched.pipeline() is not None]
        for watched in self._pipelines:
            watched.apply(cap)
        if relief.pool_keep is not None:
            self._shrink(relief.pool_keep)

    def _cap(self) -> int | None:
        caps = [relief.in_flight for relief in self._relief.values() if relief.in_flight is not None]
        return min(caps, default=None)

    def _shrink(self, keep: float) -> None:
        for reference in self._pools:
            pool = reference()
            if pool is not None:
                stats = pool.stats()
                pool.shrink_to_fit(stats.bytes_live + int(keep * stats.bytes_cached))

    # ---------------------------------------------------------------- the thread

    def start(self, interval: float | None = None) -> Self:
        """Sample every `interval` seconds from a background thread; a running one takes the new interval."""
        if interval is not None:
            self._interval = _seconds("Monitor.start", "interval", interval)
        with self._lock:
            if self._thread is None:
                self._wake = threading.Event()
                arguments = (weakref.ref(self), self._wake)
                self._thread = threading.Thread(target=_watch, args=arguments, name="elinvar-pressure", daemon=True)
                self._thread.start()
        return self

    def stop(self) -> None:
        """Stop sampling, join the thread, forget levels, and give pipelines back the in_flight their users chose."""
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._lock:
            self._thread = None
            for forgotten in (self._relief, self._readings, self._calm_since):
                forgotten.clear()
            self._levels = dict.fromkeys(KINDS, Pressure.NOMINAL)
            for watched in self._pipelines:
                watched.apply(None)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, frame: TracebackType | None
    ) -> None:
        self.stop()


def _watch(reference: weakref.ref[Monitor], wake: threading.Event) -> None:
    """Sample until stopped, or until nobody holds the monitor any more."""
    while not wake.is_set():
        monitor = reference()
        if monitor is None:
            return
        try:
            monitor.sample()
        except Exception:  # noqa: BLE001
            _log.exception("Sampling failed; the monitor goes on.")
        interval = monitor.interval
        del monitor
        wake.wait(interval)


def _ask(callback: Callable[[Change], Relief | None], change: Change) -> Relief | None:
    try:
        answer: object = callback(change)
    except Exception:  # noqa: BLE001
        _log.warning("A callback failed on %s; it is taken as no answer.", change, exc_info=True)
        return None
    if answer is None or isinstance(answer, Relief):
        return answer
    _log.warning("A callback answered %r on %s; it should return a Relief or None.", answer, change)
    return None


def _strictest(answers: list[Relief]) -> Relief:
    caps = [answer.in_flight for answer in answers if answer.in_flight is not None]
    keeps = [answer.pool_keep for answer in answers if answer.pool_keep is not None]
    return Relief(min(caps, default=None), min(keeps, default=None))


def _seconds(operation: str, name: str, value: float, least: float = 0.01) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
        raise InputError(f"{operation} got {name}={value!r}; it takes seconds from {least:g}.")
    return float(value)
