from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from elinvar.bench import History, Result, Samples, compare_results
from elinvar.errors import BenchError, InputError

BOX = {"id": "box", "name": "a box"}


def result(centre: float = 10.0, name: str = "demo", machine: dict[str, str] = BOX, **rows: float) -> Result:
    rows = rows or {"row": centre}
    samples = {row: Samples(row, tuple(c * (1 + 0.001 * (i % 5)) for i in range(31))) for row, c in rows.items()}
    return Result(name, samples, machine, {"note": 1}, created="2025-01-01T00:00:00+00:00", commit="abc")


def test_round_trip_keeps_every_sample(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    original = result(a=1.0, b=2.0)
    original.write(path)
    assert Result.read(path) == original
    data = json.loads(path.read_text())
    assert len(data["samples"]["a"]["values"]) == 31
    assert set(data["samples"]["a"]["statistics"]) >= {"min", "max", "mean", "std", "median", "interval"}
    assert list(path.parent.iterdir()) == [path]


def test_a_new_result_records_machine_time_and_commit() -> None:
    fresh = Result("n", {"a": Samples("a", (1.0,))})
    assert fresh.machine["id"]
    assert fresh.created.endswith("+00:00")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"samples": {}, "schema": 99}', '{"schema":1,"samples":{"a":{}}}']
)
def test_what_is_not_a_result_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(BenchError):
        Result.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"nowhere\.json"):
        Result.read(tmp_path / "nowhere.json")


def test_rows_are_matched_by_name() -> None:
    outcome = compare_results(result(a=10.0, b=10.0, gone=1.0), result(a=10.0, b=12.0, new=1.0))
    assert outcome.verdicts["a"].word == "same"
    assert outcome.verdicts["b"].word == "worse"
    assert outcome.regressions == ("b",)
    assert outcome.only_a == ("gone",)
    assert outcome.only_b == ("new",)
    json.dumps(outcome.to_json(), allow_nan=False)


def test_machines_and_strangers_are_not_compared() -> None:
    with pytest.raises(BenchError, match=r"a box.*another"):
        compare_results(result(), result(machine={"id": "other", "name": "another"}))
    with pytest.raises(BenchError, match="no row in common"):
        compare_results(result(a=1.0), result(b=1.0))


def test_history_only_grows_and_finds_its_own_machine(tmp_path: Path) -> None:
    history = History(tmp_path / "h")
    assert list(history.entries("demo")) == []
    with pytest.raises(BenchError, match="no earlier 'demo'"):
        history.check(result())
    path = history.append(result(10.0))
    before = path.read_bytes()
    history.append(result(99.0, machine={"id": "other", "name": "another"}))
    assert path.read_bytes().startswith(before)
    assert len(list(history.entries("demo"))) == 2
    assert history.check(result(10.1)).verdicts["row"].word == "same"
    assert history.check(result(12.0)).regressions == ("row",)
    history.append(result(12.0))
    assert history.check(result(12.0)).verdicts["row"].word == "same"  # against the newest


def test_history_survives_a_writer_that_died(tmp_path: Path) -> None:
    history = History(tmp_path)
    path = history.append(result(10.0))
    with path.open("a") as stream:
        stream.write('{"schema": 1, "na')
    history.append(result(11.0))
    assert [r.samples["row"].min for r in history.entries("demo")] == [10.0, 11.0]


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_history_names_are_file_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="file name"):
        History(tmp_path).append(replace(result(), name=name))
