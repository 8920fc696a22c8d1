"""Errors as one sentence, progress lines, JSON."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
from pathlib import Path

import numpy as np
import pytest
import typer

from elinvar import errors
from elinvar.cli import common


@dataclasses.dataclass(frozen=True)
class Thing:
    path: Path
    values: tuple[float, ...]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (errors.InputError("[x] got 3; pass 4"), 1, "[x] got 3; pass 4"),
        (errors.WeightsError("weights a.pth are missing; get them"), 3, "a.pth"),
        (errors.Cancelled(""), 130, "cancelled"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.sgy"), 1, "a.sgy"),
        (PermissionError(errno.EACCES, "Permission denied", "a.sgy"), 1, "permissions"),
        (OSError(errno.ENOSPC, "No space left on device", "out.zarr"), 1, "disk is full (out.zarr)"),
        (OSError(errno.EFBIG, "File too large", "out.zarr"), 1, "too large (out.zarr) for this disk, or for the limit"),
        (ModuleNotFoundError("No module named 'segyio'", name="segyio"), 1, "elinvar doctor"),
        (ModuleNotFoundError("No module named 'elinvar.x'", name="elinvar.x"), 1, "--debug"),
        (ValueError("two\nlines"), 1, "ValueError: two lines; run again with --debug"),
        (ValueError(), 1, "unexpected ValueError; run"),
    ],
)
def test_every_exception_becomes_one_line(error: BaseException, code: int, words: str) -> None:
    sentence, chosen = common.explain(error)
    assert chosen == code
    assert words in sentence
    assert "\n" not in sentence


def test_what_elinvar_does_not_do_is_said_plainly_and_what_a_library_does_not_do_is_unexpected() -> None:
    def said(source: str, module: str) -> str:
        with pytest.raises(NotImplementedError) as caught:
            exec(source, {"__name__": module})
        return common.explain(caught.value)[0]

    refusal = "raise NotImplementedError('v1 does not do that; choose v2.')"
    assert said(refusal, "elinvar.seismic.choosing") == "v1 does not do that; choose v2."
    assert "unexpected NotImplementedError: v1 does" in said(refusal, "torch.nn")
    assert "unexpected NotImplementedError;" in said("raise NotImplementedError", "elinvar.seismic.choosing")


def test_fail_prints_on_stderr_and_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left:
        common.fail(errors.WeightsError("no weights; get them"))
    assert left.value.exit_code == 3
    streams = capsys.readouterr()
    assert streams.err == "elinvar: no weights; get them\n"
    assert streams.out == ""
    with pytest.raises(typer.Exit) as left:
        common.fail("nothing to do", code=7)
    assert left.value.exit_code == 7


def test_fail_shows_the_traceback_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    def boom() -> None:
        try:
            raise ValueError("x")
        except ValueError as error:
            common.fail(error, debug=True)

    with pytest.raises(typer.Exit):
        boom()
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 "),
        (12.5, "12.5 "),
        (999, "999 "),
        (1234, "1.23 k"),
        (6.8e9, "6.80 G"),
        (123e12, "123 T"),
        (-2500, "-2.50 k"),
    ],
)
def test_numbers_have_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert common.si(value) == text


def test_progress_in_a_log_speaks_at_once_then_rarely_then_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    line = common._Line("migrating", "traces", clock=lambda: now[0])
    assert capsys.readouterr().err == "migrating ...\n"
    for second in range(1, 11):
        now[0] = float(second)
        line.report(second * 1000, 20_000)
    assert capsys.readouterr().err.splitlines() == [
        "migrating 25 % (1.00 ktraces/s, 15 s left)",
        "migrating 50 % (1.00 ktraces/s, 10 s left)",
    ]
    line.finish()
    assert capsys.readouterr().err == "migrating done in 10.0 s, 1.00 ktraces/s\n"


def test_progress_without_a_total_counts(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    line = common._Line("reading", "B", clock=lambda: now[0])
    line.report(0, None)
    now[0] = 100.0
    line.report(5_000_000, None)
    assert "5000000 (50.0 kB/s)" in capsys.readouterr().err


def test_progress_reports_through_the_context_manager(capsys: pytest.CaptureFixture[str]) -> None:
    with common.progress("working", total=3, unit="items") as report:
        report(3, None)
    assert "working ..." in capsys.readouterr().err


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with common.progress("working", unit="items") as report:
        report(1, 2)
        report(2, 2)
    shown = capsys.readouterr().err
    assert "working" in shown
    assert "100%" in shown


def test_json_takes_what_results_are_made_of() -> None:
    value = {
        "thing": Thing(Path("a/b"), (1.0, math.inf)),
        "array": np.arange(3, dtype=np.int32),
        "number": np.float32(0.5),
        "set": {"b", "a"},
        "none": None,
        1: True,
    }
    assert json.loads(json.dumps(common.to_json(value))) == {
        "thing": {"path": "a/b", "values": [1.0, None]},
        "array": [0, 1, 2],
        "number": 0.5,
        "set": ["a", "b"],
        "none": None,
        "1": True,
    }


def test_emit_prints_json_or_what_render_returns(capsys: pytest.CaptureFixture[str]) -> None:
    common.emit({"a": 1}, True, lambda: pytest.fail("render is for people"))
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    rows = [{"extra": "elinvar[seismic]", "x": None}]
    common.emit(rows, False, lambda: ["[brackets] stay", common.table(rows)])
    text = capsys.readouterr().out
    assert "[brackets] stay" in text
    assert "elinvar[seismic]" in text
