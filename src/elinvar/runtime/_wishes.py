"""Which versions of kernels somebody asked for by name, and who: a block, the environment or the configuration."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from .kernelinfo import parse_choices

__all__ = ["Wishes"]

_ENVIRONMENT = "ELINVAR_KERNELS"


class Wishes:
    """Explicit choices of versions, in the order in which they count. A wish is obeyed, never second-guessed."""

    def __init__(self) -> None:
        self._configured: dict[str, str] = {}
        self._context: ContextVar[dict[str, str] | None] = ContextVar("elinvar-kernels", default=None)

    def about(self, name: str, version: str | None = None) -> tuple[str, str] | None:
        """Return (version, who asked for it), or None when nobody did; `version` is the caller's own wish."""
        if version is not None:
            return version, "asked for by the version argument"
        for choices, who in (
            (self._context.get() or {}, "asked for by use()"),
            (_from_environment(), f"asked for by {_ENVIRONMENT}"),
            (self._configured, "asked for by the configuration"),
        ):
            if name in choices:
                return choices[name], who
        return None

    def of_the_process(self) -> Iterable[str]:
        """Return the kernels that the environment or the configuration names."""
        return {**_from_environment(), **self._configured}

    @contextmanager
    def use(self, wanted: Mapping[str, str]) -> Iterator[None]:
        """Add to what this context wishes, inside a ``with`` block."""
        token = self._context.set({**(self._context.get() or {}), **wanted})
        try:
            yield
        finally:
            self._context.reset(token)

    def configure(self, wanted: dict[str, str]) -> dict[str, str]:
        """Set the configuration and return the old one."""
        old, self._configured = self._configured, wanted
        return old


def _from_environment() -> dict[str, str]:
    return parse_choices(os.environ.get(_ENVIRONMENT, ""), _ENVIRONMENT)
