from __future__ import annotations

from pathlib import Path

import numpy as np

from elinvar import audio
from elinvar.testing.leaks import assert_no_leak


def test_a_life_of_a_chain_leaves_nothing(tmp_path: Path) -> None:
    ir = audio.room(0.2, 16_000)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 4000)).astype(np.float32)

    def live() -> None:
        convolver = audio.Convolver(ir)
        chain = audio.Chain([audio.Biquad.lowpass(1000, 0.7, 16_000), convolver]).prepare(16_000, 64, 2)
        chain.process(x)
        convolver.set_ir(ir * 0.5)
        chain.flush()
        audio.write(tmp_path / "x.flac", audio.istft(audio.stft(x, 512), length=4000), 16_000)
        audio.read(tmp_path / "x.flac")

    assert_no_leak(live, repeats=15, warmup=4)
