"""``elinvar audio``: spectrograms, convolution, equalisers, resampling, stems. Times are milliseconds here."""

from __future__ import annotations

import importlib
import importlib.util

import typer

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Real-time-safe DSP and stem separation.")

# Each module has `register(app)`; one that is not in this build is passed over.
for _name in ("audio_signal", "audio_separate"):
    if importlib.util.find_spec(f"elinvar.cli.{_name}") is not None:
        importlib.import_module(f"elinvar.cli.{_name}").register(app)
