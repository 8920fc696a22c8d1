import pytest
import torch

from elinvar import Pool
from elinvar.errors import InputError
from elinvar.tensor.workspace import Scratch, check_out, check_pool, new


def test_scratch_gives_everything_back(pool):
    with Scratch(pool) as scratch:
        half = torch.ones(4, dtype=torch.float16)
        assert scratch.converted(half, torch.float32).tolist() == [1.0] * 4
        assert scratch.converted(half, torch.float16) is half
        assert scratch.empty((0, 3), torch.float32, half.device).shape == (0, 3)
        assert pool.live == 1
    assert pool.live == 0
    assert pool.stats().requests == 1


def test_scratch_inside_a_frame_that_ends_first(pool):
    scratch = Scratch(pool)
    with pool.frame():
        scratch.empty((8,), torch.float32, torch.device("cpu"))
    scratch.__exit__(None, None, None)
    assert pool.live == 0


def test_results_belong_to_the_frame_or_to_their_name(pool):
    cpu = torch.device("cpu")
    with pool.frame():
        new((8,), torch.float32, cpu, pool, "op")
    assert pool.live == 0
    kept = new((8,), torch.float32, cpu, pool, "op")
    kept.fill_(1.0)
    new((8,), torch.float32, cpu, pool, "op").fill_(2.0)
    assert kept.tolist() == [1.0] * 8
    assert new((0,), torch.float32, cpu, pool, "op").numel() == 0


def test_refusals():
    cpu = torch.device("cpu")
    with pytest.raises(InputError, match="op: pool is a str"):
        check_pool("pool", cpu, "op")
    with pytest.raises(InputError, match="the pool is on cpu, the tensors on meta"):
        check_pool(Pool("cpu"), torch.device("meta"), "op")
    with pytest.raises(InputError, match="op: out is a list"):
        check_out([], (2,), torch.ones(2), "op")
