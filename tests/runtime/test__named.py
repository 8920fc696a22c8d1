"""Released buffers that names still refer to."""

from __future__ import annotations

import pytest
import torch

from elinvar.runtime._named import Named
from elinvar.runtime._storage import Buffer


def buffer(nbytes: int = 512) -> Buffer:
    return Buffer(torch.empty(nbytes, dtype=torch.uint8))


def test_the_longest_waiting_of_a_class_is_forgotten_beyond_the_cap() -> None:
    named = Named()
    small, large = [buffer() for _ in range(3)], buffer(1024)
    assert [named.put(one, 2) for one in (*small, large)] == [0, 0, 1, 0]
    assert (named.buffers, named.of(512), named.of(1024), named.of(2048)) == (3, 2, 1, 0)
    assert named.forget() == 3
    assert (named.buffers, named.forget()) == (0, 0)


def test_only_those_that_nobody_names_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    named = Named()
    kept, gone = buffer(), buffer()
    for one in (kept, gone):
        one.lent = one.base.view(torch.float32)
        named.put(one, 10)
    name = kept.lent
    assert named.take_free() == [gone]
    assert named.take_free() == []
    assert named.of(512) == 1
    del name
    assert named.take_free() == [kept]
    assert not named.buffers
