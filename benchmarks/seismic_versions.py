"""The versions of ``seismic.migrate`` beside each other, per contribution: v1 1.5, v2 3 and v3 5 times the baseline.

Rows are named data set, physics, version. Each is one block of traces of a standard data set (4,096 traces that are
neighbours, or all there are; white noise, the hardest data for interpolation) into a square of pillars in the middle of
its grid, true-amplitude weights, 45 degree aperture with a 20 % rim, fold counted, tables prepared in the call. The
slow versions get fewer of the pillars; they are compared per contribution, which is one (trace, image sample) pair
inside aperture and record. ``elinvar bench seismic`` has whole jobs instead.

On a CPU: one thread, CPU time of that thread. ``python benchmarks/seismic_versions.py --device cuda`` for the GPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from elinvar import seismic
from elinvar.bench import Result, Samples, Work, interleave
from elinvar.runtime.device import device as resolve_device
from elinvar.runtime.kernels import kernel
from elinvar.runtime.parallel import set_threads
from elinvar.seismic.kernels.migrate import reference
from elinvar.seismic.order import morton

VERSIONS = ("baseline", "v1", "v2", "v3")
BARS = {"v1": 1.5, "v2": 3.0, "v3": 5.0}
RAYS: dict[str, dict[str, Any]] = {
    "straight": {},
    "curved": {"physics": "curved", "medium": (2500.0, 0.3)},
    "vti": {"physics": "vti"},
}
BLOCK, REPEATS = 4096, 10
SIDES = {"cpu": {"baseline": 2, "v1": 2}, "cuda": {"baseline": 64}}  # pillars along a side of the square
WHOLE = {"cpu": 12, "cuda": 128}
CHECKED = 2  # pillars along a side that are held against float64


def block(name: str, side: int, rays: dict[str, Any]) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Arguments of a kernel: neighbouring traces of a data set, a square of pillars from the middle of its grid."""
    survey = seismic.synthetic.dataset(name)
    grid = survey.grid
    middle = np.abs(survey.midpoint - np.asarray(grid.centre)).max(axis=1)
    index = np.sort(np.argsort(middle, kind="stable")[:BLOCK])
    index = index[morton(survey.midpoint[index])]
    ends = [torch.from_numpy(grid.local(end[index]).astype(np.float32)) for end in (survey.source, survey.receiver)]
    places = grid.local_pillars.reshape(grid.nx, grid.ny, 2)
    nx, ny = min(side, grid.nx), min(side, grid.ny)
    x, y = (grid.nx - nx) // 2, (grid.ny - ny) // 2
    pillars = torch.from_numpy(places[x : x + nx, y : y + ny].reshape(-1, 2).astype(np.float32)).contiguous()
    medium = rays.get("medium")
    velocity = survey.velocity if medium is None else seismic.Velocity.linear(*medium)
    vrms = torch.from_numpy(np.atleast_2d(velocity.rms(grid.t)).astype(np.float32))
    make = torch.Generator().manual_seed(7)
    shape = len(pillars), grid.nt
    tensors = [
        torch.zeros(shape),
        torch.zeros(shape, dtype=torch.int32),
        torch.randn(len(index), survey.n_samples, generator=make),
        *ends,
        pillars,
        vrms,
    ]
    options = {"dt": survey.dt, "start": 0.0, "dt_out": grid.dt, "t0_out": grid.t0, "amplitude": "true", "area": 625.0}
    bent = {"eta": torch.linspace(0.0, 0.2, grid.nt)[None].contiguous()} if rays.get("physics") == "vti" else {}
    return tensors, {**options, "aperture": seismic.Aperture().for_kernel(), **rays, **bent}


