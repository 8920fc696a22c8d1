from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elinvar.errors import InputError
from elinvar.runtime.device import DeviceProfile, device
from elinvar.runtime.placement import choose, crossover, explain
from elinvar.runtime.tuning import Tuned


class Fake:
    def __init__(self, spec, **facts):
        self.spec = spec
        self.profile = DeviceProfile.fake(**facts)

    def __str__(self):
        return self.spec


CPU = Fake("cpu")
GPU = Fake("cuda:1", kind="cuda", name="H")


def known(**crossovers):
    return lambda profile: Tuned(crossovers=crossovers, measured=frozenset({"crossover.matmul"}))


@pytest.mark.parametrize(
    ("op", "shape", "where", "devices", "chosen", "why"),
    [
        ("matmul", (10, 10, 10), "cpu", [GPU, CPU], "cuda:1", r"10×10×10 moves to cuda:1: 1e\+03 .*measured here"),
        ("matmul", (9, 10, 10), "cpu", [GPU, CPU], "cpu", r"stays on cpu: 900 is below .*measured here"),
        ("fft", (999,), "cpu", [GPU, CPU], "cpu", "below.*default"),
        ("fft", (1000,), "cpu", [GPU, CPU], "cuda:1", "default; `elinvar tune`"),
        ("elementwise", (10**9,), "cpu", [GPU, CPU], "cpu", "copying.*longer"),
        ("sort", (10**9,), "cpu", [GPU, CPU], "cpu", "no crossover"),
        ("matmul", (10**6,), "cpu", [CPU], "cpu", "no accelerator"),
        ("matmul", (1,), "cuda", [GPU, CPU], "cuda:0", "data are there"),
        ("matmul", (1,), torch.device("cuda", 1), [GPU, CPU], "cuda:1", "data are there"),
        ("matmul", (1,), "mps", [CPU], "mps", "data are there"),
        ("matmul", (0, 5), "cpu", [GPU, CPU], "cpu", "below"),
        ("matmul", (), "cpu", [GPU, CPU], "cpu", "one element"),
    ],
)
def test_decisions_and_their_reasons(op, shape, where, devices, chosen, why):
    options = {"devices": devices, "tuned": known(matmul=1000, fft=1000, elementwise=math.inf)}
    assert choose(op, shape, where, **options) == chosen
    sentence = explain(op, shape, where, **options)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert re.search(why, sentence)


def test_defaults_on_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path))
    assert choose("elementwise", (1 << 30,), device("cpu")) == "cpu"
    assert choose("matmul", (4096, 4096, 4096), "cpu", devices=[GPU, CPU]) == "cuda:1"
    assert choose("matmul", (64, 64, 64), "cpu", devices=[GPU, CPU]) == "cpu"


@pytest.mark.parametrize("where", ["gpu", "", "cuda:x", "cpu:", 3, None])
def test_a_wrong_place_is_named(where):
    with pytest.raises(InputError, match="resident_on"):
        choose("matmul", (1,), where)


@pytest.mark.parametrize("shape", [(-1,), (2.5,), 3, ("a",)])
def test_a_wrong_shape_is_named(shape):
    with pytest.raises(InputError, match="shape"):
        choose("matmul", shape, "cpu")


@pytest.mark.parametrize(
    ("here", "there", "found"),
    [
        ([1, 2, 4, 8], [3, 3, 3, 3], 4),
        ([1, 2, 4, 8], [9, 9, 9, 9], math.inf),
        ([1, 2, 4, 8], [0.5, 0.5, 0.5, 0.5], 1),
        ([9, 2, 9, 9], [1, 2, 1, 1], 4),  # an early win does not count before a later loss
        ([1.14, 1.15], [1, 1], 2),
    ],
)
def test_crossover(here, there, found):
    assert crossover([1, 2, 4, 8][: len(here)], here, there) == found


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=12))
def test_above_a_crossover_the_device_always_wins(times):
    sizes = [2.0**i for i in range(len(times))]
    found = crossover(sizes, [a for a, _ in times], [b for _, b in times])
    for size, (here, there) in zip(sizes, times, strict=True):
        if size >= found:
            assert here >= 1.15 * there


@pytest.mark.parametrize(
    ("sizes", "here", "there"),
    [([], [], []), ([1, 2], [1], [1, 2]), ([2, 1], [1, 1], [1, 1]), ([1], [0], [1]), ([1], [1], [math.nan])],
)
def test_wrong_measurements_are_refused(sizes, here, there):
    with pytest.raises(InputError, match="crossover got"):
        crossover(sizes, here, there)
