"""``elinvar tune``: measure this machine and keep what the planner should know about it.

Stored per device, in the cache folder: copy bandwidth, matrix-product rates, how fast jobs go, for accelerators the
sizes from which moving an operation's data there pays, the smallest efficient and the best batch for
`elinvar.tensor.batched`, and settings of kernels that were fastest. Until then documented defaults apply
(`elinvar.runtime.tuning`). Which version of a kernel is fastest is not measured here: a self-check tile is too small to
say.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elinvar.cli.common import emit, progress, si, table

if TYPE_CHECKING:
    import torch

    from elinvar.runtime.device import Device

__all__ = ["JOBS", "SETTINGS", "Operation", "Tuning", "app", "measure_crossover", "operations", "tune_device"]

app = typer.Typer(add_completion=False)

#: Job -> where its engine measures how fast it goes on a device: ``function(device) -> units per second``.
JOBS = {"seismic.migrate": "elinvar.seismic.versions:tuned_rate"}

#: Where engines measure settings of their own: ``function(device) -> values by their names``.
SETTINGS = ("elinvar.tensor.measure:tuned_batches",)

_REPEATS = 5
_SLOW = 0.5  # seconds: one call this long needs no repeats, and larger sizes no measurement


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation whose placement is measured.

    Attributes
    ----------
    run
        What it computes from its inputs.
    shapes
        The inputs' shapes for one edge length.
    edges
        The edge lengths to measure, rising.
    size
        `elinvar.runtime.placement`'s size of an edge.
    """

    run: Callable[..., torch.Tensor]
    shapes: Callable[[int], tuple[tuple[int, ...], ...]]
    edges: Sequence[int]
    size: Callable[[int], int]


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What was found out about one device; infinite crossovers mean that moving never pays."""

    device: str
    name: str
    copy_gbps: float
    matmul_gflops: Mapping[str, float]
    crossovers: Mapping[str, float]
    rates: Mapping[str, float]
    settings: Mapping[str, Any]
    file: str


def operations() -> dict[str, Operation]:
    """Return the operations whose crossovers are measured, by the names that `placement` knows."""
    import torch

    powers = [2**n for n in range(12, 25, 2)]
    flat: dict[str, Any] = {"shapes": lambda n: ((n,),), "edges": powers, "size": int}
    square = {"shapes": lambda n: ((n, n), (n, n)), "edges": [64, 128, 256, 512, 1024, 2048], "size": lambda n: n**3}
    return {
        "matmul": Operation(run=torch.matmul, **square),  # type: ignore[arg-type]
        "fft": Operation(run=torch.fft.rfft, **flat),
        "sort": Operation(run=lambda x: torch.sort(x).values, **flat),
        "elementwise": Operation(run=torch.tanh, **flat),
        "reduction": Operation(run=torch.sum, **flat),
    }


def _seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the median time of a call that is known to be warm."""
    times: list[float] = []
    while len(times) < _REPEATS and sum(times) < _SLOW:
        start = clock()
        call()
        times.append(clock() - start)
    return statistics.median(times)


