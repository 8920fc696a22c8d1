"""Names of a package that are imported when they are first asked for (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping

__all__ = ["lazy"]


def lazy(
    package: str, homes: Mapping[str, str], modules: Collection[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package whose ``__all__`` names what it offers.

    Parameters
    ----------
    package
        Its ``__name__``.
    homes
        Name to the module inside the package that defines it.
    modules
        Modules inside the package that are names themselves.
    """
    here = vars(sys.modules[package])

    def get(name: str) -> object:
        if name in homes:
            value = getattr(importlib.import_module(f".{homes[name]}", package), name)
        elif name in modules:
            value = importlib.import_module(f".{name}", package)
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        here[name] = value
        return value

    def names() -> list[str]:
        return sorted({*here, *here["__all__"]})

    return get, names
