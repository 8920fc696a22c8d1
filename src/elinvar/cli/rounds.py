"""How far a measurement has come: one line on stderr, where a terminal is there to see it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["ProgressLine"]

_REDRAW = 0.1  # seconds between updates of the progress line


class ProgressLine:
    """Rounds done, rate and time left on stderr, written between samples only: no thread runs beside a measurement."""

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._now = now
        self._start = self._drawn = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Tell that `done` of `total` rounds of a benchmark are over; 0 starts its clock."""
        now = self._now()
        if done == 0:
            self._start, self._drawn = now, 0.0
        spent = now - self._start
        if done == total:
            end = "\n" if not self._live else ""
            self._write(f"{what}: {total} rounds in {spent:.1f} s{end}")
        elif self._live and now - self._drawn >= _REDRAW:
            self._drawn = now
            left = f", {done / spent:.3g}/s, {spent / done * (total - done):.1f} s left" if done and spent else ""
            self._write(f"{what}: round {done}/{total}{left}")

    def _write(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}" if self._live else text)
        self._stream.flush()

    def close(self) -> None:
        """Clear the line, so that what follows starts on a fresh one."""
        if self._live:
            self._write("")
