"""What the memory pool is worth on a CPU: a lease against torch.empty, a chain of ops with and without it, reuse.

Rows
----
lease and release, torch.empty
    One lease taken, its tensor looked at, and given back; one ``torch.empty``. 256 KB float32.
chain, allocating / pool, in place / pool, a lease per op
    ``relu(x * 2 + 1)`` in three eager ops on 64 MB of float32, on one thread: with torch's own temporaries, in one
    leased buffer, and with one lease per op.
chain ... under keep_pages()
    The same in a second process, after ``elinvar.keep_pages()``.

With one lease per op the pool and ``keep_pages()`` come out alike: both avoid the page faults. Working in place in one
lease is faster than either, because it moves fewer bytes.

Times are CPU time of the one thread, so other processes disturb them only through memory bandwidth and caches.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from elinvar import Pool, keep_pages
from elinvar.bench import Case, Result, Samples, Work, compare, interleave

CHAIN = 64 << 20
STEADY = (4096, 16384, 16384, 4096, 65536, 4096, 16384)
SMALL = (256, 256)


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def lease_and_empty() -> dict[str, Callable[[], object]]:
    pool = Pool("cpu", debug=False)

    def lease() -> None:
        taken = pool.acquire(SMALL, torch.float32)
        _ = taken.tensor
        taken.release()

    return {"lease and release": lease, "torch.empty": lambda: torch.empty(SMALL, dtype=torch.float32)}


def chains(suffix: str = "") -> dict[str, Callable[[], object]]:
    n = CHAIN // 4
    x = torch.rand(n, generator=torch.Generator().manual_seed(1))
    pool = Pool("cpu", debug=False)

    def allocating() -> torch.Tensor:
        return torch.relu(x * 2.0 + 1.0)

    def in_place() -> None:
        with pool.acquire(n) as lease:
            torch.mul(x, 2.0, out=lease.tensor)
            lease.tensor.add_(1.0)
            lease.tensor.relu_()

    def per_op() -> None:
        with pool.frame():
            scaled, moved, cut = (pool.acquire(n) for _ in range(3))
            torch.mul(x, 2.0, out=scaled.tensor)
            torch.add(scaled.tensor, 1.0, out=moved.tensor)
            torch.clamp_min(moved.tensor, 0.0, out=cut.tensor)

    rows = {"allocating": allocating, "pool, in place": in_place, "pool, a lease per op": per_op}
    return {f"chain, {name}{suffix}": fn for name, fn in rows.items()}


def time_chains(runs: int, warmup: int, suffix: str = "") -> dict[str, Samples]:
    # Three ops, each reading and writing 64 MB; in place the same six passes touch fewer distinct pages.
    work = Work(bytes=6.0 * CHAIN)
    with one_thread():
        return interleave(chains(suffix), runs=runs, warmup=warmup, work=work, clock="thread_cpu")


def time_chains_with_kept_pages(runs: int, warmup: int) -> dict[str, Samples]:
    """In a process of its own: there is no way back from keep_pages()."""
    command = [sys.executable, __file__, "--keep-pages", str(runs), str(warmup)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = json.loads(done.stdout.splitlines()[-1])
    return {name: Samples.from_json(row) for name, row in rows.items()}


def steady_state() -> dict[str, float]:
    """100 steps of seven leases held at once, then released."""
    pool = Pool("cpu", debug=False)
    for _ in range(100):
        held = [pool.acquire((nbytes,), torch.uint8) for nbytes in STEADY]
        for lease in held:
            lease.release()
    now = pool.stats()
    return {
        "allocation_count": now.allocation_count,
        "reuse_count": now.reuse_count,
        "reuse_rate": now.reuse_rate,
    }


def threads() -> dict[str, int]:
    """Eight threads, 2,000 leases each of random sizes to 1 MiB, filled and verified."""
    pool = Pool("cpu", debug=False)
    corrupted: list[int] = []

    def body(index: int) -> None:
        rng = random.Random(index)
        for step in range(2000):
            with pool.acquire((rng.randint(1, 1 << 20),), torch.uint8) as lease:
                value = (31 * index + step) % 256
                lease.tensor.fill_(value)
                low, high = torch.aminmax(lease.tensor)
                if not int(low) == int(high) == value:
                    corrupted.append(index)

    workers = [threading.Thread(target=body, args=(index,)) for index in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {"requests": pool.stats().requests, "live": pool.live, "corrupted": len(corrupted)}


def ci_cases() -> dict[str, Case]:
    """The lease, and the chain in one leased buffer."""
    return {
        "pool: lease and release": Case(lease_and_empty()["lease and release"]),
        "pool: chain in place": Case(chains()["chain, pool, in place"], Work(bytes=6.0 * CHAIN)),
    }


def run(*, runs: int = 31, warmup: int = 3) -> Result:
    """Measure all rows; the ratios the project promises are in the extras."""
    samples = interleave(lease_and_empty(), runs=runs, warmup=warmup, clock="thread_cpu", inner=2000)
    samples |= time_chains(runs, warmup)
    kept = time_chains_with_kept_pages(runs, warmup) if keep_pages_works() else {}
    samples |= kept
    ratios = {"lease / torch.empty": _ratio(samples, "lease and release", "torch.empty")}
    ratios["allocating / pool"] = _ratio(samples, "chain, allocating", "chain, pool, in place")
    if kept:
        names = "chain, allocating under keep_pages()", "chain, pool, in place under keep_pages()"
        ratios["allocating / pool, both under keep_pages()"] = _ratio(samples, *names)
        ratios["allocating under keep_pages() / pool"] = (
            samples[names[0]].median / samples["chain, pool, in place"].median
        )
    return Result("pool", samples, extras={"ratios": ratios, "steady state": steady_state(), "threads": threads()})


def keep_pages_works() -> bool:
    """Ask in a child, for asking applies it."""
    code = "import elinvar, sys; sys.exit(not elinvar.keep_pages())"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _ratio(samples: dict[str, Samples], a: str, b: str) -> float:
    """How many times longer a takes than b, paired by round."""
    return compare(samples[b], samples[a]).ratio


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--keep-pages"]:
        if not keep_pages():
            sys.exit("keep_pages() does nothing here")
        rows = time_chains(int(arguments[1]), int(arguments[2]), " under keep_pages()")
        print(json.dumps({name: samples.to_json() for name, samples in rows.items()}))
        return
    result = run()
    for name, samples in result.samples.items():
        print(f"{samples.median * 1e6:12.2f} µs  {name}{'  (contended)' if samples.contended else ''}")
    print(json.dumps(result.extras, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
