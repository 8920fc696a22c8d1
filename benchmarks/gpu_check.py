"""Every Metal feature with a known answer on the GPU, every registered kernel against float64, launch cost, copy rate.

    python benchmarks/gpu_check.py --output gpu_check.json [--device cuda] [--only TEXT]

Takes well under a minute on an H200. Exits with 1 when anything differs. Needs nothing but the package, torch and, on
NVIDIA, cuda-core; run it from a checkout with ``PYTHONPATH=src``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import elinvar
from elinvar import metal
from elinvar.errors import DeviceLost
from elinvar.runtime.device import Device
from elinvar.runtime.device import device as find
from elinvar.testing.metal_cases import CASES, verify

COPY = """#include <metal_stdlib>
using namespace metal;
kernel void copy4(device const float4* x [[buffer(0)]], device float4* y [[buffer(1)]],
    uint i [[thread_position_in_grid]])
{
    y[i] = x[i];
}
kernel void copy1(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
    uint i [[thread_position_in_grid]])
{
    y[i] = x[i];
}
kernel void half_affine(device const half4* x [[buffer(0)]], device half4* y [[buffer(1)]],
    constant float& scale [[buffer(2)]], constant float& shift [[buffer(3)]], uint i [[thread_position_in_grid]])
{
    y[i] = half4(fma(float4(x[i]), float4(scale), float4(shift)));
}
"""


def versions(target: Device) -> dict[str, Any]:
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": target.name,
        "when": time.strftime("%Y-%m-%d"),
    }
    if target.kind == "cuda":
        from elinvar.metal import cudacore, nvrtc

        core = cudacore.api()
        found["cuda_core"] = str(getattr(core, "__version__", "?"))
        found["nvrtc"] = ".".join(map(str, nvrtc.library_version()))
        found["torch_cuda"] = torch.version.cuda
    return found


def features(target: Device, only: str) -> dict[str, dict[str, Any]]:
    """Run every case; a wrong one does not stop the others, a lost device does."""
    rows: dict[str, dict[str, Any]] = {}
    for name, case in CASES.items():
        if only not in name:
            continue
        started = time.perf_counter()
        try:
            rows[name] = {"ok": True, "error": verify(case, target)}
        except DeviceLost:
            raise
        except Exception as error:
            rows[name] = {"ok": False, "why": f"{type(error).__name__}: {error}"[:2000]}
            if "illegal" in str(error).lower():
                raise
        rows[name]["seconds"] = round(time.perf_counter() - started, 3)
        print(f"{'ok  ' if rows[name]['ok'] else 'BAD '} {name}  {rows[name].get('why', '')}", flush=True)
    return rows


def registered(target: Device, only: str) -> dict[str, dict[str, Any]]:
    """Check every kernel that has Metal source against its reference in float64."""
    from elinvar.runtime import kernels

    rows: dict[str, dict[str, Any]] = {}
    for case in kernels.cases(devices=[target]):
        if only not in str(case):
            continue
        for seed in range(3):
            key = f"{case} seed {seed}"
            try:
                report = kernels.check(case.name, case.version, target, backend=case.backend, seed=seed)
                rows[key] = {"ok": report.ok, "error": report.error, "tolerance": report.tolerance}
            except Exception as error:  # noqa: BLE001  (one kernel's failure must not hide the others')
                rows[key] = {"ok": False, "why": traceback.format_exc()[-1500:], "error": str(error)[:200]}
            print(f"{'ok  ' if rows[key]['ok'] else 'BAD '} {key}  {rows[key].get('error')}", flush=True)
    return rows


def _gpu_seconds(call: Callable[[], Any], target: Device, runs: int = 15, inner: int = 1) -> float:
    """Median device time of a call, of `inner` one after the other; wall time where there are no CUDA events."""
    times: list[float] = []
    for _ in range(3):
        call()
    for _ in range(runs):
        target.synchronize()
        if target.kind == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(inner):
                call()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop) / 1e3 / inner)
        else:
            begun = time.perf_counter()
            call()
            target.synchronize()
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def bandwidth(target: Device) -> dict[str, float]:
    """GB/s, reads plus writes, of copies far larger than any cache, and of a half affine map."""
    n = 2**28 if target.kind == "cuda" else 2**22
    library = metal.compile(COPY, target)
    x = torch.rand(n, device=target.torch)
    y = torch.empty_like(x)
    h = torch.rand(n, device=target.torch).half()
    g = torch.empty_like(h)
    calls: dict[str, tuple[Callable[[], Any], float]] = {
        "torch copy_": (lambda: y.copy_(x), 8.0 * n),
        "metal float": (lambda: library.copy1(x, y, threads=n), 8.0 * n),
        "metal float4": (lambda: library.copy4(x, y, threads=n // 4), 8.0 * n),
        "metal half4 affine": (lambda: library.half_affine(h, g, 2.0, 0.5, threads=n // 4), 4.0 * n),
        "torch half affine, two passes": (lambda: torch.add(h * 2.0, 0.5, out=g), 4.0 * n),
    }
    found = {name: round(size / _gpu_seconds(call, target) / 1e9, 1) for name, (call, size) in calls.items()}
    library.copy4(x, y, threads=n // 4)
    found["copy is exact"] = float(torch.equal(x, y))
    return found


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + 1e-5) * weight + bias


def fused(target: Device) -> dict[str, dict[str, float]]:
    """Microseconds of fused functions, of torch's own and of a copy of the data; eight calls one after the other."""
    found: dict[str, dict[str, float]] = {}
    scale = 1 if target.kind == "cuda" else 1 << 12
    with torch.no_grad():
        for dtype in (torch.float16, torch.float32):
            for rows, columns in ((1 << 22, 16), (1 << 20, 64), (1 << 16, 1024), (1 << 12, 1 << 14)):
                x = torch.randn(max(rows // scale, 4), columns, device=target.torch).to(dtype)
                weight, bias = (torch.randn(columns, device=target.torch).to(dtype) for _ in range(2))
                y, shape = torch.empty_like(x), (columns,)
                norm, soft = elinvar.fuse(layer_norm, like=0), elinvar.fuse(lambda x: torch.softmax(x, -1))
                affine = elinvar.fuse(lambda x, w, b: torch.relu(x * w + b))
                calls: dict[str, Callable[[], Any]] = {
                    "copy": lambda x=x, y=y: y.copy_(x),
                    "affine, fused": lambda f=affine, x=x, w=weight, b=bias, y=y: f(x, w, b, out=y),
                    "layer norm, torch": lambda x=x, w=weight, b=bias, s=shape: functional.layer_norm(x, s, w, b),
                    "layer norm, fused": lambda f=norm, x=x, w=weight, b=bias: f(x, w, b),
                    "softmax, torch": lambda x=x: torch.softmax(x, -1),
                    "softmax, fused": lambda f=soft, x=x: f(x),
                }
                title = f"{x.shape[0]} x {columns} {str(dtype).removeprefix('torch.')}"
                found[title] = {n: round(1e6 * _gpu_seconds(c, target, 7, 8), 1) for n, c in calls.items()}
    return found


def launches(target: Device, runs: int) -> dict[str, float]:
    """Microseconds per launch: the medians of ``elinvar bench launch``, or a plain loop where psutil is missing."""
    from elinvar.bench import launch

    try:
        micro: dict[str, float] = launch.run(runs=runs, warmup=3, device=str(target)).extras["us"]
    except ImportError as error:
        print(f"no elinvar.bench here ({error}); a plain loop instead", flush=True)
        call = launch._metal(target)
        micro = {"metal asynchronous": 1e6 * _loop(call, target, 1000, each=False)}
        micro["metal synchronous"] = 1e6 * _loop(call, target, 1000, each=True)
        if target.kind == "cuda":
            micro["metal graph"] = 1e6 * _loop(launch._graph(target, call), target, 100, each=False) / 100
    return micro


def _loop(call: Callable[[], Any], target: Device, count: int, *, each: bool) -> float:
    call()
    target.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        call()
        if each:
            target.synchronize()
    target.synchronize()
    return (time.perf_counter() - started) / count


def check(device: str = "auto", *, runs: int = 31, only: str = "") -> dict[str, Any]:
    """Run everything and return plain data; ``ok`` is the verdict."""
    target = find(device)
    found: dict[str, Any] = {"versions": versions(target)}
    print(json.dumps(found["versions"]), flush=True)
    found["features"] = features(target, only)
    found["kernels"] = registered(target, only)
    for name, measure in (
        ("bandwidth_gbps", lambda: bandwidth(target)),
        ("fused_us", lambda: fused(target)),
        ("launch_us", lambda: launches(target, runs)),
    ):
        try:
            found[name] = measure()
        except Exception:  # noqa: BLE001
            found[name] = {"failed": traceback.format_exc()[-1500:]}
        print(name, json.dumps(found[name], indent=1), flush=True)
    rows = [*found["features"].values(), *found["kernels"].values()]
    found["ok"] = all(row["ok"] for row in rows) and "failed" not in found["launch_us"]
    found["passed"], found["total"] = sum(row["ok"] for row in rows), len(rows)
    return found


def run(*, runs: int = 31, warmup: int = 3) -> Any:
    """The same as a benchmark of ``elinvar bench``: launch times as samples, the rest as extras."""
    from elinvar.bench import Result, launch

    found = check(runs=max(6, runs // 4))
    return Result("gpu_check", launch.run(runs=runs, warmup=warmup).samples, extras=found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--only", default="", help="cases and kernels whose name contains this")
    options = parser.parse_args()
    found = check(options.device, runs=options.runs, only=options.only)
    print(f"{found['passed']} of {found['total']} passed")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