def truth(name: str, rays: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pillars that every version has, their image and fold in float64."""
    tensors, options = block(name, CHECKED, rays)
    image, fold = tensors[0].double(), tensors[1]
    reference.migrate(image, fold, *tensors[2:], **options)
    return tensors[5], image, fold


def row(
    name: str, rays: dict[str, Any], version: str, device: Any, right: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> tuple[Callable[[], object], Work, dict[str, Any]]:
    """A call of one version, its contributions, how far it is from float64, and whether it repeats itself."""
    kind = "cpu" if device.kind == "cpu" else "cuda"
    tensors, options = block(name, SIDES[kind].get(version, WHOLE[kind]), rays)
    run_version = kernel("seismic.migrate", device, version)
    placed = [x.to(device.torch) for x in tensors]
    bent = {key: value.to(device.torch) if isinstance(value, torch.Tensor) else value for key, value in options.items()}
    image, fold, *rest = placed

    def call() -> None:
        image.zero_()
        fold.zero_()
        run_version(image, fold, *rest, **bent)
        device.synchronize()

    call()
    first, contributions, same = image.clone(), int(fold.sum(dtype=torch.int64)), True
    for _ in range(REPEATS - 1):
        call()
        same = same and torch.equal(image, first)
    places, want, count = right
    few = [int((tensors[5] == place).all(dim=1).nonzero()[0, 0]) for place in places]
    facts = {
        "contributions": contributions,
        "pillars": len(image),
        "traces": len(tensors[2]),
        "relative_l2": float((image[few].double().cpu() - want).norm() / want.norm()),
        "fold_mismatches": int((fold[few].cpu() != count).sum()),
        f"same_bits_in_{REPEATS}_runs": same,
    }
    return call, Work(items=float(contributions), unit="contributions"), facts


def speedups(samples: dict[str, Samples]) -> dict[str, dict[str, float]]:
    """Contributions per second over the baseline's, at the medians."""
    rate = {name: one.work.items / one.median for name, one in samples.items() if one.work is not None}
    found: dict[str, dict[str, float]] = {}
    for name, value in rate.items():
        case, version = name.rsplit(" ", 1)
        found.setdefault(case, {})[version] = value / rate[f"{case} baseline"]
    return found


def run(
    *,
    runs: int = 7,
    warmup: int = 1,
    datasets: tuple[str, ...] = ("tiny", "small", "medium"),
    physics: tuple[str, ...] = tuple(RAYS),
    device: str = "cpu",
) -> Result:
    place = resolve_device(device)
    before = set_threads(1)
    samples: dict[str, Samples] = {}
    facts: dict[str, Any] = {}
    try:
        for name in datasets:
            for rays in physics:
                right = truth(name, RAYS[rays])
                rows = {f"{name} {rays} {each}": row(name, RAYS[rays], each, place, right) for each in VERSIONS}
                samples |= interleave(
                    {label: one[0] for label, one in rows.items()},
                    runs=runs,
                    warmup=warmup,
                    work={label: one[1] for label, one in rows.items()},
                    clock="thread_cpu" if place.kind == "cpu" else "wall",
                )
                facts |= {label: one[2] for label, one in rows.items()}
    finally:
        set_threads(before)
    ratios = speedups(samples)
    missed = [
        f"{case} {version}: {ratios[case][version]:.2f} of {bar}"
        for case in ratios
        for version, bar in BARS.items()
        if ratios[case][version] < bar
    ]
    extras = {"over baseline, per contribution": ratios, "bars": BARS, "missed": missed, "rows": facts}
    return Result(name="seismic_versions", samples=samples, extras={"device": str(place), **extras})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compare the versions of seismic.migrate.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--datasets", default="tiny,small,medium")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--output", default="seismic_versions.json")
    chosen = parser.parse_args()
    result = run(runs=chosen.runs, datasets=tuple(chosen.datasets.split(",")), device=chosen.device)
    result.write(chosen.output)
    for label, one in result.samples.items():
        assert one.work is not None
        print(f"{label:28s} {one.work.items / one.median / 1e6:8.0f} M/s  {result.extras['rows'][label]}")
    print(json.dumps(result.extras["over baseline, per contribution"], indent=1), result.extras["missed"])
