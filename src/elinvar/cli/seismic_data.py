"""``elinvar seismic info | export``: what is in a file, and the same data in another one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elinvar.cli.common import emit, progress, table
from elinvar.errors import InputError

if TYPE_CHECKING:
    from elinvar.seismic import Grid, Mute, Survey, Velocity

__all__ = [
    "datum_of", "header_bytes", "mute_of", "numbers", "open_any", "plain", "register", "velocity_of",
    "warn_of_a_line",
]  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Header = Annotated[
    list[str] | None,
    typer.Option("--header", help="Where a trace header word is, e.g. sx=73 (may be repeated).", metavar="NAME=BYTE"),
]
Endian = Annotated[str, typer.Option(help="Byte order: auto, big or little.")]
Interval = Annotated[float | None, typer.Option("--dt", help="Sample interval in ms, when the file's is wrong.")]
_SEGY = (".sgy", ".segy", ".seg")
Physics = Annotated[str, typer.Option(help="Rays: straight, curved (V0 + k z), or vti with --eta.")]
Eta = Annotated[float | None, typer.Option(help="Anellipticity, for --physics vti.")]
AntiAlias = Annotated[str | None, typer.Option(help="Operator anti-alias filter: bank or triangle; none by default.")]
Interpolation = Annotated[str, typer.Option(help="Between input samples: linear, cubic or sinc8.")]
Normalize = Annotated[str | None, typer.Option(help="Divide image and gathers by their fold or illumination.")]
Dimension = Annotated[str, typer.Option(help="3d; of lines 2.5d (point sources) or 2d (line sources).")]
Datum = Annotated[
    str | None, typer.Option(help="Elevation of the image in m, or floating: legs start at the ends' elevations.")
]
Replacement = Annotated[float | None, typer.Option(help="Velocity between --datum and the surface, m/s.")]
HeaderMute = Annotated[bool, typer.Option("--mute-header", help="Leave out samples from muts to mute, header words.")]
MuteTable = Annotated[
    str | None, typer.Option("--mute", help="Leave out samples before a time by offset, m:ms: 0:0,1000:600.")
]
MuteTaper = Annotated[float, typer.Option("--mute-taper", help="Time over which mutes rise, ms.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``elinvar seismic``."""
    app.command()(info)
    app.command()(export)


def numbers(text: str, option: str) -> list[float]:
    """Read ``a,b,c`` or ``first:last:step``."""
    try:
        if ":" in text:
            first, last, step = (float(part) for part in text.split(":"))
            count = int((last - first) / step + 1e-9) + 1
            if count < 1 or (last - first) * step < 0:
                raise ValueError
            return [first + i * step for i in range(count)]
        return [float(part) for part in text.split(",")]
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{option} {text!r} is neither numbers (0,400,800) nor first:last:step (0:800:200).") from None


def sides(text: str | None) -> tuple[float, float] | None:
    """Read a bin size: one number, or two with a comma."""
    if text is None:
        return None
    found = numbers(text, "--bin")
    if len(found) > 2:
        raise InputError(f"--bin {text!r} has {len(found)} numbers; give one, or two with a comma.")
    return found[0], found[-1]


def mute_of(header: bool, table: str | None, taper: float) -> Mute | None:
    """Read the options of a mute."""
    from elinvar.seismic import Mute

    if not header and table is None:
        return None
    pairs: list[tuple[float, ...]] = []
    try:
        pairs = [tuple(float(part) for part in pick.split(":")) for pick in (table or "").split(",") if pick]
    except ValueError:
        pairs = [()]
    if any(len(pair) != 2 for pair in pairs) or (table is not None and not pairs):
        raise InputError(f"--mute {table!r} is not m:ms,m:ms with rising offsets, such as 0:0,1000:600.")
    times = tuple((offset, 1e-3 * time) for offset, time in pairs)
    return Mute(header, times if table is not None else None, 1e-3 * taper)


def warn_of_a_line(survey: Survey, grid: Grid, dimension: str) -> None:
    """Say so when a line would be summed as an area."""
    from elinvar.seismic.covering import along_a_line
    from elinvar.seismic.workflow import A_LINE

    if dimension == "3d" and along_a_line(survey, grid):
        typer.echo(f"elinvar: warning: {A_LINE}", err=True)


def datum_of(text: str | None) -> float | str | None:
    """Read ``450`` or ``floating``."""
    if text is None or text == "floating":
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--datum {text!r} is neither an elevation in m (450) nor `floating`.") from None


def header_bytes(entries: list[str] | None) -> dict[str, int]:
    """Read ``NAME=BYTE`` options."""
    moved: dict[str, int] = {}
    for entry in entries or []:
        name, _, byte = entry.partition("=")
        if not byte.strip().isdecimal():
            raise InputError(f"--header {entry!r} is not NAME=BYTE; write for example --header sx=73.")
        moved[name.strip()] = int(byte)
    return moved


