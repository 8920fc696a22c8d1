"""Dask as the executor of a Pipeline: the same stages, on other processes and machines.

::

    with cluster("tcp://head:8786") as many, Pipeline(stages, in_flight=32, executor=many) as p:
        for shard in p.run(items):          # in item order, whatever order they finish in
            image += shard

Each stage of each item is one Dask task. A task that raises is tried again (``retries``), a worker that dies costs
only the tasks it had, and with ``resume=FOLDER`` a finished item is stored and not computed again by the next run.
Stages must therefore be repeatable; items and results travel by pickle, so items should be small descriptions and a
stage should bring its result to the host. ``cluster("local")`` starts one worker process per CUDA device, each seeing
only its own, or one worker in this process when there is none. Of the caller's settings torch's grad modes travel
with an item, context variables do not.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import importlib
import logging
import pickle
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from elinvar.errors import DeviceUnavailable, InputError, MissingDependency

from ._lanes import Board, State, Ticket, discard
from .files import atomic_write
from .parcel import Parcel

if TYPE_CHECKING:
    from .pipeline import Stage

__all__ = ["ClusterExecutor", "cluster"]

_log = logging.getLogger("elinvar.cluster")
_CPU, _GPU = "elinvar-cpu", "elinvar-gpu"  # one of each per worker: a compute stage has its worker's device to itself
_CONNECT_SECONDS = 10
_MARK = 0x0E11A


def _dask() -> tuple[Any, Any]:
    try:
        import dask
        import distributed
    except ImportError as error:
        raise MissingDependency("cluster() needs Dask; install it with: pip install 'elinvar[cluster]'.") from error
    return dask, distributed


def cluster(
    where: str | Any = "local",
    *,
    workers: int | None = None,
    threads: int = 3,
    retries: int = 2,
    resume: str | Path | None = None,
) -> ClusterExecutor:
    """Return an executor for ``Pipeline(..., executor=...)``; close it, or use it as a context manager.

    Parameters
    ----------
    where
        ``"local"``, a scheduler's address such as ``"tcp://host:8786"``, or a ``distributed.Client``, which stays open
        when this is closed.
    workers
        For ``"local"``: worker processes to start. Default one per CUDA device; without any, one worker inside this
        process.
    threads
        For ``"local"``: threads per worker, so that loading and storing overlap with the one compute stage a worker
        runs at a time.
    retries
        How often a failing task is tried again before its error is raised.
    resume
        Folder for finished items' results. A later run with the same stage names and equal items loads them instead of
        computing. Its files are pickles: use a folder only you can write.

    Raises
    ------
    MissingDependency
        If Dask is not installed.
    DeviceUnavailable
        If the scheduler does not answer.
    InputError
        If an argument is out of range.
    """
    for name, value, least in (("workers", workers, 1), ("threads", threads, 1), ("retries", retries, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise InputError(f"cluster got {name}={value!r}; it takes a whole number from {least}.")
    dask, distributed = _dask()
    owned = contextlib.ExitStack()
    if isinstance(where, distributed.Client):
        client = where
    elif where == "local":
        scratch = owned.enter_context(tempfile.TemporaryDirectory(prefix="elinvar-dask-", ignore_cleanup_errors=True))
        with dask.config.set({"temporary-directory": scratch}):  # the scheduler's lock files go there too
            started = owned.enter_context(_local(distributed, _gpus(), workers, threads, scratch))
        # Images need no way through the scheduler: workers of this machine can always be reached.
        client = owned.enter_context(distributed.Client(started, set_as_default=False, direct_to_workers=True))
    elif isinstance(where, str) and "://" in where:
        try:
            client = owned.enter_context(
                distributed.Client(where, set_as_default=False, timeout=_CONNECT_SECONDS, name="elinvar")
            )
        except (OSError, TimeoutError, ValueError) as error:
            raise DeviceUnavailable(
                f"No Dask scheduler answers at {where!r}; start one with `dask scheduler`, or use cluster('local')."
            ) from error
    else:
        raise InputError(f"cluster got {where!r}; it takes 'local', an address like 'tcp://host:8786', or a Client.")
    # What our own workers hold stays where it is: none moves between them, none goes to disk.
    near = where == "local" and not _within(client) and resume is None and _near(client)
    return ClusterExecutor(client, owned, retries, None if resume is None else Path(resume), near=near)


def _probe() -> Parcel:
    """Make a parcel; runs on a worker."""
    made = Parcel([((1,), "int32")], near=True)
    made.arrays[0][0] = _MARK
    return made


def _near(client: Any) -> bool:
    """Say whether what workers leave in their memory can be read here: a hardened system may forbid it."""
    try:
        return all(int(parcel.arrays[0][0]) == _MARK for parcel in client.run(_probe).values())
    except InputError:
        return False


def _within(client: Any) -> bool:
    """Say whether the workers are of this process: nothing is pickled then."""
    return str(client.scheduler_info().get("address")).startswith("inproc://")


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _local(distributed: Any, gpus: int, workers: int | None, threads: int, scratch: str) -> Any:
    """Return a Dask cluster on this machine without dashboards, fixed ports or memory limits of its own."""
    inside = gpus == 0 and workers is None
    here = {"protocol": "inproc://"} if inside else {"host": "127.0.0.1"}
    spec = {}
    for i in range(workers or gpus or 1):
        options: dict[str, Any] = {**here, "nthreads": threads, "memory_limit": 0, "dashboard": False}
        options |= {"local_directory": scratch, "silence_logs": logging.WARNING}
        options["resources"] = {_CPU: 1, _GPU: 1 if i < gpus else 0}
        if gpus:
            # A worker sees one device and calls it cuda:0; those beyond the devices see none.
            options["env"] = {"CUDA_VISIBLE_DEVICES": str(i) if i < gpus else ""}
        spec[i] = {"cls": distributed.Worker if inside else distributed.Nanny, "options": options}
    # Even without a dashboard the scheduler serves HTTP, by default on a fixed port.
    head = {**here, "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    scheduler = {"cls": distributed.Scheduler, "options": head}
    return distributed.SpecCluster(workers=spec, scheduler=scheduler, silence_logs=logging.WARNING)


class ClusterExecutor:
    """A connection to Dask that pipelines run on; made by `cluster`.

    Attributes
    ----------
    near
        Workers are processes of this machine that were started here: results may be a
        :class:`~elinvar.runtime.parcel.Parcel` that is ``near``.
    """

    def __init__(
        self,
        client: Any,
        owned: contextlib.ExitStack,
        retries: int = 2,
        resume: Path | None = None,
        *,
        near: bool = False,
    ) -> None:
        self.client = client
        self.near = near
        self._owned = owned
        self._retries = retries
        self._resume = resume

    @property
    def workers(self) -> int:
        """Workers that are connected now."""
        return len(self.client.scheduler_info()["workers"])

    def open(self, stages: Sequence[Stage], board: Board) -> _ClusterLanes:
        """Return lanes for one pipeline run."""
        declared = [info["resources"] for info in self.client.scheduler_info()["workers"].values()]
        # A task that asks for a resource nobody declares would wait for ever.
        offered = {name for name in (_CPU, _GPU) if any(resources.get(name) for resources in declared)}
        return _ClusterLanes(self.client, stages, board, self._retries, offered, self._resume)

    def close(self) -> None:
        """Disconnect, and stop what ``cluster("local")`` started."""
        self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, frame: TracebackType | None
    ) -> None:
        self.close()


def _run_stage(fn: Callable[[Any], Any] | bytes, on_cuda: bool, modes: tuple[bool, bool], value: Any) -> Any:
    """Run one stage of one item on a worker; `fn` may be packed, the first stage's with its item."""
    import torch

    if isinstance(fn, bytes):
        fn, value = _unpacked(fn, value)
    grad, inference = modes
    with torch.inference_mode(inference), torch.set_grad_enabled(grad):
        result = fn(value)
    if on_cuda:
        torch.cuda.synchronize()  # a fault belongs to this task, and whoever reads the result finds it finished
    return result


