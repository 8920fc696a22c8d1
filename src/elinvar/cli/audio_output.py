"""Where the audio commands write: after the inputs, or after ``--output``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from elinvar.errors import InputError

__all__ = ["Output", "Sink", "Truncated", "target"]

Sink = Annotated[
    Path | None,
    typer.Argument(help="File to write; the suffix chooses the format. Or give --output.", show_default=False),
]
Truncated = Annotated[bool, typer.Option("--truncated", help="Accept a file that ends early; keep what is there.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write, instead of OUT.")]


def target(out: Path | None, output: Path | None, *inputs: Path) -> Path:
    """Return the one that was given.

    Raises
    ------
    typer.BadParameter
        Both were, or neither: wrong usage.
    InputError
        It is one of the `inputs`, which a slip of the shell's completion would replace for ever.
    """
    if out is not None and output is not None:
        raise typer.BadParameter(f"{out} and --output {output} are two files to write; give one of them.")
    found = output if out is None else out
    if found is None:
        raise typer.BadParameter("no file to write; give it after the inputs, or with --output (-o).")
    if found.exists() and any(path.exists() and found.samefile(path) for path in inputs):
        raise InputError(f"{found} is what is read; name another file to write.")
    return found
