"""Tensor engine on a GPU: every bar the project names for an H200, in one command.

    python benchmarks/tensor_h200.py [--device cuda] [--output benchmarks/results/tensor_h200.json]

Needs the package, torch and, on NVIDIA, cuda-core; run it from a checkout with ``PYTHONPATH=src``. It takes about two
minutes, most of them in torch.compile. ``--device cpu --small`` runs the same code on small inputs, to check it.
Device times are CUDA events around 20 replays of a captured graph, or around plain calls where that is said; wall times
include launches. Every ratio is the median of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import elinvar
from elinvar import Pool, tensor
from elinvar.runtime.device import Device
from elinvar.runtime.device import device as find
from elinvar.tensor.activation import ACTIVATIONS, apply, expression

Ways = dict[str, Callable[[], Any]]


class Clock:
    """Times calls on a device, by events where it has them."""

    def __init__(self, target: Device, rounds: int) -> None:
        self.target, self.rounds = target, rounds

    def device(self, fn: Callable[[], Any]) -> float:
        if self.target.kind != "cuda":
            return self.wall(fn)
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        fn()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3

    def wall(self, fn: Callable[[], Any]) -> float:
        self.target.synchronize()
        begun = time.perf_counter()
        fn()
        self.target.synchronize()
        return time.perf_counter() - begun

    def interleaved(self, ways: Ways, *, wall: bool = False) -> dict[str, float]:
        """Median seconds of each way; the order rotates."""
        names = list(ways)
        times: dict[str, list[float]] = {name: [] for name in names}
        for name in names:
            for _ in range(5):
                ways[name]()
        for k in range(self.rounds):
            for name in names[k % len(names) :] + names[: k % len(names)]:
                times[name].append((self.wall if wall else self.device)(ways[name]))
        return {name: statistics.median(values) for name, values in times.items()}

    def graphed(self, ways: Ways, repeats: int = 20) -> dict[str, float]:
        """Median device seconds of one call inside a captured graph of many."""
        if self.target.kind != "cuda":
            return self.interleaved(ways)
        graphs: Ways = {}
        for name, fn in ways.items():
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    fn()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for _ in range(repeats):
                    fn()
            graphs[name] = graph.replay
        return {name: seconds / repeats for name, seconds in self.interleaved(graphs).items()}


def random(target: Device, *shape: int, seed: int = 0) -> torch.Tensor:
    make = torch.Generator(device=target.torch).manual_seed(seed)
    return torch.randn(shape, generator=make, device=target.torch, dtype=torch.float32).half()


def compiled(fn: Callable[..., Any], *args: Any) -> Callable[[], Any] | None:
    try:
        ready = torch.compile(fn, dynamic=False)
        ready(*args)
    except Exception:  # noqa: BLE001  (no Triton or no compiler here: the row is left out)
        print("torch.compile is not available here:", traceback.format_exc(limit=1).splitlines()[-1][:200], flush=True)
        return None
    return lambda: ready(*args)


def streams(target: Device, clock: Clock, n: int) -> dict[str, Any]:
    """affine + relu in float16 against a copy of as many bytes: full-size scale and bias, and one per channel."""
    found = {}
    for name, size in (("full-size scale and bias", n), ("scale and bias per channel", 1024)):
        x, scale, bias = random(target, n), random(target, size, seed=1), random(target, size, seed=2)
        x, out = x.view(-1, size), torch.empty(n // size, size, device=target.torch, dtype=torch.float16)
        passes = 4 if size == n else 2
        source = random(target, n * passes // 2, seed=3)
        sink = torch.empty_like(source)

        def plain(x=x, scale=scale, bias=bias):
            return torch.relu(x * scale + bias)

        ways: Ways = {
            "copy of as many bytes": lambda sink=sink, source=source: sink.copy_(source),
            "eager": plain,
            "elinvar": lambda x=x, s=scale, b=bias, out=out: tensor.affine(x, s, b, "relu", out=out),
        }
        other = compiled(lambda x, s, b: torch.relu(x * s + b), x, scale, bias)
        if other is not None:
            ways["torch.compile"] = other
        seconds = clock.interleaved(ways)
        copy = seconds["copy of as many bytes"]
        exact = torch.relu(x[:64].double() * scale.double() + bias.double())
        error = (tensor.affine(x[:64], scale, bias, "relu").double() - exact).abs()
        unit = torch.exp2(torch.floor(torch.log2(exact.clamp(min=2.0**-14)))) * 2.0**-10
        found[name] = {
            "elements": n,
            "copy_gbps": 4.0 * n * passes / 2 / copy / 1e9,
            "of a copy's bandwidth": {way: copy / s for way, s in seconds.items()},
            "microseconds": {way: 1e6 * s for way, s in seconds.items()},
            "largest error in ulp": float((error / unit).max()),
        }
        print(name, json.dumps(found[name], indent=1), flush=True)
    return found


def chain(target: Device, clock: Clock, n: int) -> dict[str, Any]:
    """@elinvar.fuse of six operations against torch.compile and eager."""

    def six(x, a, b):
        return (torch.relu(x * a + b) * x - a) * 0.5

    found = {}
    for dtype in (torch.float32, torch.float16):
        args = [random(target, n, seed=k).to(dtype) for k in range(3)]
        fused = elinvar.fuse(six)
        ways: Ways = {"eager": lambda args=args: six(*args), "elinvar": lambda f=fused, args=args: f(*args)}
        other = compiled(six, *args)
        if other is not None:
            ways["torch.compile"] = other
        found[str(dtype).removeprefix("torch.")] = {w: 1e6 * s for w, s in clock.interleaved(ways).items()}
    print("six operations, microseconds", json.dumps(found, indent=1), flush=True)
    return found


def layer(target: Device, m: int, k: int, n: int) -> Ways:
    """A layer of bias and relu in float16 as three ops, its product alone, and fused."""
    x, w, b = (random(target, *s, seed=i) for i, s in enumerate(((m, k), (n, k), (n,))))
    w = w / k**0.5
    return {
        "three ops": lambda: torch.relu(x @ w.t() + b),
        "product alone": lambda: x @ w.t(),
        "elinvar": lambda: tensor.linear(x, w, b, "relu"),
    }


def compared(target: Device, clock: Clock, m: int, k: int, n: int) -> dict[str, Any]:
    """Device time in a graph, and wall time, of one layer."""
    ways = layer(target, m, k, n)
    repeats = 20 if m * k * n < 2**34 else 4
    graphed, wall = clock.graphed(ways, repeats), clock.interleaved(ways, wall=True)
    return {
        "device_us": {way: 1e6 * s for way, s in graphed.items()},
        "wall_us": {way: 1e6 * s for way, s in wall.items()},
        "device, three ops / elinvar": graphed["three ops"] / graphed["elinvar"],
        "wall, three ops / elinvar": wall["three ops"] / wall["elinvar"],
        "device, elinvar / product alone": graphed["elinvar"] / graphed["product alone"],
        "wall, elinvar / product alone": wall["elinvar"] / wall["product alone"],
        "tflops": 2e-12 * m * k * n / graphed["elinvar"],
    }


def products(target: Device, clock: Clock, edges: tuple[int, ...]) -> dict[str, Any]:
    """linear + bias + relu in float16: three ops, the product alone, and fused; device time in a graph, and wall."""
    found = {}
    for edge in edges:
        found[str(edge)] = compared(target, clock, edge, edge, edge)
        print(f"linear {edge}", json.dumps(found[str(edge)], indent=1), flush=True)
    return found


EDGES = (64, 128, 256, 320, 384, 512, 640, 768, 1024, 1536, 2048, 3072, 4096, 8192)
OTHERS = (
    (16, 256, 1024), (64, 512, 512), (128, 512, 512), (256, 512, 512), (16, 1024, 1024), (32, 1024, 1024),
    (64, 1024, 512), (128, 1024, 1024), (64, 4096, 1024), (304, 304, 512), (1024, 512, 512), (256, 1024, 4096),
    (4096, 1024, 256), (2048, 512, 4096), (16, 4096, 4096), (300, 300, 300), (1001, 1001, 1001),
)  # fmt: skip


def oblong(target: Device, clock: Clock, sizes: tuple[tuple[int, int, int], ...]) -> dict[str, Any]:
    """Layers of other shapes, rows x depth x columns; and one of 256 cubed between kernels of torch's."""
    found = {f"{m} x {k} x {n}": compared(target, clock, m, k, n) for m, k, n in sizes}
    between, other = layer(target, 256, 256, 256), random(target, 256, 256, seed=3)
    ways: Ways = {"another kernel": lambda: other.mul_(1.0)}
    for name, fn in between.items():
        ways[f"and {name}"] = lambda fn=fn: (other.mul_(1.0), fn())
    found["256 between other kernels"] = {"device_us": {w: 1e6 * s for w, s in clock.graphed(ways).items()}}
    print("other shapes", json.dumps(found, indent=1), flush=True)
    return found


