"""The audio thread allocates nothing: counted by a malloc put in front of the C library's, on a thread of C.

`native.c` is built here. It replaces malloc, calloc, realloc, free and posix_memalign by ones that count per thread,
and has a timer thread that calls a PaStreamCallback as a sound card does, while Python's main thread spins and makes
garbage.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
SCRIPT = """
import ctypes, json, sys
import numpy as np
from elinvar import audio
from elinvar.audio import realtime

native = ctypes.CDLL(sys.argv[1])
blocks, frames, mode = 600, 64, sys.argv[2]
ir = np.load(sys.argv[3] + "/ir.npy")
x = np.load(sys.argv[3] + "/x.npy")  # [frames, 2]
convolver = audio.Convolver(ir, ladder=(64, 128, 512))
parts = [audio.Biquad.peaking(1000, 1, 6, 48000), convolver, audio.Compressor(), audio.Gate(), audio.Delay(0.01)]
chain = audio.Chain([*parts, audio.Limiter()])
if mode == "player":
    ring, entry, user, keep = realtime.prepare_player(chain, 48000, 2, frames, 2.0)
    ring.write(np.ascontiguousarray(x.T))
else:
    chain.prepare(48000, frames, 2)
    entry, user = chain.portaudio_callback, chain.root
y = np.zeros_like(x)
cpu = np.zeros(blocks, np.int64)

class Run(ctypes.Structure):
    _fields_ = [("callback", ctypes.c_void_p), ("user", ctypes.c_void_p), ("input", ctypes.c_void_p),
                ("output", ctypes.c_void_p), ("frames", ctypes.c_uint64), ("channels_in", ctypes.c_uint64),
                ("channels_out", ctypes.c_uint64), ("blocks", ctypes.c_uint64), ("period_ns", ctypes.c_int64),
                ("done", ctypes.c_int64), ("late", ctypes.c_int64), ("allocations", ctypes.c_int64),
                ("realtime", ctypes.c_int64),
                ("cpu_ns", ctypes.c_void_p)]

run = Run(entry, user.ctypes.data, x.ctypes.data, y.ctypes.data, frames, 2, 2, blocks, 200_000, 0, 0, -1, 0,
          cpu.ctypes.data)
native.allocations_here.restype = ctypes.c_long
before = native.allocations_here()
junk = bytearray(100_000)
counted = native.allocations_here() - before
assert native.start(ctypes.byref(run)) == 0
swapped = 0
while run.done < blocks:  # hostile: never gives the interpreter lock away for long, and makes garbage
    junk = [object() for _ in range(1000)]
    if mode == "swap" and run.done > 100 * (swapped + 1):
        convolver.set_ir(ir * 0.5)
        swapped += 1
native.join()
np.save(sys.argv[3] + "/y.npy", y)
print(json.dumps({"allocations": run.allocations, "counted": counted, "calls": chain.calls, "swapped": swapped,
                  "late": run.late, "cpu_ns": int(np.median(cpu))}))
"""


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux":
        pytest.skip("LD_PRELOAD is Linux's")
    library = tmp_path_factory.mktemp("native") / "native.so"
    command = [
        "g++",
        "-x",
        "c",
        "-O2",
        "-shared",
        "-fPIC",
        str(HERE / "native.c"),
        "-o",
        str(library),
        "-ldl",
        "-lpthread",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return library


@pytest.mark.gxx
@pytest.mark.parametrize("mode", ["chain", "player", "swap"])
def test_nothing_is_allocated_on_the_audio_thread(native: Path, tmp_path: Path, mode: str) -> None:
    from elinvar import audio

    rng = np.random.default_rng(0)
    ir = (rng.standard_normal(5000) * 0.02).astype(np.float32)
    x = rng.uniform(-0.5, 0.5, (600 * 64, 2)).astype(np.float32)
    np.save(tmp_path / "ir.npy", ir)
    np.save(tmp_path / "x.npy", x)
    environment = {**os.environ, "LD_PRELOAD": str(native)}
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(native), mode, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["counted"] > 0  # the counter counts
    assert told["calls"] == 600
    assert told["allocations"] == 0
    y = np.load(tmp_path / "y.npy").T
    if mode == "swap":
        assert told["swapped"] >= 1
        assert np.isfinite(y).all()
        return
    parts = [audio.Biquad.peaking(1000, 1, 6, 48000), audio.Convolver(ir, ladder=(64, 128, 512)), audio.Compressor()]
    chain = audio.Chain([*parts, audio.Gate(), audio.Delay(0.01), audio.Limiter()]).prepare(48000, 64, 2)
    np.testing.assert_array_equal(y, chain.process(np.ascontiguousarray(x.T)))
