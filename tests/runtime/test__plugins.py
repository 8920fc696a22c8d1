import logging

import pytest

from elinvar.errors import InputError
from elinvar.runtime import _plugins


class Entry:
    def __init__(self, value, error=None):
        self.value, self.error, self.loaded = value, error, 0

    def load(self):
        self.loaded += 1
        if self.error:
            raise self.error


def test_one_package_that_fails_does_not_hide_the_others(monkeypatch, caplog):
    entries = [Entry("broken.kernels", ImportError("no such thing")), Entry("good.kernels")]
    monkeypatch.setattr(_plugins, "entry_points", lambda *, group: entries if group == "elinvar.kernels" else [])
    with caplog.at_level(logging.WARNING):
        _plugins.import_entry_points()
    assert [e.loaded for e in entries] == [1, 1]
    assert "kernels of broken.kernels are not there: ImportError: no such thing" in caplog.text


def test_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plugin_that_needs.py").write_text("import not_there_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        _plugins.import_named("plugin_that_needs")
    with pytest.raises(InputError, match=r"no module plugin_nowhere\.inside"):
        _plugins.import_named("plugin_nowhere.inside")
    with pytest.raises(InputError, match="no file"):
        _plugins.import_named(str(tmp_path / "none.py"))