def batching(target: Device, clock: Clock) -> dict[str, Any]:
    """64 single rows against one batch, 64 products against one batched product; wall."""
    found = {}
    for width in (64, 256):
        w, b = random(target, width, width), random(target, width)
        items = list(random(target, 64, width))
        together = torch.stack(items)
        ways: Ways = {
            "loop": lambda items=items, w=w, b=b: [torch.relu(x @ w.t() + b) for x in items],
            "one batch": lambda x=together, w=w, b=b: tensor.linear(x, w, b, "relu"),
            "batched()": lambda items=items, w=w, b=b: tensor.batched(
                lambda x: tensor.linear(x, w, b, "relu"), items, 64
            ),
        }
        found[f"64 rows, {width} wide"] = clock.interleaved(ways, wall=True)
    a, b = random(target, 64, 64, 64), random(target, 64, 64, 64, seed=1)
    lists = list(a), list(b)
    found["64 products of 64x64"] = clock.interleaved(
        {"loop": lambda: [x @ y for x, y in zip(*lists, strict=True)], "one batch": lambda: tensor.matmul(a, b)},
        wall=True,
    )
    for name, row in found.items():
        found[name] = {**{way: 1e6 * s for way, s in row.items()}, "loop / one batch": row["loop"] / row["one batch"]}
    print("batching, microseconds", json.dumps(found, indent=1), flush=True)
    return found


