"""Square matrix products by size and type, in percent of the GEMM yardstick of the same process."""

from __future__ import annotations

from elinvar.bench import Case, Result, Samples, Work, interleave

EDGES = {"cpu": (64, 128, 256, 512, 1024), "cuda": (512, 1024, 2048, 4096, 8192), "mps": (512, 1024, 2048, 4096)}
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def _case(edge: int, dtype: str, device: str) -> Case:
    import torch

    from elinvar.runtime.device import device as find

    target = find(device)
    generator = torch.Generator().manual_seed(1)
    kind = getattr(torch, DTYPES[dtype])
    x, y = (torch.randn(edge, edge, generator=generator).to(target.torch, kind) for _ in range(2))
    out = torch.empty_like(x)
    size = torch.finfo(kind).bits // 8
    work = Work(flops=2.0 * edge**3, bytes=3.0 * edge**2 * size, dtype="bf16" if dtype == "bf16" else "fp32")
    return Case(lambda: torch.mm(x, y, out=out), work, device)


def ci_cases() -> dict[str, Case]:
    """One product of each type."""
    return {f"gemm {dtype} 512": _case(512, dtype, "cpu") for dtype in DTYPES}


def run(*, runs: int = 31, warmup: int = 3, device: str = "auto") -> Result:
    """Multiply random matrices; the sizes of one type are interleaved with each other."""
    from elinvar.runtime.device import device as find

    target = find(device)
    samples: dict[str, Samples] = {}
    for dtype in DTYPES:
        cases = {f"gemm {dtype} {edge}": _case(edge, dtype, device) for edge in EDGES[target.kind]}
        works = {name: case.work for name, case in cases.items() if case.work}
        functions = {name: case.fn for name, case in cases.items()}
        samples |= interleave(functions, runs=runs, warmup=warmup, work=works, device=device, inner="auto")
    return Result("gemm", samples)
