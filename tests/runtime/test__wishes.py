"""Who asked for which version, and who is heard first."""

from __future__ import annotations

import contextvars

import pytest

from elinvar.errors import ConfigError
from elinvar.runtime._wishes import Wishes


def test_the_nearest_wish_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ELINVAR_KERNELS", raising=False)
    wishes = Wishes()
    assert wishes.about("a") is None
    assert wishes.configure({"a": "configured"}) == {}
    assert wishes.about("a") == ("configured", "asked for by the configuration")
    monkeypatch.setenv("ELINVAR_KERNELS", "a=environment,b=v1")
    assert wishes.about("a") == ("environment", "asked for by ELINVAR_KERNELS")
    assert list(wishes.of_the_process()) == ["a", "b"]
    with wishes.use({"a": "outer"}), wishes.use({"c": "inner"}):
        assert wishes.about("a") == ("outer", "asked for by use()")
        assert wishes.about("a", "own") == ("own", "asked for by the version argument")
        assert contextvars.Context().run(wishes.about, "c") is None  # another thread begins with an empty context
    assert wishes.about("c") is None
    assert wishes.configure({}) == {"a": "configured"}


def test_an_environment_that_cannot_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELINVAR_KERNELS", "a")
    with pytest.raises(ConfigError, match="ELINVAR_KERNELS"):
        Wishes().about("a")