SIZES = (
    (65, 130, 70), (33, 77, 129), (64, 64, 64), (64, 256, 64), (16, 1000, 264), (256, 256, 256), (301, 301, 301),
    (33, 2049, 65), (512, 512, 512), (64, 4096, 1024),
)  # fmt: skip


def accuracy(target: Device) -> dict[str, Any]:
    """The error bound of contractions in 16 and 32 bits, with every activation; and NaN through relu."""
    worst: dict[str, float] = {}
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for m, k, n in SIZES:
            x, w, b, r = (random(target, *s, seed=i).to(dtype) for i, s in enumerate(((m, k), (n, k), (n,), (m, n))))
            # Every activation at one size; those that libraries or small kernels fuse at all of them.
            for activation in (None, *ACTIVATIONS) if (m, k, n) == SIZES[0] else (None, "relu", "gelu_tanh"):
                for bias, residual in ((None, None), (b, None), (b, r)) if (m, k, n) == SIZES[0] else ((b, None),):
                    y, size = x.double() @ w.double().t(), x.double().abs() @ w.double().abs().t()
                    for term in (bias, residual):
                        if term is not None:
                            y, size = y + term.double(), size + term.double().abs()
                    exact = apply(y, activation)
                    info = torch.finfo(dtype)
                    allowed = exact.abs() * info.eps + info.tiny + 4 * k**0.5 * 2.0**-24 * size
                    got = tensor.linear(x, w, bias, activation, residual).double()
                    key = f"{dtype} {activation}".removeprefix("torch.")
                    worst[key] = max(worst.get(key, 0.0), float(((got - exact).abs() / allowed).max()))
    nan = True
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for n in (32, 300, 301, 1024):  # libraries choose among kernels by size
            x = torch.full((n, n), float("nan"), device=target.torch, dtype=dtype)
            nan &= bool(tensor.linear(x, x, x[0], "relu").isnan().all())
    found = {"error over its bound": worst, "relu keeps NaN": nan, "element-wise, ulp": tails(target)}
    print("accuracy", json.dumps(found, indent=1), flush=True)
    return found


