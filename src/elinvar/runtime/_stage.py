"""One step of a pipeline: what it runs, where, and by how many threads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from elinvar.errors import InputError

if TYPE_CHECKING:
    import torch

    from .device import Device

__all__ = ["Stage", "whole"]

_MOST_WORKERS = 256


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a Pipeline: ``fn(value) -> value``, run by threads of its own.

    Parameters
    ----------
    fn
        Called once per item with the previous stage's result (the item itself in the first stage). Context
        variables and torch's grad and inference modes are those of the thread that submitted the item.
    name
        For errors, traces and thread names; default the function's own.
    device
        Where the stage works. On a CUDA device each worker gets a stream of its own and a value moves on when the
        work that makes it has finished; two workers hide the launch gap between items. Other devices need nothing.
    workers
        Threads serving this stage. With one, items arrive in item order; with more, results are still delivered in
        order but the stage sees items as they come.
    compute
        The stage fills the CPU by itself (torch and numba bring their own threads). A pipeline takes at most one
        such stage, with one worker.
    dispose
        Called with a result of this stage that will never be delivered, because of an error, a cancellation or an
        early close. Without it every Lease found in the result (also inside tuples, lists, sets, dicts and
        dataclasses) is released.

    Raises
    ------
    InputError
        If `fn` or `dispose` cannot be called, or `workers` is no whole number from 1 to 256.
    """

    fn: Callable[[Any], Any]
    name: str | None = None
    device: Device | torch.device | str | None = None
    workers: int = 1
    compute: bool = False
    dispose: Callable[[Any], object] | None = None

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise InputError(f"Stage got fn={self.fn!r}; it takes a function of one value.")
        if self.name is None:
            object.__setattr__(self, "name", getattr(self.fn, "__name__", None) or type(self.fn).__name__)
        whole("Stage", "workers", self.workers, _MOST_WORKERS)
        if self.dispose is not None and not callable(self.dispose):
            raise InputError(f"Stage {self.name!r} got dispose={self.dispose!r}; it takes a function of one value.")

    @property
    def label(self) -> str:
        """The name that errors, traces and threads show."""
        return self.name or ""

    @property
    def kind(self) -> str:
        """The kind of device the stage works on: "cpu" without one."""
        if self.device is None:
            return "cpu"
        return getattr(self.device, "kind", None) or str(self.device).partition(":")[0]

    @property
    def cuda_device(self) -> torch.device | None:
        """The torch device when the stage works on CUDA in this process, else None."""
        where: Any = self.device
        return where.torch if self.kind == "cuda" and hasattr(where, "torch") else None

    @property
    def fills_cpu(self) -> bool:
        """Whether this is a compute stage on the CPU."""
        return self.compute and self.kind == "cpu"

    def resolved(self, *, here: bool) -> Stage:
        """Return the stage with its device looked up; one that runs elsewhere (`here` false) may name what is there.

        Raises
        ------
        InputError
            If the device's name is no device's.
        DeviceUnavailable
            If it is not on this machine.
        """
        if self.device is None or (not here and self.kind in ("cuda", "mps")):
            return self
        from .device import device

        return dataclasses.replace(self, device=device(self.device))


def whole(operation: str, name: str, value: int, most: int | None = None) -> int:
    """Return a whole number from 1, or refuse it by name."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        upper = "" if most is None else f" to {most}"
        raise InputError(f"{operation} got {name}={value!r}; it takes a whole number from 1{upper}.")
    return value
