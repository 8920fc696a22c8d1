"""Jobs that are killed, paused or cut off at any moment make the image they would have made in one go, bit by bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from elinvar.errors import Cancelled
from elinvar.runtime.device import Runtime
from elinvar.seismic import Checkpoint, Grid, Velocity, migrate, synthetic
from elinvar.seismic.job import TABLE_BYTES

V = Velocity.constant(2500)
GRID = Grid((75.0, 60.0), 0, 4, 3, 25, 25, 120, 0.004, 0.2)
EDGES = [0, 200, 250]  # offsets of 300 m are in no bin


@pytest.fixture(scope="module")
def survey():
    return synthetic.diffractors(
        [(120, 100, 500), (60, 90, 700)], extent=175, offsets=(150, 220, 300), azimuths=(0, 75), nt=400, noise=0.05
    )


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 64)


def budget(rows):
    """Bytes that leave room for so many pillars beside three blocks."""
    return 3 * 5 * 64 * 4 * 400 + TABLE_BYTES * GRID.nt + (1 << (rows * 8 * GRID.nt - 1).bit_length())


def run(survey, folder=None, **options):
    checkpoint = None if folder is None else Checkpoint(folder, blocks=1, **options.pop("keep", {}))
    given = {"device": "cpu", "gathers": EDGES, "memory": budget(4), **options}
    return migrate(survey, V, GRID, checkpoint=checkpoint, **given)


@pytest.fixture(scope="module")
def whole(survey):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("elinvar.seismic.job.block_size", lambda *_: 64)
        return run(survey)


def same(one, other):
    pairs = [(one.values, other.values), (one.counts, other.counts)]
    if one.panels is not None:
        pairs += [(one.panels.values, other.panels.values), (one.panels.fold, other.panels.fold)]
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


CHILD = """
import os, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)  # this process forks
import numpy as np
import elinvar.seismic.job as job
from elinvar.seismic import Checkpoint, Grid, Velocity, migrate, synthetic
from elinvar.runtime.parallel import set_threads
set_threads(1)
job.block_size = lambda *_: 64
survey = synthetic.diffractors(
    [(120, 100, 500), (60, 90, 700)], extent=175, offsets=(150, 220, 300), azimuths=(0, 75), nt=400, noise=0.05
)
folder, out, memory = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
grid = Grid((75.0, 60.0), 0, 4, 3, 25, 25, 120, 0.004, 0.2)
options = dict(device="cpu", gathers=[0, 200, 250], memory=memory)
migrate(survey, Velocity.constant(2500), grid, **options)  # compiles

def one(what, number):
    seen = 0
    def here():
        nonlocal seen
        seen += 1
        if seen == number:
            print("here", flush=True)
            time.sleep(600)
    def before(function):
        def inner(*args, **kwargs):
            here()
            return function(*args, **kwargs)
        return inner
    if what == "rename":  # a file is written and not yet in its place
        Path.replace = before(Path.replace)
    if what == "write":  # a file is about to be written, others are in their place
        np.savez = before(np.savez)
    progress = (lambda done, total: here()) if what == "block" else None
    kept = Checkpoint(folder, blocks=1)
    image = migrate(survey, Velocity.constant(2500), grid, checkpoint=kept, progress=progress, **options)
    np.savez(out, values=image.values, counts=image.counts, panels=image.panels.values, fold=image.panels.fold)
    print("done", flush=True)

print("ready", flush=True)
for line in sys.stdin:
    what, number = line.split()
    pid = os.fork()
    if pid == 0:
        try:
            one(what, int(number))
        finally:
            os._exit(0)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("gone", flush=True)
