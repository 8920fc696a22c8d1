from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from elinvar.errors import Cancelled, InputError
from elinvar.seismic import Aperture, Checkpoint, Grid, Survey, Velocity, checkpoint, locking, migrate, synthetic
from elinvar.seismic.checkpoint import _Pace
from elinvar.seismic.lane import State
from elinvar.seismic.locking import Lock

V = Velocity.constant(2500)
GRID = Grid((75.0, 60.0), 0, 4, 3, 25, 25, 60, 0.004, 0.2)


@pytest.fixture(scope="module")
def survey():
    return synthetic.diffractors([(120, 100, 500)], extent=175, offsets=(150,), nt=300, noise=0.05)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 16)


def stopped(survey, folder, grid=GRID, velocity=V, **options):
    """A job that paused after its first block."""
    kept = Checkpoint(folder)
    with pytest.raises(Cancelled):
        migrate(survey, velocity, grid, device="cpu", checkpoint=kept, progress=lambda *_: kept.pause(), **options)
    return kept


# -------------------------------------------------------------------- what belongs together


def other(survey, **changes):
    given = {"traces": survey.read(), "source": survey.source, "receiver": survey.receiver, "dt": survey.dt, **changes}
    return Survey.from_arrays(**given, bin_size=survey.bin_size)


CHANGES = {
    "velocity": (lambda s: {"velocity": Velocity.constant(2600)}, "velocity.is (from 2500 m/s to 2600 m/s)"),
    "velocity values": (lambda s: {"velocity": Velocity.table([0, 1], [2500, 2500])}, "velocity.is (from"),
    "grid": (
        lambda s: {"grid": Grid((75.0, 60.0), 0, 4, 3, 25, 25, 60, 0.004, 0.1)},
        "grid.t0 (from 0.2 to 0.1)",
    ),
    "aperture": (lambda s: {"aperture": Aperture(dip=30)}, "aperture.dip (from 45.0 to 30)"),
    "amplitude": (lambda s: {"amplitude": "none"}, "amplitude (from true to none)"),
    "filter": (lambda s: {"phase_filter": False}, "phase_filter (from True to False)"),
    "area": (lambda s: {"area": 1.0}, "area (from 625.0 to 1.0)"),
    "gathers": (lambda s: {"gathers": [0, 200]}, "gathers.bins (from none to offset: 0 to 200 m)"),
    "kernel": (lambda s: {"kernel": "baseline"}, "kernel (from v2 on cpu to baseline on cpu)"),
    "memory": (lambda s: {"memory": 1 << 30}, "limits.memory (from none to 1073741824)"),
    "one sample": (lambda s: {"survey": other(s, traces=s.read() * np.float32(1.001))}, "the survey's samples changed"),
    "a source": (lambda s: {"survey": other(s, source=s.source + 1e-3)}, "the survey's headers changed"),
    "fewer traces": (lambda s: {"survey": s.select(np.arange(s.n_traces - 1))}, "survey.traces (from 64 to 63)"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_job_is_refused_and_says_what_changed(survey, tmp_path, what):
    stopped(survey, tmp_path / "kept")
    before = {file.name: file.read_bytes() for file in (tmp_path / "kept").iterdir()}
    change, words = CHANGES[what]
    given = {"survey": survey, "velocity": V, "grid": GRID, "device": "cpu", **change(survey)}
    with pytest.raises(InputError) as caught:
        migrate(**given, checkpoint=tmp_path / "kept")
    text = str(caught.value)
    assert words in text
    assert "belongs to another job" in text
    assert "set it back, start afresh (resume=False, --restart), or use another folder." in text
    assert "\n" not in text
    assert {file.name: file.read_bytes() for file in (tmp_path / "kept").iterdir()} == before


def test_a_file_that_was_written_again_is_another_survey(survey, tmp_path):
    path = tmp_path / "a.sgy"
    survey.write_segy(path)
    opened = checkpoint.fingerprint(_open(path))
    assert opened == checkpoint.fingerprint(_open(path))
    os.utime(path, ns=(1, 1))
    assert checkpoint.fingerprint(_open(path)) != opened
    stopped(_open(path), tmp_path / "kept")
    survey.write_segy(path)
    with pytest.raises(InputError, match="the survey's file changed"):
        migrate(_open(path), V, GRID, device="cpu", checkpoint=tmp_path / "kept")


def _open(path):
    from elinvar.seismic import open_segy

    return open_segy(path, bin_size=(25.0, 25.0)).select(np.arange(50))


def test_libraries_and_devices_are_part_of_a_job(survey, tmp_path, monkeypatch):
    stopped(survey, tmp_path / "kept")
    monkeypatch.setattr(checkpoint, "__version__", "99")
    with pytest.raises(InputError, match=r"libraries\.elinvar \(from .* to 99\)"):
        migrate(survey, V, GRID, device="cpu", checkpoint=tmp_path / "kept")


def test_starting_afresh_removes_what_was_kept(survey, tmp_path):
    folder = tmp_path / "kept"
    stopped(survey, folder)
    (folder / "notes.txt").write_text("mine")
    calls = []
    kept = Checkpoint(folder, resume=False)
    migrate(survey, V, GRID, device="cpu", amplitude="none", checkpoint=kept, progress=lambda d, t: calls.append(d))
    assert calls[0] == 16
    kept.clear()
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]


def test_insisting_on_going_on(survey, tmp_path):
    with pytest.raises(InputError, match="nothing to go on with"):
        migrate(survey, V, GRID, device="cpu", checkpoint=Checkpoint(tmp_path / "kept", resume=True))
    stopped(survey, tmp_path / "kept")
    migrate(survey, V, GRID, device="cpu", checkpoint=Checkpoint(tmp_path / "kept", resume=True))


@pytest.mark.parametrize("name", ["job.json", "lane-0.npz"])
@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-300] + bytes(300)])
def test_damage_is_noticed(survey, tmp_path, name, spoil):
    stopped(survey, tmp_path / "kept")
    file = tmp_path / "kept" / name
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(InputError, match=f"{name} is damaged.*--restart"):
        migrate(survey, V, GRID, device="cpu", checkpoint=tmp_path / "kept")
    migrate(survey, V, GRID, device="cpu", checkpoint=Checkpoint(tmp_path / "kept", resume=False))


