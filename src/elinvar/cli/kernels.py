"""``elinvar kernels``: every kernel, its versions, where they run, and why the chosen one is chosen."""

from __future__ import annotations

from typing import Annotated

import typer

from elinvar.cli.common import emit, table

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def kernels(
    device: Annotated[str, typer.Option(help="The device to choose for: auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    check: Annotated[bool, typer.Option("--check", help="Run every version's self-check first.")] = False,
    import_: Annotated[
        list[str] | None,
        typer.Option("--import", "-i", help="A module or Python file that registers kernels of yours; repeatable."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """List kernels, their versions and devices, and why the current one is chosen.

    Kernels of installed packages are found by their entry points (group "elinvar.kernels"), others with --import.
    Choose another one with ELINVAR_KERNELS="seismic.migrate=v2" or a version argument; such a choice never falls back.
    """
    from elinvar.runtime import kernels as registry
    from elinvar.runtime._plugins import import_named

    for name in import_ or ():
        import_named(name)
    if check:
        for name in registry.default_registry.names():
            registry.kernel(name, device)
    found = registry.kernels(device)

    def render() -> object:
        if not found:
            return "No kernel is registered."
        return table(
            [
                {
                    "kernel": item.name,
                    "chosen": f"{item.version} ({item.backend})",
                    "why": item.why,
                    "versions": "; ".join(f"{name}: {' '.join(on)}" for name, on in item.versions.items()),
                    "tolerance": f"{item.tolerance:g}",
                    "what": item.summary,
                }
                for item in found
            ],
            title=f"on {found[0].device}",
        )

    emit([item.to_dict() for item in found], json_, render)
