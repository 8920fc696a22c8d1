"""``elinvar video``: look at media, render, export, and check that the same frames come out again."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elinvar.cli.common import emit, fail, progress, table
from elinvar.errors import InputError

if TYPE_CHECKING:
    from elinvar.video import Graph
    from elinvar.video.probing import AudioInfo

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Render graphs and exports whose colours are right.")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Input = Annotated[Path, typer.Argument(help="Video, image sequence, .otio timeline, or a graph as .json or .yaml.")]
LookName = Annotated[str | None, typer.Option("--look", help="A named look; see `elinvar video looks`.")]
View = Annotated[str | None, typer.Option(help="Output transform: aces-fit, aces1.3-sdr, aces2-pq1000, rec709, ...")]
LutFile = Annotated[Path | None, typer.Option("--lut", help="A LUT over ACEScct, behind the look: .cube, .clf, .3dl.")]
Space = Annotated[str | None, typer.Option(help="What the media's pixels are: rec709, srgb, logc4, s-log3, ...")]
Matrix = Annotated[str | None, typer.Option(help="What a video file's codes are: bt601, bt709, bt2020.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def _graph(
    path: Path,
    look: str | None,
    view: str | None,
    device: str,
    exposure: float = 0.0,
    lut: Path | None = None,
    options: dict[str, Any] | None = None,
) -> Graph:
    """Build what the options say."""
    from elinvar import video
    from elinvar.video.exporting import own_space

    if path.suffix.lower() in (".json", ".yaml", ".yml"):
        graph = video.Graph.from_manifest(path, device)
        if look is not None or exposure or lut is not None or options:
            raise InputError(
                "--look, --exposure, --lut, --space, --matrix and --rate go with media, not with a graph's manifest; "
                "write them into it."
            )
        return graph.output(view) if view else graph
    graph = video.Graph(device)
    node = graph.source(path, **(options or {}))
    if exposure:
        graph.add(video.passes.Exposure(exposure))
    if look is not None:
        graph.add(video.look(look))
    if lut is not None:
        graph.add(video.passes.LUT(str(lut)))
    plain = look is None and not exposure and lut is None
    chosen = view or (own_space(node.content) if plain else "aces-fit")
    return graph.output(chosen)


def _said(space: str | None, matrix: str | None, rate: str | None = None) -> dict[str, Any]:
    """Return what the options say of the media."""
    told = {"space": space, "matrix": matrix, "frame_rate": rate}
    return {key: value for key, value in told.items() if value is not None}


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise InputError(f"--size {text!r} is no size; write 1920x1080.") from None
    return width, height


def _numbers(text: str, count: int | None) -> list[int]:
    """Read ``0,10,20`` or ``0:100:25``."""
    try:
        if ":" in text:
            parts = [int(p) if p else None for p in text.split(":")]
            return list(range(10**9 if count is None else count)[slice(*parts)])
        return [int(p) for p in text.split(",")]
    except ValueError:
        raise InputError(f"--frames {text!r} is no list of frames; write 0,10,20 or 0:100:25.") from None


def _save(frame: Any, path: Path) -> None:
    from elinvar.runtime.files import atomic_write
    from elinvar.video._check import optional_library
    from elinvar.video.exr import write_exr

    if path.suffix.lower() == ".exr":
        write_exr(path, frame, "linear-rec709")
        return
    pillow = optional_library("PIL.Image", "video render")
    kind = pillow.registered_extensions().get(path.suffix.lower())
    if kind not in pillow.SAVE:
        raise InputError(f"video render: no picture is written as {path.suffix or 'a file without suffix'}; use .png.")
    pixels = (frame.clamp(0, 1) * 255 + 0.5).byte().movedim(0, -1).contiguous().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        pillow.fromarray(pixels).save(temporary, format=kind)


def _track(info: AudioInfo) -> str:
    told = [text for text in (info.language, info.title) if text]
    return ", ".join([info.codec, f"{info.rate} Hz", f"{info.channels} channels", *told])


@app.command()
def probe(path: Annotated[Path, typer.Argument(help="A media file.")], json_: Json = False) -> None:
    """Say what a file holds: size, exact rate, colours, what was not specified."""
    from elinvar import video

    info = video.probe(path, warn=False)
    rows = [
        {"what": "codec", "value": f"{info.codec} in {info.container}, {info.pixel_format}"},
        {
            "what": "size",
            "value": f"{info.width} x {info.height}"
            + (f", turned {info.rotation}°" if info.rotation else "")
            + (f", pixels of {info.pixel_aspect}" if info.pixel_aspect != 1 else "")
            + (", interlaced" if info.interlaced else ""),
        },
        {"what": "rate", "value": f"{info.frame_rate} frames/s" + (", variable" if info.variable else "")},
        {
            "what": "length",
            "value": f"{info.frame_count} frames, {float(info.duration):.3f} s from {float(info.start):.3f} s",
        },
        *([{"what": "truncated", "value": f"{float(info.missing):.3f} s are missing"}] if info.missing else []),
        {"what": "colours", "value": f"{info.space}, {info.matrix} matrix, {info.range} range"},
        {"what": "not specified", "value": ", ".join(info.assumed) or "nothing"},
        *({"what": f"audio track {k}", "value": _track(a)} for k, a in enumerate(info.audio)),
    ]
    plain = {k: v for k, v in vars(info).items() if k != "pts"}
    emit(plain, json_, lambda: table(rows, title=str(path)))


@app.command()
def looks(json_: Json = False) -> None:
    """List the named looks and what they are made of."""
    from elinvar.video.looks import LOOKS

    rows = [
        {
            "look": name,
            "passes": ", ".join(f"{kind}({', '.join(f'{k}={v}' for k, v in p.items())})" for kind, p in parts),
        }
        for name, parts in LOOKS.items()
    ]
    emit({name: list(parts) for name, parts in LOOKS.items()}, json_, lambda: table(rows))


@app.command()
def render(
    source: Input,
    out: Annotated[Path, typer.Argument(help="Picture to write, or with --sheet a contact sheet.")],
    frame: Annotated[int, typer.Option(help="Frame number.")] = 0,
    look: LookName = None,
    view: View = None,
    exposure: Annotated[float, typer.Option(help="Stops.")] = 0.0,
    lut: LutFile = None,
    space: Space = None,
    matrix: Matrix = None,
    size: Annotated[str | None, typer.Option(help="1920x1080")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Small and fast: 360 lines.")] = False,
    sheet: Annotated[int, typer.Option(help="Frames of a contact sheet.")] = 0,
    explain: Annotated[bool, typer.Option("--explain", help="Print what is done for a frame, and stop.")] = False,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Render one frame, or a contact sheet of several."""
    if out.is_file() and Path(source).is_file() and out.samefile(source):
        raise InputError(f"video render: {out} is what is read; name another picture to write.")
    graph = _graph(source, look, view, device, exposure, lut, _said(space, matrix))
    wanted = _size(size)
    if preview:
        width, height = wanted or graph.size
        wanted = (max(2, round(width * 360 / height)), 360)
    if explain:
        text = graph.explain(wanted)
        emit({"explain": text.splitlines()}, json_, lambda: text)
        return
    if sheet:
        from elinvar.video.sheet import contact_sheet

        picture = contact_sheet(graph, sheet)
    else:
        picture = graph.render(frame, wanted)
    _save(picture, out)
    height, width = (int(n) for n in picture.shape[1:])
    emit(
        {"path": out, "width": width, "height": height, "space": graph.space},
        json_,
        lambda: f"{out}: {width} x {height}, {graph.space}",
    )


