"""The roofline of this machine: copy bandwidth, float32 and bfloat16 matrix products."""

from __future__ import annotations

from elinvar.bench import Result, roofline_samples
from elinvar.bench.ceilings import from_samples


def run(*, runs: int = 31, warmup: int = 3, device: str = "auto") -> Result:
    """Measure the ceilings; `extras["roofline"]` has them in GB/s and GFLOP/s."""
    from elinvar.runtime.device import device as find

    target = find(device)
    samples = roofline_samples(target, runs=runs, warmup=warmup)
    return Result("roofline", samples, extras={"roofline": from_samples(samples, target.name).to_json()})
