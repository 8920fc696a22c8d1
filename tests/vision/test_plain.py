from __future__ import annotations

import pytest
import torch

from elinvar.vision import plain

from .conftest import MICRO


def test_rotation_turns_pairs_by_their_position():
    t = torch.randn(1, 2, 6, 64, dtype=torch.float64)
    where = plain.positions(2, 3)
    turned = plain.rotate(t, where)
    assert torch.allclose(turned.norm(dim=-1), t.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], t[:, :, 0])  # position (0, 0) turns nothing
    # Products depend on the difference of positions only: the point of it.
    q, k = torch.randn(2, 1, 1, 1, 64, dtype=torch.float64)

    def product(a, b):
        return (plain.rotate(q, torch.tensor([a])) * plain.rotate(k, torch.tensor([b]))).sum()

    assert product([1, 2], [4, 1]) == pytest.approx(float(product([3, 5], [6, 4])))
    assert product([1, 2], [4, 1]) != pytest.approx(float(product([2, 1], [1, 4])), rel=1e-3)


def test_fused_attention_is_the_same(weights):
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    one = plain.infer(weights(MICRO), MICRO, *images)
    two = plain.infer(weights(MICRO), MICRO, *images, attention="sdpa")
    for name in one:
        assert torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-4), name


def test_a_batch_is_its_pairs(weights):
    images = torch.randint(0, 256, (2, 2, 32, 32, 3), dtype=torch.uint8)
    both = plain.forward(weights(MICRO), MICRO, *images)
    for k in (0, 1):
        one = plain.infer(weights(MICRO), MICRO, images[0, k], images[1, k])
        assert torch.allclose(both["pts3d_1"][k], one["pts3d_1"], rtol=1e-3, atol=1e-4)