@app.command()
def export(  # one option per knob of the library
    source: Input,
    out: Annotated[Path, typer.Argument(help="File to write; its suffix is the container. A folder for exr.")],
    codec: Annotated[str | None, typer.Option(help="h264, hevc, av1, prores, ffv1 or exr.")] = None,
    look: LookName = None,
    view: View = None,
    exposure: Annotated[float, typer.Option(help="Stops.")] = 0.0,
    lut: LutFile = None,
    space: Space = None,
    matrix: Matrix = None,
    preset: Annotated[str | None, typer.Option(help="youtube-1080p, instagram-reel, prores-archive, ...")] = None,
    size: Annotated[str | None, typer.Option(help="1920x1080")] = None,
    fit: Annotated[str | None, typer.Option(help="fit, fill or stretch.")] = None,
    rate: Annotated[str | None, typer.Option(help="24000/1001, 25, ...; conforms a video file.")] = None,
    quality: Annotated[float | None, typer.Option(help="0 to 1.")] = None,
    bitrate: Annotated[int | None, typer.Option(help="Bits per second.")] = None,
    depth: Annotated[int | None, typer.Option(help="8 or 10 bits.")] = None,
    speed: Annotated[str | None, typer.Option(help="The encoder's own preset.")] = None,
    start: Annotated[int, typer.Option(help="First frame.")] = 0,
    frames: Annotated[int | None, typer.Option(help="How many.")] = None,
    in_flight: Annotated[int, typer.Option(help="Frames on their way at a time; 0: by the machine.")] = 3,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Give way while memory, heat or power is short.")
    ] = False,
    peak: Annotated[float, typer.Option(help="Of PQ: brightest light, in cd/m², for the metadata.")] = 1000.0,
    segment: Annotated[
        float | None, typer.Option(help="Seconds per piece: an interrupted export goes on from there.")
    ] = None,
    audio: Annotated[str, typer.Option(help="Audio tracks to carry along: all, first, none, or a number.")] = "all",
    preview: Annotated[bool, typer.Option("--preview", help="Small and fast: 360 lines, ultrafast.")] = False,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Render and encode, with tagged colours and exact rates."""
    from elinvar import video
    from elinvar.runtime.pressure import Monitor

    manifest = source.suffix.lower() in (".json", ".yaml", ".yml")
    graph = None
    told = _said(space, matrix, rate)
    if manifest or look is not None or view is not None or exposure or lut is not None or told:
        graph = _graph(source, look, view, device, exposure, lut, told)
    wanted = _size(size)
    if preview:
        width, height = wanted or (graph.size if graph is not None else _own_size(source))
        wanted, speed = (round(width * 360 / height) // 2 * 2, 360), speed or "ultrafast"
    with contextlib.ExitStack() as stack:
        monitor = stack.enter_context(Monitor()) if adaptive else None
        report = stack.enter_context(progress("exporting", total=frames, unit="frames"))
        done = video.export(
            graph if manifest else source, out, graph=graph, codec=codec, bitrate=bitrate,
            quality=quality, bit_depth=depth, in_flight=in_flight or None, device=device, progress=report,
            preset=preset, size=wanted, fit=fit, speed=speed, start=start, frames=frames, audio=audio, segment=segment,
            monitor=monitor, peak=peak,
        )  # fmt: skip
    line = (
        f"{done.path}: {done.frames} frames of {done.width} x {done.height} at {done.frame_rate} frames/s, "
        f"{done.encoder} {done.format}, {done.space}"
    )
    emit(done, json_, lambda: line)


def _own_size(path: Path) -> tuple[int, int]:
    from elinvar.video import open_source

    source = open_source(path)
    return source.width, source.height


@app.command()
def scopes(
    source: Input,
    out: Annotated[Path, typer.Argument(help="PNG with picture, waveform and vectorscope.")],
    frame: Annotated[int, typer.Option(help="Frame number.")] = 0,
    look: LookName = None,
    view: View = None,
    lut: LutFile = None,
    space: Space = None,
    matrix: Matrix = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Write a frame beside its waveform and vectorscope; print its levels."""
    from elinvar.video import scopes as measure
    from elinvar.video.sheet import with_scopes

    graph = _graph(source, look, view, device, lut=lut, options=_said(space, matrix))
    picture = graph.render(frame).cpu()
    _save(with_scopes(picture), out)
    counts = measure.histogram(picture)[3]
    total = counts.cumsum(0) / counts.sum()
    levels = {f"p{p}": int((total < p / 100).sum()) / 255 for p in (1, 50, 99)}
    outside = float(((picture < 0) | (picture > 1)).any(0).float().mean())
    result = {"path": out, "luma": levels, "outside": outside}
    text = ", ".join(f"{k} {v:.3f}" for k, v in levels.items())
    emit(result, json_, lambda: f"{out}: luma {text}; {outside:.2%} of the pixels outside 0 to 1")


