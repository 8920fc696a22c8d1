"""The texture pool: reuse, budgets by frame number, transient targets, counters."""

from __future__ import annotations

import pytest
import torch

from elinvar.errors import BudgetExceeded, DoubleRelease, ForeignLease, InputError, StaleLease
from elinvar.testing import assert_no_leak
from elinvar.video.textures import FORMATS, TexturePool

SMALL = 64 * 64 * 8


@pytest.fixture
def pool() -> TexturePool:
    return TexturePool(4 * SMALL, "cpu")


def test_a_released_texture_is_lent_again(pool: TexturePool) -> None:
    first = pool.acquire(64, 64)
    address = first.tensor.data_ptr()
    pool.release(first)
    second = pool.acquire(64, 64)
    assert second.tensor.data_ptr() == address
    assert (pool.texture_allocation_count, pool.stats().reuse_count) == (1, 1)
    assert pool.acquire(64, 64, usage="host").tensor.data_ptr() != address, "another usage is another key"


def test_clear_hides_old_pixels(pool: TexturePool) -> None:
    texture = pool.acquire(8, 8, "r32f")
    texture.tensor.fill_(7)
    pool.release(texture)
    assert float(pool.acquire(8, 8, "r32f", clear=True).tensor.abs().max()) == 0


def test_the_texture_unused_for_most_frames_goes_first(pool: TexturePool) -> None:
    old, new = pool.acquire(64, 64), pool.acquire(64, 64, "rg8")
    pool.release(old)
    pool.end_frame()
    pool.release(new)
    for _ in range(4):
        pool.acquire(64, 64, usage="host")
    stats = pool.stats()
    assert stats.evictions == 2
    assert stats.waiting == 0


def test_budgets_refuse_and_name_the_numbers(pool: TexturePool) -> None:
    held = [pool.acquire(64, 64) for _ in range(4)]
    with pytest.raises(BudgetExceeded, match=str(4 * SMALL)):
        pool.acquire(64, 64)
    pool.release(held[0])
    pool.acquire(64, 64)


def test_transient_targets_are_gone_with_their_pass(pool: TexturePool) -> None:
    with pool.transient(16, 16, "depth32f", name="depth", used_by="geometry") as depth:
        assert float(depth.tensor.min()) == 1.0, "cleared to the far plane"
    with pytest.raises(StaleLease, match="geometry"):
        _ = depth.tensor
    with pool.transient(16, 16, "rgba16f", used_by="pass") as colour:
        assert float(colour.tensor.abs().max()) == 0


def test_mistakes_change_nothing(pool: TexturePool) -> None:
    texture = pool.acquire(8, 8)
    pool.release(texture)
    before = pool.stats()
    with pytest.raises(DoubleRelease):
        pool.release(texture)
    with pytest.raises(ForeignLease):
        TexturePool(None, "cpu").release(texture)
    with pytest.raises(StaleLease, match="after its release"):
        _ = texture.tensor
    for wrong in ({"format": "bgra"}, {"usage": "cpu"}, {"width": 0}):
        with pytest.raises(InputError):
            pool.acquire(**{"width": 8, "height": 8, **wrong})
    assert pool.stats() == before


def test_readbacks_are_counted(pool: TexturePool) -> None:
    texture = pool.acquire(4, 4, "r32f", clear=True)
    copy = texture.read()
    assert pool.cpu_readback_count == 1
    texture.tensor.fill_(1)
    assert float(copy.max()) == 0, "a copy, not a view"


def test_events_tell_what_happens(pool: TexturePool) -> None:
    seen: list[str] = []
    pool.events.append(lambda event, _texture: seen.append(event))
    texture = pool.acquire(8, 8)
    pool.release(texture)
    pool.release(pool.acquire(8, 8))
    pool.end_frame()
    assert seen == ["acquire", "release", "reuse", "release", "end_frame"]


def test_every_format_has_its_size() -> None:
    pool = TexturePool("low-memory", "cpu")
    for name, (channels, dtype) in FORMATS.items():
        texture = pool.acquire(6, 4, name)
        assert texture.tensor.shape == (channels, 4, 6)
        assert texture.nbytes == 24 * channels * torch.empty(0, dtype=dtype).element_size()


def test_nothing_leaks() -> None:
    def once() -> None:
        pool = TexturePool(None, "cpu")
        pool.release(pool.acquire(32, 32))
        pool.clear()

    assert_no_leak(once, repeats=5)
