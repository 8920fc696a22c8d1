"""Arrays handed from process to process: what arrives, what is used again, and what is left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from elinvar.errors import InputError
from elinvar.runtime import parcel
from elinvar.runtime.parcel import Parcel, near_works

SPECS = [((3, 5), np.float32), ((7,), np.int32), ((0, 4), np.float64)]
linux = pytest.mark.skipif(not near_works(), reason="no memory that other processes can open")


def filled(near):
    made = Parcel(SPECS, near=near)
    for k, array in enumerate(made.arrays):
        array[...] = np.arange(array.size).reshape(array.shape) + 10 * k
    return made


def same(one, other):
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one.arrays, other.arrays, strict=True))


@pytest.mark.parametrize("near", [False, True])
def test_what_is_packed_arrives(near):
    made = filled(near)
    data = pickle.dumps(made, protocol=5)
    again = pickle.loads(data)
    assert same(again, made)
    assert same(pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(filled(False))))), made)
    if near and near_works():
        assert len(data) < 300
        assert not again.arrays[0].flags.writeable


def _child(pipe):
    made = filled(True)
    pipe.send_bytes(pickle.dumps(made))
    pipe.recv()
    gc.collect()


@linux
def test_another_process_reads_it_and_keeps_it_when_the_maker_dies():
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_child, args=(there,))
    child.start()
    try:
        data = here.recv_bytes()
        got = pickle.loads(data)
    finally:
        child.kill()
        child.join()
    assert same(got, filled(False))
    lost = pickle.loads(data)
    with pytest.raises(InputError, match="is gone"):
        _ = lost.arrays


@linux
def test_memory_is_used_again_when_nobody_reads_it_and_only_then(monkeypatch):
    monkeypatch.setattr(parcel, "_spare", [])
    made = filled(True)
    place = made.arrays[0].ctypes.data
    data = pickle.dumps(made)
    reader = pickle.loads(data)
    del made
    assert len(parcel._spare) == 1
    other = filled(True)  # while somebody reads the first
    other.arrays[0][:] = -1
    assert other.arrays[0].ctypes.data != place
    assert same(reader, filled(False))
    del reader
    third = Parcel(SPECS, near=True)
    assert third.arrays[0].ctypes.data == place
    assert Parcel([((2,), np.int8)], near=True).arrays[0].shape == (2,)


@linux
def test_files_of_others_are_not_taken_for_it():
    made = filled(True)
    maker, parts = made.__reduce__()
    specs, pid, _, device, inode = parts
    with open(os.devnull, "rb") as file:
        wrong = maker(specs, pid, file.fileno(), device, inode)
        with pytest.raises(InputError, match="is gone"):
            _ = wrong.arrays


@linux
def test_no_more_than_two_are_kept(monkeypatch):
    monkeypatch.setattr(parcel, "_spare", [])
    fds = Path("/proc/self/fd")
    before = len(list(fds.iterdir()))
    many = [Parcel([((n,), np.int8)], near=True) for n in range(1, 8)]
    assert len(list(fds.iterdir())) >= before + 7
    many.clear()
    assert len(parcel._spare) == 2
    monkeypatch.setattr(parcel, "_SPARE_BYTES", 100)
    del many
    for n in (60, 90, 300):
        Parcel([((n,), np.int8)], near=True)
    assert [one.size for one in parcel._spare] == []
    assert len(list(fds.iterdir())) <= before
