"""Where kernels are found: the engines' packages, entry points of installed packages, modules named for one command."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pkgutil
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

from elinvar.errors import InputError

__all__ = ["GROUP", "import_all", "import_entry_points", "import_named", "import_package"]

GROUP = "elinvar.kernels"
"""Entry points of this group name modules whose import registers kernels."""

_log = logging.getLogger("elinvar.kernels")


def import_entry_points() -> None:
    """Import what installed packages announce; one that fails is logged and left out."""
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:  # noqa: BLE001  (somebody else's code must not take the list of kernels away)
            _log.warning("kernels of %s are not there: %s: %s", entry.value, type(error).__name__, error)


def import_package(module: str) -> None:
    """Import one package of kernels if it exists; an engine that is not there registers nothing."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return
    if found is not None:
        importlib.import_module(module)


def import_all(catalogue: Iterable[str]) -> None:
    """Import every engine's kernels, those of a catalogue of modules, and those of installed packages."""
    root = importlib.import_module(__name__.partition(".")[0])
    folders = [Path(folder) for folder in root.__path__]
    for module in pkgutil.iter_modules(root.__path__):
        if module.ispkg and any((folder / module.name / "kernels" / "__init__.py").exists() for folder in folders):
            import_package(f"{root.__name__}.{module.name}.kernels")
    for extra in catalogue:
        importlib.import_module(extra)
    import_entry_points()


def import_named(name: str) -> None:
    """Import a module, or a Python file, whose import registers kernels.

    Raises
    ------
    InputError
        There is no such module or file. What the module itself raises is not caught.
    """
    path = Path(name)
    if path.suffix == ".py":
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise InputError(f"kernels: there is no file {name}; give a Python file or a module that registers kernels")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
        return
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: modules of the working directory
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        raise InputError(
            f"kernels: there is no module {name}; give a Python file or a module that registers kernels"
        ) from None
