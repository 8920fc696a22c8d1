from __future__ import annotations

import ctypes
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import fftconvolve

from elinvar import audio
from elinvar.audio import _ladder, _layout
from elinvar.audio import _partition as kernel
from elinvar.errors import InputError
from elinvar.runtime.parallel import set_threads

NOISE = np.random.default_rng(0).standard_normal((3, 30_000)).astype(np.float32)
STAGES = (64, 128, 512, 8192)  # the last one longer than a chunk: its passes are cut


def response(*shape: int, seed: int = 1) -> np.ndarray:
    fade = np.exp(-4 * np.arange(shape[-1]) / shape[-1])
    return (np.random.default_rng(seed).standard_normal(shape) * fade).astype(np.float32)


def truth(x: np.ndarray, ir: np.ndarray) -> np.ndarray:
    return fftconvolve(np.atleast_2d(x).astype(np.float64), np.atleast_2d(ir).astype(np.float64), axes=-1)


def off(found: np.ndarray, want: np.ndarray) -> float:
    """Relative root mean square error."""
    return float(np.sqrt(((found - want) ** 2).mean() / (want**2).mean()))


def streamed(convolver: audio.Convolver, x: np.ndarray, sizes: list[int]) -> np.ndarray:
    parts, at = [], 0
    while at < x.shape[1]:
        n = sizes[len(parts) % len(sizes)]
        parts.append(convolver.process(np.ascontiguousarray(x[:, at : at + n])))
        at += n
    return np.concatenate([*parts, convolver.flush()], axis=1)


@pytest.mark.parametrize("taps", [1, 2, 33, 100, 5000])
@pytest.mark.parametrize("mode", ["full", "same"])
def test_offline_equals_scipy(taps: int, mode: str) -> None:
    ir = response(taps)
    want = truth(NOISE, ir)
    found = audio.convolve(NOISE, ir, mode=mode)
    assert found.dtype == np.float32
    assert off(found, want if mode == "full" else want[:, :30_000]) <= 1e-6


def test_gain_is_one() -> None:
    x = NOISE[0, :500]
    np.testing.assert_array_equal(audio.convolve(x, np.ones(1, np.float32)), x)
    late = np.zeros(40, np.float32)
    late[39] = 1.0
    assert np.abs(audio.convolve(x, late)[39:] - x).max() <= 1e-6 * np.abs(x).max()
    one = audio.Convolver(np.ones(1, np.float32)).prepare(48000, 64, 1)
    np.testing.assert_array_equal(one.process(x), x)  # the direct head: the very same bits


def test_channels_matrices_and_leading_dimensions() -> None:
    ir = response(3, 200)
    want = np.stack([truth(NOISE[c], ir[c])[0] for c in range(3)])
    assert off(audio.convolve(NOISE, ir), want) <= 1e-6
    assert audio.convolve(NOISE[None, None], ir).shape == (1, 1, 3, 30_199)
    matrix = response(2, 3, 150)
    matrix[1, 2] = 0.0  # a path that is not there
    want = np.stack([sum(truth(NOISE[i], matrix[o, i])[0] for i in range(3)) for o in range(2)])
    assert off(audio.convolve(NOISE, matrix), want) <= 1e-6
    live = audio.Convolver(matrix).prepare(48000, 64, 3)
    assert (live.inputs, live.outputs) == (3, 2)
    assert off(streamed(live, NOISE[:, :2000], [50]), np.stack(
        [sum(truth(NOISE[i, :2000], matrix[o, i])[0] for i in range(3)) for o in range(2)])) <= 1e-6  # fmt: skip
    assert off(live.convolve(NOISE), want) <= 1e-6
    assert audio.convolve(NOISE[:, :0], matrix).shape == (2, 149)


def test_methods_and_threads_agree() -> None:
    ir, x = response(300), NOISE[:, :4000]
    fast, direct = audio.convolve(x, ir, method="fft"), audio.convolve(x, ir, method="direct")
    assert off(fast, direct.astype(np.float64)) <= 1e-6
    before = set_threads(3)
    try:
        np.testing.assert_array_equal(fast, audio.convolve(x, ir, method="fft"))
    finally:
        set_threads(before)


@settings(max_examples=8, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=5), mode=st.sampled_from(["direct", "fft", "partitioned"])
)
def test_any_cut_gives_the_same_bits(sizes: list[int], mode: str) -> None:
    ir, x = response(900), NOISE[:2, :3000]
    ladder = (64, 128, 256) if mode == "partitioned" else None
    live = audio.Convolver(ir, mode, ladder=ladder).prepare(48000, 64, 2)
    whole = streamed(live, x, [3000])
    assert off(whole, truth(x, ir)) <= 1e-6
    np.testing.assert_array_equal(streamed(live, x, sizes), whole)