def _unpacked(data: bytes, value: Any) -> tuple[Callable[[Any], Any], Any]:
    """Return a stage's function and its value, the given one where none is packed with it.

    Dask itself would read them while it receives the task, and wait for ever for one that cannot be read.
    """
    try:
        fn, packed = pickle.loads(data)  # noqa: S301  (from our own client, as all that Dask receives)
    except Exception as error:
        raise InputError(
            f"A worker of the cluster cannot load what it was sent ({type(error).__name__}: {error}); install what "
            "defines it on the workers as well."
        ) from error
    return fn, value if packed is None else packed[0]


class _Sent:
    """One item on the cluster: its ticket, the futures of its stages (none: stored), where its result is kept."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.futures: list[Any] = []
        self.file: Path | None = None


class _ClusterLanes:
    """The lanes of a pipeline on Dask: one task per stage and item, one local thread that collects in order."""

    def __init__(
        self,
        client: Any,
        stages: Sequence[Stage],
        board: Board,
        retries: int,
        offered: set[str],
        resume: Path | None,
    ) -> None:
        self._client = client
        self._stages = stages
        self._board = board
        self._retries = retries
        self._offered = offered
        self._resume = resume
        self._inside = _within(client)
        self._run = uuid4().hex[:8]
        self._wake = threading.Condition(board.lock)
        self._sent: collections.deque[_Sent] = collections.deque()
        self._thread = threading.Thread(target=self._collect, name="elinvar-cluster", daemon=True)
        self._thread.start()

    # ---------------------------------------------------------------- sending

    def submit(self, ticket: Ticket) -> None:
        """Send an item's tasks, unless an earlier item has already failed or its result is stored."""
        with self._board.lock:
            self._notice_failures()
            if not self._board.alive(ticket):
                ticket.state = State.DROPPED
                discard(ticket.value)
                return
            ticket.state = State.RUNNING
            sent = _Sent(ticket)
            if self._prepare(sent):
                self._sent.append(sent)
                self._wake.notify_all()

    def _prepare(self, sent: _Sent) -> bool:
        """Find the item's stored result or send its tasks; what cannot be pickled fails its item, not the pipeline."""
        try:
            sent.file = self._stored_as(sent.ticket)
            if sent.file is None or not sent.file.exists():
                self._send(sent)
        except Exception as error:  # noqa: BLE001  (raised again in the consumer)
            self._client.cancel(sent.futures)
            self._board.failed(sent.ticket, error, self._stages[min(len(sent.futures), len(self._stages) - 1)].label)
            return False
        return True

    def _send(self, sent: _Sent) -> None:
        value = sent.ticket.value
        for at, stage in enumerate(self._stages):
            value = self._task(at, stage, sent.ticket, value)
            sent.futures.append(value)
        sent.ticket.value = None

    def _task(self, at: int, stage: Stage, ticket: Ticket, value: Any) -> Any:
        on_cuda = stage.kind == "cuda"
        wanted = _GPU if on_cuda else _CPU if stage.fills_cpu else None
        fn: Any = stage.fn
        if not self._inside:
            pickler: Any = importlib.import_module("cloudpickle")  # Dask's own: it knows what __main__ defines
            fn = pickler.dumps((fn, None if at else (value,)))
        # Geometry of some 200,000 traces is 10 MB, of which Dask would warn.
        with importlib.import_module("dask").config.set({"distributed.admin.large-graph-warning-threshold": "1GB"}):
            return self._client.submit(
                _run_stage,
                fn,
                on_cuda,
                ticket.modes,
                value if at or self._inside else None,
                key=f"{stage.label}-{self._run}-{ticket.index}-{at}",
                pure=False,
                retries=self._retries,
                resources={wanted: 1} if wanted in self._offered else None,
            )

    def _stored_as(self, ticket: Ticket) -> Path | None:
        """Return the file of an item's result; its name changes with the item, its place and the stages."""
        if self._resume is None:
            return None
        identity = (tuple(stage.label for stage in self._stages), ticket.index, ticket.value)
        digest = hashlib.sha256(pickle.dumps(identity, protocol=5)).hexdigest()[:16]
        return self._resume / f"item-{ticket.index:06d}-{digest}.pickle"

    def _notice_failures(self) -> None:
        """Mark items that have failed on the cluster, although it is not their turn yet: nothing new may start."""
        for sent in self._sent:
            if sent.ticket.state is State.RUNNING and sent.futures and sent.futures[-1].status == "error":
                self._failed(sent, sent.futures[-1].exception())

    # ---------------------------------------------------------------- collecting

    def _collect(self) -> None:
        while True:
            with self._board.lock:
                while not self._sent and not self._board.stopped:
                    self._wake.wait()
                if self._board.stopped:
                    return
                sent = self._sent[0]
            self._finish(sent)
            with self._board.lock:
                if self._sent and self._sent[0] is sent:
                    self._sent.popleft()
            del sent

    def _finish(self, sent: _Sent) -> None:
        """Wait for one item and put its outcome on the board."""
        ticket = sent.ticket
        try:
            value = self._result(sent)
        except BaseException as error:  # noqa: BLE001  (raised again in the consumer)
            with self._board.lock:
                if ticket.state is State.RUNNING and not self._board.stopped:
                    self._failed(sent, error)
                    self._client.cancel([future for later in self._sent for future in later.futures])
            return
        with self._board.lock:
            ticket.dispose = self._stages[-1].dispose
            late = not self._board.alive(ticket) or ticket.state is not State.RUNNING
            if not late:
                ticket.value = value
                ticket.state = State.DONE
                self._board.changed.notify_all()
        if late:
            discard(value, ticket.dispose)

    def _result(self, sent: _Sent) -> Any:
        if not sent.futures and sent.file is not None:
            try:
                return pickle.loads(sent.file.read_bytes())  # noqa: S301  (the user's own folder, as documented)
            except Exception:  # noqa: BLE001
                _log.warning("%s cannot be read; its item is computed again.", sent.file, exc_info=True)
            self._send(sent)
        value = sent.futures[-1].result()
        if sent.file is not None:
            with atomic_write(sent.file) as temporary:
                temporary.write_bytes(pickle.dumps(value, protocol=5))
        return value

    def _failed(self, sent: _Sent, error: BaseException) -> None:
        at = next((i for i, future in enumerate(sent.futures) if future.status == "error"), len(sent.futures) - 1)
        self._board.failed(sent.ticket, error, self._stages[at].label)

    # ---------------------------------------------------------------- ending

    def stop(self) -> None:
        """Cancel what has not started; what runs on a worker ends by itself and its result is dropped."""
        with self._board.lock:
            for sent in self._sent:
                if sent.ticket.state is State.RUNNING:
                    sent.ticket.state = State.DROPPED
            futures = [future for sent in self._sent for future in sent.futures]
            self._wake.notify_all()
        if futures:
            self._client.cancel(futures)

    def join(self) -> None:
        """Wait for the collecting thread, unless it is asking."""
        if threading.current_thread() is not self._thread:
            self._thread.join()
        with self._board.lock:
            self._sent.clear()