def measure_crossover(
    operation: Operation, target: torch.device, *, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the size from which computing on `target` beats the CPU for data that live on the CPU, copies included."""
    import torch

    from elinvar.runtime.placement import crossover

    sizes: list[float] = []
    here: list[float] = []
    there: list[float] = []
    for edge in operation.edges:
        inputs = [torch.randn(shape) for shape in operation.shapes(edge)]

        def on_cpu(inputs: list[torch.Tensor] = inputs) -> object:
            return operation.run(*inputs)

        def on_target(inputs: list[torch.Tensor] = inputs) -> object:
            return operation.run(*(item.to(target) for item in inputs)).cpu()  # .cpu() waits

        on_cpu(), on_target()
        sizes.append(float(operation.size(edge)))
        here.append(max(_seconds(on_cpu, clock), 1e-9))
        there.append(max(_seconds(on_target, clock), 1e-9))
        if here[-1] > _SLOW:
            break
    return crossover(sizes, here, there)


def tune_device(
    place: Device, report: Callable[[], None] = lambda: None, *, names: Sequence[str] | None = None
) -> Tuning:
    """Measure one device and store what was found.

    Parameters
    ----------
    place
        The device.
    report
        Called after every measurement.
    names
        Which operations' crossovers; all of `operations` by default, none on the CPU.

    Returns
    -------
    Tuning
        What is stored now.
    """
    from elinvar.bench import roofline
    from elinvar.runtime.tuning import save_tuned, tuning_file

    ceiling = roofline(place)
    rates = {"fp32": ceiling.f32_gflops, "bf16": ceiling.bf16_gflops}
    known = {name: rate for name, rate in rates.items() if rate is not None and rate > 0}
    save_tuned(place.profile, "copy_gbps", ceiling.copy_gbps)
    save_tuned(place.profile, "matmul_gflops", known)
    report()
    found = {}
    for name in (names or operations()) if place.kind != "cpu" else ():
        found[name] = measure_crossover(operations()[name], place.torch)
        save_tuned(place.profile, f"crossover.{name}", found[name])
        report()
    speeds: dict[str, float] = {}
    for job, where in JOBS.items():
        speeds[job] = float(_named(where)(place))
        save_tuned(place.profile, f"rate.{job}", speeds[job])
        report()
    settings: dict[str, Any] = {}
    for where in SETTINGS:
        for name, value in _named(where)(place).items():
            settings[name] = value
            save_tuned(place.profile, f"option.{name}", value)
        report()
    kept = str(tuning_file(place.profile))
    return Tuning(str(place), place.name, ceiling.copy_gbps, known, found, speeds, settings, kept)


def _named(where: str) -> Callable[[Device], Any]:
    module, _, function = where.partition(":")
    found: Callable[[Device], Any] = getattr(importlib.import_module(module), function)
    return found


def _row(item: Tuning) -> dict[str, object]:
    def size(value: float) -> str:
        return "never" if math.isinf(value) else f"{value:.3g}"

    return {
        "device": item.device,
        "name": item.name,
        "copy GB/s": f"{item.copy_gbps:.0f}",
        **{f"{name} GFLOP/s": f"{rate:.0f}" for name, rate in item.matmul_gflops.items()},
        **{job: f"{si(rate)}/s" for job, rate in item.rates.items()},
        **{name: ", ".join(str(v) for v in value) for name, value in item.settings.items()},
        "moving pays from": ", ".join(f"{name} {size(at)}" for name, at in item.crossovers.items()),
    }


@app.command()
def tune(
    device: Annotated[str, typer.Option(help="Which device: all, auto, cpu, cuda, cuda:1 or mps.")] = "all",
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Measure this machine and store what the planner should know about it.

    Tune a quiet machine: what others compute at the same time is measured with it, and the output says so.
    """
    from elinvar.bench import LoadProbe
    from elinvar.bench.samples import FOREIGN_LIMIT
    from elinvar.runtime.device import device as resolve
    from elinvar.runtime.device import devices

    places = devices() if device == "all" else [resolve(device)]
    steps = sum(1 + len(JOBS) + len(SETTINGS) + (0 if place.kind == "cpu" else len(operations())) for place in places)
    done = 0
    probe = LoadProbe()
    with progress("measuring", total=steps, unit="measurements") as report:

        def step() -> None:
            nonlocal done
            done += 1
            report(done, steps)

        found = [tune_device(place, step) for place in places]
    share = probe.read().foreign_share
    parts: list[object] = [table([_row(item) for item in found]), "", *(f"kept in {item.file}" for item in found)]
    if share > FOREIGN_LIMIT:
        parts.append(f"Others used {100 * share:.0f} % of the CPU meanwhile: tune it again when it is quiet.")
    emit({"devices": found, "contended": share > FOREIGN_LIMIT}, json_, lambda: parts)
