"""Named time ranges: a Chrome/Perfetto file everywhere, NVTX under Nsight, Metal signposts under Instruments.

::

    from elinvar.runtime.trace import trace      # or simply: from elinvar import trace

    @trace("decode")
    def decode(path): ...

    with trace.record("job.json"):               # open the file at https://ui.perfetto.dev
        for block in blocks:
            with trace("migrate", traces=len(block)):
                ...
        print(trace.totals())                    # {"decode": 0.41, "migrate": 7.9}

Outside ``record`` a range costs one small object and one comparison (well under a microsecond). Ranges measure the
host: on a GPU they show when work was queued, unless the code inside waits for it.

The file format is the "Trace Event Format" (Google, 2016): complete events (``ph`` = ``X``) with microsecond
``ts`` and ``dur``, and metadata events that name the process and every thread.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar, cast

from elinvar.errors import InputError

from .files import write_text

__all__ = ["Recording", "Span", "Tracer", "trace"]

P = ParamSpec("P")
R = TypeVar("R")

_MAIN_THREAD = 1  # the number of the main thread in every file; other threads count up from 2


class Markers(Protocol):
    """What a vendor's profiler offers: a stack of named ranges per thread."""

    def push(self, name: str) -> None: ...
    def pop(self) -> None: ...


class _Nvtx:
    """NVTX ranges, shown by Nsight Systems."""

    def __init__(self, torch: Any) -> None:
        self._nvtx = torch.cuda.nvtx

    def push(self, name: str) -> None:
        self._nvtx.range_push(name)

    def pop(self) -> None:
        self._nvtx.range_pop()


def _find_markers() -> Markers | None:
    """Return NVTX when torch is already loaded and sees a CUDA device; tracing alone never imports torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return _Nvtx(torch)


@contextlib.contextmanager
def _metal_signposts() -> Iterator[None]:
    """Have torch emit its Metal signposts while recording, when it runs on Apple hardware.

    torch offers no way to emit a signpost of one's own name, so Instruments shows torch's operations and our
    kernels by their Metal names; the named ranges themselves are in the JSON file.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.backends.mps.is_available():
        yield
        return
    torch.mps.profiler.start(mode="interval,event", wait_until_completed=False)
    try:
        yield
    finally:
        torch.mps.profiler.stop()


class Recording:
    """What one ``trace.record`` collected; stays readable after the ``with`` block."""

    def __init__(self) -> None:
        self.started_ns = time.perf_counter_ns()
        self._events: list[tuple[str, dict[str, object], int, int, int]] = []  # name, args, thread, start, end
        self._threads: dict[int, str] = {}

    def add(self, name: str, args: dict[str, object], thread: int, start_ns: int, end_ns: int) -> None:
        """Append one finished range; called by the range's own thread."""
        if thread not in self._threads:
            self._threads[thread] = _thread_name(thread)
        self._events.append((name, args, thread, start_ns, end_ns))

    def totals(self) -> dict[str, float]:
        """Return seconds per range name, summed over threads and nesting, in order of first completion."""
        sums: dict[str, int] = {}
        for name, _, _, start, end in self._events.copy():
            sums[name] = sums.get(name, 0) + end - start
        return {name: nanoseconds * 1e-9 for name, nanoseconds in sums.items()}

    def to_json(self) -> str:
        """Return the Trace Event Format text."""
        pid = os.getpid()

        def metadata(kind: str, thread: int, **args: object) -> dict[str, object]:
            return {"name": kind, "ph": "M", "pid": pid, "tid": thread, "args": args}

        events = [metadata("process_name", 0, name="elinvar")]
        for thread, name in sorted(self._threads.copy().items()):
            events.append(metadata("thread_name", thread, name=name))
            events.append(metadata("thread_sort_index", thread, sort_index=thread))
        for name, args, thread, start, end in sorted(self._events.copy(), key=lambda event: event[3]):
            event: dict[str, object] = {"name": name, "cat": "elinvar", "ph": "X", "pid": pid, "tid": thread}
            event["ts"] = (start - self.started_ns) / 1e3
            event["dur"] = (end - start) / 1e3
            if args:
                event["args"] = {key: _plain(value) for key, value in args.items()}
            events.append(event)
        return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, allow_nan=False)


def _plain(value: object) -> object:
    """Return what JSON can hold: numbers, strings, booleans, None; anything else as its text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


class _Numbers(threading.local):
    """A number per thread that is never reused, unlike ``get_ident`` (a recycled address)."""

    _next = itertools.count(_MAIN_THREAD + 1)

    def __init__(self) -> None:
        main = threading.get_ident() == threading.main_thread().ident
        self.number = _MAIN_THREAD if main else next(self._next)


_numbers = _Numbers()


def _thread_name(number: int) -> str:
    """Return the calling thread's name without making a lasting dummy object for a foreign thread."""
    ident = threading.get_ident()
    for thread in threading.enumerate():
        if thread.ident == ident:
            return thread.name
    return f"foreign-{number}"


