"""The kernel tensor.small_gemm against the libraries torch calls: float32, relu(x @ w.T + b), one thread.

Rows: the kernel with weights as a linear layer keeps them (n, k) and as a plain product has them (k, n), torch's BLAS
(``_addmm_activation``), and oneDNN. The kernel is used where it beats both.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from elinvar.bench import Case, Result, Work, compare, interleave
from elinvar.tensor import gemm, measure
from elinvar.tensor.kernels.small_gemm import run as small
from elinvar.tensor.kernels.small_gemm.cpu import INSTRUCTIONS

EDGES = (16, 32, 64, 96, 128, 160, 192, 256)


def ways(edge: int):
    x, w, b = measure.random(edge, edge), measure.random(edge, edge) / edge**0.5, measure.random(edge)
    across = w.t().contiguous().t()
    found = {
        f"{edge}: kernel, (n, k)": lambda: small(x, w, b, relu=True),
        f"{edge}: kernel, (k, n)": lambda: small(x, across, b, relu=True),
        f"{edge}: torch": lambda: torch._addmm_activation(b, x, w.t()),
    }
    if gemm._pointwise is not None:
        found[f"{edge}: oneDNN"] = lambda: gemm._pointwise.default(x, w, b, "none", [], "").relu_()
    return found


def ci_cases() -> dict[str, Case]:
    return {"tensor.small_gemm 64": Case(ways(64)["64: kernel, (n, k)"], Work(flops=2.0 * 64**3))}


def run(*, runs: int = 31, warmup: int = 3) -> Result:
    samples, ratios = {}, {}
    with measure.one_thread(), torch.no_grad():
        for edge in EDGES:
            work = Work(flops=2.0 * edge**3, bytes=12.0 * edge**2)
            found = interleave(ways(edge), runs=runs, warmup=warmup, work=work, clock="thread_cpu", inner="auto")
            mine = found[f"{edge}: kernel, (n, k)"]
            others = {
                name.partition(": ")[2]: compare(mine, row) for name, row in found.items() if "kernel" not in name
            }
            ratios[str(edge)] = {name: {"ratio": v.ratio, "verdict": v.word} for name, v in others.items()}
            samples |= found
    return Result("tensor_small_gemm", samples, extras={"ratios": ratios, "instructions": INSTRUCTIONS})


if __name__ == "__main__":
    result = run(runs=21)
    for edge, row in result.extras["ratios"].items():
        print(edge, {name: f"{v['ratio']:.2f}x {v['verdict']}" for name, v in row.items()})
    if len(sys.argv) > 1:
        result.write(Path(sys.argv[1]))
