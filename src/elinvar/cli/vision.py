"""``elinvar vision``: photographs to points, matches and cameras."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elinvar.cli import vision_weights
from elinvar.cli.common import emit, progress
from elinvar.errors import InputError

if TYPE_CHECKING:
    from elinvar.vision import Engine

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Photographs to points, matches and cameras.")
app.add_typer(vision_weights.app, name="weights")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Model = Annotated[str, typer.Option("--model", help="mast3r, dune-small, dune-base, free, or a variant's full name.")]
Weights = Annotated[Path | None, typer.Option("--weights", help="Checkpoint: a file or folder in any layout.")]
Size = Annotated[
    int | None, typer.Option("--size", help="Long side of the network's input, pixels; by default the network's own.")
]
DeviceName = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
PrecisionName = Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")]
Codebook = Annotated[Path | None, typer.Option(help="Codebook of visual words, to compare pictures by; see the docs.")]
RandomSeed = Annotated[
    int | None,
    typer.Option("--random-weights", help="SMOKE TEST ONLY: random weights of this seed; results mean nothing."),
]

_LOUD = "RANDOM WEIGHTS: this run checks that everything works; its points and matches mean nothing."


def _engine(
    model: str, size: int | None, precision: str, device: str, weights: Path | None, seed: int | None
) -> Engine:
    from elinvar.vision import Engine

    if seed is not None and weights is not None:
        raise InputError("--weights and --random-weights exclude each other; leave one out.")
    engine = Engine(model, size, precision, device)
    if seed is not None:
        typer.echo(_LOUD, err=True)
        return engine.load_random(seed)
    with progress("loading weights", unit="blocks") as report:
        engine.load(weights, progress=report)
    if (caution := _caution(engine)) is not None:
        typer.echo(caution, err=True)
    return engine


def _caution(engine: Engine) -> str | None:
    """Say what not to expect of weights that come with elinvar."""
    from elinvar.vision.checkpoint import shipped

    ours = engine.info()["weights"] == str(shipped(engine.variant.name))
    return engine.variant.caution if ours else None


def _with_retrieval(engine: Engine, retrieval: Path | None, codebook: Path | None, seed: int | None) -> Engine:
    """Load what retrieval needs: the file, or random numbers where the network's are random."""
    if retrieval is not None:
        return engine.load_retrieval(retrieval, codebook)
    from elinvar.vision.retrieval import Retrieval

    return engine.load_retrieval(Retrieval.random(engine.variant.width, seed or 0), codebook)


def _pictures(given: list[Path]) -> list[Path]:
    """Expand folders into their pictures, by name."""
    from elinvar.vision.images import IMAGE_SUFFIXES

    out: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not inside:
                raise InputError(f"{path} holds no pictures ({', '.join(IMAGE_SUFFIXES)}); pass another folder.")
            out += inside
        elif path.is_file():
            out.append(path)
        else:
            raise InputError(f"{path} does not exist; pass pictures or folders of pictures.")
    return out


def _intrinsics(text: str | None) -> Any:
    """Read ``fx,fy,cx,cy`` or a JSON file with a 3x3 matrix, or one per image."""
    if text is None:
        return None
    path = Path(text)
    try:
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        fx, fy, cx, cy = (float(part) for part in text.split(","))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"--intrinsics {text!r} is neither fx,fy,cx,cy in pixels nor a JSON file of 3x3 matrices."
        ) from error
    return [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]


