"""@elinvar.fuse of a 6-op chain against the hand-written kernel, torch.compile and eager torch, one thread.

The chain is ``(relu(x * a + b) * x - a) * 0.5``, four streams of memory; "heavy" adds an exponential and a division per
element. The hand-written kernels are plain numba loops over raw addresses.
torch.compile needs a C++ compiler and is left out without one.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from numba import carray, njit

import elinvar
from elinvar.bench import Case, Result, Work, compare, interleave
from elinvar.metal.fuse.cpu_math import float32_at, sigmoid_f4
from elinvar.tensor import measure

COUNTS = (10_000, 1_000_000, 1 << 24)


def chain(x, a, b):
    return (torch.relu(x * a + b) * x - a) * 0.5


def heavy(x, a, b):
    return (torch.sigmoid(x * a + b) * x - a) * 0.5


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def hand_chain(n, px, pa, pb, po):
    x, a = carray(float32_at(px), (n,)), carray(float32_at(pa), (n,))
    b, o = carray(float32_at(pb), (n,)), carray(float32_at(po), (n,))
    for i in range(n):
        y = x[i] * a[i] + b[i]
        y = y if (y > np.float32(0.0) or y != y) else np.float32(0.0)
        o[i] = (y * x[i] - a[i]) * np.float32(0.5)


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def hand_heavy(n, px, pa, pb, po):
    x, a = carray(float32_at(px), (n,)), carray(float32_at(pa), (n,))
    b, o = carray(float32_at(pb), (n,)), carray(float32_at(po), (n,))
    for i in range(n):
        o[i] = (sigmoid_f4(x[i] * a[i] + b[i]) * x[i] - a[i]) * np.float32(0.5)


def ways(name: str, n: int):
    plain, by_hand = {"chain": (chain, hand_chain), "heavy": (heavy, hand_heavy)}[name]
    x, a, b = (measure.random(n, k)[:, 0].contiguous() for k in (1, 2, 3))
    out = torch.empty(n)
    fused = elinvar.fuse(plain)
    found = {
        "eager": lambda: plain(x, a, b),
        "hand-written": lambda: by_hand(n, x.data_ptr(), a.data_ptr(), b.data_ptr(), out.data_ptr()),
        "fuse": lambda: fused(x, a, b, out=out),
    }
    if shutil.which("g++"):
        compiled = torch.compile(lambda x, a, b, out: out.copy_(plain(x, a, b)), dynamic=False)
        found["torch.compile"] = lambda: compiled(x, a, b, out)
    for way in found.values():
        way()
    assert torch.allclose(out, plain(x, a, b), atol=1e-5)
    return {f"{name} {n:,}: {key}": way for key, way in found.items()}


def ci_cases() -> dict[str, Case]:
    return {f"fuse: {key}": Case(way) for key, way in ways("chain", 1_000_000).items() if key.endswith(": fuse")}


def run(*, runs: int = 31, warmup: int = 3) -> Result:
    samples, verdicts = {}, {}
    with measure.one_thread(), torch.no_grad():
        for name in ("chain", "heavy"):
            for n in COUNTS:
                title = f"{name} {n:,}"
                work = Work(bytes=16.0 * n, flops=6.0 * n)
                found = interleave(ways(name, n), runs=runs, warmup=warmup, work=work, clock="thread_cpu", inner="auto")
                mine = found[f"{title}: fuse"]
                for other in ("hand-written", "torch.compile", "eager"):
                    if f"{title}: {other}" in found:
                        verdict = compare(found[f"{title}: {other}"], mine)
                        verdicts[f"{title}: fuse / {other}"] = {"ratio": verdict.ratio, "verdict": verdict.word}
                samples |= found
    return Result("tensor_fuse", samples, extras={"time ratios": verdicts, "threads": 1})


if __name__ == "__main__":
    result = run(runs=21)
    for name, row in result.extras["time ratios"].items():
        print(f"{row['ratio']:.3f}  {row['verdict']:>12}  {name}")
    if len(sys.argv) > 1:
        result.write(Path(sys.argv[1]))
