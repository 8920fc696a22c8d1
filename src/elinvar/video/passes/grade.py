"""Grading and tone mapping: point-wise passes on linear ACEScg."""

# ruff: noqa: D102  (what the methods do is written at Pass)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.video import ocio, ops, shade
from elinvar.video._check import choice, number
from elinvar.video.passes.base import Animated, Moment, Point, Spatial
from elinvar.video.shadecode import Op
from elinvar.video.spaces import matrix

__all__ = ["CDL", "LUT", "Contrast", "Exposure", "Grade", "Saturation", "ToneMap", "WhiteBalance"]

Triple = tuple[float, float, float]


def _checked(name: str, **values: Any) -> None:
    """Check numbers given as name=(value, low, high); functions of time are checked when they run."""
    for key, (value, low, high) in values.items():
        if not callable(value):
            number(name, key, value, low, high)


@dataclass(frozen=True)
class Exposure(Point):
    """Multiply by 2 to the power `ev` (animated)."""

    ev: Animated = 0.0

    def check(self) -> None:
        _checked("Exposure", ev=(self.ev, -32, 32))

    def ops(self, at: Moment) -> list[Op]:
        return [Op(ops.gain, {"factor": 2.0 ** at.value(self.ev)})]


@dataclass(frozen=True)
class WhiteBalance(Point):
    """Temperature and tint in [-1, 1] (animated): warmer and more magenta upwards; grey keeps its luminance."""

    temperature: Animated = 0.0
    tint: Animated = 0.0

    def check(self) -> None:
        _checked("WhiteBalance", temperature=(self.temperature, -5, 5), tint=(self.tint, -5, 5))

    def ops(self, at: Moment) -> list[Op]:
        return [Op(ops.white_balance, {"temperature": at.value(self.temperature), "tint": at.value(self.tint)})]


@dataclass(frozen=True)
class Saturation(Point):
    """Saturation about AP1 luminance (animated): 0 is grey, 1 changes nothing."""

    amount: Animated = 1.0

    def check(self) -> None:
        _checked("Saturation", amount=(self.amount, 0, 10))

    def ops(self, at: Moment) -> list[Op]:
        return [Op(ops.saturate, {"amount": at.value(self.amount)})]


@dataclass(frozen=True)
class Contrast(Point):
    """Contrast as a power about a pivot in linear light (animated); 0.18 is middle grey."""

    amount: Animated = 1.0
    pivot: float = 0.18

    def check(self) -> None:
        _checked("Contrast", amount=(self.amount, 0.05, 20), pivot=(self.pivot, 1e-4, 100))

    def ops(self, at: Moment) -> list[Op]:
        return [Op(ops.contrast, {"amount": at.value(self.amount), "pivot": self.pivot})]


@dataclass(frozen=True)
class CDL(Point):
    """ASC CDL v1.2 on the pixels as they are."""

    slope: Triple = (1.0, 1.0, 1.0)
    offset: Triple = (0.0, 0.0, 0.0)
    power: Triple = (1.0, 1.0, 1.0)
    saturation: float = 1.0

    def check(self) -> None:
        for name, low, high in (("slope", 0, 1e4), ("offset", -1e4, 1e4), ("power", 1e-3, 1e3)):
            values = getattr(self, name)
            if len(values) != 3:
                raise InputError(f"CDL: {name} is {values!r}; give three numbers.")
            for value in values:
                number("CDL", name, value, low, high)
        number("CDL", "saturation", self.saturation, 0, 100)

    def ops(self, at: Moment) -> list[Op]:
        values = {f"s{c}": v for c, v in zip("rgb", self.slope, strict=True)}
        values |= {("or_" if c == "r" else f"o{c}"): v for c, v in zip("rgb", self.offset, strict=True)}
        values |= {f"p{c}": v for c, v in zip("rgb", self.power, strict=True)}
        return [Op(ops.cdl, values | {"saturation": self.saturation})]