def test_one_flipped_bit_is_noticed(survey, tmp_path):
    stopped(survey, tmp_path / "kept")
    file = tmp_path / "kept" / "lane-0.npz"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        migrate(survey, V, GRID, device="cpu", checkpoint=tmp_path / "kept")


# -------------------------------------------------------------------- when to write, when to stop


def test_writing_takes_a_small_share_of_the_time():
    now = [0.0]
    pace = _Pace(10.0, None, lambda: now[0])
    asked = []
    for _ in range(4000):
        now[0] += 1.0
        if pace.due(nbytes=1):
            asked.append(now[0])
            now[0] += 3.0  # a slow disk
            pace.spent(3.0)
    spent = 3.0 * len(asked)
    assert asked[0] == 10.0
    assert spent / now[0] <= 0.03
    assert spent / now[0] > 0.025
    huge = _Pace(10.0, None, lambda: now[0])
    now[0] += 60.0
    assert not huge.due(nbytes=10**12)  # half an hour of writing after a minute of work


def test_every_so_many_blocks():
    pace = _Pace(1e9, 3)
    assert [pace.due(0) for _ in range(3)] == [False, False, True]
    pace.spent(100.0)
    assert [pace.due(0) for _ in range(3)] == [False, False, True]


def test_a_file_named_pause(survey, tmp_path):
    folder = tmp_path / "kept"

    def progress(done, total):
        if done == 32:
            (folder / "PAUSE").touch()

    with pytest.raises(Cancelled, match="paused at 50 % because there is a file PAUSE"):
        migrate(survey, V, GRID, device="cpu", checkpoint=folder, progress=progress)
    assert not (folder / "PAUSE").exists()
    (folder / "PAUSE").touch()  # left over: whoever starts a run wants it to run
    assert migrate(survey, V, GRID, device="cpu", checkpoint=folder).contributions > 0


def test_a_limit(survey, tmp_path):
    with pytest.raises(Cancelled, match="its limit of 1e-06 s is over"):
        migrate(survey, V, GRID, device="cpu", checkpoint=Checkpoint(tmp_path / "kept", limit=1e-6))


@pytest.mark.parametrize("options", [{"seconds": -1}, {"blocks": 0}, {"limit": 0}])
def test_wrong_numbers(tmp_path, options):
    with pytest.raises(InputError, match=next(iter(options))):
        Checkpoint(tmp_path, **options)


# -------------------------------------------------------------------- the disk


def full_disk(monkeypatch, after):
    """Let the disk be full from the n-th array file on, half way through it."""
    real, calls = np.savez, []

    def savez(file, **arrays):
        calls.append(1)
        if len(calls) < after:
            real(file, **arrays)
            return
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", savez)