"""

#: Where to kill, each run going on after the last: with the number-th file written but not yet renamed, before one is
#: written, between two blocks.
MOMENTS = ["rename 1", "write 1", "block 1", "rename 2", "block 4", "write 5", "rename 6", "block 2", "write 9"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 of a fork")
def test_kill_9_at_any_moment_loses_nothing(whole, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(CHILD))
    folder, out = tmp_path / "kept", tmp_path / "image.npz"
    words = [sys.executable, str(script), str(folder), str(out), str(budget(4))]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:

        def tell(words):
            child.stdin.write(f"{words}\n")
            child.stdin.flush()
            return int(child.stdout.readline())

        assert child.stdout.readline() == "ready\n"
        for moment in MOMENTS:
            pid = tell(moment)
            assert child.stdout.readline() == "here\n", moment
            os.kill(pid, signal.SIGKILL)
            assert child.stdout.readline() == "gone\n"
            assert not out.exists()
        tell("never 0")
        assert child.stdout.readline() == "done\n"
        child.stdin.close()
    with np.load(out) as found:
        assert found["values"].tobytes() == whole.values.tobytes()
        assert found["counts"].tobytes() == whole.counts.tobytes()
        assert found["panels"].tobytes() == whole.panels.values.tobytes()
        assert found["fold"].tobytes() == whole.panels.fold.tobytes()
    assert not list(folder.glob(".*"))


class Stop(Exception):
    """Ends a run like a crash."""


def crash_after(n):
    calls = []

    def progress(done, total):
        calls.append((done, total))
        if len(calls) == n:
            raise Stop

    return progress


@pytest.mark.parametrize("n", [1, 2, 5, 13, 17])
def test_a_crash_after_any_block(survey, whole, tmp_path, n):
    with pytest.raises(Stop):
        run(survey, tmp_path / "kept", progress=crash_after(n))
    calls = []
    again = run(survey, tmp_path / "kept", progress=lambda done, total: calls.append(done))
    assert same(again, whole)
    assert again.job.tiles == 3
    # Blocks hold 64 traces: only the one that was not kept is migrated again.
    assert calls[0] == 64 * max(1, n - 1)
    assert len(calls) == (1 if n > 1 else 0) + 18 - (n - 1)


def test_a_finished_job_comes_back_without_reading_a_block(survey, whole, tmp_path, monkeypatch):
    run(survey, tmp_path / "kept")
    monkeypatch.setattr(survey, "block", None)
    assert same(run(survey, tmp_path / "kept"), whole)


@pytest.mark.parametrize("devices", [2, 3])
def test_several_devices_stop_and_go_on_as_well(survey, whole, relative, tmp_path, devices):
    def several():
        return [Runtime().device("cpu") for _ in range(devices)]

    before = threading.active_count()
    together = run(survey, devices=several(), device=None)
    assert relative(together.values, whole.values) < 1e-6
    assert np.array_equal(together.counts, whole.counts)
    assert same(run(survey, devices=several(), device=None), together)
    for n in (2, 4):
        with pytest.raises(Stop):
            run(survey, tmp_path / "kept", devices=several(), device=None, progress=crash_after(n))
    assert same(run(survey, tmp_path / "kept", devices=several(), device=None), together)
    assert threading.active_count() <= before + 1  # the shared CPU pool may have started its helper


def test_a_pause_keeps_every_device(survey, tmp_path):
    kept = Checkpoint(tmp_path / "kept", seconds=1e9)
    calls = []

    def progress(done, total):
        calls.append(done)
        if len(calls) == 6:
            kept.pause("somebody wants the machine")

    devices = [Runtime().device("cpu") for _ in range(2)]
    with pytest.raises(Cancelled, match=r"paused at \d+ % because somebody wants the machine; everything is kept in"):
        migrate(survey, V, GRID, devices=devices, memory=budget(4), checkpoint=kept, progress=progress)
    assert {p.name for p in (tmp_path / "kept").iterdir()} >= {"lane-0.npz", "lane-1.npz"}
    devices = [Runtime().device("cpu") for _ in range(2)]
    whole = migrate(survey, V, GRID, devices=devices, memory=budget(4))
    devices = [Runtime().device("cpu") for _ in range(2)]
    again = migrate(survey, V, GRID, devices=devices, memory=budget(4), checkpoint=tmp_path / "kept")
    assert same(again, whole)


def test_tile_sizes_do_not_matter(survey, relative):
    whole = run(survey, memory=None)
    assert whole.job.tiles == 1
    for rows, tiles in ((1, 12), (2, 6), (4, 3)):
        tiled = run(survey, memory=budget(rows))
        assert tiled.job.tiles == tiles
        assert relative(tiled.values, whole.values) <= 1e-5
        assert relative(tiled.panels.values, whole.panels.values) <= 1e-5
        assert np.array_equal(tiled.counts, whole.counts)


def test_blocks_and_tiles_of_the_first_run_are_kept(survey, tmp_path, monkeypatch):
    """Another amount of free memory must not change the order of summation."""
    whole = run(survey)
    with pytest.raises(Stop):
        run(survey, tmp_path / "kept", progress=crash_after(7))
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 100)
    again = run(survey, tmp_path / "kept")
    assert again.job.block == 64
    assert same(again, whole)