@dataclass(frozen=True)
class Grade(Point):
    """The usual controls in their usual order: exposure, white balance, contrast, saturation. Neutral ones cost
    nothing.
    """

    exposure: Animated = 0.0
    temperature: Animated = 0.0
    tint: Animated = 0.0
    contrast: Animated = 1.0
    pivot: float = 0.18
    saturation: Animated = 1.0

    def check(self) -> None:
        for part in self._parts():
            part.check()

    def _parts(self) -> list[Point]:
        parts: list[Point] = []
        if self.exposure != 0.0:
            parts.append(Exposure(self.exposure))
        if self.temperature != 0.0 or self.tint != 0.0:
            parts.append(WhiteBalance(self.temperature, self.tint))
        if self.contrast != 1.0:
            parts.append(Contrast(self.contrast, self.pivot))
        if self.saturation != 1.0:
            parts.append(Saturation(self.saturation))
        return parts

    def ops(self, at: Moment) -> list[Op]:
        return [op for part in self._parts() for op in part.ops(at)]


_MAPS = ("hill", "narkowicz", "reinhard", "hable")


@dataclass(frozen=True)
class ToneMap(Point):
    """Compress scene light into [0, 1], back in ACEScg: for graphs whose output is colorimetric.

    Parameters
    ----------
    kind
        "hill" (a fit of ACES 1.0 with both its matrices), "narkowicz", "reinhard" (extended) or "hable".
    white
        Scene value that becomes 1, for "reinhard".
    """

    kind: str = "hill"
    white: float = 4.0

    def check(self) -> None:
        choice("ToneMap", "kind", self.kind, _MAPS)
        number("ToneMap", "white", self.white, 1e-3, 1e6)

    def ops(self, at: Moment) -> list[Op]:
        from elinvar.video.color import matrix_op

        back = matrix_op(matrix("rec709", "ap1"))
        if self.kind == "hill":
            return [Op(ops.aces_fit, {}), back]
        curve = {
            "narkowicz": Op(ops.narkowicz, {}),
            "reinhard": Op(ops.reinhard, {"white": self.white}),
            "hable": Op(ops.hable, {}),
        }[self.kind]
        return [matrix_op(matrix("ap1", "rec709")), curve, back]


@dataclass(frozen=True)
class LUT(Spatial):
    """A LUT file, mixed in by `amount` (animated).

    Parameters
    ----------
    path
        .cube, .clf, .3dl, .spi1d, ...
    space
        What the LUT takes and gives: "acescct" (the default), or another space of `elinvar.video.spaces`.
    """

    path: str
    amount: Animated = 1.0
    space: str = "acescct"
    _tables: dict[Any, torch.Tensor | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def check(self) -> None:
        from elinvar.video.spaces import space

        _checked("LUT", amount=(self.amount, 0, 1))
        space(self.space)
        ocio.lut_processor(str(self.path))

    def describe(self) -> str:
        amount = "animated" if callable(self.amount) else self.amount
        return f"{Path(self.path).name} {ocio.lut_stamp(str(self.path))}, space={self.space}, amount={amount}"

    def run(
        self, at: Moment, inputs: Sequence[torch.Tensor], out: torch.Tensor, scratch: Sequence[torch.Tensor]
    ) -> None:
        from elinvar.video.color import decode_ops, encode_ops

        before, tables = encode_ops(self.space)
        after, extras = decode_ops(self.space), []
        amount = at.value(self.amount)
        if amount != 1.0:
            after, extras = [*after, Op(ops.blend, {"t": 1.0 - amount}, ("full",))], [inputs[0]]
        table = None if out.device.type == "cpu" else self._table(out.device)
        if table is not None:  # one kernel; OpenColorIO runs on the CPU alone
            look_up = Op(ops.table_lookup, {"low": 0.0, "high": 1.0, "amount": 1.0, "size": table.shape[0]}, ("table",))
            shade.apply(inputs[0], [*before, look_up, *after], [*tables, table, *extras], out=out)
            return
        encoded = shade.apply(inputs[0], before, tables, out=out)
        ocio.apply_processor(ocio.lut_processor(str(self.path)), encoded, out)
        shade.apply(out, after, extras, out=out)

    def _table(self, device: torch.device) -> torch.Tensor | None:
        """Return the file's table on a device, the same memory for every frame; None when it is more than a table."""
        path = str(self.path)
        key = (str(device), ocio.lut_stamp(path))
        if key not in self._tables:
            table = ocio.lut_table(path)
            self._tables.clear()
            self._tables[key] = None if table is None else table.to(device)
        return self._tables[key]
