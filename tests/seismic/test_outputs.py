from __future__ import annotations

from pathlib import Path

import pytest

from elinvar.errors import InputError
from elinvar.seismic.outputs import check_file, check_folder, space


def test_what_may_be_written(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "image.zarr").mkdir()
    (tmp_path / "image.zarr" / "zarr.json").write_text("{}")
    (tmp_path / "a.sgy").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    for name in ("new.zarr", "empty", "image.zarr", "deep/er/new.zarr"):
        check_folder(tmp_path / name, tmp_path / "a.sgy")
    for name in ("new.sgy", "old.sgy", "deep/er/new.sgy"):
        check_file(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("check", [check_folder, check_file])
def test_what_may_not(tmp_path, check, monkeypatch):
    (tmp_path / "survey.zarr").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"survey\.zarr is the survey itself"):
        check("survey.zarr", tmp_path / "." / "survey.zarr")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is no folder to write in"):
        check(tmp_path / "file" / "new.zarr")
    if Path("/proc/self").is_dir():
        with pytest.raises(InputError, match="is no folder to write in"):
            check("/proc/self/new.zarr")


def test_other_things_are_not_lost(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    with pytest.raises(InputError, match="a folder of other things, which would be lost"):
        check_folder(tmp_path / "photos")
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="is a file, and images are folders"):
        check_folder(tmp_path / "thesis.txt")
    with pytest.raises(InputError, match="is a folder; give the name of a file"):
        check_file(tmp_path / "photos")


def test_too_little_space_is_said_before(tmp_path, monkeypatch):
    monkeypatch.setattr("elinvar.seismic.outputs.free_bytes", lambda _: 2**30)
    assert space(tmp_path / "a.zarr", 2**30) is None
    assert space("a.zarr", 3 * 2**30) == "a.zarr may need 3.00 GiB and the disk has 1.00 GiB left."
