from __future__ import annotations

import functools
import os
import time
from typing import Any

import pytest

from elinvar.errors import InputError
from elinvar.testing.mutation import mutate_metal, survivors

SOURCE = """#include <metal_stdlib>
using namespace metal;
// a < b here is a comment
#define SMALLER(a, b) ((a) < (b))
template <typename T> inline T twice(T v) { return static_cast<T>(v + v); }
kernel void sum(device const float* a [[buffer(0)]], device const float* b [[buffer(1)]],
                device float* out [[buffer(2)]], constant uint& n [[buffer(3)]], constant uint& m [[buffer(4)]],
                uint i [[thread_position_in_grid]]) {
    threadgroup float tile[32];
    float acc = 0.0f;
    for (uint k = 0; k < n; k += 2) {
        acc += a[k] * twice<float>(b[k]);
        acc = fma(a[k], b[k], acc);
        acc = acc + float(k << 1);
    }
    tile[i] = acc;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (i >= m && acc > tile[0]) { out[i] = acc; }
}
"""


def by_kind(kind: str) -> list[str]:
    return [mutant.description for mutant in mutate_metal(SOURCE) if mutant.kind == kind]


def test_swaps_only_arguments_of_equal_type() -> None:
    assert by_kind("swap") == ["sum: swap arguments a and b", "sum: swap arguments n and m"]
    swapped = next(mutant for mutant in mutate_metal(SOURCE) if mutant.kind == "swap")
    assert "device const float* b [[buffer(0)]], device const float* a [[buffer(1)]]" in swapped.source


def test_drops_every_barrier() -> None:
    assert by_kind("barrier") == ["drop threadgroup_barrier(mem_flags::mem_threadgroup)"]


def test_halves_accumulators_but_not_loop_steps() -> None:
    assert by_kind("halve") == [
        "halve the accumulated a[k] * twice<float>(b[k])",
        "halve the accumulated a[k]",
        "halve the accumulated float(k << 1)",
    ]
    sources = [mutant.source for mutant in mutate_metal(SOURCE) if mutant.kind == "halve"]
    assert "acc += (a[k] * twice<float>(b[k])) / 2;" in sources[0]
    assert "acc = fma( (a[k]) / 2, b[k], acc);" in sources[1]
    assert "acc = acc + (float(k << 1)) / 2;" in sources[2]


def test_moves_bounds_both_ways_and_spares_templates_comments_shifts_and_macros() -> None:
    assert by_kind("bound") == [
        "'< n': < becomes <=",
        "'< n': bound - 1",
        "'>= m': >= becomes >",
        "'>= m': bound - 1",
        "'> tile[0]': > becomes >=",
        "'> tile[0]': bound + 1",
    ]
    first = next(mutant for mutant in mutate_metal(SOURCE) if mutant.kind == "bound")
    assert first.line == 11
    assert str(first) == "line 11: '< n': < becomes <="
    assert first.key == "for (uint k = 0; k < n; k += 2) { | '< n': < becomes <="


def test_halves_atomics() -> None:
    source = "kernel void k() { atomic_fetch_add_explicit(&x[i], v * 2, memory_order_relaxed); }"
    [mutant] = [m for m in mutate_metal(source) if m.kind == "halve"]
    assert "&x[i], (v * 2) / 2, memory_order_relaxed" in mutant.source


def test_every_mutant_differs_from_the_source_and_from_the_others() -> None:
    sources = [mutant.source for mutant in mutate_metal(SOURCE)]
    assert SOURCE not in sources
    assert len(set(sources)) == len(sources)


def judge(source: str, *, needles: tuple[str, ...], bad: str = "") -> bool:
    """A check that understands nothing but substrings, and misbehaves in the way `bad` says."""
    if all(needle in source for needle in needles):
        return True
    if bad == "hang":
        time.sleep(60)
    if bad == "crash":
        os.abort()
    if bad == "raise":
        raise RuntimeError("noticed")
    return False


SMALL = "kernel void k() { if (i < n) { acc += x; } }"


def patience() -> float:
    """Seconds in which even a busy machine gets an honest answer from each of six processes at once."""
    begin = time.monotonic()
    assert survivors(SMALL, functools.partial(judge, needles=("acc += x;",)), limit=0) == []  # the source alone
    return 2.0 + 6.0 * (time.monotonic() - begin)


@pytest.mark.parametrize("bad", ["", "hang", "crash", "raise"])
def test_survivors_counts_a_false_a_hang_a_crash_and_an_exception_as_noticed(bad: str) -> None:
    given: dict[str, Any] = {"jobs": 6, "timeout": patience()} if bad == "hang" else {}
    check = functools.partial(judge, needles=("i < n", "acc += x;"), bad=bad)
    assert survivors(SMALL, check, **given) == []
    blind = functools.partial(judge, needles=("acc += x;",), bad=bad)
    assert [mutant.description for mutant in survivors(SMALL, blind, **given)] == [
        "'< n': < becomes <=",
        "'< n': bound - 1",
    ]


def test_equivalent_mutants_need_a_proof_and_a_mutant() -> None:
    blind = functools.partial(judge, needles=("acc += x;",))
    proofs = {f"{SMALL} | '< n': < becomes <=": "x[n] is 0 by contract"}
    assert [m.description for m in survivors(SMALL, blind, equivalent=proofs)] == ["'< n': bound - 1"]
    for wrong in ({f"{SMALL} | '< n': < becomes <=": " "}, {"nothing | at all": "because"}):
        with pytest.raises(InputError, match="no mutant here or has no proof"):
            survivors(SMALL, blind, equivalent=wrong)


def test_survivors_refuses_a_check_that_cannot_judge() -> None:
    with pytest.raises(InputError, match="fails on the unmutated source"):
        survivors(SMALL, functools.partial(judge, needles=("absent",)))
    with pytest.raises(InputError, match="cannot be sent"):
        survivors(SMALL, lambda source: True)


def test_a_limit_spreads_over_the_source() -> None:
    # `bool` finds every source good, and no process has to import this file for it.
    everything = [mutant.key for mutant in survivors(SOURCE, bool)]
    some = [mutant.key for mutant in survivors(SOURCE, bool, limit=3)]
    n = len(everything)
    assert some == [everything[0], everything[n // 3], everything[2 * n // 3]]
    assert [mutant.key for mutant in survivors(SOURCE, bool, limit=n + 5)] == everything
