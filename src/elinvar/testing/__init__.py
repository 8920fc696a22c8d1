"""What our tests use and yours may: leak checks, mutants of Metal kernels, fakes of clock, sensors, memory and streams.

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_HOME = {
    "FakeClock": "fakes",
    "FakeMemory": "fakes",
    "FakeSensor": "fakes",
    "FakeStreams": "fakes",
    "LeakError": "leaks",
    "assert_no_leak": "leaks",
    "copyable_meta": "fakes",
    "mutate_metal": "mutation",
    "survivors": "mutation",
}

__all__ = [
    "FakeClock",
    "FakeMemory",
    "FakeSensor",
    "FakeStreams",
    "LeakError",
    "assert_no_leak",
    "copyable_meta",
    "mutate_metal",
    "survivors",
]

if TYPE_CHECKING:
    from .fakes import FakeClock, FakeMemory, FakeSensor, FakeStreams, copyable_meta
    from .leaks import LeakError, assert_no_leak
    from .mutation import mutate_metal, survivors


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'elinvar.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
