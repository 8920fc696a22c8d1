"""Other rays, interpolations and anti-alias filters beside straight, linear and none, per contribution.

Curved rays and VTI at least 0.8 times as fast as straight ones, on the CPU and on a GPU; on one CPU thread the
anti-alias bank at least 6 times as fast as pylops' kinematic float32 operator, cubic and sinc-8 at least 3 times.

Rows
----
straight, curved, vti
    ``seismic.migrate`` v2 on the survey of ``seismic_vs_pylops``: 1,024 traces x 1,500 samples of white noise into 256
    pillars x 1,500 samples, true-amplitude weights, 45 degree aperture with a 20 % rim, fold counted. The medium is
    1800 + 0.6 z m/s; straight rays and VTI see its RMS velocity, and eta is 0.1.
cubic, sinc8
    The straight row with these interpolations.
anti-alias bank
    The straight row over copies of the traces for midpoints 25 m apart.
pylops kinematic
    As in ``seismic_vs_pylops``, in float32 and in float64.
curved, strongly
    The same in 1800 + 2 z m/s, where rays bend too much for the CPU's polynomial and a logarithm is taken instead.

One thread, its CPU time, all interleaved. A contribution is one (trace, image point) whose travel time lies on the
trace and whose midpoint lies in the aperture; the physics have not quite the same ones.

    python benchmarks/seismic_physics.py                one CPU thread
    python benchmarks/seismic_physics.py --device cuda  the .metal text, 8,192 traces into 4,096 pillars, CUDA events
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

import elinvar
from elinvar.bench import Result, Work, interleave
from elinvar.runtime.parallel import set_threads
from elinvar.seismic import Velocity
from elinvar.seismic.filters import bank
from elinvar.seismic.kernels import migrate
from elinvar.seismic.kernels.migrate import reference
from elinvar.seismic.kernels.migrate.antialias import Bank, copies_for

V0, ETA = 1800.0, 0.1
BANK = copies_for(2 * 25.0 / (V0 * 0.002))  # slopes of horizontal legs, between midpoints 25 m apart


def rays(nt: int, place: torch.device) -> dict[str, tuple[float, dict[str, Any]]]:
    """Gradient of the medium, and options, of each row."""
    return {
        "straight": (0.6, {}),
        "curved": (0.6, {"physics": "curved", "medium": (V0, 0.6)}),
        "vti": (0.6, {"physics": "vti", "eta": torch.full((1, nt), ETA, device=place)}),
        "cubic": (0.6, {"interpolation": "cubic"}),
        "sinc8": (0.6, {"interpolation": "sinc8"}),
        "anti-alias bank": (0.6, {"bank": Bank(BANK, 25.0, 25.0)}),
        "curved, strongly": (2.0, {"physics": "curved", "medium": (V0, 2.0)}),
    }


def row(
    tensors: list[torch.Tensor], options: dict[str, Any], k: float, device: Any, checked: int
) -> tuple[Any, Work, dict[str, Any]]:
    """A call of v2, its contributions, and how far it is from float64 on some pillars."""
    image, fold = torch.zeros_like(tensors[0]), torch.zeros_like(tensors[1])
    data, source, receiver, pillars = tensors[2:6]
    if "bank" in options:
        data = bank(data, BANK, "bank")
    t0 = options["dt_out"] * torch.arange(image.shape[1], dtype=torch.float64)
    vrms = torch.from_numpy(Velocity.linear(V0, k).rms(t0.numpy())).float()[None].to(image.device).contiguous()
    launch = elinvar.kernel(migrate.NAME, device, "v2")

    def call() -> None:
        launch(image, fold, data, source, receiver, pillars, vrms, **options)

    call()
    contributions = int(fold.sum(dtype=torch.int64))
    few = torch.arange(0, len(pillars), max(1, len(pillars) // checked), device=image.device)[:checked]
    want, count = torch.zeros_like(image[few], dtype=torch.float64), torch.zeros_like(fold[few])
    reference.migrate(want, count, data, source, receiver, pillars[few], vrms, **options)
    once, once_count = torch.zeros_like(image), torch.zeros_like(fold)
    launch(once, once_count, data, source, receiver, pillars, vrms, **options)
    facts = {
        "contributions": contributions,
        "relative_l2": float((once[few].double() - want).norm() / want.norm()),
        "fold_mismatches": int((once_count[few] != count).sum()),
    }
    return call, Work(items=float(contributions), unit="contributions"), facts


def run(*, runs: int = 15, warmup: int = 2, device: str = "cpu") -> Result:
    place = elinvar.device(device)
    gpu = place.kind == "cuda"
    sys.path.insert(0, str(Path(__file__).parent))
    tensors, options = importlib.import_module("seismic_h200" if gpu else "seismic_vs_pylops").survey()
    before = set_threads(1)
    try:
        prepared: dict[str, Any] = {
            name: row(tensors, {**options, **more}, k, place, 3 if gpu else 12)
            for name, (k, more) in rays(tensors[0].shape[1], tensors[0].device).items()
        }
        if not gpu:
            peers = {"pylops kinematic": "float32", "pylops kinematic, float64": "float64"}
            pylops_row = importlib.import_module("seismic_vs_pylops").pylops_row
            prepared |= {name: pylops_row(dtype) for name, dtype in peers.items()}
        samples = interleave(
            {name: one[0] for name, one in prepared.items()},
            runs=runs,
            warmup=warmup,
            work={name: one[1] for name, one in prepared.items()},
            clock="cuda_events" if gpu else "thread_cpu",
            device=place if gpu else None,
        )
    finally:
        set_threads(before)
    rates = {name: one[1].items / samples[name].median for name, one in prepared.items()}
    extras: dict[str, Any] = {
        "contributions per second": rates,
        "of straight": {name: rate / rates["straight"] for name, rate in rates.items()},
        "rows": {name: one[2] for name, one in prepared.items()},
    }
    if not gpu:
        extras["over pylops"] = {
            peer: {name: rate / rates[peer] for name, rate in rates.items() if name not in peers} for peer in peers
        }
    return Result(
        name="seismic_physics" if place.kind == "cpu" else f"seismic_physics_{place.kind}",
        samples=samples,
        extras=extras,
    )


if __name__ == "__main__":
    result = run(device=sys.argv[2] if sys.argv[1:2] == ["--device"] else "cpu")
    result.write(f"{result.name}.json")
    for name, facts in result.extras["rows"].items():
        rate, part = (result.extras[key][name] for key in ("contributions per second", "of straight"))
        print(f"{name:18s} {rate / 1e6:10.0f} M/s  {part:.3f} of straight  {facts}")
