from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from elinvar.bench import Result
from elinvar.cli.main import app

runner = CliRunner()
GIVEN = ["--datasets", "tiny", "--runs", 1, "--warmup", 0, "--contributions", 1e5, "--device", "cpu"]


def run(*words, code=0):
    result = runner.invoke(app, ["bench", "seismic", *map(str, words)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_a_table_a_file_and_a_page(tmp_path):
    shown = run(*GIVEN, "--versions", "baseline,v2", "--output", tmp_path / "a.json", "--report")
    for words in ("tiny: 1,764 traces", "over baseline", "kernel s", "same bits", "contributions/s"):
        assert words in shown.stdout
    assert list(Result.read(tmp_path / "a.json").samples) == ["tiny baseline", "tiny v2"]
    assert "tiny baseline" in (tmp_path / "a.html").read_text()
    assert str(tmp_path / "a.html") in shown.stderr.replace("\n", "")


def test_json_and_other_physics():
    found = json.loads(run(*GIVEN, "--versions", "v2", "--physics", "vti", "--json").stdout)
    assert found["extras"]["options"] == {"physics": "vti", "eta": "0.1"}
    assert set(found["extras"]["datasets"]["tiny"]["versions"]) == {"v2"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--versions", "v9"), "no version 'v9'"),
        (("--versions", ","), "names nothing"),
        (("--datasets", "tyni"), "choose one of tiny"),
        (("--group-size", "64,big"), "no list of whole numbers"),
        (("--group-size", "64"), "sweep on a GPU"),
        (("--unroll", "1,2"), "sweep on a GPU"),
        (("--physics", "warp"), "physics is 'warp'"),
    ],
)
def test_what_is_wrong_is_one_sentence(words, said):
    text = run(*GIVEN, "--versions", "v2", *words, code=1).stderr
    assert said in text
    assert len([line for line in text.splitlines() if line.startswith("elinvar: ")]) == 1
