"""What every command shares: errors as one sentence, progress with rate and ETA, results as text or JSON.

Exit codes of `elinvar`: 0 done, 1 error, 2 wrong usage, 3 missing or unusable weights, 130 interrupted.
Results go to stdout, progress and errors to stderr, so that ``elinvar ... --json | jq`` works.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, NoReturn

import typer

from elinvar import errors

__all__ = [
    "EXIT_ERROR",
    "EXIT_INTERRUPTED",
    "EXIT_USAGE",
    "EXIT_WEIGHTS",
    "Report",
    "emit",
    "explain",
    "fail",
    "progress",
    "sentences",
    "si",
    "table",
    "to_json",
]

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_WEIGHTS = 3
EXIT_INTERRUPTED = 130

Report = Callable[[int, "int | None"], None]
"""What `progress` yields: call it with how much is done, and how much there is in all (None: unknown)."""

_PLAIN_INTERVAL = 5.0  # seconds between progress lines when stderr is not a terminal
_REDRAW = 0.1  # seconds between redraws of a bar when it is one


def _explain_os(error: OSError) -> str:
    what = error.strerror or type(error).__name__
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{where}; free some space and run the same command again."
    if error.errno == errno.EFBIG:
        return f"{what.lower()}{where} for this disk, or for the limit of this session (`ulimit -f`); write elsewhere."
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"{what.lower()}{where}; check the permissions, or choose another folder."
    return f"{what.lower()}{where}; check the path."


def _ours(error: BaseException) -> bool:
    """Say whether it was this package that raised an error, rather than a library under it."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and str(place.tb_frame.f_globals.get("__name__", "")).startswith("elinvar")


