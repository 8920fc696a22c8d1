"""``elinvar tour``: every installed engine on real input, beside its naive baseline, on one page.

An engine takes part by having a module ``elinvar.<engine>.tour`` with ``tour(page, context) -> None``: it adds
sections to the page, pictures first, and reports through the `TourContext`. It stays under a minute.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elinvar import __version__, errors
from elinvar.cli.common import EXIT_ERROR, emit, explain, progress

if TYPE_CHECKING:
    from elinvar.runtime.device import Device

__all__ = ["ENGINES", "EngineRun", "TourContext", "app", "run"]

app = typer.Typer(add_completion=False)

ENGINES = ("seismic", "audio", "vision", "video", "tensor")
"""Engines in the order of the page. Those without a tour module are not in this build and are passed over."""


def _say(text: str) -> None:
    typer.echo(text, err=True)


@dataclasses.dataclass
class TourContext:
    """What an engine's tour gets beside the page.

    Attributes
    ----------
    device
        Where to run.
    out
        The tour's folder, for files worth keeping; the page itself needs none of them.
    quick
        Whether a smaller input is wanted, as in tests.
    seconds
        What `stage` and `jit` have measured, by "engine: name".
    """

    device: Device
    out: Path
    quick: bool = False
    engine: str = ""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    say: Callable[[str], None] = _say
    """Print one line for the person who waits."""

    def progress(self, label: str, *, total: int | None = None, unit: str = "items") -> Any:
        """Return a context manager yielding ``report(done, total)``: rate and time left on the terminal."""
        return progress(f"{self.engine}: {label}", total=total, unit=unit)

    @contextlib.contextmanager
    def stage(self, name: str, **args: object) -> Iterator[None]:
        """Trace, time and announce one stage; its seconds are in `seconds` afterwards."""
        from elinvar.runtime.trace import trace

        start = time.perf_counter()
        with trace(f"{self.engine}.{name}", **args):
            yield
        spent = time.perf_counter() - start
        self.seconds[f"{self.engine}: {name}"] = spent
        self.say(f"{self.engine}: {name} {spent:.2f} s")

    @contextlib.contextmanager
    def jit(self, what: str) -> Iterator[None]:
        """Time compilation on a line of its own, so that it is never part of a result."""
        self.say(f"{self.engine}: compiling {what} ...")
        with self.stage(f"compiling {what}"):
            yield


@dataclasses.dataclass(frozen=True)
class EngineRun:
    """How one engine's part went: "done", "skipped" (an extra is missing) or "failed", and the sentence why."""

    engine: str
    status: str
    seconds: float
    message: str = ""


def _engines() -> list[str]:
    return [name for name in ENGINES if importlib.util.find_spec(f"elinvar.{name}.tour") is not None]


def _run_engine(name: str, page: Any, context: TourContext, debug: bool) -> EngineRun:
    context.engine = name
    start = time.perf_counter()
    status, message = "done", ""
    try:
        importlib.import_module(f"elinvar.{name}.tour").tour(page, context)
    except errors.MissingDependency as error:
        status, message = "skipped", str(error)
    except Exception as error:  # one engine's failure must not cost the others' pictures
        if debug:
            raise
        status, message = "failed", explain(error)[0]
    if message:
        page.section(name)
        page.note(f"**{name} {status}:** {message}")
        context.say(f"{name} {status}: {message}")
    return EngineRun(name, status, time.perf_counter() - start, message)


def _where_the_time_went(page: Any, context: TourContext, foreign: float) -> None:
    from elinvar.bench.samples import FOREIGN_LIMIT

    if not context.seconds:
        return
    page.section("Where the time went", "Compilation happens once per machine and is never part of a result.")
    if foreign > FOREIGN_LIMIT:
        page.note(
            f"Others used **{100 * foreign:.0f} %** of this machine's CPU meanwhile: these times are not for quoting."
        )
    page.table([{"stage": name, "seconds": f"{spent:.2f}"} for name, spent in context.seconds.items()])


def run(
    out: Path,
    *,
    device: str = "auto",
    quick: bool = False,
    debug: bool = False,
    engines: list[str] | None = None,
) -> tuple[Path, list[EngineRun]]:
    """Run the tour and write its page.

    Parameters
    ----------
    out
        Folder for ``index.html``; made when missing. The page is written whole or not at all.
    device
        Where to run.
    quick
        Smaller inputs.
    debug
        Let an engine's exception through instead of writing it on the page.
    engines
        Which engines, in order; by default every one that is installed.

    Returns
    -------
    tuple
        The page's path, and how each engine went.
    """
    from elinvar.bench import LoadProbe, machine
    from elinvar.report import Page
    from elinvar.runtime.device import device as resolve
    from elinvar.runtime.trace import trace

    out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written fails now, not after the work
    place = resolve(device)
    facts = machine()
    _say(f"elinvar {__version__} on {facts['name']}, computing on {place}")
    page = Page(
        "elinvar: the tour",
        f"One kernel, one answer, on every device. Computed on **{place}** of {facts['name']}.",
        f"elinvar {__version__}, torch {facts['torch']}, Python {facts['python']}. Baselines run on the subset stated "
        "beside them and are compared per unit of work. Times of a machine that others use are not for comparing.",
    )
    context = TourContext(place, out, quick)
    probe = LoadProbe()
    runs = []
    for name in _engines() if engines is None else engines:
        with trace(f"tour.{name}"):
            runs.append(_run_engine(name, page, context, debug))
    _where_the_time_went(page, context, probe.read().foreign_share)
    path = out / "index.html"
    page.write(path)
    return path, runs


@app.command()
def tour(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="Folder for index.html.")] = Path("tour"),
    device: Annotated[str, typer.Option(help="Where to run: auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    trace_: Annotated[
        Path | None, typer.Option("--trace", help="Also write the stages' times for Perfetto, ui.perfetto.dev.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller inputs: a check, not a measurement.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Run every engine on real input beside its naive baseline and write one HTML page.

    Exit code 1 when an engine failed; its part of the page says why.
    """
    _say("elinvar: looking at the machine")
    start = time.perf_counter()
    from elinvar.runtime.trace import trace

    recording = trace.record(trace_) if trace_ is not None else contextlib.nullcontext()
    with recording:
        path, runs = run(out, device=device, quick=quick, debug=bool(ctx.find_root().params.get("debug")))
    spent = time.perf_counter() - start
    result = {"page": path.resolve(), "seconds": spent, "trace": trace_, "engines": runs}
    lines = [f"{path.resolve().as_uri()}  ({spent:.0f} s)"]
    if trace_ is not None:
        lines.append(f"{trace_}: open it in https://ui.perfetto.dev")
    emit(result, json_, lambda: lines)
    if any(item.status == "failed" for item in runs):
        raise typer.Exit(EXIT_ERROR)