class Span:
    """One named range: a context manager, or a decorator that opens a new range per call.

    A span object is for one ``with`` at a time; a decorated function may be called from many threads at once.
    """

    __slots__ = ("_args", "_marked", "_name", "_start", "_tracer")

    def __init__(self, tracer: Tracer, name: str, args: dict[str, object]) -> None:
        self._tracer = tracer
        self._name = name
        self._args = args
        self._start = -1
        self._marked: Markers | None = None

    def __enter__(self) -> Self:
        tracer = self._tracer
        if tracer.active:
            markers = tracer._markers  # noqa: SLF001  (one object in two classes)
            if markers is not None:
                markers.push(self._name)
                self._marked = markers
            self._start = time.perf_counter_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, frame: TracebackType | None
    ) -> None:
        start = self._start
        if start < 0:
            return
        end = time.perf_counter_ns()
        self._start = -1
        if self._marked is not None:
            self._marked.pop()
            self._marked = None
        thread = _numbers.number
        for recording in self._tracer._recordings:  # noqa: SLF001
            # A range opened before this recording began is clipped to its beginning.
            recording.add(self._name, self._args, thread, max(start, recording.started_ns), end)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return `function` wrapped so that each call (or each run of a generator) is one range."""
        tracer, name, args = self._tracer, self._name, self._args
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise InputError(
                f"trace({name!r}) cannot decorate the coroutine {function.__qualname__}, whose body is interleaved "
                "with others on one thread; use `with trace(...)` around the parts that do not await."
            )
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def generate(*a: P.args, **k: P.kwargs) -> Generator[Any, Any, Any]:
                with Span(tracer, name, args):
                    return (yield from function(*a, **k))

            return cast("Callable[P, R]", generate)

        @functools.wraps(function)
        def call(*a: P.args, **k: P.kwargs) -> R:
            if not tracer.active:
                return function(*a, **k)
            with Span(tracer, name, args):
                return function(*a, **k)

        return call


class Tracer:
    """The switch behind ``trace``; one per process is enough, tests make their own."""

    def __init__(self, find_markers: Callable[[], Markers | None] = _find_markers) -> None:
        self._find_markers = find_markers
        self._recordings: tuple[Recording, ...] = ()
        self._markers: Markers | None = None
        self._always = False
        self._lock = threading.Lock()
        self.active = False

    def __call__(self, name: str, **args: object) -> Span:
        """Return a range named `name`; `args` appear beside it in Perfetto.

        Raises
        ------
        InputError
            If `name` is no string, as when ``@trace`` is written for ``@trace("name")``.
        """
        if type(name) is not str:
            raise InputError(f'trace() takes a name, got {name!r}; write @trace("name") or with trace("name"):.')
        return Span(self, name, args)

    @contextlib.contextmanager
    def record(self, path: str | os.PathLike[str] | None = None) -> Iterator[Recording]:
        """Collect every range that ends inside the block, from all threads, and write them to `path`.

        The file is written atomically, also when the block raises: a failed run is when one wants to look.

        Parameters
        ----------
        path
            The JSON file to write; None collects without writing (for ``totals``).

        Raises
        ------
        InputError
            If `path` is a folder.
        """
        if path is not None and Path(path).is_dir():
            raise InputError(f"trace.record got the folder {os.fspath(path)!r}; give the name of a .json file in it.")
        recording = Recording()
        with _metal_signposts():
            with self._lock:
                self._recordings = (*self._recordings, recording)
                self._switch()
            try:
                yield recording
            finally:
                with self._lock:
                    self._recordings = tuple(r for r in self._recordings if r is not recording)
                    self._switch()
                if path is not None:
                    write_text(path, recording.to_json())

    def markers(self, on: bool) -> bool:
        """Emit vendor markers (NVTX) also outside ``record``, for a run under Nsight; return the old setting."""
        with self._lock:
            old, self._always = self._always, on
            self._switch()
        return old

    def totals(self) -> dict[str, float]:
        """Return seconds per range name of the innermost recording; an empty dict when nothing is recorded.

        Time is summed over threads, so names that run in parallel may add up to more than the wall clock.
        """
        recordings = self._recordings
        return recordings[-1].totals() if recordings else {}

    def _switch(self) -> None:
        on = self._always or bool(self._recordings)
        self._markers = self._find_markers() if on else None
        self.active = bool(self._recordings) or self._markers is not None


trace = Tracer()
