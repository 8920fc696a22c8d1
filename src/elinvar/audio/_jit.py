"""How the audio kernels are compiled: no GIL, cached where a folder can be written, NaN and infinity respected."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature

__all__ = ["BLOCK_ENTRY", "Entry", "carray", "entry", "jit"]

_numba: Any = numba
carray = _numba.carray

_normalize: Any = normalize_signature
F = TypeVar("F", bound=Callable[..., Any])

# contract: multiply-add in one rounding. Nothing that may ignore NaN or infinity, or reorder a sum.
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}


BLOCK_ENTRY = "int64(CPointer(int64), CPointer(float32), CPointer(float32), int64)"
"""What C calls: ``f(state, input, output, frames)``, both planar ``[channels][frames]`` float32; returns 0."""


_KERNELS = ("chain", "dynamics", "jit", "ladder", "lanes", "layout", "live", "overlap", "partition", "passes",
            "recursive", "ring", "spectrum")  # fmt: skip


@cache
def _stamp() -> tuple[tuple[str, int, int], ...]:
    """When the kernels' files were last changed: they call each other, and numba's cache only looks at one file."""
    files = [Path(__file__).parent / f"_{name}.py" for name in _KERNELS]
    return tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)


def _fresh(made: Any) -> Any:
    with contextlib.suppress(AttributeError):  # private to numba; without it only a developer can meet a stale kernel
        made._cache._cache_file._source_stamp = _stamp()  # noqa: SLF001
    return made


def jit(fn: F) -> F:
    """Compile for Python and for other kernels."""
    try:
        return cast("F", _fresh(numba.njit(nogil=True, cache=True, **_OPTIONS)(fn)))
    except RuntimeError:  # numba: no folder for its cache can be written
        return cast("F", numba.njit(nogil=True, **_OPTIONS)(fn))


class Entry:
    """A C function, compiled when its address is first asked for."""

    def __init__(self, fn: Callable[..., Any], signature: str) -> None:
        self._fn, self._signature, self._made = fn, signature, cast("Any", None)

    @property
    def address(self) -> int:
        """The function pointer: neither takes the GIL nor allocates."""
        if self._made is None:
            made: Any = CFunc(self._fn, _normalize(self._signature), locals={}, options={"nopython": True, **_OPTIONS})
            with contextlib.suppress(RuntimeError):
                made.enable_caching()
                _fresh(made)
            made.compile()
            self._made = made
        return int(self._made.address)


def entry(signature: str) -> Callable[[Callable[..., Any]], Entry]:
    """Compile for C on first use."""
    return lambda fn: Entry(fn, signature)