@app.command()
def verify(
    source: Input,
    hashes: Annotated[Path, typer.Argument(help="JSON file of hashes.")],
    record: Annotated[bool, typer.Option("--record", help="Write the hashes instead of comparing.")] = False,
    frames: Annotated[str, typer.Option(help="0,10,20 or 0:100:25, with --record.")] = "0",
    look: LookName = None,
    view: View = None,
    size: Annotated[str | None, typer.Option(help="1920x1080, with --record.")] = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Render frames again and compare their codes' hashes with recorded ones; exit code 1 when they differ."""
    from elinvar.video.verifying import record as make
    from elinvar.video.verifying import verify as check

    graph = _graph(source, look, view, device)
    if record:
        made = make(graph, _numbers(frames, graph.frame_count), _size(size))
        made.write(hashes)
        emit(made, json_, lambda: f"{hashes}: {len(made.hashes)} frames recorded")
        return
    verdict = check(graph, hashes)
    place = f" (recorded elsewhere: {verdict.why})" if not verdict.comparable else ""
    text = "the same" if verdict.same else f"frames {', '.join(map(str, verdict.differing))} differ"
    emit(verdict, json_, lambda: f"{hashes}: {text}{place}")
    if not verdict.same:
        fail(f"video verify: {text}{place}.")