def _poses(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--poses {path} is no JSON file of 4x4 camera-to-world matrices ({error}).") from error


def _writable(out: Path) -> None:
    """Refuse a folder that cannot be made, before anything is computed for it."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"--out {out}: {there} is no folder that can be written into; choose another one.")


@app.command()
def reconstruct(  # one option per knob: a long signature is the interface
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write into.")],
    model: Model = "mast3r",
    weights: Weights = None,
    size: Size = None,
    graph: Annotated[str, typer.Option(help="sequence, swin-K, complete, oneref or retrieval-N-K.")] = "sequence",
    retrieval: Annotated[Path | None, typer.Option(help="Retrieval checkpoint, for --graph retrieval-N-K.")] = None,
    codebook: Codebook = None,
    intrinsics: Annotated[str | None, typer.Option(help="fx,fy,cx,cy of the pictures, or a JSON file.")] = None,
    poses: Annotated[Path | None, typer.Option(help="JSON file of 4x4 camera-to-world matrices to keep.")] = None,
    conf: Annotated[float, typer.Option(help="Least confidence of an exported point.")] = 1.5,
    max_points: Annotated[int, typer.Option(help="Most points in PLY, GLB and the viewer.")] = 1_000_000,
    export: Annotated[str, typer.Option(help="Comma-separated: ply, glb, npz, colmap, html.")] = "ply",
    viewer: Annotated[bool, typer.Option("--viewer", help="Also write viewer.html.")] = False,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    random_weights: RandomSeed = None,
    json_: Json = False,
) -> None:
    """Turn pictures into a point cloud with cameras: PLY, GLB, npz, COLMAP, a viewer in one HTML file."""
    import numpy as np

    from elinvar.vision import align
    from elinvar.vision.alignment import given_cameras
    from elinvar.vision.export import FORMATS
    from elinvar.vision.graphs import image_pairs

    formats = [word.strip() for word in export.split(",") if word.strip()] + ["html"] * viewer
    unknown = [word for word in formats if word not in FORMATS]
    if unknown or not formats:
        raise InputError(f"--export {export!r}: {unknown or 'nothing'}; choose from {', '.join(FORMATS)}.")
    paths, cameras, given = _pictures(images), _intrinsics(intrinsics), _poses(poses)
    if len(paths) < 2:
        raise InputError(f"reconstruct: {len(paths)} picture; pass at least two that show the same things.")
    given_cameras(len(paths), cameras, given)  # what is wrong with them is found before weights are read
    by_retrieval = graph.startswith("retrieval")
    if by_retrieval and retrieval is None and random_weights is None:
        raise InputError(f"--graph {graph} needs --retrieval, the retrieval checkpoint of the network's encoder.")
    _writable(out)
    image_pairs(len(paths), graph, np.eye(len(paths)))  # an unknown graph is found before weights are read
    engine = _engine(model, size, precision, device, weights, random_weights)
    if by_retrieval or retrieval is not None:
        _with_retrieval(engine, retrieval, codebook, random_weights)
    start = time.perf_counter()
    with progress("pairs", unit="pairs") as report:
        pairs = engine.infer_pairs(paths, graph, progress=report)
    scene = align(pairs, intrinsics=cameras, poses=given, names=[p.name for p in paths], matched="colmap" in formats)
    names = {"colmap": "colmap", "html": "viewer.html"}
    files = [
        scene.export(out / names.get(kind, f"points.{kind}"), min_conf=conf, max_points=max_points)
        for kind in dict.fromkeys(formats)
    ]
    result = {
        "images": len(paths),
        "pairs": len(pairs),
        "encodes": engine.encodes,
        "weights": f"RANDOM (seed {random_weights})" if random_weights is not None else engine.info()["weights"],
        "points": len(scene.cloud(conf)),
        "residual": scene.residual,
        "focals_px": [float(view.K_original[0, 0]) for view in scene.views],
        "seconds": time.perf_counter() - start,
        "files": files,
    }
    emit(result, json_, lambda: _told(result))


def _told(result: dict[str, Any]) -> list[str]:
    lead = f"{result['images']} images, {result['pairs']} pairs, {result['points']:,} points, "
    lines = [lead + f"relative residual {result['residual']:.3g}, {result['seconds']:.1f} s"]
    if result["weights"].startswith("RANDOM"):
        lines.insert(0, _LOUD)
    return lines + [str(file) for file in result["files"]]


@app.command()
def match(
    first: Annotated[Path, typer.Argument(help="Picture.")],
    second: Annotated[Path, typer.Argument(help="Another picture of the same things.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="npz file: xy_1, xy_2, confidence.")] = None,
    draw: Annotated[Path | None, typer.Option(help="PNG with the matches drawn.")] = None,
    top_k: Annotated[int, typer.Option(help="Most matches; 0 for all.")] = 0,
    subsample: Annotated[int, typer.Option(help="Seeds this many pixels apart; 0 matches every pixel.")] = 8,
    conf: Annotated[float, typer.Option(help="Least descriptor confidence.")] = 0.0,
    fine: Annotated[bool, typer.Option("--fine", help="Coarse to fine: match windows at full resolution.")] = False,
    model: Model = "mast3r",
    weights: Weights = None,
    size: Size = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    random_weights: RandomSeed = None,
    json_: Json = False,
) -> None:
    """Match two pictures; positions are in the pixels of the files."""
    import numpy as np

    from elinvar.runtime.files import atomic_write
    from elinvar.vision import match_coarse_to_fine

    pictures = _pictures([first, second])
    if first.is_dir() or second.is_dir():
        raise InputError(f"match: {first if first.is_dir() else second} is a folder; pass two pictures.")
    engine = _engine(model, size, precision, device, weights, random_weights)
    start = time.perf_counter()
    if fine:
        found = match_coarse_to_fine(engine, pictures[0], pictures[1], subsample=subsample or 1, top_k=top_k or None)
        xy_1, xy_2, confidence = found.xy_1, found.xy_2, found.confidence
    else:
        pair = engine.infer(pictures[0], pictures[1])
        coarse = engine.match(pair, top_k or None, confidence_threshold=conf, subsample=subsample or None)
        xy_1, xy_2 = coarse.to_original(pair.prepared_1, pair.prepared_2)
        confidence = coarse.confidence
    files = []
    if out is not None:
        with atomic_write(out) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, xy_1=xy_1, xy_2=xy_2, confidence=confidence)
        files.append(out)
    if draw is not None:
        from elinvar.report.png import encode
        from elinvar.vision.drawing import draw_matches

        with atomic_write(draw) as temporary:
            temporary.write_bytes(encode(draw_matches(pictures[0], pictures[1], xy_1, xy_2)))
        files.append(draw)
    result = {"matches": len(xy_1), "seconds": time.perf_counter() - start, "files": files}
    lines = [f"{len(xy_1)} matches, {result['seconds']:.1f} s", *(str(file) for file in files)]
    emit(result, json_, lambda: [_LOUD, *lines] if random_weights is not None else lines)


@app.command()
def retrieve(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures.")],
    retrieval: Annotated[Path | None, typer.Option(help="Retrieval checkpoint with the whitening weights.")] = None,
    codebook: Codebook = None,
    k: Annotated[int, typer.Option("-k", help="Most similar pictures to list for each.")] = 3,
    model: Model = "mast3r",
    weights: Weights = None,
    size: Size = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    random_weights: RandomSeed = None,
    json_: Json = False,
) -> None:
    """List for each picture of a folder the most similar ones."""
    import numpy as np

    from elinvar.cli.common import table

    pictures = _pictures([folder])
    if k < 1:
        raise InputError(f"retrieve: -k {k}; list at least one picture.")
    if retrieval is None and random_weights is None:
        raise InputError("retrieve: pass --retrieval, the retrieval checkpoint of the network's encoder.")
    engine = _engine(model, size, precision, device, weights, random_weights)
    _with_retrieval(engine, retrieval, codebook, random_weights)
    with progress("encoding", total=len(pictures), unit="images") as report:
        found = []
        for done, path in enumerate(pictures, 1):
            found.append(engine.encode_retrieval(path))
            report(done, len(pictures))
    alike = engine.compare_retrieval(found)
    np.fill_diagonal(alike, -np.inf)
    rows = [
        {
            "picture": path.name,
            "most similar": [
                (pictures[j].name, float(alike[i, j])) for j in np.argsort(-alike[i])[: min(k, len(pictures) - 1)]
            ],
        }
        for i, path in enumerate(pictures)
    ]
    shown = [
        {"picture": r["picture"], "most similar": ", ".join(f"{n} {s:.3f}" for n, s in r["most similar"])} for r in rows
    ]
    emit(rows, json_, lambda: [_LOUD, table(shown)] if random_weights is not None else table(shown))


@app.command()
def info(
    model: Model = "mast3r",
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    json_: Json = False,
) -> None:
    """Say where the engine can run, in which precision, and which networks there are."""
    from elinvar.cli.common import table
    from elinvar.vision import Engine, available, variants

    engine = Engine(model, precision=precision, device=device)
    facts = {key: value for key, value in engine.info().items() if value is not None}
    known = [
        {"variant": v.name, "patch": v.patch, "encoder": f"{v.encoder} {v.width} x {v.depth}", "licence": v.licence}
        for v in variants()
    ]
    result = {"devices": available(), "engine": facts, "variants": known}
    devices = [{"device": name, "available": text} for name, text in available().items()]
    rows = [{"engine": key, "": value} for key, value in facts.items()]
    emit(result, json_, lambda: [table(devices), table(rows), table(known)])


@app.command()
def bench(
    model: Model = "mast3r",
    size: Size = None,
    runs: Annotated[int, typer.Option(help="Timed pairs of each.")] = 5,
    plain: Annotated[bool, typer.Option(help="Also time the plain PyTorch rendition (float32).")] = True,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default all there are.")] = None,
    json_: Json = False,
) -> None:
    """Time a pair with random weights, beside the same network in plain PyTorch."""
    from elinvar.bench import compare
    from elinvar.vision.timing import time_pair

    samples = time_pair(model, size, precision=precision, device=device, threads=threads, runs=runs, plain=plain)
    rows = {name: row.to_json() for name, row in samples.items()}
    lines = [f"{name}: {1e3 * row.median:.0f} ms per pair" for name, row in samples.items()]
    if plain:
        engine, reference = (samples[name] for name in ("engine", "plain PyTorch"))
        lines.append(f"engine is {reference.median / engine.median:.2f} times as fast ({compare(engine, reference)})")
    emit(rows, json_, lambda: lines)
