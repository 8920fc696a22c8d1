"""Kirchhoff migration through the .metal text on an NVIDIA GPU: agreement with float64, then contributions per second.

    python benchmarks/seismic_h200.py --out DIR

Contributions are the sum of the fold: trace samples that really were added, never traces x image samples. Writes
``DIR/seismic_h200.json``. Every time is the median of CUDA-event timings of a whole call, tables included.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Self

import torch

import elinvar
from elinvar.seismic.filters import bank
from elinvar.seismic.kernels import migrate
from elinvar.seismic.kernels.migrate import baseline_metal, reference, v3_metal
from elinvar.seismic.kernels.migrate import metal as launches
from elinvar.seismic.kernels.migrate.antialias import Bank, copies_for
from elinvar.seismic.kernels.migrate.metal import Tuning

SIDE, TRACES, SAMPLES, DT = 64, 8192, 1500, 0.002
APERTURE = migrate.RadiusAperture(tan_dip=1.0, maximum=2500.0, minimum=0.0, taper=0.2)


def morton(xy: torch.Tensor) -> torch.Tensor:
    """Order of points along a Z-curve, so that neighbours in the list are neighbours on the ground."""
    low = xy.amin(0)
    cell = ((xy - low) / (xy.amax(0) - low) * 1023).long()
    key = torch.zeros(len(xy), dtype=torch.int64, device=xy.device)
    for bit in range(10):
        key |= ((cell[:, 0] >> bit) & 1) << (2 * bit) | ((cell[:, 1] >> bit) & 1) << (2 * bit + 1)
    return key.argsort()


def survey(*, order: bool = True, rows: int = 1, gradient: float = 600.0) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """White noise (the hardest data for interpolation error) over a 64 x 64 image of 25 m, offsets 0 to 2 km."""
    make = torch.Generator().manual_seed(7)
    middle = torch.rand(TRACES, 2, generator=make) * 4000 - 2000 + 0.5 * SIDE * 25
    half = torch.rand(TRACES, 1, generator=make) * 1000
    angle = torch.rand(TRACES, 1, generator=make) * 2 * math.pi
    half = half * torch.cat([angle.cos(), angle.sin()], 1)
    if order:
        keep = morton(middle)
        middle, half = middle[keep], half[keep]
    axis = torch.arange(SIDE) * 25.0
    pillars = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    t0 = DT * torch.arange(SAMPLES)
    vrms = (1800 + gradient * t0)[None].expand(rows, -1) * (1 + 0.02 * torch.rand(rows, 1, generator=make))
    tensors = [
        torch.zeros(SIDE * SIDE, SAMPLES),
        torch.zeros(SIDE * SIDE, SAMPLES, dtype=torch.int32),
        torch.randn(TRACES, SAMPLES, generator=make),
        middle - half,
        middle + half,
        pillars,
        vrms.contiguous(),
    ]
    options: dict[str, Any] = {"dt": DT, "start": 0.0, "dt_out": DT, "t0_out": 0.0, "amplitude": "true", "area": 625.0}
    return [x.cuda() for x in tensors], {**options, "aperture": APERTURE}


class Clock:
    """Samples the SM clock with nvidia-smi while a block runs."""

    def __enter__(self) -> Self:
        self.mhz: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()
        return self

    def _poll(self) -> None:
        ask = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits", "-i", "0"]
        while not self._stop.wait(0.02):
            answer = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.split(",")
            if answer and answer[0].strip().replace(".", "").isdigit():
                self.mhz.append(float(answer[0]))

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def median(self) -> float | None:
        return sorted(self.mhz)[len(self.mhz) // 2] if self.mhz else None


def check(
    name: str, launch: Any, tensors: list[torch.Tensor], options: dict[str, Any], pick: torch.Tensor
) -> dict[str, Any]:
    """Compare some pillars with float64 brute force over all traces."""
    part = [x[pick].contiguous() if i in (0, 1, 5) or (i == 6 and len(x) > 1) else x for i, x in enumerate(tensors)]
    image, fold = torch.zeros_like(part[0]), torch.zeros_like(part[1])
    launch(image, fold, *part[2:], **options)
    want, count = torch.zeros_like(image, dtype=torch.float64), torch.zeros_like(fold)
    reference.migrate(want, count, *part[2:], **options)
    error = image.double() - want
    tenth = SAMPLES // 8

    def relative(cut: slice) -> float:
        return (error[:, cut].norm() / want[:, cut].norm()).item()

    return {
        "name": name,
        "relative_l2": relative(slice(None)),
        "relative_l2_by_eighth": [relative(slice(k, k + tenth)) for k in range(0, SAMPLES, tenth)],
        "worst_pillar": (error.norm(dim=1) / want.norm(dim=1)).max().item(),
        "fold_mismatches": int((fold != count).sum()),
        "contributions": int(count.sum()),
    }


def measure(launch: Any, tensors: list[torch.Tensor], options: dict[str, Any], runs: int) -> dict[str, Any]:
    """Median CUDA-event time of a whole call and what it adds up."""
    image, fold = torch.zeros_like(tensors[0]), torch.zeros_like(tensors[1])
    launch(image, fold, *tensors[2:], **options)
    contributions = int(fold.sum(dtype=torch.int64))
    launch(image, fold, *tensors[2:], **options)
    seconds = []
    with Clock() as clock:
        for _ in range(runs):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            launch(image, fold, *tensors[2:], **options)
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) / 1e3)
        while not clock.mhz:  # too short for nvidia-smi: keep the GPU at this work until one sample is in
            launch(image, fold, *tensors[2:], **options)
            torch.cuda.synchronize()
    median = sorted(seconds)[len(seconds) // 2]
    return {
        "seconds": seconds,
        "median_seconds": median,
        "contributions": contributions,
        "rate_tera": contributions / median / 1e12,
        "sm_mhz": clock.median,
    }


def load_bound(tuning: Tuning, mhz: float | None) -> float | None:
    """Contributions/s (T) at which the load pipe is full: wavefronts per 32 contributions of the smooth loop.

    Two broadcast reads of four coefficients per trace and lane block, two wavefronts each however few lanes differ, and
    per sample one unaligned load of 256 bytes, 2.4 wavefronts (counted by the profiler); half of that for halves.
    """
    if mhz is None or not tuning.pairs:
        return None
    wavefronts = 4 / tuning.samples + (2.4 if tuning.storage == "fp32" else 1.2)
    return torch.cuda.get_device_properties(0).multi_processor_count * mhz * 1e6 * 32 / wavefronts / 1e12


def resources(tuning: Tuning | None, name: str) -> dict[str, Any] | str:
    """Registers and occupancy from the offline compiler."""
    from elinvar import metal

    here = Path(launches.__file__).parent
    try:
        file = here / ("baseline.metal" if tuning is None else name)
        report = metal.build_cubin(file, arch="sm_90", defines=None if tuning is None else tuning.defines("true"))
        return {
            name: {k: getattr(r, k) for k in ("registers", "shared_bytes", "spill_bytes")}
            for name, r in report.kernels.items()
        }
    except Exception as error:  # noqa: BLE001 - a report without registers is still a report
        return repr(error)


def variants() -> list[Tuning]:
    found = [
        Tuning(),
        Tuning(simdgroups=2),
        Tuning(simdgroups=8),
        Tuning(samples=1),
        Tuning(samples=4),
        Tuning(pairs=False),
    ]
    return found + [Tuning(tolerance=e) for e in (2e-4, 8e-4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=9)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    device = elinvar.device("cuda")
    gpu = torch.cuda.get_device_properties(0)
    result: dict[str, Any] = {
        "benchmark": "seismic_h200",
        "machine": {
            "gpu": gpu.name,
            "sm": gpu.multi_processor_count,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
        },
        "workload": f"{TRACES} traces x {SAMPLES} into {SIDE}x{SIDE} x {SAMPLES}, {APERTURE}",
        "checks": [],
        "timings": [],
    }

    def save() -> None:
        (given.out / "seismic_h200.json").write_text(json.dumps(result, indent=1))

    def v2(tuning: Tuning) -> Any:
        return lambda *a, **k: launches.migrate_v2(*a, **k, device=device, tuning=tuning)

    def baseline(*a: Any, **k: Any) -> None:
        baseline_metal.migrate(*a, **k, device=device)

    tensors, options = survey()
    pick = torch.randperm(SIDE * SIDE, generator=torch.Generator().manual_seed(1))[:12].cuda()

    def one(
        label: str,
        launch: Any,
        tuning: Tuning | None,
        tensors: list[torch.Tensor],
        options: dict[str, Any],
        file: str = "v2.metal",
    ) -> None:
        begin = time.perf_counter()
        try:
            row = {"name": label, **measure(launch, tensors, options, given.runs), "resources": resources(tuning, file)}
            bound = None if tuning is None or "bank" in options else load_bound(tuning, row["sm_mhz"])
            row["of_load_bound"] = None if bound is None else row["rate_tera"] / bound
        except Exception as error:  # noqa: BLE001 - one broken variant must not cost the others
            row = {"name": label, "error": repr(error)}
        result["timings"].append(row)
        save()
        rate, part = row.get("rate_tera"), row.get("of_load_bound")
        note = (
            row.get("error")
            or f"{rate:.3f} T/s  {row['sm_mhz']} MHz  {part and round(part, 3)} of load bound  {row['resources']}"
        )
        print(f"{label:60s} {note}  ({time.perf_counter() - begin:.1f} s)", flush=True)

    def right(
        label: str, launch: Any, tensors: list[torch.Tensor], options: dict[str, Any], pick: torch.Tensor = pick
    ) -> None:
        row = check(label, launch, tensors, options, pick)
        result["checks"].append(row)
        save()
        said = f"rel L2 {row['relative_l2']:.2e}, worst pillar {row['worst_pillar']:.2e}"
        print(f"{label:60s} {said}, fold off {row['fold_mismatches']}", flush=True)

    right("baseline", baseline, tensors, options)
    for tuning in variants():
        right(f"v2 {tuning}", v2(tuning), tensors, options)
    one("baseline", baseline, None, tensors, options)
    for tuning in variants():
        one(f"v2 {tuning}", v2(tuning), tuning, tensors, options)
    candidates = [t for t in variants() if t.tolerance == Tuning().tolerance]
    rates = {r["name"]: r.get("rate_tera", 0.0) for r in result["timings"]}
    best = max(candidates, key=lambda t: rates[f"v2 {t}"])
    print("best:", best, flush=True)
    result["best"] = str(best)
    cube = survey(rows=SIDE * SIDE)
    steady = survey(gradient=0.0)
    others = {
        "velocity cube": cube,
        "constant velocity": steady,
        "unordered traces": survey(order=False),
        "amplitude none": (tensors, {**options, "amplitude": "none"}),
        "hard aperture": (tensors, {**options, "aperture": migrate.RadiusAperture(tan_dip=1.0, maximum=2500.0)}),
        "no aperture": (tensors, {**options, "aperture": None}),
        "no aperture, constant velocity, amplitude none": (
            steady[0],
            {**steady[1], "aperture": None, "amplitude": "none"},
        ),
    }

    def v3(*a: Any, **k: Any) -> None:
        v3_metal.migrate(*a, **k, device=device, tuning=best)

    usual, halves = Tuning(), Tuning(storage="fp16")
    right("traces as halves", v2(halves), tensors, options)
    one("traces as halves", v2(halves), halves, tensors, options)
    copies = copies_for(2 * 25.0 / (1800.0 * DT))
    filtered = [*tensors[:2], bank(tensors[2], copies, "bank"), *tensors[3:]]
    with_bank = {**options, "bank": Bank(copies, 25.0, 25.0)}
    for label, tuning in {"anti-alias bank": usual, "anti-alias bank, traces as halves": halves}.items():
        right(label, v2(tuning), filtered, with_bank, pick[:4])
        one(label, v2(tuning), tuning, filtered, with_bank)
    del filtered
    right("v3", v3, tensors, options)
    one("v3", v3, best, tensors, options, "v3.metal")
    for label, (t, o) in others.items():
        right(f"best, {label}", v2(best), t, o)
        one(f"best, {label}", v2(best), best, t, o)
    save()


if __name__ == "__main__":
    main()