def velocity_of(text: str, gradient: float, kind: str | None) -> Velocity:
    """Read ``2500``, ``ms:velocity,ms:velocity`` or the name of a velocity file."""
    from elinvar.seismic import Velocity

    if Path(text).exists():
        if gradient:
            raise InputError("--gradient goes with one surface velocity, not with a velocity file; leave one out.")
        return Velocity.open(text, kind)  # type: ignore[arg-type]
    try:
        pairs = [tuple(float(part) for part in pick.split(":")) for pick in text.split(",")]
    except ValueError:
        pairs = []
    if len(pairs) == 1 and len(pairs[0]) == 1:
        return Velocity.linear(pairs[0][0], gradient) if gradient else Velocity.constant(pairs[0][0])
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise InputError(
            f"--velocity {text!r} is neither a number (2500), picks in ms:m/s (0:1800,1000:2400), nor a file."
        )
    if gradient:
        raise InputError("--gradient goes with one surface velocity, not with a table of picks; leave one out.")
    return Velocity.table([1e-3 * t for t, _ in pairs], [v for _, v in pairs], kind or "rms")  # type: ignore[arg-type]


def open_any(path: Path, header: list[str] | None = None, endian: str = "auto", dt: float | None = None) -> Survey:
    """Open a survey by what its name and kind say: a folder is Zarr, ``.su`` Seismic Unix, anything else SEG-Y."""
    from elinvar.seismic import open_segy, open_su, open_zarr

    moved = header_bytes(header)
    if path.is_dir():
        if moved or dt is not None or endian != "auto":
            raise InputError(f"{path}: --header, --endian and --dt are for SEG-Y and SU files; leave them out.")
        return open_zarr(path)
    reader = open_su if path.suffix.lower() == ".su" else open_segy
    return reader(path, endian=endian, dt=None if dt is None else 1e-3 * dt, bin_size=None, **moved)


def _is_image(path: Path) -> bool:
    if not path.is_dir():
        return False
    from elinvar.seismic.mdio import is_mdio

    return not is_mdio(path) and not (path / "headers.parquet").exists()


def info(
    path: Annotated[Path, typer.Argument(help="Survey (SEG-Y, SU, or a Zarr folder), or a migrated image's folder.")],
    bin_size: Annotated[
        str | None, typer.Option("--bin", help="Cover with bins of this size in m: 25 or 25,12.5.")
    ] = None,
    azimuth: Annotated[float | None, typer.Option(help="Of the +inline axis, degrees clockwise from north.")] = None,
    words: Annotated[
        bool, typer.Option("--words", help="List every trace header word that is used, and stop.")
    ] = False,
    header: Header = None,
    endian: Endian = "auto",
    dt: Interval = None,
    json_: Json = False,
) -> None:
    """Say what is in a file, what does not add up, which grid would cover it and how well."""
    if words:
        _words(path, endian, json_)
        return
    if _is_image(path):
        _image(path, json_)
        return
    from elinvar.seismic import Grid, coverage

    survey = open_any(path, header, endian, dt)
    grid = Grid.from_survey(survey, bin_size=sides(bin_size), azimuth=azimuth)
    found: dict[str, Any] = {
        **survey.info(),
        "suggested_grid": _described(grid),
        "coverage": coverage(survey, grid).to_dict(),
        "text_header": list(survey.text),
    }
    emit(found, json_, lambda: _tables(found))


def _described(grid: Grid) -> dict[str, Any]:
    corners = grid.pillars.reshape(grid.nx, grid.ny, 2)[[0, -1, -1, 0], [0, 0, -1, -1]]
    return {
        "origin_m": grid.origin, "azimuth_deg": grid.azimuth, "nx": grid.nx, "ny": grid.ny,
        "dx_m": grid.dx, "dy_m": grid.dy, "nt": grid.nt, "dt_s": grid.dt,
        "corners_m": [[float(x), float(y)] for x, y in corners],
    }  # fmt: skip


