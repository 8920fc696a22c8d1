"""Copy bandwidth by size: where the caches end and main memory begins.

Counts bytes read plus bytes written. The percentage is of the STREAM triad measured in the same process, so a copy
that stays in a cache exceeds 100 %.
"""

from __future__ import annotations

from elinvar.bench import Case, Result, Samples, Work, measure

SIZES_MB = (0.25, 1, 4, 16, 64, 256)


def _case(megabytes: float, device: str) -> Case:
    import torch

    from elinvar.runtime.device import device as find

    target = find(device)
    n = int(megabytes * 2**20) // 4
    source = torch.rand(n, generator=torch.Generator().manual_seed(1)).to(target.torch)
    sink = torch.empty_like(source)
    return Case(lambda: sink.copy_(source), Work(bytes=8.0 * n), device)


def ci_cases() -> dict[str, Case]:
    """One copy from main memory."""
    return {"copy 64 MB": _case(64, "cpu")}


def run(*, runs: int = 31, warmup: int = 3, device: str = "auto") -> Result:
    """Copy arrays of 0.25 to 256 MB on the device."""
    samples: dict[str, Samples] = {}
    for megabytes in SIZES_MB:
        case, name = _case(megabytes, device), f"copy {megabytes:g} MB"
        samples[name] = measure(
            case.fn, name=name, work=case.work, runs=runs, warmup=warmup, device=device, inner="auto"
        )
    return Result("copy", samples)
