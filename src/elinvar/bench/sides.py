"""The two ends of a base-against-head run: what a side must do, and the side that lives in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol, Self

from elinvar.errors import BenchError

__all__ = ["Side", "Worker"]

_ANSWER_TIMEOUT = 120.0
"""Seconds for one answer: importing, preparing data and JIT happen inside one."""


class Side(Protocol):
    """One library version that can be asked to load benchmarks and time their cases."""

    def load(self, path: Path) -> list[str]:
        """Load a benchmark file; return the names of its cases. Raises BenchError when it cannot be loaded."""
        ...

    def time(self, case: str, inner: int) -> float:
        """Return wall seconds per call over `inner` calls."""
        ...

    def usage(self) -> float:
        """Return the CPU seconds this side has used."""
        ...


class Worker:
    """A `Side` in a process of its own, importing elinvar from `source`.

    Parameters
    ----------
    source
        A ``src`` folder; put first on PYTHONPATH.
    """

    def __init__(self, source: Path, *, timeout: float = _ANSWER_TIMEOUT) -> None:
        environment = dict(os.environ)
        environment["PYTHONPATH"] = str(source)
        # Threads that spin after a parallel region would take the core from the other side.
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "PYTHONHASHSEED": "0"}
        script = Path(__file__).with_name("worker.py")
        self._source = source.resolve()
        self._timeout = timeout
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            encoding="utf-8",
        )

    def _ask(self, **request: Any) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(self._timeout):
                process.kill()
                raise BenchError(f"bench: no answer to {request} within {self._timeout:g} s; make it smaller.")
        line = process.stdout.readline()
        if not line:
            raise BenchError(f"bench: the worker for {self._source} ended with code {process.wait()} on {request}.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchError(str(answer["error"]))
        return answer

    def load(self, path: Path) -> list[str]:
        """Load a benchmark file in the process; check that it really imported the library under `source`."""
        answer = self._ask(do="load", path=str(path))
        library = Path(answer["library"]).resolve()
        if not library.is_relative_to(self._source):
            raise BenchError(f"bench: asked for elinvar from {self._source} but {library} was imported.")
        return list(answer["cases"])

    def time(self, case: str, inner: int) -> float:
        """Time one sample in the process."""
        return max(float(self._ask(do="time", case=case, inner=inner)["seconds"]), 1e-9)

    def usage(self) -> float:
        """CPU seconds of the process so far."""
        return float(self._ask(do="usage")["seconds"])

    def close(self) -> None:
        """End the process and wait for it."""
        process = self._process
        with contextlib.suppress(BrokenPipeError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
