"""The audio part of ``elinvar tour``: a dry clip played into a room, block by block, beside a plain convolver."""

from __future__ import annotations

import importlib
import importlib.util
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from elinvar.report import bars

from ._check import Array, optional_library
from ._plain import UniformConvolver
from .convolution import Convolver, convolve
from .filters import Biquad
from .meters import loudness
from .pictures import spectrogram_levels
from .rooms import room
from .spectral import STFT

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from elinvar.report import Page
    from elinvar.runtime.device import Device

__all__ = ["Clip", "Context", "guitar", "live", "tour"]

RATE = 44_100
BLOCK = 64
_NOTES = (110.0, 164.81, 220.0, 261.63, 329.63, 220.0, 261.63, 392.0)  # A minor, broken


class Context(Protocol):
    """What the tour's runner gives an engine; see ``elinvar.cli.tour``."""

    device: Device
    out: Path
    quick: bool
    engine: str
    seconds: dict[str, float]

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Trace, time and announce one stage."""

    def jit(self, what: str) -> AbstractContextManager[None]:
        """Time compilation on a line of its own."""


@dataclass(frozen=True)
class Clip:
    """A processed clip, CPU microseconds of each callback, and how far it is from the offline result."""

    sound: Array
    microseconds: Array
    error: float


def guitar(seconds: float, seed: int = 0) -> Array:
    """Return plucked strings [2, time] (Karplus and Strong 1983): a loop of noise, averaged at every turn."""
    rng, n = np.random.default_rng(seed), round(seconds * RATE)
    sound = np.zeros((2, n), np.float32)
    gap = 0.3
    for k in range(int(seconds / gap)):
        hertz = _NOTES[k % len(_NOTES)]
        length, begin = round(RATE / hertz), round(k * gap * RATE)
        loop = rng.uniform(-1.0, 1.0, length)
        turns = -(-(n - begin) // length)
        string = np.empty(turns * length)
        for t in range(turns):
            string[t * length : (t + 1) * length] = loop
            loop = 0.4985 * (loop + np.roll(loop, 1))
        side = 0.5 + 0.3 * np.sin(k)
        sound[:, begin:] += np.outer([side, 1.0 - side], string[: n - begin]).astype(np.float32)
    clear: Array = Biquad.highpass(60.0, 0.7, RATE)(sound)
    return clear * np.float32(0.5 / np.abs(clear).max())


def live(dry: Array, ir: Array) -> Clip:
    """Send a clip through a convolver in callbacks of 64 samples, as a sound card would, and time every one."""
    engine = Convolver(ir, sample_rate=RATE).prepare(RATE, BLOCK, len(dry))
    n = dry.shape[1] // BLOCK * BLOCK
    wet, spent = np.empty((len(dry), n), np.float32), np.empty(n // BLOCK, np.float32)
    x, y = np.empty((len(dry), BLOCK), np.float32), np.empty((len(dry), BLOCK), np.float32)
    for k in range(n // BLOCK):
        x[:] = dry[:, k * BLOCK : (k + 1) * BLOCK]
        begin = time.thread_time_ns()
        engine.process(x, y)
        spent[k] = time.thread_time_ns() - begin
        wet[:, k * BLOCK : (k + 1) * BLOCK] = y
    want = convolve(dry, ir, mode="same")[:, :n]
    error = float(np.sqrt(((wet - want) ** 2).mean() / (want**2).mean()))
    return Clip(wet, (spent / 1e3).astype(np.float32), error)


def _plain(dry: Array, ir: Array, calls: int) -> float:
    """CPU microseconds per callback of the plain convolver, both channels."""
    sides = [UniformConvolver(row, BLOCK) for row in ir]
    begin = time.thread_time_ns()
    for k in range(calls):
        for side, row in zip(sides, dry, strict=True):
            side.process(row[k * BLOCK : (k + 1) * BLOCK])
    return (time.thread_time_ns() - begin) / 1e3 / calls


def _show(page: Page, clips: dict[str, Array]) -> None:
    stft = STFT(1024, 256)
    with page.row():
        for name, sound in clips.items():
            levels = spectrogram_levels(sound.mean(axis=0), RATE, stft, mel=160, span=80.0)
            page.image(levels[::-1], f"{name}: mel spectrogram, 80 dB", colours="heat", limits=(0.0, 1.0), aspect=2.2)
    with page.row():
        for name, sound in clips.items():
            page.audio(sound, name, rate=RATE)


def _convolved(page: Page, context: Any) -> None:
    seconds = 2.0 if context.quick else 5.0
    hall = 1.0 if context.quick else 4.0
    with context.jit("the convolver and the filters"):
        Convolver(room(0.1, RATE)).prepare(RATE, BLOCK, 2)
        Biquad.highpass(60.0, 0.7, RATE).prepare(RATE, BLOCK, 2)
    with context.stage("strings and a hall"):
        dry = guitar(seconds)
        ir = room(hall, RATE, damping=0.6)
        dry = np.pad(dry, ((0, 0), (0, round(0.5 * RATE))))
    with context.stage("callbacks of 64 samples"):
        clip = live(dry, ir)
    wet = clip.sound * np.float32(0.5 / np.abs(clip.sound).max())
    with context.stage("a plain convolver"):
        plain = _plain(dry, ir, 20 if context.quick else 200)
    _show(page, {"dry": dry, "in the hall": wet})
    mean, budget = float(clip.microseconds.mean()), 1e6 * BLOCK / RATE
    rare = float(np.quantile(clip.microseconds, 0.999))
    page.facts([
        (f"{mean:.1f} µs", f"CPU per callback of {BLOCK} samples, {hall:g} s stereo response"),
        (f"{100 * mean / budget:.2f} %", f"of the {budget:.0f} µs there are; 99.9 % of callbacks below {rare:.0f} µs"),
        ("0", "samples of latency"),
        (f"{clip.error:.1e}", "relative error of the stream against the whole clip convolved at once"),
        (f"{loudness(wet, RATE).integrated:.1f} LUFS", "loudness of the result (EBU R 128)"),
    ])  # fmt: skip
    figure = bars(
        ["elinvar", "uniform partitions in numpy"], [mean, plain], unit="µs",
        title=f"CPU per callback, both channels: {plain / mean:.0f} times less",
    )  # fmt: skip
    page.figure(figure, "Same response, same blocks, one thread. The plain one runs on the first callbacks only.")


def _denoised(page: Page, context: Any) -> None:
    if importlib.util.find_spec("elinvar.audio.denoise_tour") is not None:
        importlib.import_module("elinvar.audio.denoise_tour").tour(page, context)


def tour(page: Page, context: Any) -> None:
    """Add the audio sections to the tour's page."""
    for library in ("scipy", "soxr"):
        optional_library(library, "the audio tour")
    page.section(
        "Audio: a hall in real time",
        "Plucked strings, played into a hall by convolution in callbacks of 64 samples, as a sound card asks for them.",
    )
    _convolved(page, context)
    _denoised(page, context)
