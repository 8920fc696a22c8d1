"""Which number format is stored, which one computes, which one adds up."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from elinvar.errors import InputError

if TYPE_CHECKING:
    import torch

    from .device import DeviceProfile

__all__ = ["FORMATS", "Precision"]

FORMATS = ("fp16", "bf16", "fp32", "fp64")
_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4, "fp64": 8}
_TORCH = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}


@dataclasses.dataclass(frozen=True)
class Precision:
    """Formats of one job, each one of "fp16", "bf16", "fp32", "fp64".

    Attributes
    ----------
    storage
        What arrays in memory hold; a result is rounded to it once, when it is stored.
    compute
        What products are formed in; default `storage`. ``resolve`` widens it to fp32 where the device has no fast
        arithmetic of that format: native fp16 GEMM on a CPU without it was measured 580 times slower than bf16.
    accumulate
        What sums are kept in: fp32 or wider, and never narrower than `storage`.

    Raises
    ------
    InputError
        If a format is unknown, or the sums are narrower than fp32 or than what is stored.
    """

    storage: str = "fp32"
    compute: str = ""
    accumulate: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "compute", self.compute or self.storage)
        object.__setattr__(self, "accumulate", self.accumulate or ("fp64" if self.storage == "fp64" else "fp32"))
        for name in ("storage", "compute", "accumulate"):
            value = getattr(self, name)
            if value not in FORMATS:
                raise InputError(f"Precision got {name}={value!r}; it takes one of {', '.join(FORMATS)}.")
        if _BYTES[self.accumulate] < max(4, _BYTES[self.storage]):
            raise InputError(
                f"Precision got accumulate={self.accumulate!r} for storage={self.storage!r}; sums need fp32 or wider, "
                "and at least the stored format."
            )

    @classmethod
    def resolve(
        cls, spec: str | Precision, profile: DeviceProfile, allowed: Sequence[str] = ("fp32",)
    ) -> Self | Precision:
        """Return the precision to use on a device.

        Parameters
        ----------
        spec
            A format name for storage, ``"auto"``, or a `Precision`, which is taken as it is.
        profile
            The device; its ``fast`` formats decide.
        allowed
            For ``"auto"``: the formats the job's tolerance allows, best first. The first one that is fast on the device
            is stored; if none is, fp32.

        Raises
        ------
        InputError
            If the format is unknown, or an explicit `Precision` computes in a half format that is not fast here.
        """
        if isinstance(spec, Precision):
            if _BYTES[spec.compute] == 2 and spec.compute not in profile.fast:
                raise InputError(
                    f"Precision(compute={spec.compute!r}) is not fast on {profile.name}; leave compute out, or choose "
                    "fp32, to store in 16 bits and compute in 32."
                )
            return spec
        if spec == "auto":
            spec = next((name for name in allowed if name in profile.fast), "fp32")
        if not isinstance(spec, str) or spec not in FORMATS:
            raise InputError(f"The precision {spec!r} is unknown; use auto, {', '.join(FORMATS)} or a Precision.")
        return cls(spec, spec if spec in profile.fast or spec == "fp64" else "fp32")

    @property
    def bytes(self) -> int:
        """Bytes of one stored element."""
        return _BYTES[self.storage]

    @property
    def storage_dtype(self) -> torch.dtype:
        """`storage` as a torch dtype."""
        return _dtype(self.storage)

    @property
    def compute_dtype(self) -> torch.dtype:
        """`compute` as a torch dtype."""
        return _dtype(self.compute)

    @property
    def accumulate_dtype(self) -> torch.dtype:
        """`accumulate` as a torch dtype."""
        return _dtype(self.accumulate)

    def __str__(self) -> str:
        if self.storage == self.compute == self.accumulate:
            return self.storage
        return f"{self.storage} stored, {self.compute} computed, {self.accumulate} summed"


def _dtype(name: str) -> torch.dtype:
    import torch

    found = getattr(torch, _TORCH[name])
    assert isinstance(found, torch.dtype)
    return found
