"""`elinvar bench`: run, list and compare benchmarks."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from elinvar.cli import seismic_bench, video_bench
from elinvar.cli.common import emit, table
from elinvar.cli.rounds import ProgressLine

__all__ = ["app"]


class _NameIsACommand(TyperGroup):
    """Reads `elinvar bench copy` as `elinvar bench run copy`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_NameIsACommand,
    no_args_is_help=True,
    add_completion=False,
    help="Run, record and compare benchmarks. `elinvar bench NAME` runs one; `elinvar bench list` names them.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Threshold = Annotated[float, typer.Option(help="Relative change that matters: 0.05 is 5 %.")]


@app.command("run")
def run(
    name: Annotated[str, typer.Argument(help="A script in benchmarks/ (without .py) or a shipped suite.")],
    runs: Annotated[int, typer.Option(min=1, help="Samples of each row; 6 or more give an interval.")] = 31,
    warmup: Annotated[int, typer.Option(min=0, help="Untimed calls before.")] = 3,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps or auto; default: the script's.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write every sample as JSON.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a self-contained HTML page.")] = None,
    history: Annotated[
        Path | None, typer.Option(help="Compare with the last result in this folder, then add this one.")
    ] = None,
    threshold: Threshold = 0.05,
    json_: Json = False,
) -> None:
    """Run a benchmark; `elinvar bench NAME` is short for this."""
    from elinvar import bench
    from elinvar.bench import pages, registry, words

    entry = registry.benchmark(name)
    progress = ProgressLine()
    with bench.observed(progress):
        result = registry.run(entry, runs=runs, warmup=warmup, **_device(entry, device))
    progress.close()
    comparison = _against_history(result, history, threshold) if history else None
    if output:
        result.write(output)
    if report:
        pages.page(result, comparison).write(report)

    def render() -> object:
        times = table([words.row(s) for s in result.samples.values()], title=_title(result))
        return [times, *(table(lines, title=title) for title, lines in words.facts(result.extras).items())]

    emit(result.to_json(), json_, render)
    for label, path in (("samples", output), ("report", report)):
        if path:
            typer.echo(f"{label}: {path}", err=True)
    if comparison is not None:
        if not json_:
            _print_comparison(comparison)
        if comparison.regressions:
            raise typer.Exit(1)


def _device(entry: Any, device: str | None) -> dict[str, str]:
    """Pass --device on only to benchmarks that take one."""
    from elinvar.bench import registry
    from elinvar.errors import BenchError

    if device is None:
        return {}
    function = getattr(registry.load(entry.path), "run", None)
    if function is None or "device" not in inspect.signature(function).parameters:
        raise BenchError(f"bench: {entry.name} chooses its own devices; leave --device away.")
    return {"device": device}


def _against_history(result: Any, folder: Path, threshold: float) -> Any:
    from elinvar.bench import History

    history = History(folder)
    known = history.latest(result.name, result.machine.get("id")) is not None
    comparison = history.check(result, threshold) if known else None
    history.append(result)
    if comparison is None:
        typer.echo(f"history: first result of {result.name} on this machine; nothing to compare with yet", err=True)
    return comparison


def _title(result: Any) -> str:
    roof = result.extras.get("roofline")
    ceilings = ""
    if roof:
        parts = [f"copy {roof['copy_gbps']:.1f} GB/s", f"fp32 {roof['f32_gflops']:.0f} GFLOP/s"]
        if roof.get("bf16_gflops"):
            parts.append(f"bf16 {roof['bf16_gflops']:.0f} GFLOP/s")
        ceilings = "\n" + " · ".join(parts)
    return f"{result.name} on {result.machine.get('name', 'this machine')}{ceilings}"


def _print_comparison(comparison: Any) -> None:
    rows = [
        {
            "what": name,
            "verdict": verdict.word,
            "time ratio": f"{verdict.ratio:.3f}",
            "95 % interval": f"{verdict.interval[0]:.3f}–{verdict.interval[1]:.3f}",
            "A/A noise": f"{100 * verdict.noise:.1f} %",
            "why": verdict.why,
        }
        for name, verdict in comparison.verdicts.items()
    ]
    emit(rows, False, lambda: table(rows, title="second against first; a ratio above 1 is slower"))
    for where, names in (("first", comparison.only_a), ("second", comparison.only_b)):
        if names:
            typer.echo(f"only in the {where}: {', '.join(names)}")


@app.command("list")
def list_(json_: Json = False) -> None:
    """Name every benchmark within reach and what it measures."""
    from elinvar.bench import benchmarks, registry

    rows = [
        {
            "name": entry.name,
            "where": "package" if entry.shipped else "benchmarks/",
            "in CI": "yes" if registry.offers_ci(entry.path) else "",
            "what": entry.summary,
        }
        for entry in benchmarks()
    ]
    emit(rows, json_, lambda: table(rows))


@app.command("compare")
def compare(
    a: Annotated[Path, typer.Argument(help="The baseline's JSON.")],
    b: Annotated[Path, typer.Argument(help="The JSON to judge.")],
    threshold: Threshold = 0.05,
    json_: Json = False,
) -> None:
    """Say for each row whether B is better, same, worse or inconclusive against A; exit 1 on a confirmed regression."""
    from elinvar.bench import Result, compare_results

    comparison = compare_results(Result.read(a), Result.read(b), threshold)
    if json_:
        emit(comparison.to_json(), json_)
    else:
        _print_comparison(comparison)
    if comparison.regressions:
        raise typer.Exit(1)


@app.command("base-vs-head")
def base_vs_head(
    base: Annotated[str, typer.Argument(help="The git revision to compare the working tree with.")] = "HEAD~1",
    seconds: Annotated[float, typer.Option(min=1.0, help="Time to measure; imports and JIT come on top.")] = 90.0,
    threshold: Threshold = 0.05,
    only: Annotated[list[str] | None, typer.Option(help="Only this benchmark; may be given several times.")] = None,
    json_: Json = False,
) -> None:
    """Run the quick cases with two versions of the library, interleaved; exit 1 on a confirmed regression.

    The head is the working tree; the base is checked out beside it. Inconclusive rows never fail.
    """
    from elinvar.bench import find_checkout
    from elinvar.bench.versus import base_versus_head
    from elinvar.errors import BenchError

    checkout = find_checkout()
    if checkout is None:
        raise BenchError("bench base-vs-head: no pyproject.toml with benchmarks/ here; run it inside a checkout.")
    outcome = base_versus_head(
        base, checkout, threshold=threshold, seconds=seconds, only=only, say=lambda line: typer.echo(line, err=True)
    )
    if json_:
        emit({**asdict(outcome), "regressions": list(outcome.regressions)}, json_)
    elif outcome.why:
        typer.echo(f"bench: passed without measuring: {outcome.why}")
    else:
        _print_versus(outcome)
    if outcome.regressions:
        typer.echo(f"bench: confirmed slower than {base}: {', '.join(outcome.regressions)}", err=True)
        raise typer.Exit(1)


def _print_versus(outcome: Any) -> None:
    rows = [
        {
            "case": row.name,
            "verdict": row.word,
            "head/base": "" if row.verdict is None else f"{row.verdict.ratio:.3f}",
            "95 % interval": "" if row.verdict is None else "{:.3f}–{:.3f}".format(*row.verdict.interval),
            "why": row.why,
        }
        for row in outcome.rows
    ]
    emit(rows, False, lambda: table(rows, title=f"head against {outcome.base}; a ratio above 1 is slower"))


app.command("seismic")(seismic_bench.seismic)
app.command("video")(video_bench.video)