def test_a_full_disk_loses_nothing_that_was_kept(survey, tmp_path, monkeypatch):
    whole = migrate(survey, V, GRID, device="cpu")
    folder = tmp_path / "kept"
    with monkeypatch.context() as patch:
        full_disk(patch, 3)
        with pytest.raises(OSError, match="No space left") as caught:
            migrate(survey, V, GRID, device="cpu", checkpoint=Checkpoint(folder, blocks=1))
    assert caught.value.errno == errno.ENOSPC
    assert str(folder / "lane-0.npz") in str(caught.value)
    assert sorted(file.name for file in folder.iterdir()) == ["job.json", "lane-0.npz"]
    calls = []
    again = migrate(survey, V, GRID, device="cpu", checkpoint=folder, progress=lambda d, t: calls.append(d))
    assert calls[0] == 32
    assert again.values.tobytes() == whole.values.tobytes()


def test_the_command_line_says_that_the_disk_is_full(tmp_path):
    from elinvar.cli.common import explain

    sentence, code = explain(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "kept/lane-0.npz"))
    assert sentence == "the disk is full (kept/lane-0.npz); free some space and run the same command again."
    assert code == 1


# -------------------------------------------------------------------- one run at a time


HOLD = """
import sys, time
from elinvar.seismic.locking import Lock
with Lock(sys.argv[1], "x"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a lock."""
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "lock"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        yield child
        child.kill()


def test_another_run_in_the_folder_is_named(survey, tmp_path, holder):
    with pytest.raises(InputError) as caught:
        migrate(survey, V, GRID, device="cpu", checkpoint=tmp_path)
    assert f"checkpoint {tmp_path} is in use by process {holder.pid} on " in str(caught.value)
    assert "wait for it, or use another folder." in str(caught.value)
    assert holder.poll() is None


def test_a_killed_run_leaves_no_lock(survey, tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "lock").exists()
    lock = Lock(tmp_path / "lock", "x")
    lock.acquire()
    assert lock.previous["pid"] == holder.pid
    lock.release()
    assert not (tmp_path / "lock").exists()


def test_two_runs_in_one_process(survey, tmp_path):
    def progress(done, total):
        with pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
            migrate(survey, V, GRID, device="cpu", checkpoint=tmp_path)

    migrate(survey, V, GRID, device="cpu", checkpoint=tmp_path, progress=progress)


def test_without_file_locks_the_process_is_looked_for(tmp_path, holder, monkeypatch):
    import fcntl

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(InputError, match=f"process {holder.pid}"):
        Lock(tmp_path / "lock", "x").acquire()
    holder.kill()
    holder.wait()
    with Lock(tmp_path / "lock", "x") as lock:
        assert lock.previous["pid"] == holder.pid
    # The same number on another machine, or one that was used again, is not that process.
    me = json.dumps({"pid": os.getpid(), "host": "elsewhere", "since": time.time(), "born": 1.0})
    (tmp_path / "lock").write_text(me)
    with pytest.raises(InputError, match="elsewhere"):
        Lock(tmp_path / "lock", "x").acquire()
    (tmp_path / "lock").write_text(me.replace("elsewhere", locking.socket.gethostname()))
    with Lock(tmp_path / "lock", "x"):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"pid": "x"}'])
def test_a_strange_lock_file_is_no_obstacle(tmp_path, content):
    (tmp_path / "lock").write_bytes(content)
    with Lock(tmp_path / "lock", "x"), pytest.raises(InputError, match=f"process {os.getpid()}"):
        Lock(tmp_path / "lock", "x").acquire()


def test_the_lock_is_given_back_whatever_happens(survey, tmp_path):
    for _ in range(2):
        with pytest.raises(InputError, match="nothing to go on with"):
            migrate(survey, V, GRID, device="cpu", checkpoint=Checkpoint(tmp_path, resume=True))
    assert list(tmp_path.iterdir()) == []


def test_a_lane_of_an_older_pass_begins_the_next_one(survey, tmp_path):
    kept = Checkpoint(tmp_path)
    image, fold = np.ones((2, 3), np.float32), np.ones((2, 3), np.int32)
    with kept.open({"a": 1}) as session:
        session.begin(checkpoint.Layout(8, 2))
        session.keep_lane(0, State(0, 5, image, fold))
        session.keep_pass(0, image, fold)
    with kept.open({"a": 1}) as session:
        assert session.passes == 1
        assert session.read_lane(0) == State(1)
        assert session.layout == checkpoint.Layout(8, 2)
    (tmp_path / "pass-0000.npz").unlink()
    with kept.open({"a": 1}) as session:
        found = session.read_lane(0)
        assert (found.step, found.blocks) == (0, 5)
        assert np.array_equal(found.image, image)
    assert Path(tmp_path / "job.json").exists()
