"""Base against head: two checkouts of the library, one set of benchmarks, interleaved in two processes."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from elinvar.errors import BenchError

from .machines import LoadProbe, machine
from .registry import Benchmark, benchmarks, offers_ci
from .samples import Samples
from .sides import Side, Worker
from .verdicts import Verdict, compare

__all__ = ["Row", "Versus", "base_versus_head", "contest"]

MIN_RUNS, MAX_RUNS = 9, 61
_SAMPLE = 2e-3  # shortest sample, seconds
_WARMUP = 3


@dataclass(frozen=True)
class Row:
    """One case: the first verdict, the verdict of the second pair of processes when the first said worse, a note."""

    name: str
    verdict: Verdict | None
    second: Verdict | None = None
    note: str = ""

    @property
    def regression(self) -> bool:
        """Worse twice, in different processes: memory layout and luck do not repeat."""
        pair = (self.verdict, self.second)
        return all(verdict is not None and verdict.word == "worse" for verdict in pair)

    @property
    def word(self) -> str:
        """What to print: the verdict, with "worse" only when it was confirmed."""
        if self.verdict is None:
            return "skipped"
        if self.verdict.word == "worse" and not self.regression:
            return "inconclusive"
        return self.verdict.word

    @property
    def why(self) -> str:
        """The reasons behind `word`."""
        unconfirmed = self.verdict is not None and self.verdict.word == "worse" and not self.regression
        parts = (
            self.verdict.why if self.verdict else "",
            "not so in fresh processes" if unconfirmed else "",
            self.note,
        )
        return "; ".join(filter(None, parts))


@dataclass(frozen=True)
class Versus:
    """The outcome of `base_versus_head`; `why` explains an empty `rows`."""

    base: str
    rows: tuple[Row, ...] = ()
    why: str = ""

    @property
    def regressions(self) -> tuple[str, ...]:
        """Cases confirmed slower."""
        return tuple(row.name for row in self.rows if row.regression)


def _calibrate(sides: tuple[Side, Side], case: str, budget: float, now: Callable[[], float]) -> tuple[int, int]:
    """Warm both sides up; return (calls per sample, rounds) that fit `budget` seconds."""
    for side in sides:
        for _ in range(_WARMUP):
            side.time(case, 1)
    slowest = max(min(side.time(case, 1) for _ in range(2)) for side in sides)
    inner = max(1, min(100_000, round(_SAMPLE / slowest)))
    start = now()
    for side in sides:
        side.time(case, inner)
    each = max(now() - start, 1e-6)
    return inner, max(MIN_RUNS, min(MAX_RUNS, int(budget / each)))


def contest(
    base: Side, head: Side, case: str, *, budget: float = 10.0, now: Callable[[], float] = time.perf_counter
) -> tuple[Samples, Samples]:
    """Interleave one case between two sides (base head, head base, ...); about `budget` seconds, 9 to 61 rounds."""
    inner, runs = _calibrate((base, head), case, budget, now)
    start_usage = base.usage() + head.usage()

    def own() -> tuple[float, int]:
        return time.process_time() + base.usage() + head.usage() - start_usage, 0

    probe = LoadProbe(own=own)
    values: tuple[list[float], list[float]] = ([], [])
    sides = (base, head)
    for index in range(runs):
        for which in (0, 1) if index % 2 == 0 else (1, 0):
            values[which].append(sides[which].time(case, inner))
    load, rounds, here = probe.read(), secrets.token_hex(8), machine()
    first = Samples(
        f"base {case}", tuple(values[0]), rounds=rounds, machine=here["id"], machine_name=here["name"], load=load
    )
    return first, replace(first, name=f"head {case}", values=tuple(values[1]))


def _git(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False, timeout=120
    )


@contextlib.contextmanager
def _worktree(checkout: Path, commit: str) -> Iterator[Path]:
    """Check `commit` out beside, in a temporary folder, and take it away again."""
    with tempfile.TemporaryDirectory(prefix="elinvar-base-") as folder:
        tree = Path(folder) / "base"
        added = _git(checkout, "worktree", "add", "--detach", "--quiet", str(tree), commit)
        if added.returncode != 0:
            raise BenchError(f"bench: git could not check out {commit} ({added.stderr.strip()}); is the disk full?")
        try:
            yield tree
        finally:
            _git(checkout, "worktree", "remove", "--force", str(tree))
            _git(checkout, "worktree", "prune")


def _load_both(base: Side, head: Side, entries: list[Benchmark]) -> tuple[list[str], list[Row]]:
    """Load every benchmark on both sides; a benchmark the base cannot run is new and cannot have regressed."""
    cases: list[str] = []
    skipped: list[Row] = []
    for entry in entries:
        ours = head.load(entry.path)
        try:
            theirs = set(base.load(entry.path))
        except BenchError as error:
            skipped += [Row(name, None, note=f"new: the base cannot run it ({error})") for name in ours]
            continue
        cases += [name for name in ours if name in theirs]
    return cases, skipped


Open = Callable[[Path], contextlib.AbstractContextManager[Side]]


@contextlib.contextmanager
def _pair(sources: tuple[Path, Path], open_side: Open) -> Iterator[tuple[Side, Side]]:
    with open_side(sources[0]) as base, open_side(sources[1]) as head:
        yield base, head


def _run(
    sources: tuple[Path, Path],
    entries: list[Benchmark],
    threshold: float,
    seconds: float,
    say: Callable[[str], None],
    open_side: Open,
) -> tuple[Row, ...]:
    with _pair(sources, open_side) as (base, head):
        cases, skipped = _load_both(base, head, entries)
        found = {row.name: row for row in skipped}
        for number, case in enumerate(cases, 1):
            say(f"{case} ({number} of {len(cases)})")
            try:
                base.time(case, 1)
            except BenchError as error:
                found[case] = Row(case, None, note=f"new: the base cannot run it ({error})")
                continue
            pair = contest(base, head, case, budget=0.6 * seconds / len(cases))
            found[case] = Row(case, compare(*pair, threshold), note="; ".join(pair[0].concerns))
    suspects = [name for name, row in found.items() if row.verdict is not None and row.verdict.word == "worse"]
    if suspects:
        with _pair(sources, open_side) as (base, head):
            _load_both(base, head, entries)
            for name in suspects:
                say(f"{name}: slower; measuring again in fresh processes")
                pair = contest(base, head, name, budget=0.3 * seconds / len(suspects))
                found[name] = replace(found[name], second=compare(*pair, threshold))
    return tuple(found.values())


def base_versus_head(
    ref: str,
    checkout: Path,
    *,
    threshold: float = 0.05,
    seconds: float = 100.0,
    only: Mapping[str, object] | list[str] | None = None,
    say: Callable[[str], None] = lambda _: None,
    open_side: Open = Worker,
) -> Versus:
    """Time every benchmark's ``ci_cases`` with the library of commit `ref` and of the working tree, interleaved.

    Both sides run head's benchmark files, so a changed benchmark is not mistaken for a changed library. A case that
    looks slower is measured a second time in fresh processes and counts only if it is slower again.

    Parameters
    ----------
    ref
        The base: any git revision.
    checkout
        The head: a checkout with its local changes.
    threshold
        Relative change that matters.
    seconds
        Time to spend measuring; importing and JIT come on top.
    only
        Restrict to benchmarks of these names.
    say
        Receives one line per step.
    open_side
        How a side is started; for tests.
    """
    resolved = _git(checkout, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    if resolved.returncode != 0:
        return Versus(ref, why=f"there is no commit {ref!r} to compare with")
    entries = [entry for entry in benchmarks(checkout) if offers_ci(entry.path) and (not only or entry.name in only)]
    if not entries:
        return Versus(ref, why="no benchmark offers ci_cases()")
    commit = resolved.stdout.strip()
    with _worktree(checkout, commit) as tree:
        if not (tree / "src" / "elinvar").is_dir():
            return Versus(ref, why=f"the base {ref} has no src/elinvar")
        rows = _run((tree / "src", checkout / "src"), entries, threshold, seconds, say, open_side)
    return Versus(ref, rows)
