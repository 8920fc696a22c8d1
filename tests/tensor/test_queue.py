import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from elinvar import tensor
from elinvar.errors import InputError, PipelineError
from elinvar.testing import assert_no_leak


class Gate:
    """A model that waits to be let through, and remembers its batches."""

    def __init__(self):
        self.open = threading.Event()
        self.entered = threading.Event()
        self.sizes = []

    def __call__(self, x):
        self.entered.set()
        assert self.open.wait(10)
        self.sizes.append(len(x))
        return x * 2


def test_waiting_items_become_one_batch_in_order():
    gate = Gate()
    with tensor.BatchingQueue(gate, max_batch=8, max_wait=0) as queue:
        first = queue.submit(torch.tensor([0.0]))
        assert gate.entered.wait(10)
        others = [queue.submit(torch.tensor([float(k)])) for k in range(1, 11)]
        gate.open.set()
        assert [float(f.result(10)) for f in (first, *others)] == [2.0 * k for k in range(11)]
    assert gate.sizes == [1, 8, 2]
    assert (queue.batches, queue.items) == (3, 11)


def test_company_is_waited_for():
    with tensor.BatchingQueue(lambda x: x + len(x), max_batch=2, max_wait=60) as queue:
        futures = [queue.submit(torch.zeros(())) for _ in range(2)]
        assert [float(f.result(10)) for f in futures] == [2.0, 2.0]


def test_bounded():
    gate = Gate()
    with tensor.BatchingQueue(gate, max_batch=1, max_wait=0, capacity=2) as queue:
        running = queue.submit(torch.zeros(1))
        assert gate.entered.wait(10)
        waiting = [queue.submit(torch.zeros(1)) for _ in range(2)]
        assert queue.try_submit(torch.zeros(1)) is None
        with pytest.raises(TimeoutError, match="2 items still wait"):
            queue.submit(torch.zeros(1), timeout=0.01)
        gate.open.set()
        for future in (running, *waiting):
            future.result(10)
        assert queue.try_submit(torch.zeros(1)) is not None


def test_only_the_items_at_fault_get_the_exception():
    def picky(x):
        if (x < 0).any():
            raise ValueError("negative")
        return x

    gate = Gate()

    def both(x):
        return picky(gate(x) / 2)

    with tensor.BatchingQueue(both, max_batch=8, max_wait=0) as queue:
        queue.submit(torch.zeros(1))
        assert gate.entered.wait(10)
        futures = [queue.submit(torch.tensor([v])) for v in (1.0, -1.0, 3.0)]
        gate.open.set()
        assert float(futures[0].result(10)) == 1.0
        assert isinstance(futures[1].exception(10), ValueError)
        assert float(futures[2].result(10)) == 3.0


def test_memory_running_out_halves_later_batches_too():
    gate = Gate()

    def small(x):
        if len(x) > 2:
            raise torch.OutOfMemoryError("too many")
        return gate(x)

    with tensor.BatchingQueue(small, max_batch=4, max_wait=0) as queue:
        first = queue.submit(torch.zeros(1))
        assert gate.entered.wait(10)
        futures = [queue.submit(torch.zeros(1)) for _ in range(8)]
        gate.open.set()
        for future in (first, *futures):
            future.result(10)
        assert queue.batch == 2
    assert max(gate.sizes) == 2


def test_many_callers():
    with tensor.BatchingQueue(lambda x: x * 3, max_batch=16) as queue, ThreadPoolExecutor(8) as threads:

        def call(k):
            return float(queue.submit(torch.tensor(float(k))).result(10))

        assert list(threads.map(call, range(200))) == [3.0 * k for k in range(200)]


def test_cancelled_items_are_not_run_and_closing_ends_the_thread():
    gate = Gate()
    queue = tensor.BatchingQueue(gate, max_batch=1, max_wait=0)
    running = queue.submit(torch.zeros(1))
    assert gate.entered.wait(10)
    waiting = queue.submit(torch.zeros(1))
    assert waiting.cancel()
    gate.open.set()
    queue.close()
    assert running.done()
    assert gate.sizes == [1]
    with pytest.raises(PipelineError, match="closed"):
        queue.submit(torch.zeros(1))


def test_bad_input():
    with pytest.raises(InputError, match="max_batch=0"):
        tensor.BatchingQueue(lambda x: x, max_batch=0)
    with tensor.BatchingQueue(lambda x: x) as queue, pytest.raises(InputError, match="item is a int"):
        queue.submit(3)


def test_nothing_is_left_behind():
    def once():
        with tensor.BatchingQueue(lambda x: x) as queue:
            queue.submit(torch.zeros(3)).result(10)

    assert_no_leak(once, repeats=10)


def test_the_function_runs_in_the_modes_of_the_queues_maker():
    model = torch.nn.Linear(4, 3)
    x = torch.ones(4)
    seen = []
    for mode in (
        torch.no_grad,
        torch.inference_mode,
        torch.enable_grad,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        with mode(), tensor.BatchingQueue(model, max_wait=0) as queue:
            y = queue.submit(x).result(10)
            seen.append((y.requires_grad, y.is_inference(), y.dtype))
    plain = torch.float32
    assert seen == [(False, False, plain), (False, True, plain), (True, False, plain), (True, False, torch.bfloat16)]


@pytest.mark.parametrize("numbers", [{"max_batch": 2.5}, {"max_batch": True}, {"capacity": 1.5}, {"max_wait": -1}])
def test_numbers_out_of_range(numbers):
    with pytest.raises(InputError, match="give whole numbers from 1"):
        tensor.BatchingQueue(lambda x: x, **numbers)
