"""Files are whole or absent, and caches have somewhere to live."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from elinvar.runtime import files
from elinvar.runtime.files import atomic_directory, atomic_write, cache_dir, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_file_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "result.txt"  # missing folders are made
    with atomic_write(target) as temporary:
        assert temporary.parent == target.parent
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(target.parent) == ["result.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "result.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert names(tmp_path) == ["result.txt"]


def test_writing_nothing_is_an_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "result.txt"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(target):
        pass
    assert target.read_text() == "old"


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "result with spaces.txt"
    for text in ("one", "two"):
        write_text(target, text)
        assert target.read_text() == text
    assert names(tmp_path) == ["result with spaces.txt"]


def test_text_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    write_text(str(tmp_path / "t"), "η × 3\n")
    assert (tmp_path / "t").read_bytes() == b"\xce\xb7 \xc3\x97 3\n"


def test_two_writers_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "result.txt"
    with atomic_write(target) as one, atomic_write(target) as two:
        assert one != two
        one.write_text("one" * 1000)
        two.write_text("two" * 1000)
    assert target.read_text() == "one" * 1000  # the outer block ends last
    assert names(tmp_path) == ["result.txt"]


def test_readers_never_see_a_half_written_file(tmp_path: Path) -> None:
    target = tmp_path / "result.txt"
    write_text(target, "0" * 5000)
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            text = target.read_text()
            seen.add(f"{len(text)} {len(set(text))}")

    reader = threading.Thread(target=read)
    reader.start()
    for digit in range(30):
        write_text(target, str(digit % 10) * 5000)
    done.set()
    reader.join()
    assert seen == {"5000 1"}


def test_content_reaches_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    target = tmp_path / "result.txt"
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_sync(descriptor)

    def replace(self: Path, other: Path) -> Path:
        events.append("rename")
        return real_replace(self, other)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    write_text(target, "x")
    assert events == ["file", "rename", "folder"]


# -- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "x" / "result.zarr"
    with atomic_directory(target) as temporary:
        (temporary / "chunk").write_text("new")
        assert not target.exists()
    assert (target / "chunk").read_text() == "new"
    assert names(target.parent) == ["result.zarr"]


def test_a_folder_replaces_the_old_one_entirely(tmp_path: Path) -> None:
    target = tmp_path / "result.zarr"
    for name in ("one", "two"):
        with atomic_directory(target) as temporary:
            (temporary / name).mkdir()
            (temporary / name / "chunk").write_text(name)
    assert names(target) == ["two"]
    assert names(tmp_path) == ["result.zarr"]


def test_a_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "result.zarr"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(ValueError, match="stop"), atomic_directory(target) as temporary:
        (temporary / "half").touch()
        raise ValueError("stop")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["result.zarr"]


def test_a_failed_rename_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "result.zarr"
    target.mkdir()
    (target / "old").touch()
    real = Path.replace

    def replace(self: Path, other: Path) -> Path:
        if self.name.endswith(".part") and not self.name.endswith(".old.part"):
            raise OSError(5, "Input/output error")
        return real(self, other)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="Input/output"), atomic_directory(target) as temporary:
        (temporary / "new").touch()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["result.zarr"]


# -- caches ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("ELINVAR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def test_cache_places_in_order(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == environment / "home" / ".cache" / "elinvar"
    monkeypatch.setenv("XDG_CACHE_HOME", str(environment / "xdg"))
    assert cache_dir() == environment / "xdg" / "elinvar"
    monkeypatch.setenv("ELINVAR_CACHE", str(environment / "own"))
    assert cache_dir() == environment / "own"
    assert cache_dir().is_dir()


def test_cache_falls_back_when_nothing_can_be_written(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (environment / "home").write_text("a file where the home should be")
    monkeypatch.setenv("TMPDIR", str(environment))
    monkeypatch.setattr("tempfile.tempdir", None)
    files._fallback_cache.cache_clear()
    try:
        fallback = cache_dir()
        assert fallback.parent == environment
        assert fallback.is_dir()
        assert cache_dir() == fallback  # one per process
    finally:
        files._fallback_cache.cache_clear()


def test_cache_falls_back_from_a_read_only_folder(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELINVAR_CACHE", str(environment / "own"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere: chmod would not do
    monkeypatch.setattr("tempfile.tempdir", str(environment))
    files._fallback_cache.cache_clear()
    try:
        assert cache_dir() != environment / "own"
    finally:
        files._fallback_cache.cache_clear()