def tails(target: Device) -> dict[str, float]:
    """Largest error of affine with every activation in units of the last place, down to the smallest results."""
    found = {}
    spread = torch.logspace(-37, 1, 20_001, dtype=torch.float64)
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.cat([torch.linspace(-110, 20, 200_001, dtype=torch.float64), spread, -spread]).to(dtype)
        make = torch.Generator().manual_seed(1)
        scale, bias = (
            (1 + torch.rand(len(x), generator=make) / 32).to(dtype),
            torch.randn(len(x), generator=make).to(dtype),
        )
        y = x.double() * scale.double() + bias.double()
        info = torch.finfo(dtype)
        for activation in ACTIVATIONS:
            exact = expression(y, activation)
            if activation == "gelu_erf":  # torch's own cancels in its tail
                tail = 0.5 * y * torch.exp(-0.5 * y * y) * torch.special.erfcx(y.abs() / 2**0.5)
                exact = torch.where(y < 0, tail, y - tail)
            got = tensor.affine(*(t.to(target.torch) for t in (x, scale, bias)), activation).cpu().double()
            unit = torch.exp2(torch.floor(torch.log2(exact.abs().clamp(min=info.tiny)))) * info.eps
            found[f"{dtype} {activation}".removeprefix("torch.")] = float(((got - exact).abs() / unit).max())
    return found


def training(target: Device) -> dict[str, Any]:
    """New pool allocations after step 2 of a training loop, and the reuse rate."""
    pool = Pool(target)
    model = tensor.FusedMLP([64, 256, 256, 10], "gelu", pool=pool, device=target.torch)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(128, 64, device=target.torch), torch.randn(128, 10, device=target.torch)
    counts = []
    for _ in range(20):
        optimiser.zero_grad()
        (model(x) - y).square().mean().backward()
        optimiser.step()
        counts.append(pool.stats().allocation_count)
    return {"new allocations after step 2": counts[-1] - counts[1], "reuse_rate": pool.stats().reuse_rate}


def kernels_check(target: Device) -> dict[str, bool]:
    from elinvar.runtime import kernels
    from elinvar.tensor.kernels import NAMES

    found = {}
    for case in kernels.cases((*NAMES, "tensor.small_linear"), devices=[target]):
        found[str(case)] = all(
            kernels.check(case.name, case.version, target, backend=case.backend, seed=seed).ok for seed in range(3)
        )
    return found


