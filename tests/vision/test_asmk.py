from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from elinvar.errors import InputError, WeightsError
from elinvar.vision.asmk import Codebook


@pytest.fixture
def book():
    return Codebook(np.random.default_rng(0).normal(size=(40, 16)))


@pytest.fixture
def features():
    make = np.random.default_rng(1)
    return [make.normal(size=(30, 16)) for _ in range(4)]


def by_hand(book, ask, answer, count):
    """The paper's sums, word by word and feature by feature."""

    def cells(features, k):
        found = {}
        for f in features:
            order = np.argsort(((book.centroids - f) ** 2).sum(1), kind="stable")[:k]
            for word in order:
                found.setdefault(int(word), []).append(f - book.centroids[word])
        return {word: np.sum(offsets, 0) > 0 for word, offsets in found.items()}

    one, two = cells(ask, count), cells(answer, 1)
    total = 0.0
    for word in one.keys() & two.keys():
        u = np.where(one[word], 1, -1) @ np.where(two[word], 1, -1) / book.centroids.shape[1]
        total += u**book.alpha if u > book.threshold else 0.0
    return total / np.sqrt(len(one) * len(two))


def test_similarities_equal_the_sums_by_hand(book, features):
    got = book.similarity(features, count=5)
    for i in range(4):
        for j in range(4):
            want = 0.5 * (by_hand(book, features[i], features[j], 5) + by_hand(book, features[j], features[i], 5))
            assert got[i, j] == pytest.approx(1.0 if i == j else want, abs=1e-12)


def test_an_image_is_most_like_itself(book, features):
    words = [book.aggregate(f) for f in features]
    assert book.compare(words[0], words[0]) == pytest.approx(1.0)
    assert all(book.compare(words[0], w) < 0.5 for w in words[1:])
    near = book.aggregate(features[0] + 0.01)
    assert book.compare(words[0], near) > 0.5
    assert len(words[0]) == len(np.unique(book.nearest(features[0])))


def test_nothing_shared_is_zero_and_nothing_at_all_too(book):
    apart = Codebook(np.diag([100.0] * 16))
    one, two = (apart.aggregate(100.0 * np.eye(16)[k : k + 1]) for k in (0, 1))
    assert apart.compare(one, two) == 0.0
    empty = book.aggregate(np.zeros((0, 16)))
    assert len(empty) == 0
    assert book.compare(empty, empty) == 0.0


def test_the_nearest_words_in_pieces(book, features, monkeypatch):
    want = np.argsort(((features[0][:, None] - book.centroids[None]) ** 2).sum(2), axis=1)[:, :3]
    monkeypatch.setattr("elinvar.vision.asmk._TILE", 80)
    assert np.array_equal(book.nearest(features[0], 3), want)


@pytest.mark.parametrize("suffix", [".pkl", ".npy", ".safetensors"])
def test_every_file_gives_the_same_words(book, tmp_path, suffix):
    where = tmp_path / f"codebook{suffix}"
    if suffix == ".pkl":
        where.write_bytes(pickle.dumps({"type": "kmeans", "params": {}, "state": {"centroids": book.centroids}}))
    elif suffix == ".npy":
        np.save(where, book.centroids)
    else:
        save_file({"centroids": torch.from_numpy(book.centroids)}, where)
    assert np.array_equal(Codebook.load(where).centroids, book.centroids)


class _Harm:
    def __reduce__(self):
        return (os.mkdir, ("harm",))


def test_a_file_that_wants_to_run_something_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"state": {"centroids": _Harm()}}))
    with pytest.raises(WeightsError, match="wants to run"):
        Codebook.load(tmp_path / "bad.pkl")
    assert not (tmp_path / "harm").exists()


def test_files_that_are_no_codebook(tmp_path, book):
    with pytest.raises(WeightsError, match="does not exist"):
        Codebook.load(tmp_path / "none.pkl")
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps({"state": {"centroids": book.centroids}})[:50])
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"state": {"else": 1}}))
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    np.save(tmp_path / "flat.npy", np.zeros(5))
    save_file({"prewhiten.m": torch.zeros(1, 4)}, tmp_path / "white.safetensors")
    for name in ("cut.pkl", "other.pkl", "list.pkl", "flat.npy", "white.safetensors"):
        with pytest.raises(WeightsError, match="Codebook"):
            Codebook.load(tmp_path / name)


def test_what_does_not_fit_is_refused(book):
    for bad in (np.zeros((3, 15)), np.zeros(16)):
        with pytest.raises(InputError, match="features"):
            book.nearest(bad)
    with pytest.raises(InputError, match="count"):
        book.nearest(np.zeros((3, 16)), 41)
    for bad in (np.zeros((0, 4)), np.zeros(4), np.full((2, 2), np.nan)):
        with pytest.raises(InputError, match="centroids"):
            Codebook(bad)
    with pytest.raises(InputError, match="alpha"):
        Codebook(np.ones((2, 2)), alpha=0)
