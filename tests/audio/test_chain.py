from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar import audio
from elinvar.errors import InputError

RATE = 48000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 4000)).astype(np.float32)
IR = (np.random.default_rng(1).standard_normal(700) * 0.05).astype(np.float32)
PLANAR = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 3, ctypes.c_int64)
PORTAUDIO = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p
)


def chain() -> audio.Chain:
    parts = [audio.Biquad.highpass(80, 0.7, RATE), audio.Convolver(IR, ladder=(64, 128)), audio.Compressor()]
    return audio.Chain([*parts, audio.Limiter(lookahead=0.001)])


def test_is_its_parts_one_after_the_other() -> None:
    y = NOISE
    for part in chain().processors:
        y = part.prepare(RATE, 64, 2).process(y)
    np.testing.assert_array_equal(chain()(NOISE, RATE)[:, : 4000 - 48], y[:, 48:])
    assert chain().prepare(RATE, 64, 2).latency == 48


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 500), min_size=1, max_size=4), block=st.sampled_from([16, 64, 300]))
def test_any_cut_any_block(sizes: list[int], block: int) -> None:
    live, parts, at = chain().prepare(RATE, block, 2), [], 0
    while at < 4000:
        n = sizes[len(parts) % len(sizes)]
        parts.append(live.process(np.ascontiguousarray(NOISE[:, at : at + n])))
        at += n
    found = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(found[:, live.latency :], chain()(NOISE, RATE)[:, : 4000 - live.latency], atol=1e-7)


def test_c_entries_give_the_same() -> None:
    live = chain().prepare(RATE, 64, 2)
    want = live.process(NOISE)
    assert live.calls == -(-4000 // 64)
    live.reset()
    y = np.empty_like(NOISE)
    PLANAR(live.entry)(live.root.ctypes.data, NOISE.ctypes.data, y.ctypes.data, 4000)
    np.testing.assert_array_equal(y, want)
    woven, out = np.ascontiguousarray(NOISE.T), np.empty((4000, 2), np.float32)
    for call in (
        lambda: PLANAR(live.interleaved_entry)(live.root.ctypes.data, woven.ctypes.data, out.ctypes.data, 4000),
        lambda: PORTAUDIO(live.portaudio_callback)(
            woven.ctypes.data, out.ctypes.data, 4000, None, 0, live.root.ctypes.data
        ),
    ):
        live.reset()
        assert call() == 0
        np.testing.assert_array_equal(out.T, want)


def test_channels_may_change_on_the_way() -> None:
    matrix = np.zeros((3, 2, 5), np.float32)
    matrix[0, 0, 0] = matrix[1, 1, 0] = matrix[2, 0, 1] = 1.0
    live = audio.Chain([audio.Gain(0.0), audio.Convolver(matrix), audio.Gain(0.0)]).prepare(RATE, 64, 2)
    assert (live.inputs, live.outputs) == (2, 3)
    y = live.process(NOISE)
    np.testing.assert_array_equal(y[:2], NOISE)
    np.testing.assert_array_equal(y[2, 1:], NOISE[0, :-1])


def test_chain_in_chain_flush_and_nonfinite() -> None:
    inner = audio.Chain([audio.Convolver(IR)])
    live = audio.Chain([inner, audio.Limiter(lookahead=0.001)]).prepare(RATE, 64, 1)
    x = np.zeros((1, 10), np.float32)
    x[0, 0] = 1.0
    y = np.concatenate([live.process(x), live.flush()], axis=1)
    assert y.shape[1] == 10 + 48 + 699
    np.testing.assert_allclose(y[0, 48 : 48 + 700], IR, atol=1e-6)
    x[0, 3] = np.nan
    live.process(x)
    assert live.nonfinite == 1


def test_shapes_and_tensors() -> None:
    assert chain()(NOISE[0], RATE).shape == (4000,)
    assert isinstance(chain()(torch.from_numpy(NOISE), RATE), torch.Tensor)
    assert chain()(NOISE[:, :0], RATE).shape == (2, 0)
    out = np.empty_like(NOISE)
    assert chain()(NOISE, RATE, out=out) is out


def test_bad_input() -> None:
    with pytest.raises(InputError, match="no processors"):
        audio.Chain([])
    with pytest.raises(InputError, match="str is not a processor"):
        audio.Chain(["reverb"])
    gain = audio.Gain()
    with pytest.raises(InputError, match="stands twice"):
        audio.Chain([gain, gain])
    with pytest.raises(InputError, match=r"give \[channels, time\]"):
        chain()(NOISE[None], RATE)
    with pytest.raises(InputError, match="not prepared"):
        chain().process(NOISE)
