"""``elinvar bench seismic``: versions of the migration kernel beside each other, and sweeps of the GPU's settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elinvar.cli.common import emit, si, table
from elinvar.cli.rounds import ProgressLine
from elinvar.errors import InputError

if TYPE_CHECKING:
    from elinvar.bench import Result

__all__ = ["seismic"]


def seismic(  # one option per knob of the library: a long signature is the interface
    versions: Annotated[str | None, typer.Option(help="Of seismic.migrate: baseline,v2; all by default.")] = None,
    datasets: Annotated[str, typer.Option(help="Of tiny, small, medium, large.")] = "tiny,small",
    runs: Annotated[int, typer.Option(min=1, help="Migrations of each; 6 or more give an interval.")] = 7,
    warmup: Annotated[int, typer.Option(min=0, help="Untimed ones before.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    contributions: Annotated[
        float | None,
        typer.Option(help="Of one migration, about: as much of the image as that is. Default 1e9 on a CPU."),
    ] = None,
    clock: Annotated[str, typer.Option(help="wall, or process_cpu where others use the CPU too.")] = "wall",
    physics: Annotated[str, typer.Option(help="straight, curved or vti (with eta 0.1).")] = "straight",
    group_size: Annotated[str | None, typer.Option(help="Sweep threads per group on a GPU: 64,128,256,512.")] = None,
    unroll: Annotated[str | None, typer.Option(help="Sweep output samples per lane on a GPU: 1,2,4,8.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Store the fastest of the sweep for this machine.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write every sample as JSON.")] = None,
    report: Annotated[bool, typer.Option("--report", help="Write an HTML page too, beside the output.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare versions of the migration kernel, or sweep a GPU version's group size and unroll."""
    from elinvar import bench
    from elinvar.bench import pages
    from elinvar.seismic import versions as module

    names = _words(datasets, "--datasets")
    progress = ProgressLine()
    with bench.observed(progress):
        if group_size is not None or unroll is not None:
            result = module.sweep(
                _counts(group_size or "128", "--group-size"),
                _counts(unroll or "2", "--unroll"),
                version=(_words(versions, "--versions") if versions else ["v2"])[-1],
                dataset=names[-1], runs=runs, warmup=warmup, device=device, most=contributions, keep=keep,
            )  # fmt: skip
        else:
            ways: dict[str, Any] = {"physics": physics, **({"eta": 0.1} if physics == "vti" else {})}
            result = module.compare_versions(
                _words(versions, "--versions") if versions else None,
                names, runs=runs, warmup=warmup, device=device, most=contributions, clock=clock,
                **(ways if physics != "straight" else {}),
            )  # fmt: skip
    progress.close()
    written: list[Path] = []
    if output is not None:
        result.write(output)
        written.append(output)
    if report:
        page = Path("seismic_bench.html") if output is None else output.with_suffix(".html")
        pages.page(result).write(page)
        written.append(page)
    emit(result.to_json(), json_, lambda: _tables(result))
    for path in written:
        typer.echo(f"written: {path}", err=True)


def _words(text: str, option: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise InputError(f"{option} {text!r} names nothing; give names with commas between them.")
    return words


def _counts(text: str, option: str) -> list[int]:
    try:
        return [int(word) for word in _words(text, option)]
    except ValueError:
        raise InputError(f"{option} {text!r} is no list of whole numbers, such as 64,128.") from None


def _tables(result: Result) -> list[object]:
    if "datasets" not in result.extras:
        best = result.extras["best"]
        rows = [
            {
                "setting": name,
                "contributions/s": si(fact["contributions_per_second"]),
                "": "fastest" if name == best else "",
            }
            for name, fact in result.extras["settings"].items()
        ]
        rows += [{"setting": name, "contributions/s": "", "": why} for name, why in result.extras["refused"].items()]
        return [table(rows, title=f"{result.extras['version']} on {result.extras['device']}")]
    parts: list[object] = []
    for name, facts in result.extras["datasets"].items():
        title = (
            f"{name}: {facts['traces']:,} traces, {100 * facts['share_of_image']:.3g} % of the image "
            f"({facts['image_samples']:,} samples), {facts['contributions']:.3g} contributions, {facts['data']} data"
        )
        rows = []
        for version, told in facts["versions"].items():
            spent, faster = told["seconds"], told.get("speedup")
            rows.append(
                {
                    "version": version,
                    "contributions/s": si(told["contributions_per_second"]),
                    "over baseline": ""
                    if faster is None
                    else f"{faster['kernel']:.2f} kernel, {faster['whole']:.2f} whole",
                    **{f"{key} s": f"{spent[key]:.3g}" for key in ("prepare", "transfer", "kernel", "store", "total")},
                    "rel L2": f"{told['relative_l2']:.1e}",
                    "same bits": "yes" if told["same_bits_every_run"] else "NO",
                }
            )
        parts.append(table(rows, title=title))
    return parts
