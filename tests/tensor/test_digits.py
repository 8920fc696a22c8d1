import sys

import pytest
import torch

from elinvar.errors import MissingDependency
from elinvar.tensor import digits


def _digits():
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    return digits.load()


def test_the_split_is_a_partition_and_repeats():
    data = _digits()
    assert len(data.labels) + len(data.test_labels) == 1797
    assert float(data.images.min()) == 0.0
    assert float(data.images.max()) == 1.0
    assert torch.equal(digits.load().images, data.images)


def test_training_learns_and_stops_allocating():
    data = _digits()
    seen = []
    done = digits.train(data, epochs=6, progress=lambda *now: seen.append(now))
    assert done.accuracies[-1] > 0.93  # 97 % takes the example's 30 epochs
    assert done.losses[-1] < 0.2 * done.losses[0]
    steps = len(done.allocations) // 6
    assert done.allocations[1] == done.allocations[steps - 1]
    assert seen[-1] == (6, 6)
    again = digits.train(data, epochs=1)
    assert again.losses[0] == done.losses[0]


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependency, match=r"elinvar\[tensor\]"):
        digits.load()
