"""``elinvar audio stft | convolve | eq | resample | info | bench``: files in, files out. Times are milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elinvar.cli.audio_output import Output, Sink, Truncated, target
from elinvar.cli.common import emit, progress
from elinvar.errors import InputError

if TYPE_CHECKING:
    from elinvar.audio import Cascade

__all__ = ["register"]

Source = Annotated[Path, typer.Argument(help="Audio file: WAV, FLAC, OGG, MP3, AIFF.")]
Encoding = Annotated[
    str | None, typer.Option(help="pcm16, pcm24, float, double, vorbis, mp3 or opus; else what suits the suffix.")
]
Clip = Annotated[str, typer.Option(help="Beyond full scale: clip, rescale or error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``elinvar audio``."""
    for command in (info, stft, convolve, eq, resample, bench):
        app.command()(command)


def _write(file: Path, y: Any, rate: float, encoding: str | None, clip: str, json_: bool, **more: Any) -> None:
    """Write samples and say what was written, and what of them did not fit."""
    import numpy as np

    from elinvar import audio

    found = audio.write(file, y, rate, encoding=encoding, clip=clip)
    beyond = 0 if found.encoding in ("FLOAT", "DOUBLE") else int(np.count_nonzero(np.abs(y) > 1.0))
    if beyond:
        done = "the whole was made quieter" if clip == "rescale" else "cut off; see --clip, or write a WAV file"
        typer.echo(f"elinvar: {beyond:,} samples were beyond full scale: {done}", err=True)
    result = {"path": found.path, "sample_rate": found.sample_rate, "channels": found.channels,
              "frames": found.frames, "encoding": found.encoding, "beyond_full_scale": beyond, **more}  # fmt: skip
    seconds = found.frames / found.sample_rate
    line = f"{found.path}: {seconds:.2f} s, {found.channels} channels at {found.sample_rate} Hz, {found.encoding}"
    emit(result, json_, lambda: line)


def info(
    paths: Annotated[list[Path], typer.Argument(help="Audio files: WAV, FLAC, OGG, MP3, AIFF.")],
    loudness: Annotated[bool, typer.Option(help="Measure loudness and peaks: reads the whole file.")] = True,
    truncated: Truncated = False,
    json_: Json = False,
) -> None:
    """Say what is in files: rate, channels, length, loudness (EBU R 128), peaks."""
    found = [_facts(path, loudness, truncated) for path in paths]
    results = [result for result, _ in found]
    emit(results[0] if len(results) == 1 else results, json_, lambda: [line for _, lines in found for line in lines])


def _facts(path: Path, loudness: bool, truncated: bool) -> tuple[dict[str, Any], list[str]]:
    """Return what is in a file, for a script and in lines."""
    from elinvar import audio

    facts = audio.info(path)
    result: dict[str, Any] = {
        "path": facts.path, "sample_rate": facts.sample_rate, "channels": facts.channels, "frames": facts.frames,
        "seconds": facts.duration, "format": facts.format, "encoding": facts.encoding, "truncated": facts.truncated,
    }  # fmt: skip
    kind, width = f"{facts.format} {facts.encoding}", f"{facts.channels} channels at {facts.sample_rate} Hz"
    lines = [f"{facts.path}: {kind}, {facts.duration:.3f} s, {width}"]
    if loudness and facts.frames and facts.channels <= 6:
        x, rate = audio.read(path, truncated=truncated)
        if x.shape[1] < facts.frames:  # a FLAC or MP3 file shows only where it is decoded that it ends early
            result |= {"truncated": True, "readable_frames": x.shape[1]}
            lines.append(f"only {x.shape[1] / rate:.3f} s of it can be read")
        level = audio.loudness(x, rate)
        result["loudness"] = level
        lines.append(
            f"integrated {level.integrated:.1f} LUFS, range {level.range:.1f} LU, true peak {level.true_peak:.1f} dBTP"
        )
    return result, lines


def stft(
    path: Source,
    out: Annotated[Path | None, typer.Argument(help="PNG to write. Or give --output.", show_default=False)] = None,
    output: Output = None,
    n_fft: Annotated[int, typer.Option("--n-fft", help="Samples of a transform.")] = 2048,
    hop: Annotated[
        int | None, typer.Option(help="Samples from frame to frame; a quarter of --n-fft by default.")
    ] = None,
    window: Annotated[str, typer.Option(help="hann, hamming, blackman, ...")] = "hann",
    mel: Annotated[int | None, typer.Option(help="This many mel bands instead of all frequencies.")] = None,
    span: Annotated[float, typer.Option("--range", help="dB from black to white.")] = 90.0,
    truncated: Truncated = False,
    json_: Json = False,
) -> None:
    """Draw a file's spectrogram: one pixel per frame and frequency, loudest channel mix on top."""
    from elinvar import audio
    from elinvar.audio.pictures import spectrogram_png

    picture = target(out, output, path)
    if picture.suffix.lower() != ".png":
        raise InputError(f"stft draws a PNG and {picture} is none by its name; give it the suffix .png.")
    x, rate = audio.read(path, truncated=truncated)
    transform = audio.STFT(n_fft, hop, window=window)
    png, shape = spectrogram_png(x.mean(axis=0), rate, transform, mel=mel, span=span)
    from elinvar.runtime.files import atomic_write

    with atomic_write(picture) as temporary:
        temporary.write_bytes(png)
    result = {"path": picture, "frames": shape[1], "bins": shape[0], "hop_ms": 1e3 * transform.hop_length / rate}
    emit(result, json_, lambda: f"{picture}: {shape[1]} frames of {result['hop_ms']:.2f} ms x {shape[0]} frequencies")


