"""What `elinvar bench tensor` and the tour measure: the same functions fused and unfused, batches, pool statistics."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from elinvar.bench import Work
from elinvar.runtime.device import device as find_device
from elinvar.runtime.memory import Pool
from elinvar.runtime.parallel import set_threads
from elinvar.runtime.tuning import save_tuned
from elinvar.tensor.dense import linear, matmul
from elinvar.tensor.elementwise import add_relu, affine, mul_relu
from elinvar.tensor.nn import FusedMLP
from elinvar.tensor.norms import layer_norm

if TYPE_CHECKING:
    from elinvar.runtime.device import Device

__all__ = [
    "BATCHES",
    "affine_ways",
    "batch_operations",
    "batch_sweep",
    "efficient_sizes",
    "elementwise_ways",
    "linear_ways",
    "one_thread",
    "pool_rates",
    "random",
    "save_sizes",
    "tuned_batches",
]

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_Ways = dict[str, Callable[[], object]]


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch and elinvar on one thread, so that CPU time is the time."""
    before, ours = torch.get_num_threads(), set_threads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        set_threads(ours)


def random(*shape: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random numbers, not zeros or ones, which are measurably faster to compute with."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(device, dtype)


def linear_ways(
    edge: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[_Ways, Work]:
    """``relu(x @ w.T + b)`` of square matrices in three ops with fresh and with given memory, and fused."""
    x, w, b = (random(*s, device=device, dtype=dtype) for s in ((edge, edge), (edge, edge), (edge,)))
    w /= edge**0.5
    out = torch.empty_like(x)
    size = torch.finfo(dtype).bits // 8
    work = Work(flops=2.0 * edge**3, bytes=3.0 * edge**2 * size, dtype="fp32" if size == 4 else "bf16")
    return {
        "unfused, allocating": lambda: torch.relu(x @ w.t() + b),
        "unfused, pooled": lambda: torch.mm(x, w.t(), out=out).add_(b).relu_(),
        "fused": lambda: linear(x, w, b, "relu"),
    }, work


def elementwise_ways(
    operation: str, n: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[_Ways, Work]:
    """``relu(a op b)`` of n elements in two ops with fresh and with given memory, and fused into given memory."""
    a, b = random(n, device=device, dtype=dtype), random(n, 1, device=device, dtype=dtype).view(n)
    out = torch.empty_like(a)
    plain: Callable[..., torch.Tensor] = torch.add if operation == "add" else torch.mul
    fused = add_relu if operation == "add" else mul_relu
    return {
        "unfused, allocating": lambda: torch.relu(plain(a, b)),
        "unfused, pooled": lambda: plain(a, b, out=out).relu_(),
        "fused, pooled": lambda: fused(a, b, out=out),
    }, Work(bytes=3.0 * n * a.element_size(), flops=2.0 * n)


def affine_ways(n: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[_Ways, Work]:
    """``relu(x * scale + bias)`` with full-size scale and bias: four streams; and a copy of as many bytes."""
    x, scale, bias = (random(n, k, device=device, dtype=dtype)[:, 0].contiguous() for k in (1, 2, 3))
    out = torch.empty_like(x)
    source = torch.empty(2 * n, device=device, dtype=dtype).normal_()
    sink = torch.empty_like(source)
    return {
        "copy of as many bytes": lambda: sink.copy_(source),
        "unfused, allocating": lambda: torch.relu(x * scale + bias),
        "unfused, pooled": lambda: torch.mul(x, scale, out=out).add_(bias).relu_(),
        "fused, pooled": lambda: affine(x, scale, bias, "relu", out=out),
    }, Work(bytes=4.0 * n * x.element_size(), flops=3.0 * n)


def batch_operations(width: int, device: torch.device) -> dict[str, tuple[tuple[int, ...], Callable[..., object]]]:
    """Operations whose batches are measured: one item's shape, and the function of a batch of them."""
    w, b = random(width, width, device=device), random(width, device=device)
    right = random(64, 64, device=device)
    return {
        "linear": ((width,), lambda x: linear(x, w, b, "relu")),
        "matmul": ((64, 64), lambda x: matmul(x, right, activation="relu")),
        "layer_norm": ((width,), lambda x: layer_norm(x, width, b, b)),
        "affine": ((width,), lambda x: affine(x, b, 1.0, "relu")),
    }


def batch_sweep(
    width: int, batches: Sequence[int], device: str | Device = "cpu", *, runs: int = 5, operation: str = "linear"
) -> list[dict[str, float]]:
    """Rows (or matrices) per second through one operation by the rows in a call: medians of `runs` rounds."""
    target = find_device(device)
    shape, run = batch_operations(width, target.torch)[operation]
    inputs = {n: random(n, *shape, device=target.torch) for n in batches}
    times: dict[int, list[float]] = {n: [] for n in batches}
    clock = time.thread_time if target.kind == "cpu" else time.perf_counter
    per_call = 4096 if operation != "matmul" else 256
    with torch.no_grad():
        for _ in range(runs + 1):
            for n, x in inputs.items():
                inner = max(1, per_call // n)
                target.synchronize()
                started = clock()
                for _ in range(inner):
                    run(x)
                target.synchronize()
                times[n].append((clock() - started) / inner)
    return [
        {"rows": n, "seconds": statistics.median(spent[1:]), "rows_per_second": n / statistics.median(spent[1:])}
        for n, spent in times.items()
    ]


def tuned_batches(device: Device) -> dict[str, list[int]]:
    """Measure (smallest efficient, best) batch of every operation: what ``elinvar tune`` stores.

    On a CPU this is the CPU time of one thread, whatever the number that will run.
    """
    found = {}
    with one_thread() if device.kind == "cpu" else nullcontext():
        for operation in batch_operations(8, device.torch):
            sweep = batch_sweep(256, BATCHES, device, runs=3, operation=operation)
            found[f"tensor.batch.{operation}"] = list(efficient_sizes(sweep))
    return found


def efficient_sizes(sweep: Sequence[dict[str, float]]) -> tuple[int, int]:
    """Return the smallest batch that reaches half of the best rate, and the smallest that reaches 90 % of it."""
    best = max(row["rows_per_second"] for row in sweep)
    ordered = sorted(sweep, key=lambda row: row["rows"])
    found = [int(next(r["rows"] for r in ordered if r["rows_per_second"] >= share * best)) for share in (0.5, 0.9)]
    return found[0], found[1]


def save_sizes(operation: str, device: str | Device, sizes: tuple[int, int]) -> None:
    """Store measured sizes where `elinvar.tensor.batch_sizes` looks for them."""
    save_tuned(find_device(device).profile, f"option.tensor.batch.{operation}", list(sizes))


def pool_rates(steps: int = 50, device: str | Device = "cpu") -> dict[str, dict[str, Any]]:
    """Pool statistics of a training loop's workspaces, of batch inference, and of one-off use."""
    target = find_device(device)
    found = {}
    pool = Pool(target)
    model = FusedMLP([64, 256, 256, 10], "gelu", pool=pool, device=target.torch)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = random(128, 64, device=target.torch), random(128, 10, device=target.torch)
    after = []
    for _ in range(steps):
        optimiser.zero_grad()
        (model(x) - y).square().mean().backward()
        optimiser.step()
        after.append(pool.stats().allocation_count)
    found["training workspaces"] = {**_rates(pool), "new allocations after step 2": after[-1] - after[1]}
    pool = Pool(target)
    for layer in model:
        layer.pool = pool  # type: ignore[assignment]
    with torch.no_grad():
        for rows in (128,) * 8 + (96,) + (128,) * 8 + (64,):  # batches of a real stream differ in size
            with pool.frame():
                model(random(rows, 64, device=target.torch))
        found["batch inference"] = _rates(pool)
        pool = Pool(target)
        for edge in (10, 100, 1000):
            with pool.frame():
                add_relu(random(edge, device=target.torch), 1.0, pool=pool)
        found["one-off"] = _rates(pool)
    return found


def _rates(pool: Pool) -> dict[str, Any]:
    now = pool.stats()
    return {"reuse_rate": now.reuse_rate, "requests": now.requests, "allocations": now.allocation_count}