def _tables(found: Mapping[str, Any]) -> list[object]:
    """Return what a person sees of a survey: text header, one table of facts, one of offsets."""
    covered = found["coverage"]
    rest = {k: v for k, v in found.items() if k not in ("suggested_grid", "coverage", "text_header")}
    grid = {k: v for k, v in found["suggested_grid"].items() if k != "corners_m"}
    grid["origin_m"] = " / ".join(plain(v) for v in grid["origin_m"])
    flat = {
        **rest,
        **{f"grid {name}": value for name, value in grid.items()},
        "fold mean": covered["fold"]["mean"],
        "fold of filled bins (median)": covered["fold"]["median_of_filled"],
        "fold largest": covered["fold"]["largest"],
        "empty bins": f"{covered['empty_percent']:.1f} %, at most {covered['largest_gap_bins']} from a filled one",
        "traces outside the grid": covered["traces_outside"],
    }
    parts: list[object] = list(found["text_header"])
    parts.append(table([{"": name.replace("_", " "), "value": plain(value)} for name, value in flat.items()]))
    whole, most = max(1, covered["traces_inside"]), max(1, *(row["traces"] for row in covered["offsets"]))
    rows = [
        {
            "offset m": f"{row['from_m']:g} to {row['to_m']:g}",
            "traces": f"{row['traces']:,}",
            "%": f"{100 * row['traces'] / whole:.1f}",
            " ": "#" * round(40 * row["traces"] / most),
        }
        for row in covered["offsets"]
        if row["traces"]
    ]
    return [*parts, "", table(rows)]


def _words(path: Path, endian: str, json_: bool) -> None:
    """List the trace header words in use, for a file whose geometry is in another place than the standard's."""
    from elinvar.seismic.words import header_words

    rows = header_words(path, endian)
    emit(rows, json_, lambda: table([{**row, "trace 0": f"{row['trace 0']:,}"} for row in rows]))


def _image(path: Path, json_: bool) -> None:
    from elinvar.seismic.volume import Volume

    with Volume.open(path) as volume:
        # Of one line there is no distance to the next.
        apart = [step if n > 1 else None for step, n in zip(volume.spacing, volume.shape, strict=False)]
        found = {
            "name": volume.name,
            "inlines": [int(volume.inlines[0]), int(volume.inlines[-1])],
            "crosslines": [int(volume.crosslines[0]), int(volume.crosslines[-1])],
            "shape": volume.shape,
            "spacing_m": apart,
            "time_s": [float(volume.t[0]), float(volume.t[-1])],
            "dt_s": volume.dt,
            "gathers": None if volume.gathers is None else f"{volume.gathers.shape[2]} by {volume.bin_dim}",
            **{name: value for name, value in volume.data.attrs.items() if isinstance(value, (str, int, float))},
        }
    shown = {**found, "spacing_m": " x ".join(map(plain, apart))}
    emit(found, json_, lambda: table([{"": k.replace("_", " "), "value": plain(v)} for k, v in shown.items()]))


def plain(value: object) -> str:
    """Write a value for a person."""
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        between = "; " if any(isinstance(item, str) for item in value) else " to " if len(value) == 2 else " x "
        return between.join(plain(item) for item in value) or "-"
    return f"{value:,.10g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def export(
    source: Annotated[Path, typer.Argument(help="Survey (SEG-Y, SU, Zarr folder), or a migrated image's folder.")],
    out: Annotated[Path, typer.Argument(help="What to write: .sgy or .segy; for a survey also .zarr.")],
    of: Annotated[str, typer.Option("--of", help="Of an image: image, fold, gathers or gather_fold.")] = "image",
    sample_format: Annotated[
        int, typer.Option("--format", help="1 IBM, 5 IEEE, 6 double; 2, 3, 8 integers of 4, 2, 1 bytes.")
    ] = 5,
    order: Annotated[str, typer.Option("--order", help="Byte order to write: big or little.")] = "big",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    header: Header = None,
    endian: Endian = "auto",
    dt: Interval = None,
    json_: Json = False,
) -> None:
    """Write an image as SEG-Y, or a survey as SEG-Y or as a Zarr folder. What is written is whole or not there."""
    from elinvar.seismic import export_segy

    ending = out.suffix.lower()
    image = _is_image(source)
    if ending not in (_SEGY if image else (*_SEGY, ".zarr")):
        what = "an image" if image else "a survey"
        accepted = ", ".join(_SEGY if image else (*_SEGY, ".zarr"))
        raise InputError(f"{out}: {what} is written as {accepted}, by the name's ending.")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists; pass --overwrite to replace it, or give another name.")
    if image:
        with progress(f"writing {out.name}", unit="traces") as report:
            export_segy(source, out, of=of, sample_format=sample_format, endian=order, progress=report)
    else:
        survey = open_any(source, header, endian, dt)
        with progress(f"writing {out.name}", total=survey.n_traces, unit="traces") as report:
            if ending == ".zarr":
                survey.to_zarr(out, progress=report)
            else:
                survey.write_segy(out, sample_format=sample_format, endian=order, progress=report)
    size = sum(p.stat().st_size for p in ([out] if out.is_file() else out.rglob("*")) if p.is_file())
    emit({"path": out, "bytes": size}, json_, lambda: f"{out}: {size / 1e6:,.1f} MB")
