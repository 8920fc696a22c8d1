"""Questions in a plain terminal whose answers make a job file. Every question shows its default; Enter takes it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pydantic import ValidationError

from elinvar.errors import ConfigError, ElinvarError, InputError

from . import config as cfg
from . import jobfile, workflow
from .covering import along_a_line
from .grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

    from .survey import Survey

__all__ = ["ask", "relative"]


def relative(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Return a path as a job file in `folder` should name it: relative when that is the shorter way."""
    target, base = Path(path).absolute(), Path(folder).absolute()
    try:
        found = os.path.relpath(target, base)
    except ValueError:  # another drive
        return str(target)
    return str(target) if Path(found).parts[:3] == (os.pardir,) * 3 else found


class _Asker:
    """Asks one question at a time until the answer is acceptable."""

    def __init__(self, console: Console, stream: TextIO | None) -> None:
        self.console = console
        self.stream = stream

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def text(self, question: str, default: str = "", check: Callable[[str], Any] = str) -> Any:
        """Return what `check` makes of an answer; what it raises is shown and the question asked again."""
        while True:
            shown = f"{question} ({default}): " if default else f"{question}: "
            try:
                answer = self.console.input(shown, markup=False, stream=self.stream)
                if self.stream is not None and not answer:
                    raise EOFError  # a line has at least its end
            except EOFError:
                raise InputError(f"wizard: the input ended at {question!r}; nothing was written.") from None
            try:
                return check(answer.strip() or default)
            except (ElinvarError, NotImplementedError, ValueError) as error:
                self.say(f"  {_reason(error)}")

    def choice(self, question: str, names: Sequence[str], default: str) -> str:
        def check(answer: str) -> str:
            if answer not in names:
                raise ValueError(f"{answer!r} is none of {', '.join(names)}.")
            return answer

        found: str = self.text(f"{question} [{'/'.join(names)}]", default, check)
        return found

    def yes(self, question: str, *, default: bool) -> bool:
        return self.choice(question, ("y", "n"), "y" if default else "n") == "y"

    def number(self, question: str, default: float | None = None, *, least: float = -math.inf) -> float:
        def check(answer: str) -> float:
            value = float(answer)
            if not math.isfinite(value) or value < least:
                raise ValueError(f"a number{f' of at least {least:g}' if math.isfinite(least) else ''} is needed.")
            return value

        found: float = self.text(question, "" if default is None else f"{default:g}", check)
        return found


_TEXT = (".txt", ".dat", ".asc", ".ascii", ".vel", ".velf", ".csv")


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(str(item["msg"]) for item in error.errors())
    text = str(error)
    return "a number is needed." if "could not convert" in text else text


def ask(out: str | os.PathLike[str], *, console: Console | None = None, stream: TextIO | None = None) -> cfg.JobConfig:
    """Ask for everything a job needs and write the job file.

    Parameters
    ----------
    out
        The file; it is written after the last question, whole or not at all.
    console
        Where questions appear; the terminal by default.
    stream
        Where answers come from, a line each; standard input by default.

    Raises
    ------
    InputError
        The input ended before the last question.
    """
    from rich.console import Console as RichConsole

    place = Path(out)
    asker = _Asker(console or RichConsole(), stream)
    asker.say("A prestack time migration. Enter takes the value in brackets. Times in ms, lengths in m.")
    source, survey = _survey(asker, place.parent)
    velocity = _velocity(asker, place.parent)
    grid = _grid(asker, survey)
    line = along_a_line(survey, workflow.build_grid(grid, survey))
    algorithm = _algorithm(asker, survey, curved=velocity.type in ("constant", "linear"), line=line)
    output = _output(asker)
    device = asker.text("Device (auto, cpu, cuda, cuda:1, mps)", "auto", _device)
    job = cfg.JobConfig(
        input=source, velocity=velocity, grid=grid, algorithm=algorithm, output=output,
        execution=cfg.Execution(device=device),
    )  # fmt: skip
    asker.say(_summary(job, place))
    if place.exists() and not asker.yes(f"{place} exists. Replace it?", default=False):
        raise ConfigError(f"wizard: {place} was left as it is.")
    jobfile.write(job, place)
    return job


def _device(answer: str) -> str:
    from elinvar.runtime.device import device

    device(answer)
    return answer


def _survey(asker: _Asker, folder: Path) -> tuple[cfg.Input, Survey]:
    def named(answer: str) -> str:
        path = Path(answer).expanduser()
        if not answer or not path.exists():
            raise ValueError(f"there is no {answer}." if answer else "the survey's path is needed.")
        return str(path)

    path = asker.text("Survey (SEG-Y)", "", named)
    options = cfg.Input(path=relative(path, folder))
    while True:
        try:
            survey = workflow.open_survey(options, folder)
        except (ElinvarError, NotImplementedError) as error:
            asker.say(f"  {error}")
            path = asker.text("Survey (SEG-Y)", path, named)
            options = cfg.Input(path=relative(path, folder), **_elsewhere(asker))
        else:
            break
    about = survey.info()
    low, high = about["offset_m"]
    asker.say(
        f"  {about['live_traces']:,} live traces x {about['samples']} samples at {1e3 * survey.dt:g} ms, offsets "
        f"{low:.0f} to {high:.0f} m, {about['source_positions']:,} sources, {about['receiver_positions']:,} receivers"
    )

    def chosen(answer: str) -> tuple[cfg.Input, Survey]:
        picked = options.model_copy(update={"select": cfg.Selection(where=answer or None)})
        return picked, workflow.open_survey(picked, folder)

    found: tuple[cfg.Input, Survey] = asker.text("Which traces (such as offset < 2500; empty for all)", "", chosen)
    return found


