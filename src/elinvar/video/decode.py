"""From Y'CbCr codes to planes of R'G'B', on the device the codes are on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from elinvar.runtime.kernels import kernel
from elinvar.runtime.transfers import to_device
from elinvar.video.kernels import decode as _decode
from elinvar.video.yuv import Coding

__all__ = ["Codes", "from_planes"]


def from_planes(planes: Sequence[torch.Tensor], how: Coding, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return R'G'B' [3, H, W] float32 of planes as `elinvar.video.yuv` describes them."""
    height, width = planes[0].shape
    device = planes[0].device
    if out is None:
        out = torch.empty(3, height, width, device=device)
    kernel(_decode.NAME, str(device))(list(planes), out, how)
    return out


@dataclass(frozen=True)
class Codes:
    """A frame as its file holds it: what a source gives a device that makes R'G'B' of it by itself.

    Attributes
    ----------
    planes
        uint8 or uint16.
    coding
        How they are to be read.
    turns
        Quarter turns counter-clockwise for display.
    alpha
        Opacity of the pixels, in codes of full range; the frame lies over black.
    """

    planes: tuple[torch.Tensor, ...]
    coding: Coding
    turns: int = 0
    alpha: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the R'G'B' frame."""
        height, width = self.planes[0].shape
        return (3, width, height) if self.turns % 2 else (3, height, width)

    @property
    def nbytes(self) -> int:
        """Bytes of the planes."""
        return sum(plane.nbytes for plane in (*self.planes, *([] if self.alpha is None else [self.alpha])))

    def on(self, device: torch.device) -> Codes:
        """Return the codes in a device's memory; the copies are counted."""
        planes = tuple(to_device(p, device, non_blocking=p.is_pinned()) for p in self.planes)
        alpha = None if self.alpha is None else to_device(self.alpha, device, non_blocking=self.alpha.is_pinned())
        return replace(self, planes=planes, alpha=alpha)

    def pixels(self, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return R'G'B' [3, H, W] float32, where the planes are."""
        if not self.turns % 4:
            return self._over_black(from_planes(self.planes, self.coding, out))
        turned = torch.rot90(self._over_black(from_planes(self.planes, self.coding)), self.turns, (1, 2))
        return turned.contiguous() if out is None else out.copy_(turned)

    def _over_black(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.alpha is None:
            return pixels
        top = (1 << self.coding.format.bits) - 1
        return pixels.mul_(self.alpha.to(torch.int32).float().div_(top))
