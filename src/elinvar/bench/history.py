"""History: one append-only JSON-lines file per benchmark, and the check of a new result against it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from elinvar.errors import BenchError, InputError

from .results import Comparison, Result, compare_results

__all__ = ["History"]


class History:
    """Results over time in a folder; lines are only ever added.

    Parameters
    ----------
    folder
        Created on the first `append`; one ``<benchmark>.jsonl`` per benchmark name.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def _file(self, name: str) -> Path:
        if not name or name != Path(name).name or name.startswith("."):
            raise InputError(
                f"History: {name!r} cannot be a file name; name the benchmark with letters, digits, - or _."
            )
        return self.folder / f"{name}.jsonl"

    def append(self, result: Result) -> Path:
        """Add one result as one line, in one write; return the file."""
        path = self._file(result.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(result.to_json(), allow_nan=False, separators=(",", ":"), ensure_ascii=False) + "\n"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = "\n" + line  # the last writer was interrupted: its half line must not swallow this one
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return path

    def entries(self, name: str) -> Iterator[Result]:
        """Yield the stored results of a benchmark, oldest first; lines cut short by a crash are passed over."""
        path = self._file(name)
        if not path.exists():
            return
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    data = json.loads(line)
                except ValueError:
                    continue
                yield Result.from_json(data, f"{path}:{number}")

    def latest(self, name: str, machine: str | None = None) -> Result | None:
        """Return the newest result of a benchmark, on the machine with this fingerprint when given."""
        found = None
        for result in self.entries(name):
            if machine is None or result.machine.get("id") == machine:
                found = result
        return found

    def check(self, result: Result, threshold: float = 0.05) -> Comparison:
        """Compare a new result with the newest stored one of the same machine; never with another machine's.

        Raises
        ------
        BenchError
            No result of this benchmark on this machine is stored.
        """
        baseline = self.latest(result.name, result.machine.get("id"))
        if baseline is None:
            where = result.machine.get("name", "this machine")
            raise BenchError(f"History: no earlier '{result.name}' from {where} in {self.folder}; append one first.")
        return compare_results(baseline, result, threshold)