def test_long_stages_are_cut_into_units() -> None:
    ir = response(25_000)
    live = audio.Convolver(ir, ladder=STAGES).prepare(48000, 64, 1)
    assert str(live.ladder) == "64 direct + 64 + 128 + 512 + 8192"
    assert live.tail_length == 24_999
    assert live.latency == 0
    assert off(streamed(live, NOISE[:1], [64, 1, 200]), truth(NOISE[0], ir)) <= 1e-6


def test_every_tick_does_about_the_same_work() -> None:
    costs = _ladder.Costs({2**p: 2.0**p for p in range(6, 17)}, 1.0, 1.0, 0.1)
    schedule = _layout._schedule(2, 2, 2, 8192, 20, 64, costs)
    one_pass, product = 8192 / 7 / 2, 2 * 8192 / 2
    spent = np.cumsum([one_pass] * 32 + [product] * 40 + [one_pass] * 32)  # (passes + 1) x 2 channels x 2 chunks
    assert schedule[-1] == len(spent)  # every unit is done within the cycle
    per_tick = np.diff([0.0, *(spent[n - 1] if n else 0.0 for n in schedule)])
    assert per_tick.max() <= per_tick.mean() + product


@pytest.mark.parametrize("length", [1, 64, 65, 5000, 480_000])
def test_the_ladder_covers_every_tap_once(length: int) -> None:
    costs = _ladder.measured_costs()
    ladder = _ladder.choose(length, (64, 256), costs, 1, 1, 1, 1)
    covered = ladder.head
    for k, (size, n) in enumerate(zip(ladder.stages, _ladder.partitions(ladder, length), strict=True)):
        assert k == 0 or covered == 2 * size
        covered += n * size
    assert covered >= length
    if ladder.stages:
        cheapest = _ladder.seconds_per_sample(ladder, length, costs, 1, 1, 1, 1)
        assert cheapest <= _ladder.seconds_per_sample(_ladder.uniform(64, length), length, costs, 1, 1, 1, 1)


def test_swap_is_seamless_and_exact_afterwards() -> None:
    a, b = response(2000), response(2000, seed=2)
    x = NOISE[:1]
    live = audio.Convolver(a, ladder=(64, 128, 512)).prepare(48000, 64, 1, crossfade=0.01)
    out = []
    for i in range(0, 30_000, 100):
        if i == 10_000:
            live.set_ir(b)
            assert live.fading
        out.append(live.process(np.ascontiguousarray(x[:, i : i + 100])))
    found, old, new = np.concatenate(out, axis=1)[0], truth(x, a)[0, :30_000], truth(x, b)[0, :30_000]
    assert not live.fading
    assert off(found[:10_000], old[:10_000]) <= 1e-6
    assert off(found[10_000 + 2 * 512 + 480 :], new[10_000 + 2 * 512 + 480 :]) <= 1e-6  # with the whole past
    assert np.abs(found).max() <= 1.1 * max(np.abs(old).max(), np.abs(new).max())


def test_a_constant_fades_without_a_step() -> None:
    a, b = np.zeros(300, np.float32), np.zeros(300, np.float32)
    a[200], b[250] = 1.0, -1.0
    live = audio.Convolver(a, ladder=(64, 128)).prepare(48000, 64, 1, crossfade=0.02)
    ones = np.ones((1, 64), np.float32)
    out = [live.process(ones) for _ in range(10)]
    live.set_ir(b)
    out += [live.process(ones) for _ in range(60)]
    y = np.concatenate(out, axis=1)[0, 300:]
    assert np.abs(np.diff(y)).max() < 4.0 / 960  # the ramp's slope, not a click
    np.testing.assert_allclose(y[[0, -1]], [1.0, -1.0], atol=1e-6)


def test_of_several_swaps_the_last_wins() -> None:
    live = audio.Convolver(response(500), ladder=(64, 128)).prepare(48000, 64, 1, crossfade=0.0)
    for seed in range(2, 9):
        live.set_ir(response(500, seed=seed))
        if seed % 2:
            live.process(NOISE[:1, :64])
    live.process(NOISE[:1, :3000])
    live.reset()
    assert off(streamed(live, NOISE[:1, :2000], [100]), truth(NOISE[0, :2000], response(500, seed=8))) <= 1e-6
    live.set_ir(response(500, seed=9), crossfade=0.001)
    live.reset()  # takes what waits in the mailbox
    assert off(streamed(live, NOISE[:1, :500], [100]), truth(NOISE[0, :500], response(500, seed=9))) <= 1e-6


def test_swaps_from_another_thread() -> None:
    live = audio.Convolver(response(500), ladder=(64, 128)).prepare(48000, 64, 1, crossfade=0.001)
    stop = threading.Event()

    def swap() -> None:
        seed = 0
        while not stop.is_set():
            seed += 1
            live.set_ir(response(500, seed=seed % 3))

    other = threading.Thread(target=swap)
    other.start()
    try:
        block = np.ascontiguousarray(NOISE[:1, :64])
        loudest = max(float(np.abs(live.process(block)).max()) for _ in range(400))
    finally:
        stop.set()
        other.join()
    assert loudest < 200  # every response keeps this below; torn spectra would not
    live.process(NOISE[:1, :5000])
    live.set_ir(response(500, seed=7))
    live.reset()
    assert off(streamed(live, NOISE[:1, :1000], [64]), truth(NOISE[0, :1000], response(500, seed=7))) <= 1e-6


