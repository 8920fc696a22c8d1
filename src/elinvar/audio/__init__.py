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

import importlib

# name -> module: signal processing
_NAMES: dict[str, str] = {}

# name -> module: networks and stem separation
_MODELS: dict[str, str] = {}

_MODULES: tuple[str, ...] = ()

__all__: list[str] = []


def __getattr__(name: str) -> object:
    home = _NAMES.get(name) or _MODELS.get(name)
    if home is not None:
        value = getattr(importlib.import_module(f".{home}", __name__), name)
    elif name in _MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