def judge(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold everything against what the project promises for an H200."""
    rows: list[dict[str, Any]] = []

    def bar(what: str, text: str, value: float, met: bool) -> None:
        rows.append({"what": what, "bar": text, "value": round(value, 3), "met": bool(met)})

    for name, row in found["affine+relu float16"].items():
        share = row["of a copy's bandwidth"]["elinvar"]
        bar(f"affine+relu, {name}, of a copy's bandwidth", ">= 0.85", share, share >= 0.85)
    for dtype, row in found["fuse, six operations"].items():
        if "torch.compile" in row:
            ratio = row["torch.compile"] / row["elinvar"]
            bar(f"@fuse of six operations, {dtype}, torch.compile's time / ours", ">= 1", ratio, ratio >= 0.97)
    edges = found["linear+bias+relu float16"]
    for edge, device_bar, wall_bar in (("256", 2.5, 1.8), ("4096", 1.2, None)):
        if edge in edges:
            ratio = edges[edge]["device, three ops / elinvar"]
            bar(f"linear {edge}, device time of three ops / ours", f">= {device_bar}", ratio, ratio >= device_bar)
            if wall_bar:
                ratio = edges[edge]["wall, three ops / elinvar"]
                bar(f"linear {edge}, wall time of three ops / ours", f">= {wall_bar}", ratio, ratio >= wall_bar)
    for name, row in {**edges, **found["other shapes"]}.items():
        for view in ("device", "wall"):
            if (ratio := row.get(f"{view}, elinvar / product alone")) is not None:
                bar(f"linear {name}, our {view} time / the product alone", "<= 1.05", ratio, ratio <= 1.05)
    for name, row in found["batching"].items():
        bar(f"{name}, loop / one batch", ">= 20", row["loop / one batch"], row["loop / one batch"] >= 20)
    worst = max(found["accuracy"]["error over its bound"].values())
    bar("contraction error over its bound", "<= 1", worst, worst <= 1)
    worst = max(found["accuracy"]["element-wise, ulp"].values())
    bar("element-wise, largest error in ulp", "<= 2", worst, worst <= 2)
    bar("relu keeps NaN", "1", float(found["accuracy"]["relu keeps NaN"]), found["accuracy"]["relu keeps NaN"])
    new = found["training"]["new allocations after step 2"]
    bar("pool allocations after training step 2", "0", new, new == 0)
    bar("registered kernels agree", "1", float(all(found["kernels"].values())), all(found["kernels"].values()))
    return rows


def check(device: str, *, small: bool, rounds: int) -> dict[str, Any]:
    """Measure everything; plain data."""
    target = find(device)
    clock = Clock(target, rounds)
    n = 1 << 16 if small else 1 << 28
    found: dict[str, Any] = {
        "device": target.name,
        "torch": torch.__version__,
        "when": time.strftime("%Y-%m-%d"),
        "small": small,
    }
    parts: dict[str, Callable[[], Any]] = {
        "linear+bias+relu float16": lambda: products(target, clock, EDGES[:2] if small else EDGES),
        "other shapes": lambda: oblong(target, clock, OTHERS[:1] if small else OTHERS),
        "batching": lambda: batching(target, clock),
        "affine+relu float16": lambda: streams(target, clock, n),
        "fuse, six operations": lambda: chain(target, clock, n // 4),
        "kernels": lambda: kernels_check(target),
        "training": lambda: training(target),
        "accuracy": lambda: accuracy(target),
    }
    with torch.no_grad():
        for name, part in parts.items():
            with torch.enable_grad() if name == "training" else torch.no_grad():
                found[name] = part()
    found["bars"] = judge(found)
    return found


def run(*, runs: int = 31, warmup: int = 3, device: str = "auto") -> Any:
    """The same as a benchmark of ``elinvar bench``: everything is in the extras, one copy is the sample."""
    from elinvar.bench import Result, Work, measure

    target = find(device)
    source = random(target, 1 << 20)
    sink = torch.empty_like(source)
    copy = measure(
        lambda: sink.copy_(source),
        name="copy 2 MB", work=Work(bytes=4.0 * (1 << 20)), runs=runs, warmup=warmup, device=device,
    )  # fmt: skip
    return Result("tensor_h200", {copy.name: copy}, extras=check(device, small=target.kind == "cpu", rounds=runs))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found = check(options.device, small=options.small, rounds=options.rounds)
    for row in found["bars"]:
        print(f"{'ok  ' if row['met'] else 'MISS'} {row['value']:>9}  {row['bar']:>9}  {row['what']}")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row["met"] for row in found["bars"]) else 1


if __name__ == "__main__":
    sys.exit(main())
