"""Results on disk: one JSON file per run, every sample kept; and the comparison of two of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from elinvar.errors import BenchError
from elinvar.runtime.files import write_text

from .machines import machine
from .samples import Samples
from .verdicts import Verdict, compare

__all__ = ["SCHEMA", "Comparison", "Result", "commit", "compare_results"]

SCHEMA = 1


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit(folder: Path | None = None) -> str | None:
    """Return the short commit of the checkout around `folder`, with "+" when it has local changes, or None."""
    where = folder or Path.cwd()
    git = ["git", "-C", str(where)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False, timeout=10
        )
        if head.returncode != 0:
            return None
        status = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if status.stdout.strip() else "")


@dataclass(frozen=True)
class Result:
    """What one benchmark run found out.

    Attributes
    ----------
    name
        The benchmark's name.
    samples
        Name of the row to its `Samples`.
    machine
        `elinvar.bench.machine()` at the time.
    extras
        Anything else worth keeping, as plain JSON data: parameters, error norms, the roofline.
    created, commit
        UTC time, and the source commit ("+" marks local changes; None outside a checkout).
    """

    name: str
    samples: Mapping[str, Samples]
    machine: Mapping[str, Any] = field(default_factory=machine)
    extras: Mapping[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=_now)
    commit: str | None = field(default_factory=commit)

    def to_json(self) -> dict[str, Any]:
        """Return plain data with a schema number."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "created": self.created,
            "commit": self.commit,
            "machine": dict(self.machine),
            "samples": {name: samples.to_json() for name, samples in self.samples.items()},
            "extras": dict(self.extras),
        }

    @classmethod
    def from_json(cls, data: Any, source: str = "data") -> Result:
        """Rebuild from `to_json`; `source` is named in errors."""
        if not isinstance(data, dict) or not isinstance(data.get("samples"), dict):
            raise BenchError(
                f"Result: {source} is not a benchmark result; write one with `elinvar bench NAME --output`."
            )
        if data.get("schema") != SCHEMA:
            raise BenchError(
                f"Result: {source} has schema {data.get('schema')!r}, this version reads {SCHEMA}; re-run it."
            )
        return cls(
            name=str(data.get("name", "")),
            samples={name: Samples.from_json(samples) for name, samples in data["samples"].items()},
            machine=data.get("machine", {}),
            extras=data.get("extras", {}),
            created=str(data.get("created", "")),
            commit=data.get("commit"),
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, whole or not at all."""
        write_text(path, json.dumps(self.to_json(), indent=1, allow_nan=False, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Result:
        """Read what `write` wrote.

        Raises
        ------
        BenchError
            The file is missing, is not JSON, or is not a benchmark result of this schema.
        """
        file = Path(path)
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise BenchError(f"Result.read: cannot read {file} ({error.strerror or error}); check the path.") from error
        except ValueError as error:
            raise BenchError(f"Result.read: {file} is not JSON ({error}); write one with Result.write.") from error
        return cls.from_json(data, str(file))


@dataclass(frozen=True)
class Comparison:
    """Two results side by side: a verdict per common row, and the rows only one of them has."""

    verdicts: Mapping[str, Verdict]
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()

    @property
    def regressions(self) -> tuple[str, ...]:
        """Rows that are confirmed worse."""
        return tuple(name for name, verdict in self.verdicts.items() if verdict.word == "worse")

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "rows": {name: asdict(verdict) for name, verdict in self.verdicts.items()},
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "regressions": list(self.regressions),
        }


def compare_results(a: Result, b: Result, threshold: float = 0.05) -> Comparison:
    """Compare `b` with the baseline `a`, row by row.

    Raises
    ------
    BenchError
        The results come from different machines, or have no row in common.
    """
    here, there = (r.machine.get("id") for r in (a, b))
    if here and there and here != there:
        raise BenchError(
            f"compare: '{a.name}' was measured on {a.machine.get('name', here)} and '{b.name}' on "
            f"{b.machine.get('name', there)}; times of different machines are not comparable, measure both on one."
        )
    common = [name for name in a.samples if name in b.samples]
    if not common:
        rows = ", ".join(a.samples), ", ".join(b.samples)
        raise BenchError(f"compare: no row in common ({rows[0]} against {rows[1]}); compare runs of one benchmark.")
    return Comparison(
        {name: compare(a.samples[name], b.samples[name], threshold) for name in common},
        tuple(name for name in a.samples if name not in b.samples),
        tuple(name for name in b.samples if name not in a.samples),
    )