def _elsewhere(asker: _Asker) -> dict[str, Any]:
    """Ask where the words of the trace headers are."""

    def words(answer: str) -> dict[str, int]:
        pairs = [item.partition("=") for item in answer.replace(",", " ").split()]
        if not all(byte.isdecimal() for _, _, byte in pairs):
            raise ValueError("write NAME=BYTE with blanks between.")
        return {name.strip(): int(byte) for name, _, byte in pairs}

    moved = asker.text("Bytes of header words (sx=73 sy=77 gx=81 gy=85; empty for the standard)", "", words)
    interval = asker.text("Sample interval in ms (empty for the file's)", "", lambda a: float(a) if a else None)
    return {"header_bytes": moved, "dt_ms": interval}


def _velocity(asker: _Asker, folder: Path) -> Any:
    kind = asker.choice("Velocity", ("constant", "linear", "table", "file"), "constant")
    if kind == "file":

        def opened(answer: str) -> Any:
            path = Path(answer).expanduser()
            model = cfg.AsciiVelocity if path.suffix.lower() in _TEXT else cfg.CubeVelocity
            return _checked(model(path=relative(path, folder)), folder)

        return asker.text("Velocity file (SEG-Y or Zarr cube, or text: x y t v)", "", opened)
    if kind == "constant":
        return asker.text("RMS velocity, m/s", "2000", lambda a: _checked(cfg.ConstantVelocity(v=float(a))))
    if kind == "linear":
        k = asker.number("k of V0 + k z, 1/s", 0.6)
        return asker.text("V0, m/s", "1800", lambda a: _checked(cfg.LinearVelocity(v0=float(a), k=k)))
    what = asker.choice("The values are", ("rms", "interval", "average"), "rms")

    def picks(answer: str) -> Any:
        pairs = [tuple(float(part) for part in pick.split(":")) for pick in answer.split(",")]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError("picks are ms:m/s with commas between: 0:1800,1000:2400.")
        times, values = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return _checked(cfg.TableVelocity.model_validate({"times_ms": times, "v": values, "kind": what}))

    return asker.text("Picks, ms:m/s", "0:1800,1000:2300,2000:2900", picks)


def _checked(options: Any, folder: Path | None = None) -> Any:
    workflow.build_velocity(options, Path() if folder is None else folder)
    return options


def _grid(asker: _Asker, survey: Survey) -> Any:
    grid = Grid.from_survey(survey)
    asker.say(
        f"  the midpoints suggest {grid.nx} x {grid.ny} bins of {grid.dx:g} x {grid.dy:g} m, azimuth {grid.azimuth:g}"
    )
    dx = asker.number("Bin size along the inline axis, m", grid.dx, least=1e-3)
    dy = asker.number("Bin size along the crossline axis, m", grid.dy, least=1e-3)
    azimuth = asker.number("Azimuth of the +inline axis, degrees clockwise from north", grid.azimuth)
    step = asker.number("Output sample interval, ms", 1e3 * grid.dt, least=1e-3)
    last = asker.number("Last output time, ms", 1e3 * float(grid.t[-1]), least=step)
    nt = round(last / step) + 1
    return workflow.explicit(Grid.from_survey(survey, bin_size=(dx, dy), azimuth=azimuth, nt=nt, dt=1e-3 * step))


def _algorithm(asker: _Asker, survey: Survey, *, curved: bool, line: bool) -> cfg.Algorithm:
    dimension = "3d"
    if line:
        asker.say("  the midpoints lie along one line: 2.5d with point sources, 2d with line sources")
        dimension = asker.choice("Dimension", ("2.5d", "2d", "3d"), "2.5d")
    names = ("straight", *(("curved",) if curved else ()), "vti")
    physics = asker.choice("Rays", names, "straight")
    eta = asker.number("Anellipticity eta", 0.1) if physics == "vti" else None
    dip = asker.text("Largest dip to image, degrees", "45", lambda a: cfg.ApertureOptions(dip=float(a)))
    gathers = None
    if asker.yes("Offset gathers?", default=True):
        near, far = float(survey.offset[survey.live].min()), float(survey.offset[survey.live].max())
        width = max(50.0, 50.0 * math.ceil(far / 8 / 50.0))
        first, last = math.floor(near / width), max(1, math.ceil((far + 0.01) / width))
        edges = ",".join(f"{i * width:g}" for i in range(first, last + 1))

        def bins(answer: str) -> cfg.OffsetGathers:
            found = cfg.OffsetGathers(edges=[float(part) for part in answer.split(",")])
            workflow.build_gathers(found)
            return found

        gathers = asker.text("Offset bin edges, m", edges, bins)
    ways = {"physics": physics, "eta": eta, "dimension": dimension, "aperture": dip, "gathers": gathers}
    return cfg.Algorithm.model_validate(ways)


def _output(asker: _Asker) -> cfg.Output:
    zarr = asker.text("Image (Zarr folder)", "image.zarr", str)
    report = asker.text("Quality report (.html; empty for none)", "", str)
    return cfg.Output(zarr=zarr, products=cfg.Products(qc=report or None))


def _summary(job: cfg.JobConfig, place: Path) -> str:
    try:
        work = workflow.assemble(job, place.parent)
        return str(workflow.estimate(work))
    except (ElinvarError, NotImplementedError) as error:
        return f"  note: {error}"
