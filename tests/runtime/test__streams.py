"""Reuse is stream-ordered: at once on the same stream, after the release event on another, never a host wait."""

from __future__ import annotations

import pytest
import torch

from elinvar.runtime.memory import Lease, Pool
from elinvar.testing import FakeStreams


def nbytes(pool: Pool, n: int) -> Lease:
    return pool.acquire((n,), torch.uint8)


def storage(lease: Lease) -> int:
    """The address of a lease's memory, without keeping anything alive."""
    return lease.tensor.data_ptr()


@pytest.fixture
def streams() -> FakeStreams:
    return FakeStreams()


@pytest.fixture
def streamed(streams: FakeStreams) -> Pool:
    return Pool("cpu", streams=streams, debug=False)


def test_same_stream_gets_it_back_at_once(streamed: Pool, streams: FakeStreams) -> None:
    for _ in range(3):
        nbytes(streamed, 8).release()
    assert streamed.stats().allocation_count == 1
    assert {entry[0] for entry in streams.diary} == {"record"}


def test_another_stream_waits_on_the_release_event(streamed: Pool, streams: FakeStreams) -> None:
    nbytes(streamed, 8).release()
    assert streams.diary == [("record", "main", 1)]
    with streams.use("side"):
        lease = nbytes(streamed, 8)
        assert streams.diary[1:] == [("wait", "side", 1), ("keep", 512, "side")]
        lease.release()
        assert streams.diary[3:] == [("record", "side", 2)]
        nbytes(streamed, 8).release()  # its own now: no wait, and torch knows already
        assert streams.diary[4:] == [("record", "side", 3)]
    nbytes(streamed, 8).release()
    assert streams.diary[5:] == [("wait", "main", 3), ("record", "main", 4)]
    assert streamed.stats().allocation_count == 1


def test_a_stream_prefers_its_own_buffers(streamed: Pool, streams: FakeStreams) -> None:
    mine = nbytes(streamed, 8)
    address = storage(mine)
    with streams.use("side"):
        theirs = nbytes(streamed, 8)
    mine.release()
    with streams.use("side"):
        theirs.release()
    streams.diary.clear()
    with nbytes(streamed, 8) as lease:
        assert storage(lease) == address
        assert streams.diary == []


def test_released_on_another_stream_than_acquired(streamed: Pool, streams: FakeStreams) -> None:
    """Work may be pending on both: whoever comes next awaits both, and torch knows of both."""
    lease = nbytes(streamed, 8)
    with streams.use("side"):
        lease.release()
    assert streams.diary == [("keep", 512, "side"), ("record", "main", 1), ("record", "side", 2)]
    streams.diary.clear()
    with streams.use("third"):
        nbytes(streamed, 8)
        assert streams.diary[:3] == [("wait", "third", 1), ("wait", "third", 2), ("keep", 512, "third")]


def test_a_stream_awaits_others_only(streamed: Pool, streams: FakeStreams) -> None:
    lease = nbytes(streamed, 8)
    with streams.use("side"):
        lease.release()
        streams.diary.clear()
        nbytes(streamed, 8)
    assert [entry for entry in streams.diary if entry[0] == "wait"] == [("wait", "side", 1)]


def test_each_buffer_knows_the_stream_of_its_present_lease(streamed: Pool, streams: FakeStreams) -> None:
    nbytes(streamed, 8).release()
    with streams.use("side"):
        lease = nbytes(streamed, 8)
    streams.diary.clear()
    lease.release()  # on main, although the work went to side
    assert streams.diary == [("record", "side", 2), ("record", "main", 3)]


def test_poison_awaits_the_work_it_would_overwrite(streams: FakeStreams) -> None:
    pool = Pool("cpu", streams=streams, debug=True)
    lease = nbytes(pool, 8)
    with streams.use("side"):
        lease.release()
    assert streams.diary == [
        ("keep", 512, "side"),
        ("record", "main", 1),
        ("wait", "side", 1),
        ("record", "side", 2),
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_cuda_streams_order_reuse() -> None:
    pool = Pool("cuda")
    side = torch.cuda.Stream()
    n = 1 << 24
    for value in range(20):
        with pool.acquire((n,), torch.float32) as lease:
            lease.tensor.fill_(value)
            for _ in range(10):
                lease.tensor.add_(1)
            torch.cuda.current_stream().synchronize()
            expected = lease.tensor.sum(dtype=torch.float64)
        with torch.cuda.stream(side), pool.acquire((n,), torch.float32) as lease:
            lease.tensor.fill_(-1)
        assert expected.item() == n * (value + 10)
    torch.cuda.synchronize()
    assert pool.stats().allocation_count == 1
