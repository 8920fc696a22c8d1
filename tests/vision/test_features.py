from __future__ import annotations

import numpy as np
import pytest
import torch

from elinvar.errors import InputError
from elinvar.vision.features import FeatureCache, fingerprint


def test_the_least_recently_used_goes_first():
    cache = FeatureCache(100)
    one, two, three = (torch.zeros(1, 10) for _ in range(3))
    cache.put(b"1", one)
    cache.put(b"2", two)
    assert cache.get(b"1") is one
    cache.put(b"3", three)
    assert cache.get(b"2") is None
    assert cache.get(b"1") is one
    assert cache.bytes == 80
    cache.put(b"1", torch.zeros(1, 5))
    assert cache.bytes == 60
    cache.put(b"big", torch.zeros(1, 1000))
    assert cache.get(b"big") is None
    cache.clear()
    assert len(cache) == cache.bytes == 0
    with pytest.raises(InputError, match="max_bytes"):
        FeatureCache(-1)


def test_a_slice_does_not_keep_its_batch():
    cache = FeatureCache(1000)
    batch = torch.arange(20.0).view(2, 10)
    cache.put(b"x", batch[1:])
    assert cache.get(b"x").untyped_storage().nbytes() == 40
    assert torch.equal(cache.get(b"x"), batch[1:])


def test_fingerprints():
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    assert fingerprint(image) == fingerprint(image.copy())
    assert fingerprint(image) != fingerprint(image.reshape(6, 4, 3))
    assert fingerprint(image[:, ::-1]) != fingerprint(image)
