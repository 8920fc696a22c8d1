"""Real-time-safe DSP and stem separation on CPUs and GPUs.

::

    from elinvar import audio

    x, rate = audio.read("song.flac")               # float32 [channels, time]
    ir, ir_rate = audio.read("hall.wav")
    wet = audio.convolve(x, audio.resample(ir, ir_rate, rate))
    audio.write("wet.flac", wet, rate)

float32 ``[..., channels, time]``, numpy arrays or torch tensors in, the same kind out; sampling rates are always
explicit. Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from elinvar._lazy import lazy

# name -> module: signal processing
_NAMES: dict[str, str] = {
    "Biquad": "filters",
    "Cascade": "filters",
    "Chain": "chain",
    "Compressor": "dynamics",
    "Convolver": "convolution",
    "Delay": "dynamics",
    "FFT": "fourier",
    "FileInfo": "files",
    "FilterBank": "filters",
    "Gain": "dynamics",
    "Gate": "dynamics",
    "Limiter": "dynamics",
    "Loudness": "meters",
    "Processor": "_processor",
    "Resampler": "resampling",
    "STFT": "spectral",
    "StreamingSTFT": "spectral",
    "butterworth": "filters",
    "chebyshev1": "filters",
    "chebyshev2": "filters",
    "check_cola": "windows",
    "check_nola": "windows",
    "cola_ripple": "windows",
    "convolve": "convolution",
    "db": "features",
    "elliptic": "filters",
    "fft": "fourier",
    "ifft": "fourier",
    "info": "files",
    "irfft": "fourier",
    "istft": "spectral",
    "loudness": "meters",
    "magnitude": "features",
    "mel_filters": "features",
    "mel_spectrogram": "features",
    "mfcc": "features",
    "next_fast_length": "fourier",
    "normalize_loudness": "meters",
    "power": "features",
    "read": "files",
    "resample": "resampling",
    "reverb": "rooms",
    "rfft": "fourier",
    "room": "rooms",
    "stft": "spectral",
    "stream": "files",
    "window": "windows",
    "write": "files",
}

# name -> module: networks and stem separation
_MODELS: dict[str, str] = {
    "Bag": "htdemucs_weights",
    "DenoiseStream": "denoising",
    "Denoiser": "denoising",
    "HTDemucs": "htdemucs",
    "HTDemucsConfig": "htdemucs",
    "SeparatedFile": "separation_file",
    "SeparationPlan": "planning",
    "denoise": "denoising",
    "denoise_file": "denoising",
    "load_denoiser": "denoising",
    "load_model": "htdemucs_weights",
    "plan_separation": "planning",
    "save_model": "htdemucs_weights",
    "separate": "separation",
    "separate_file": "separation_file",
    "separate_files": "separation_file",
}

_MODULES: tuple[str, ...] = ("nn", "realtime")

__all__ = [
    "FFT",
    "STFT",
    "Bag",
    "Biquad",
    "Cascade",
    "Chain",
    "Compressor",
    "Convolver",
    "Delay",
    "DenoiseStream",
    "Denoiser",
    "FileInfo",
    "FilterBank",
    "Gain",
    "Gate",
    "HTDemucs",
    "HTDemucsConfig",
    "Limiter",
    "Loudness",
    "Processor",
    "Resampler",
    "SeparatedFile",
    "SeparationPlan",
    "StreamingSTFT",
    "butterworth",
    "chebyshev1",
    "chebyshev2",
    "check_cola",
    "check_nola",
    "cola_ripple",
    "convolve",
    "db",
    "denoise",
    "denoise_file",
    "elliptic",
    "fft",
    "ifft",
    "info",
    "irfft",
    "istft",
    "load_denoiser",
    "load_model",
    "loudness",
    "magnitude",
    "mel_filters",
    "mel_spectrogram",
    "mfcc",
    "next_fast_length",
    "nn",
    "normalize_loudness",
    "plan_separation",
    "power",
    "read",
    "realtime",
    "resample",
    "reverb",
    "rfft",
    "room",
    "save_model",
    "separate",
    "separate_file",
    "separate_files",
    "stft",
    "stream",
    "window",
    "write",
]

if TYPE_CHECKING:
    from . import nn, realtime
    from ._processor import Processor
    from .chain import Chain
    from .convolution import Convolver, convolve
    from .denoising import Denoiser, DenoiseStream, denoise, denoise_file, load_denoiser
    from .dynamics import Compressor, Delay, Gain, Gate, Limiter
    from .features import db, magnitude, mel_filters, mel_spectrogram, mfcc, power
    from .files import FileInfo, info, read, stream, write
    from .filters import Biquad, Cascade, FilterBank, butterworth, chebyshev1, chebyshev2, elliptic
    from .fourier import FFT, fft, ifft, irfft, next_fast_length, rfft
    from .htdemucs import HTDemucs, HTDemucsConfig
    from .htdemucs_weights import Bag, load_model, save_model
    from .meters import Loudness, loudness, normalize_loudness
    from .planning import SeparationPlan, plan_separation
    from .resampling import Resampler, resample
    from .rooms import reverb, room
    from .separation import separate
    from .separation_file import SeparatedFile, separate_file, separate_files
    from .spectral import STFT, StreamingSTFT, istft, stft
    from .windows import check_cola, check_nola, cola_ripple, window

__getattr__, __dir__ = lazy(__name__, {**_NAMES, **_MODELS}, _MODULES)
