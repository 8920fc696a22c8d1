"""What our tests use and yours may: leak checks, mutants of Metal kernels, fakes of clock, sensors, memory and streams.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from elinvar._lazy import lazy

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

__getattr__, __dir__ = lazy(__name__, _HOME)
