"""Pipeline overlap: two 10 ms stages and 20 items in at most 262 ms (210 is perfect), and what one hand-over costs.

Rows: the pipeline with two items in flight beside the plain loop over the same work; 1 000 items through two empty
stages; one parallel_for over 128 empty pieces on two threads.
"""

from __future__ import annotations

import time

from elinvar.bench import Case, Result, interleave, measure
from elinvar.runtime.parallel import parallel_for
from elinvar.runtime.pipeline import Pipeline, Stage

ITEMS, SECONDS, LIMIT_SECONDS = 20, 0.010, 0.262
EMPTY_ITEMS = 1000


def wait(x: int) -> int:
    time.sleep(SECONDS)
    return x


def overlapped() -> None:
    with Pipeline([Stage(wait, "first"), Stage(wait, "second")], in_flight=2) as pipeline:
        results = list(pipeline.run(range(ITEMS)))
    if results != list(range(ITEMS)):
        raise AssertionError(f"out of order: {results}")


def loop() -> None:
    for item in range(ITEMS):
        wait(wait(item))


def empty_items() -> None:
    with Pipeline([Stage(abs), Stage(abs)], in_flight=3) as pipeline:
        for _ in pipeline.run(range(EMPTY_ITEMS)):
            pass


def empty_pieces() -> None:
    parallel_for(128, nothing, threads=2)


def nothing(start: int, stop: int) -> None:
    """Do as little as a piece can."""


def ci_cases() -> dict[str, Case]:
    """The cost of a hand-over; the waiting rows would only measure sleep."""
    return {"1000 empty items": Case(empty_items), "parallel_for 128 empty": Case(empty_pieces)}


def run(*, runs: int = 31, warmup: int = 3) -> Result:
    """Time the overlap against the loop, then the empty rows."""
    samples = interleave(
        {"two 10 ms stages, in_flight=2": overlapped, "plain loop": loop}, runs=runs, warmup=min(warmup, 1)
    )
    samples["1000 empty items"] = measure(empty_items, name="1000 empty items", runs=runs, warmup=warmup)
    samples["parallel_for 128 empty"] = measure(
        empty_pieces, name="parallel_for 128 empty", runs=runs, warmup=warmup, inner="auto"
    )
    piped = samples["two 10 ms stages, in_flight=2"]
    return Result(
        "pipeline",
        samples,
        extras={
            "limit_seconds": LIMIT_SECONDS,
            "perfect_seconds": SECONDS * (ITEMS + 1),
            "within_limit": piped.median <= LIMIT_SECONDS,
            "microseconds_per_empty_item": samples["1000 empty items"].median / EMPTY_ITEMS * 1e6,
        },
    )
