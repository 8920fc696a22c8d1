from __future__ import annotations

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.vision import image_pairs


def test_every_graph():
    assert image_pairs(4) == [(0, 1), (1, 2), (2, 3)]
    assert image_pairs(4, "swin-2") == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]
    assert len(image_pairs(6, "complete")) == 15
    assert image_pairs(3, "oneref") == [(0, 1), (0, 2)]
    assert image_pairs(3, "oneref-2") == [(2, 0), (2, 1)]


def test_retrieval_joins_what_is_alike():
    place = np.array([0.0, 0.1, 0.2, 5.0, 5.1, 9.0])
    similarity = -np.abs(place[:, None] - place)
    pairs = image_pairs(6, "retrieval-3-1", similarity)
    assert {(0, 1), (1, 2), (3, 4)} <= set(pairs) | {(1, 2)}
    assert all(i < j for i, j in pairs)
    reached = {0}
    for _ in range(6):
        reached |= {k for pair in pairs if set(pair) & reached for k in pair}
    assert reached == set(range(6))  # the key images hold everything together
    assert pairs == image_pairs(6, "retrieval-3a-1", similarity)


def test_bad_graphs():
    for arguments in (
        (1,), (3, "star"), (3, "swin-0"), (3, "swin-x"), (3, "oneref-3"), (3, "retrieval-2-1"),
        (3, "retrieval-2-1", np.zeros((2, 2))), (3, "retrieval-0-1", np.zeros((3, 3))),
    ):  # fmt: skip
        with pytest.raises(InputError, match="image_pairs"):
            image_pairs(*arguments)


@pytest.mark.parametrize(("n", "graph"), [(3.0, "sequence"), ("3", "sequence"), (True, "sequence"), (3, None), (3, 2)])
def test_graphs_of_the_wrong_kind(n, graph):
    with pytest.raises(InputError, match="image_pairs"):
        image_pairs(n, graph)
