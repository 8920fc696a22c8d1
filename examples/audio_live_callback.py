"""A live effect chain that never misses: high-pass, compressor, a hall of four seconds, limiter.

With a sound card (and sounddevice):   python examples/audio_live_callback.py --card
Without one, as in the tests:          python examples/audio_live_callback.py

Without a card, a thread plays the card: it calls the same C function PortAudio would, at the same rate, while the main
thread does its worst with the interpreter lock.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time

import numpy as np

from elinvar import audio
from elinvar.audio import realtime

RATE, BLOCK = 48_000, 64


def effects() -> tuple[audio.Chain, audio.Convolver]:
    hall = audio.reverb(4.0, RATE, mix=0.3)
    chain = audio.Chain([audio.Biquad.highpass(80, 0.707, RATE), audio.Compressor(-18, 3), hall, audio.Limiter(-1.0)])
    return chain, hall


def with_a_card() -> None:
    chain, hall = effects()
    with realtime.Live(chain, RATE, channels=2, block=BLOCK):
        print(f"live; {1e3 * chain.latency / RATE:.1f} ms of look-ahead. Enter: another hall. Twice: the end.")
        input()
        hall.set_ir(0.3 * audio.room(1.0, RATE), crossfade=0.05)  # no click, no lock
        input()


def without_a_card() -> None:
    chain, hall = effects()
    chain.prepare(RATE, BLOCK, channels=2)  # all memory, all compilation

    seconds = 1.0
    n = round(seconds * RATE) // BLOCK * BLOCK
    t = np.arange(n) / RATE
    sound = np.stack([np.sin(2 * np.pi * 220 * t), np.sin(2 * np.pi * 330 * t)], axis=1).astype(np.float32) * 0.5
    heard = np.zeros_like(sound)

    # What PortAudio would be given: an address and a state. ctypes gives the interpreter lock away for the call.
    signature = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64,
        ctypes.c_void_p,
    )  # fmt: skip
    callback, state = signature(chain.portaudio_callback), chain.root.ctypes.data
    spent: list[float] = []

    def card() -> None:
        frame = sound.strides[0] * BLOCK
        for k in range(n // BLOCK):
            begin = time.thread_time()
            callback(sound.ctypes.data + k * frame, heard.ctypes.data + k * frame, BLOCK, None, 0, state)
            spent.append(1e6 * (time.thread_time() - begin))

    thread = threading.Thread(target=card)
    thread.start()
    hall.set_ir(0.7 * audio.room(2.0, RATE)[:, : hall.tail_length + 1], crossfade=0.05)
    while thread.is_alive():
        sum(i * i for i in range(1000))  # bytecode, all the time
    thread.join()

    budget = 1e6 * BLOCK / RATE
    print(f"{chain.calls} callbacks of {budget:.0f} us; the chain took {np.median(spent):.1f} us of CPU each")
    print(f"loudest sample {np.abs(heard).max():.3f}; the limiter's ceiling is {10 ** (-1 / 20):.3f}")
    assert chain.calls == n // BLOCK
    assert chain.nonfinite == 0
    assert 0.1 < np.abs(heard).max() <= np.float32(10 ** (-1 / 20))

    # The same chain offline gives the same sound, with the look-ahead removed.
    whole = effects()[0](np.ascontiguousarray(sound.T), RATE)
    early = heard.T[:, chain.latency : 40 * BLOCK]  # before the other hall is faded in, if it came that soon
    print(f"offline and live differ by at most {np.abs(whole[:, : early.shape[1]] - early).max():.1e} at the beginning")


if __name__ == "__main__":
    if "--card" in sys.argv:
        with_a_card()
    else:
        without_a_card()
