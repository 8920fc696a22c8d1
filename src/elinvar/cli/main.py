"""The root command. Sub-commands are imported only when they are run, so that ``elinvar --help`` is instant.

Exit codes: 0 done, 1 error, 2 wrong usage, 3 missing or unusable weights, 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from elinvar import __version__
from elinvar.cli.common import fail, sentences

__all__ = ["COMMANDS", "app", "main"]

COMMANDS = {
    "tour": "Run every engine on real input beside its naive baseline and write one HTML page.",
    "doctor": "Say what this machine has, what works, what is missing and the command that fixes it.",
    "kernels": "List kernels, their versions and devices, and why the current one is chosen.",
    "tune": "Measure this machine and store what the planner should know about it.",
    "bench": "Run, record and compare benchmarks.",
    "seismic": "Prestack time migration: SEG-Y in, image out.",
    "video": "Render graphs and exports whose colours are right.",
    "vision": "Photographs to points, matches and cameras.",
    "audio": "Real-time-safe DSP and stem separation.",
}
"""Name -> one line of help; `elinvar.cli.<name>` has the `app`. Written here so that --help imports none of them."""

_DEBUG = "--debug"


def _load(name: str) -> Any:
    """Import one sub-command and give it its name in this program."""
    module = importlib.import_module(f"elinvar.cli.{name}")
    command = typer.main.get_command(module.app)
    command.name = name
    # A typer app offers to install shell completion for itself; only the root command can.
    command.params = [p for p in command.params if p.name not in {"install_completion", "show_completion"}]
    return command


class LazyGroup(TyperGroup):
    """A group that lists its commands without importing them, and ends every error with a sentence."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, summary in COMMANDS.items():
            self.add_command(TyperCommand(name, help=summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the real command in the place of the one that only carries a line of help."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, _load(str(name)), rest

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept --debug anywhere on the line: a user adds it at the end of the command that failed."""
        end = args.index("--") if "--" in args else len(args)
        if _DEBUG in args[:end]:
            args = [_DEBUG, *(word for word in args[:end] if word != _DEBUG), *args[end:]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            with sentences():
                return super().invoke(ctx)
        except typer.Abort:
            raise
        except (Exception, KeyboardInterrupt) as error:  # the program's outermost frame
            broken_pipe = isinstance(error, OSError) and error.errno == errno.EPIPE
            if broken_pipe or hasattr(error, "exit_code"):  # `| head`; typer's own exits and usage errors
                raise
            fail(error, debug=bool(ctx.params.get("debug")))


app = typer.Typer(
    cls=LazyGroup,
    name="elinvar",
    help="One kernel, one answer, on every device.",
    epilog="Exit codes: 0 done, 1 error, 2 wrong usage, 3 missing or unusable weights, 130 interrupted.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"elinvar {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option(_DEBUG, envvar="ELINVAR_DEBUG", help="On an error, print the traceback too.")
    ] = False,
) -> None:
    """One kernel, one answer, on every device."""


def main() -> None:
    """Run the command line; the `elinvar` script and ``python -m elinvar`` come here."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a Latin-1 terminal shows ? for a name it cannot spell
    app(prog_name="elinvar")