def convolve(
    path: Source,
    ir: Annotated[Path, typer.Argument(help="Impulse response; brought to the file's rate when it has another.")],
    out: Sink = None,
    output: Output = None,
    mix: Annotated[float, typer.Option(help="Part of the convolved sound, 0 to 1.")] = 1.0,
    same: Annotated[bool, typer.Option("--same", help="Keep the length; else the tail is written too.")] = False,
    encoding: Encoding = None,
    clip: Clip = "clip",
    truncated: Truncated = False,
    json_: Json = False,
) -> None:
    """Convolve a file with an impulse response, gain exactly 1."""
    import numpy as np

    from elinvar import audio

    file = target(out, output, path, ir)
    if not 0.0 <= mix <= 1.0:
        raise InputError(f"--mix is {mix:g}; give 0 (dry) to 1 (wet).")
    x, rate = audio.read(path, truncated=truncated)
    response, ir_rate = audio.read(ir)
    if ir_rate != rate:
        typer.echo(f"elinvar: {ir} has {ir_rate} Hz; resampled to {rate}", err=True)
        response = audio.resample(response, ir_rate, rate) * np.float32(ir_rate / rate)
    if len(response) not in (1, len(x)):
        raise InputError(f"{ir} has {len(response)} channels and {path} {len(x)}; give one, or as many.")
    begin = time.process_time()
    y = audio.convolve(x, response if len(response) > 1 else response[0], mode="same" if same else "full")
    spent = time.process_time() - begin
    if mix < 1.0:
        y *= np.float32(mix)
        y[:, : x.shape[1]] += np.float32(1.0 - mix) * x
    _write(file, y, rate, encoding, clip, json_, cpu_ms=1e3 * spent)


_BANDS = {"peak": "peaking", "low-shelf": "low_shelf", "high-shelf": "high_shelf"}
_PASSES = {"low-pass": "lowpass", "high-pass": "highpass", "band-pass": "bandpass", "notch": "notch",
           "all-pass": "allpass"}  # fmt: skip


def _band(text: str, rate: int) -> Cascade:
    """Read ``peak:1000:0.7:+3`` or ``high-pass:80:0.707``."""
    from elinvar import audio

    kind, *rest = text.split(":")
    try:
        values = [float(part) for part in rest]
    except ValueError:
        values = []
    if kind in _BANDS and len(values) == 3:
        make: Callable[..., Cascade] = getattr(audio.Biquad, _BANDS[kind])
        return make(*values, rate)
    if kind in _PASSES and len(values) in (1, 2):
        make = getattr(audio.Biquad, _PASSES[kind])
        return make(values[0], values[1] if len(values) == 2 else 0.7071, rate)
    raise InputError(
        f"band {text!r} is not KIND:HZ:Q:DB with {', '.join(_BANDS)}, nor KIND:HZ[:Q] with {', '.join(_PASSES)}."
    )


def eq(
    path: Source,
    band: Annotated[list[str], typer.Option("--band", "-b", help="peak:1000:0.7:+3, high-pass:80, ...; repeatable.")],
    out: Sink = None,
    output: Output = None,
    encoding: Encoding = None,
    clip: Clip = "clip",
    truncated: Truncated = False,
    json_: Json = False,
) -> None:
    """Equalise a file: bands in series, each KIND:HZ:Q:DB."""
    from elinvar import audio

    file = target(out, output, path)
    x, rate = audio.read(path, truncated=truncated)
    filters = audio.Cascade([_band(text, rate) for text in band])
    _write(file, filters(x), rate, encoding, clip, json_, sections=len(filters.sos))


def resample(
    path: Source,
    rate: Annotated[int, typer.Option("--rate", "-r", help="New sampling rate in Hz.")],
    out: Sink = None,
    output: Output = None,
    quality: Annotated[str, typer.Option(help="quick, low, medium, high or best.")] = "high",
    encoding: Encoding = None,
    clip: Clip = "clip",
    truncated: Truncated = False,
    json_: Json = False,
) -> None:
    """Bring a file to another sampling rate."""
    from elinvar import audio

    file = target(out, output, path)
    x, before = audio.read(path, truncated=truncated)
    y = audio.resample(x, before, rate, quality=quality)
    _write(file, y, rate, encoding, clip, json_, from_rate=before)


def bench(
    runs: Annotated[int, typer.Option(help="Measurements per row.")] = 15,
    only: Annotated[str | None, typer.Option(help="Rows whose name contains this.")] = None,
    out: Annotated[Path | None, typer.Option("--output", "--out", "-o", help="Also write the result as JSON.")] = None,
    json_: Json = False,
) -> None:
    """Measure this machine: transforms, STFT at three overlaps, convolution, filters; CPU time of one thread."""
    from elinvar.audio import benchmarks
    from elinvar.cli.common import table

    with progress("measuring", unit="rows") as report:
        result = benchmarks.run(runs=runs, only=only, progress=report)
    if out is not None:
        result.write(out)
    rows = [
        {"what": name, "us": f"{1e6 * row.median:.2f}", "rate": benchmarks.rate(row)}
        for name, row in result.samples.items()
    ]
    measured = {name: 1e6 * row.median for name, row in result.samples.items()}
    emit({**result.extras, "us": measured}, json_, lambda: table(rows))
