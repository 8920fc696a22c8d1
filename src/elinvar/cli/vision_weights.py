"""``elinvar vision weights``: where they are, where to get them, whether they are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from elinvar.cli.common import emit, progress, table
from elinvar.errors import InputError

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Checkpoints: status, download, convert, verify.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Name = Annotated[str, typer.Argument(help="mast3r, dune-small, dune-base, free, or a variant's full name.")]


@app.command()
def status(json_: Json = False) -> None:
    """List the networks, their licences, and where their weights were found."""
    from elinvar.runtime.weights import folders
    from elinvar.vision import variants
    from elinvar.vision.fetch import status as look

    rows = [look(kind) for kind in variants() if kind.where]
    shown = [
        {"variant": r["variant"], "found": r["found"] or "no", "MB": f"{r['bytes'] / 1e6:.0f}" if r["bytes"] else "",
         "licence": r["licence"]} for r in rows
    ]  # fmt: skip
    places = ", ".join(str(folder) for folder in folders())
    emit({"folders": folders(), "variants": rows}, json_, lambda: [table(shown), f"looked in: {places}"])


@app.command()
def download(
    name: Name,
    url: Annotated[str | None, typer.Option(help="Address of the file, where none is known.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Keep the file only if it has this digest.")] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="You have read and accept the licence.")
    ] = False,
    json_: Json = False,
) -> None:
    """Fetch published weights into the cache; their licence is shown first."""
    from elinvar.runtime.weights import sha256_of
    from elinvar.vision.catalogue import variant
    from elinvar.vision.checkpoint import shipped
    from elinvar.vision.fetch import fetch

    kind = variant(name)
    typer.echo(f"{kind.name}: licence {kind.licence}; published at {kind.where or 'nowhere'}", err=True)
    ours = shipped(kind.name)
    if ours is not None and url is None:
        emit(
            {"path": ours, "bytes": ours.stat().st_size, "sha256": sha256_of(ours)},
            json_,
            lambda: f"{ours} comes with elinvar",
        )
        return
    if not accept_licence:
        raise InputError(f"weights download: read the licence of {kind.name}, then add --accept-licence.")
    with progress(f"downloading {kind.name}", unit="B") as report:
        path = fetch(kind, url=url, sha256=sha256, progress=report)
    result = {"path": path, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
    emit(result, json_, lambda: f"{path} ({result['bytes']:,} bytes, SHA-256 {result['sha256']})")


@app.command()
def convert(
    name: Name,
    path: Annotated[Path, typer.Argument(help="Checkpoint in any layout.")],
    out: Annotated[Path, typer.Argument(help="safetensors file to write, or a folder for it.")],
    dtype: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "fp16",
    json_: Json = False,
) -> None:
    """Write a checkpoint of any layout as one safetensors file."""
    from elinvar.vision.catalogue import variant
    from elinvar.vision.fetch import convert as run

    written = run(path, variant(name), out, dtype)
    emit({"path": written, "bytes": written.stat().st_size}, json_, lambda: f"{written}")


@app.command()
def verify(
    name: Name,
    path: Annotated[Path | None, typer.Argument(help="Checkpoint; by default the one in the weights folders.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Expected digest of the file.")] = None,
    json_: Json = False,
) -> None:
    """Check names, shapes, values and digest of a checkpoint."""
    from elinvar.errors import WeightsError
    from elinvar.runtime.weights import sha256_of
    from elinvar.vision.catalogue import variant
    from elinvar.vision.checkpoint import find_weights
    from elinvar.vision.fetch import inspect

    kind = variant(name)
    where = path or find_weights(kind)
    facts = inspect(where, kind)
    if where.is_file():
        facts["sha256"] = sha256_of(where)
        if sha256 is not None and facts["sha256"] != sha256.lower():
            raise WeightsError(f"{where} has SHA-256 {facts['sha256']}, expected {sha256}; get it again.")
    facts["licence"] = kind.licence
    lines = [f"{where}: {facts['tensors']} tensors, {facts['parameters'] / 1e6:.1f} M parameters, fits {kind.name}"]
    lines += [f"SHA-256 {facts['sha256']}"] if "sha256" in facts else []
    emit(facts, json_, lambda: [*lines, f"licence: {kind.licence}"])