def explain(error: BaseException) -> tuple[str, int]:
    """Turn an exception into the sentence a user reads and the exit code a script sees."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; files already written are whole.", EXIT_INTERRUPTED
    if isinstance(error, errors.Cancelled):
        return str(error) or "cancelled.", EXIT_INTERRUPTED
    if isinstance(error, errors.WeightsError):
        return str(error), EXIT_WEIGHTS
    if isinstance(error, errors.ElinvarError):
        return str(error) or f"{type(error).__name__}; run again with --debug for the place.", EXIT_ERROR
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("elinvar"):
        return (
            f"the Python package {error.name!r} is not installed; `elinvar doctor` says which extra brings it.",
            EXIT_ERROR,
        )
    if isinstance(error, OSError):
        return _explain_os(error), EXIT_ERROR
    if isinstance(error, NotImplementedError) and str(error) and _ours(error):
        return str(error), EXIT_ERROR  # an option that is refused by its name is no defect
    name, text = type(error).__name__, " ".join(str(error).split())
    detail = f"{name}: {text}" if text else name
    return f"unexpected {detail}; run again with --debug and report the traceback, please.", EXIT_ERROR


def fail(error: BaseException | str, *, debug: bool = False, code: int | None = None) -> NoReturn:
    """Print one sentence on stderr and leave with an exit code other than 0; with `debug`, the traceback first.

    Parameters
    ----------
    error
        The exception that ended the command, or the sentence itself.
    debug
        Print the traceback above the sentence.
    code
        Exit code; by default what `explain` chooses.

    Raises
    ------
    typer.Exit
        Always.
    """
    sentence, chosen = (error, EXIT_ERROR) if isinstance(error, str) else explain(error)
    if debug and isinstance(error, BaseException):
        traceback.print_exception(error, file=sys.stderr)
    typer.echo(f"elinvar: {sentence}", err=True)
    raise typer.Exit(chosen if code is None else code)


def si(value: float) -> str:
    """Write a number with three digits and a decimal prefix: 1234567 -> ``1.23 M``.

    >>> si(6.8e9)
    '6.80 G'
    """
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            scaled = value / limit
            return f"{scaled:.{max(0, 2 - len(str(int(abs(scaled)))) + 1)}f} {prefix}"
    return f"{value:.3g} "


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


@dataclasses.dataclass
class _Line:
    """Progress for a log file: a first line at once, then one every few seconds, then the total."""

    label: str
    unit: str
    clock: Callable[[], float] = time.monotonic
    interval: float = _PLAIN_INTERVAL

    def __post_init__(self) -> None:
        self.start = self.last = self.clock()
        self.done = 0
        self._print("...")

    def _print(self, text: str) -> None:
        typer.echo(f"{self.label} {text}", err=True)

    def report(self, done: int, total: int | None) -> None:
        self.done, now = done, self.clock()
        if now - self.last < self.interval or done <= 0:
            return
        self.last = now
        rate = done / max(now - self.start, 1e-9)
        share = f"{100 * done / total:.0f} %" if total else f"{done}"
        left = f", {_clock((total - done) / rate)} left" if total else ""
        self._print(f"{share} ({si(rate)}{self.unit}/s{left})")

    def finish(self) -> None:
        spent = max(self.clock() - self.start, 1e-9)
        rate = f", {si(self.done / spent)}{self.unit}/s" if self.done else ""
        self._print(f"done in {spent:.1f} s{rate}")


class _Sentence(logging.Handler):
    """What the library logs as a warning or worse, as one line on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(f"elinvar: {record.getMessage()}", err=True)


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Show warnings as one line each on stderr, without the place in the code that Python prints for its authors."""

    def show(message: Warning | str, *_place: Any, **_more: Any) -> None:
        typer.echo(f"elinvar: warning: {message}", err=True)

    log, handler = logging.getLogger("elinvar"), _Sentence(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)


@contextlib.contextmanager
def progress(label: str, *, total: int | None = None, unit: str = "items") -> Iterator[Report]:
    """Show a bar with rate and time left on stderr; without a terminal, a line every few seconds.

    Parameters
    ----------
    label
        What is being done: "migrating".
    total
        How many units there are; may also come with each report.
    unit
        What is counted, for the rate: "traces".

    Yields
    ------
    Report
        ``report(done, total)``: fits `elinvar.Pipeline`'s and every engine's ``progress=``.
    """
    if not sys.stderr.isatty():
        line = _Line(label, unit)
        yield line.report
        line.finish()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    # Redrawn by reports alone: a thread that redraws would be measured with whatever is being measured.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bar:
        task = bar.add_task(label, total=total, rate="")
        bar.refresh()
        drawn = 0.0

        def report(done: int, whole: int | None) -> None:
            nonlocal drawn
            whole = total if whole is None else whole
            now, spent = time.monotonic(), bar.tasks[task].elapsed or 0.0
            rate = f"{si(done / spent)}{unit}/s" if spent > 0 else ""
            bar.update(task, completed=done, total=whole, rate=rate)
            if now - drawn >= _REDRAW or done == whole:
                drawn = now
                bar.refresh()

        yield report


def to_json(value: Any) -> Any:
    """Reduce dataclasses, paths, sets, numpy scalars and arrays to what `json` can write."""
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted(to_json(item) for item in value)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [to_json(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return to_json(value.tolist())
    return str(value)


def table(rows: Sequence[Mapping[str, object]], *, title: str | None = None) -> object:
    """Return a rich table of `rows`; the first row's keys are the columns."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in rows[0] if rows else ():
        grid.add_column(name, overflow="fold")
    for row in rows:
        # Text, not str: rich would read the brackets of elinvar[seismic] as markup.
        grid.add_row(*(Text("" if item is None else str(item)) for item in row.values()))
    return grid


def emit(value: Any, json_: bool, render: Callable[[], object] | None = None) -> None:
    """Print a result on stdout.

    Parameters
    ----------
    value
        What a script gets, through `to_json`.
    json_
        Whether a script is asking.
    render
        What a person gets instead of `value`: text, anything rich can print, or a list of those.
    """
    if json_:
        typer.echo(json.dumps(to_json(value), indent=2, ensure_ascii=False))
        return
    shown = value if render is None else render()
    from rich.console import Console

    # Without a terminal rich assumes 80 columns and folds tables; a pipe has no width.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    for part in shown if isinstance(shown, list) else [shown]:
        console.print(part, soft_wrap=isinstance(part, str))