def test_nan_does_not_stay() -> None:
    live = audio.Convolver(response(300)).prepare(48000, 64, 1)
    bad = NOISE[:1, :200].copy()
    clean = bad.copy()
    bad[0, [20, 50]] = np.nan, np.inf
    clean[0, [20, 50]] = 0.0
    np.testing.assert_array_equal(live.process(bad), audio.Convolver(response(300)).prepare(48000, 64).process(clean))
    assert live.nonfinite == 2


def test_c_entry_is_process() -> None:
    live = audio.Convolver(response(400)).prepare(48000, 64, 2)
    x = np.ascontiguousarray(NOISE[:2, :640])
    want = live.process(x)
    live.reset()
    y = np.empty_like(x)
    call = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 3, ctypes.c_int64)(live.entry)
    assert call(live.root.ctypes.data, x.ctypes.data, y.ctypes.data, 640) == 0
    np.testing.assert_array_equal(y, want)
    assert live.memory_bytes > live._state.h.nbytes > 0


def test_in_place_mono_tensors_and_types() -> None:
    live = audio.Convolver(response(100)).prepare(48000, 64)
    x = NOISE[0, :300].copy()
    want = truth(x, response(100))[0, :300]
    y = x[None].copy()
    assert live.process(y, out=y) is y
    assert off(y[0], want) <= 1e-6
    live.reset()
    assert off(live.process(x), want) <= 1e-6
    live.reset()
    tensor = live.process(torch.from_numpy(x))
    assert isinstance(tensor, torch.Tensor)
    assert live.process(np.zeros((1, 0), np.float32)).shape == (1, 0)
    live.reset()
    whole = (x / 8 * 32767).astype(np.int16)
    assert off(live.process(whole), truth(whole / 32768, response(100))[0, :300]) <= 1e-6
    assert off(audio.convolve(x.astype(np.float64), response(100)), truth(x, response(100))[0]) <= 1e-6


def test_gradients() -> None:
    x = torch.from_numpy(NOISE[:2, :3000].copy())
    for taps in (
        torch.from_numpy(response(700)),
        torch.from_numpy(response(2, 700)),
        torch.from_numpy(response(1, 2, 700)),
    ):
        ir = taps.requires_grad_()
        y = audio.convolve(x, ir)
        want = audio.convolve(x.numpy(), ir.detach().numpy())
        assert off(y.detach().numpy(), want.astype(np.float64)) <= 2e-6
        y[..., 100].sum().backward()
        flipped = x[..., :101].flip(-1)
        want_gradient = flipped.sum(0) if ir.ndim == 1 else flipped if ir.ndim == 2 else flipped[None]
        np.testing.assert_allclose(ir.grad[..., :101].numpy(), want_gradient.numpy(), atol=1e-4)


def test_bad_input() -> None:
    ir = response(2, 50)
    with pytest.raises(InputError, match="NaN or infinite, the first at 7"):
        audio.convolve(np.where(np.arange(20) == 7, np.nan, 1.0), ir[0])
    with pytest.raises(InputError, match="ir has 1 samples"):
        audio.Convolver(np.array([1.0, np.inf]))
    with pytest.raises(InputError, match="no samples"):
        audio.Convolver(np.zeros(0, np.float32))
    with pytest.raises(InputError, match="3 channels"):
        audio.convolve(NOISE, ir)
    with pytest.raises(InputError, match="not prepared"):
        audio.Convolver(ir).process(NOISE)
    with pytest.raises(InputError, match="44100 Hz"):
        audio.Convolver(ir, sample_rate=44100).prepare(48000, 64, 2)
    with pytest.raises(InputError, match="power of two"):
        audio.Convolver(ir, block_size=100)
    with pytest.raises(InputError, match="twice the one before"):
        audio.Convolver(ir, ladder=(128, 128))
    with pytest.raises(InputError, match="all 1 x 1"):
        audio.Convolver(np.zeros((1, 1, 9), np.float32))
    live = audio.Convolver(ir).prepare(48000, 64, 2)
    with pytest.raises(InputError, match=r"block has shape \(3, 30000\)"):
        live.process(NOISE)
    with pytest.raises(InputError, match="reserved 50"):
        live.set_ir(response(2, 51))
    with pytest.raises(InputError, match="make a new"):
        live.set_ir(ir[0])
    bank = _layout.claim(live._state.m)
    assert bank >= 0
    with pytest.raises(InputError, match="another thread"):
        live.set_ir(ir)
    assert live._state.m[kernel.MAILBOX] % 4 == kernel.WRITING
