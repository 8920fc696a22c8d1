from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from elinvar.errors import Cancelled, DeviceUnavailable, InputError, MissingDependency
from elinvar.runtime import cluster as module
from elinvar.runtime.cluster import cluster
from elinvar.runtime.parcel import Parcel, near_works
from elinvar.runtime.pipeline import Pipeline, Stage

pytest.importorskip("distributed", reason="the cluster extra is not installed")


@pytest.fixture(scope="module")
def local():
    """One worker in this process, on machines with GPUs as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_gpus", lambda: 0)
        with cluster("local") as executor:
            yield executor


@pytest.fixture(autouse=True)
def no_thread_survives():
    yield
    assert not [t for t in threading.enumerate() if t.name.startswith("elinvar-") and "cpu" not in t.name]


class Here:
    """Sends a function by name only: a worker in this process finds the very same one, closure and all."""

    table: dict = {}

    def __init__(self, fn):
        self.key = len(Here.table)
        self.__name__ = fn.__name__
        Here.table[self.key] = fn

    def __call__(self, x):
        return Here.table[self.key](x)


def inc(x):
    return x + 1


def fail_at(n):
    def bad(x):
        if x == n:
            raise LookupError(f"item {n}")
        return x

    return bad


def run(executor, stages, items, **options):
    with Pipeline(stages, executor=executor, **options) as p:
        return list(p.run(items))


def test_results_come_in_item_order_whatever_finishes_first(local):
    def jitter(x):
        time.sleep((7 - x % 8) * 2e-3)
        return x

    assert run(local, [jitter, inc], range(20), in_flight=6) == list(range(1, 21))
    assert run(local, [inc], []) == []


def test_never_more_than_in_flight_items_exist(local):
    with Pipeline([inc], in_flight=2, executor=local) as p:
        for _ in p.run(range(10)):
            assert p.outstanding <= 2


def test_an_exception_comes_after_all_earlier_items(local):
    got = []
    with pytest.raises(LookupError, match="item 7") as caught:
        with Pipeline([inc, Stage(fail_at(8), "second")], in_flight=4, executor=cluster_without_retries(local)) as p:
            for r in p.run(range(50)):
                got += [r]
    assert got == list(range(1, 8))
    assert any("'second'" in note and "item 7" in note for note in caught.value.__notes__)


def test_an_exception_names_the_stage_that_raised(local):
    with pytest.raises(LookupError) as caught:
        run(cluster_without_retries(local), [Stage(fail_at(0), "first"), inc], range(3))
    assert any("'first'" in note and "item 0" in note for note in caught.value.__notes__)


def cluster_without_retries(local):
    return cluster(local.client, retries=0)


def test_nothing_starts_after_a_failure_even_before_its_turn(local):
    gate, failed = threading.Event(), threading.Event()
    started = []

    def stage(x):
        started.append(x)
        if x == 0:
            assert gate.wait(30)
        if x == 2:
            failed.set()
            raise LookupError("two")
        return x

    with Pipeline([Here(stage)], in_flight=3, executor=cluster_without_retries(local)) as p:
        assert all(p.try_submit(x) for x in range(3))
        assert failed.wait(30)
        deadline = time.monotonic() + 30
        flow = p._flow
        while flow.lanes._sent[2].futures[-1].status != "error" and time.monotonic() < deadline:
            time.sleep(0.001)
        results = p.results()
        gate.set()
        assert next(results) == 0
        p.try_submit(3)  # notices the failure: whatever it says, item 3 must not start
        assert p.try_submit(4) is False
        assert next(results) == 1
        with pytest.raises(LookupError, match="two"):
            next(results)
    assert sorted(started) == [0, 1, 2]


def test_a_failing_task_is_tried_again(local):
    tries = []

    def flaky(x):
        tries.append(x)
        if tries.count(x) <= 2:
            raise ConnectionError("flaky")
        return x

    assert run(cluster(local.client, retries=2), [Here(flaky)], range(2)) == [0, 1]
    assert sorted(tries) == [0, 0, 0, 1, 1, 1]
    del tries[:]
    with pytest.raises(ConnectionError, match="flaky"):
        run(cluster(local.client, retries=1), [Here(flaky)], range(1))
    assert tries == [0, 0]


def test_a_stage_is_retried_alone(local):
    counts = {"first": 0, "second": 0}

    def first(x):
        counts["first"] += 1
        return x

    def second(x):
        counts["second"] += 1
        if counts["second"] == 1:
            raise ConnectionError("once")
        return x

    assert run(local, [Here(first), Here(second)], [5]) == [5]
    assert counts == {"first": 1, "second": 2}


def test_compute_stages_take_turns_on_a_worker(local):
    running = []
    most = []

    def compute(x):
        running.append(x)
        most.append(len(running))
        time.sleep(0.005)
        running.remove(x)
        return x

    assert run(local, [Stage(Here(compute), compute=True)], range(8), in_flight=8) == list(range(8))
    assert max(most) == 1


def test_a_resource_no_worker_declares_is_not_asked_for():
    fake = SimpleNamespace(scheduler_info=lambda: {"workers": {"a": {"resources": {}}}})
    assert module.ClusterExecutor(fake, None).workers == 1
    stage = Stage(inc, compute=True)
    board = module.Board()
    opened = module.ClusterExecutor(fake, None).open([stage], board)
    assert opened._offered == set()
    board.stopped = True
    opened.stop()
    opened.join()


def test_grad_mode_travels_with_the_items(local):
    import torch

    with torch.no_grad():
        assert run(local, [lambda x: torch.is_grad_enabled()], [0]) == [False]
    assert run(local, [lambda x: torch.is_grad_enabled()], [0]) == [True]


def test_breaking_out_and_cancelling_leave_nothing_running(local):
    for _ in Pipeline([inc], in_flight=4, executor=local).run(range(100)):
        break
    with Pipeline([lambda x: time.sleep(0.01) or x], in_flight=3, executor=local) as p:
        threading.Timer(0.05, p.cancel).start()
        with pytest.raises(Cancelled):
            for _ in p.run(iter(int, 1)):
                pass
    deadline = time.monotonic() + 30
    while local.client.processing() and any(local.client.processing().values()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(local.client.processing().values())


def test_undelivered_results_are_disposed(local):
    disposed = []
    gate = threading.Event()
    stage = Stage(Here(lambda x: x if x == 0 else gate.wait(30) and x), dispose=disposed.append)
    with Pipeline([stage], in_flight=3, executor=local) as p:
        run = p.run(range(3))
        assert next(run) == 0
        gate.set()
        deadline = time.monotonic() + 30
        while p._flow.order[-1].state.value != "done" and time.monotonic() < deadline:
            time.sleep(0.001)
    assert sorted(disposed) == [1, 2]


def test_what_cannot_be_pickled_fails_its_own_item(tmp_path, local):
    lock = threading.Lock()
    with pytest.raises(TypeError, match="pickle") as caught:
        run(cluster(local.client, resume=tmp_path), [Stage(inc, "only")], [1, lock])
    assert any("'only'" in note and "item 1" in note for note in caught.value.__notes__)


def test_resume_computes_only_what_is_missing(tmp_path, local):
    calls = []

    def work(x):
        calls.append(x)
        if x == 3 and len(calls) <= 4:
            raise LookupError("interrupted")
        return [x * 10]

    executor = cluster(local.client, retries=0, resume=tmp_path / "done")
    stages = [Stage(Here(work), "work")]
    with pytest.raises(LookupError):
        run(executor, stages, range(6), in_flight=1)
    assert calls == [0, 1, 2, 3]
    assert run(executor, stages, range(6), in_flight=2) == [[x * 10] for x in range(6)]
    assert sorted(calls[4:]) == [3, 4, 5]
    files = sorted((tmp_path / "done").iterdir())
    assert [f.name[:11] for f in files] == [f"item-{i:06d}" for i in range(6)]

    del calls[:]
    assert run(executor, stages, [0, 1, 99]) == [[0], [10], [990]]  # another item is another result
    assert calls == [99]
    assert run(executor, [Stage(inc, "other")], [0]) == [1]  # so is another stage

    files[0].write_bytes(b"torn")
    del calls[:]
    assert run(executor, stages, range(2)) == [[0], [10]]
    assert calls == [0]
    assert pickle.loads(files[0].read_bytes()) == [0]


def test_one_process_per_device_sees_only_its_own():
    with cluster_with_gpus(1) as executor:
        assert executor.workers == 1
        assert executor.near == near_works()
        stages = [Stage(lambda x: (x, os.environ["CUDA_VISIBLE_DEVICES"], os.getpid()))]
        results = run(executor, stages, range(3), in_flight=3)
    assert [r[0] for r in results] == [0, 1, 2]
    assert {r[1] for r in results} == {"0"}
    assert {r[2] for r in results}.isdisjoint({os.getpid()})


def test_memory_that_cannot_be_read_is_not_relied_on(local, monkeypatch):
    assert not local.near  # its worker is in this process: nothing is pickled
    lost = pickle.loads(pickle.dumps(Parcel([((1,), "int32")], near=True)))
    lost._lost = "not permitted"
    monkeypatch.setattr(module, "_within", lambda client: False)
    for answer, near in ((lost, False), (module._probe(), True)):
        client = SimpleNamespace(run=lambda fn, answer=answer: {"worker": answer})
        assert module._near(client) is near


def cluster_with_gpus(n):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_gpus", lambda: n)
        return cluster("local", threads=2)


def test_one_worker_per_device_and_the_rest_see_none(monkeypatch):
    seen = {}
    fake = SimpleNamespace(
        Nanny="nanny",
        Worker="worker",
        Scheduler="scheduler",
        SpecCluster=lambda workers, **rest: seen.update(workers=workers),
    )
    module._local(fake, gpus=2, workers=None, threads=3, scratch="s")
    assert [w["options"]["env"]["CUDA_VISIBLE_DEVICES"] for w in seen["workers"].values()] == ["0", "1"]
    module._local(fake, gpus=1, workers=2, threads=3, scratch="s")
    assert [w["options"]["env"]["CUDA_VISIBLE_DEVICES"] for w in seen["workers"].values()] == ["0", ""]
    assert [w["options"]["resources"][module._GPU] for w in seen["workers"].values()] == [1, 0]
    module._local(fake, gpus=0, workers=2, threads=3, scratch="s")
    assert all("env" not in w["options"] for w in seen["workers"].values())


def test_an_address_connects_and_closing_leaves_the_cluster_up():
    import distributed

    with distributed.LocalCluster(
        n_workers=1,
        processes=False,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        host="127.0.0.1",
        scheduler_port=0,
        protocol="tcp",
        memory_limit=0,
    ) as running:
        with cluster(running.scheduler_address) as executor:
            assert run(executor, [inc], range(3)) == [1, 2, 3]
        with distributed.Client(running, set_as_default=False) as client:
            with cluster(client) as executor:
                assert run(executor, [inc], range(2)) == [1, 2]
            assert client.status == "running"


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(module, "_CONNECT_SECONDS", 0.5)
    with pytest.raises(DeviceUnavailable, match=r"127\.0\.0\.1:1"):
        cluster("tcp://127.0.0.1:1")


def test_dask_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependency, match=r"elinvar\[cluster\]"):
        cluster("local")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: cluster("head"), "'head'"),
        (lambda: cluster(3), "got 3"),
        (lambda: cluster("local", workers=0), "workers=0"),
        (lambda: cluster("local", threads=True), "threads=True"),
        (lambda: cluster("local", retries=-1), "retries=-1"),
    ],
)
def test_wrong_arguments_are_named(call, named):
    with pytest.raises(InputError, match=named):
        call()


def test_what_a_worker_cannot_load_is_a_sentence_and_no_endless_wait(monkeypatch):
    """Stages and items of other processes are read inside the task: what fails there is the task's error."""
    alone = SimpleNamespace(__name__="alone", twice=type("twice", (), {"__module__": "alone", "__qualname__": "twice"}))
    monkeypatch.setitem(sys.modules, "alone", alone)
    data = pickle.dumps((inc, (alone.twice(),)))
    monkeypatch.delitem(sys.modules, "alone")
    with pytest.raises(InputError, match=r"No module named 'alone'.*install what defines it on the workers"):
        module._run_stage(data, False, (True, False), None)
    assert module._run_stage(pickle.dumps((inc, (4,))), False, (True, False), None) == 5
    assert module._run_stage(pickle.dumps((inc, None)), False, (True, False), 6) == 7
