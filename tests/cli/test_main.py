"""The root command: help, version, errors and exit codes as a shell sees them."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from types import ModuleType
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

import elinvar
from elinvar import errors
from elinvar.cli import main as cli

runner = CliRunner()


def _fake(raises: BaseException | None = None, text: str = "") -> ModuleType:
    module = ModuleType("fake")
    app = typer.Typer()  # with completion options, as a careless engine might

    @app.command()
    def fake(json_: Annotated[bool, typer.Option("--json")] = False) -> None:
        if raises is not None:
            raise raises
        typer.echo(f"{text}{json_}")

    module.app = app  # type: ignore[attr-defined]
    return module


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> object:
    def put(module: ModuleType) -> None:
        monkeypatch.setitem(sys.modules, "elinvar.cli.doctor", module)

    return put


def test_version() -> None:
    result = runner.invoke(cli.app, ["--version"])
    assert (result.exit_code, result.stdout.strip()) == (0, f"elinvar {elinvar.__version__}")


def test_help_lists_every_command_with_one_line() -> None:
    result = runner.invoke(cli.app, ["--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for name, summary in cli.COMMANDS.items():
        assert name in result.stdout
        assert summary in result.stdout
    assert "Exit codes" in result.stdout


def test_no_arguments_show_help_and_are_wrong_usage() -> None:
    result = runner.invoke(cli.app, [])
    assert result.exit_code == 2
    assert "Usage" in result.output


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help(name: str) -> None:
    result = runner.invoke(cli.app, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"elinvar {name}" in " ".join(result.stdout.split()) or f"root {name}" in " ".join(result.stdout.split())
    assert "install-completion" not in result.stdout


def test_a_mistyped_command_is_wrong_usage_with_a_suggestion() -> None:
    result = runner.invoke(cli.app, ["docto"])
    assert result.exit_code == 2
    assert "doctor" in result.output


def test_wrong_options_are_wrong_usage(install: object) -> None:
    install(_fake())  # type: ignore[operator]
    result = runner.invoke(cli.app, ["doctor", "--nonsense"])
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("[x] bad; do better"), 1),
        (errors.WeightsError("missing; get them"), 3),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a"), 1),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("division by zero"), 1),
    ],
)
def test_errors_are_one_line_on_stderr_without_a_traceback(install: object, error: BaseException, code: int) -> None:
    install(_fake(error))  # type: ignore[operator]
    result = runner.invoke(cli.app, ["doctor"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("elinvar: ")


@pytest.mark.parametrize("arguments", [["--debug", "doctor"], ["doctor", "--debug"], ["doctor", "--json", "--debug"]])
def test_debug_works_anywhere_on_the_line(install: object, arguments: list[str]) -> None:
    install(_fake(ZeroDivisionError("division by zero")))  # type: ignore[operator]
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("elinvar: ")


def test_warnings_are_one_line_on_stderr(install: object) -> None:
    module, said = ModuleType("fake"), typer.Typer()

    @said.command()
    def fake() -> None:
        warnings.warn("colours are guessed", UserWarning, stacklevel=1)
        logging.getLogger("elinvar.video").warning("%s is tried instead", "libx264")
        logging.getLogger("elinvar.video").info("nobody asked")
        typer.echo("result")

    module.app = said  # type: ignore[attr-defined]
    before = warnings.showwarning, logging.getLogger("elinvar").handlers.copy()
    install(module)  # type: ignore[operator]
    result = runner.invoke(cli.app, ["doctor"])
    assert result.stdout == "result\n"
    assert result.stderr == "elinvar: warning: colours are guessed\nelinvar: libx264 is tried instead\n"
    assert (warnings.showwarning, logging.getLogger("elinvar").handlers) == before


def test_debug_by_environment(install: object) -> None:
    install(_fake(ZeroDivisionError()))  # type: ignore[operator]
    assert "Traceback" in runner.invoke(cli.app, ["doctor"], env={"ELINVAR_DEBUG": "1"}).stderr


def test_a_words_after_two_dashes_are_left_alone() -> None:
    group = cli.LazyGroup(name="x")
    context = group.make_context("x", ["doctor", "--", "--debug"], resilient_parsing=True)
    assert "--debug" in context.args


@pytest.mark.parametrize("code", [0, 4])
def test_an_exit_code_chosen_by_a_command_is_kept(install: object, code: int) -> None:
    install(_fake(typer.Exit(code)))  # type: ignore[operator]
    assert runner.invoke(cli.app, ["doctor"]).exit_code == code


def test_a_closed_pipe_is_no_error() -> None:
    code = "from elinvar.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    process.wait(30)
    assert "Traceback" not in stderr


def test_module_and_script_are_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "elinvar", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == f"elinvar {elinvar.__version__}"


@pytest.mark.parametrize("locale", [{"LANG": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_an_ascii_locale_is_enough(locale: dict[str, str]) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))} | locale
    done = subprocess.run(
        [sys.executable, "-m", "elinvar", "--help"], env=environment, capture_output=True, timeout=60, check=True
    )
    assert b"doctor" in done.stdout


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name == "nt", reason="signals")
def test_control_c_ends_with_130_and_one_line() -> None:
    code = (
        "import sys, time, types, typer\n"
        "module = types.ModuleType('doctor'); module.app = typer.Typer()\n"
        "@module.app.command()\n"
        "def wait():\n"
        "    print('ready', flush=True); time.sleep(60)\n"
        "sys.modules['elinvar.cli.doctor'] = module\n"
        "sys.argv = ['elinvar', 'doctor']\n"
        "from elinvar.cli.main import main; main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr == "elinvar: interrupted; files already written are whole.\n"
