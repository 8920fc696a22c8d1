"""Running a network's parts: on CUDA from recorded graphs, elsewhere by calling it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from elinvar.runtime._cuda import convolutions

from .replay import Replay, Shared, side_by_side

if TYPE_CHECKING:
    from .network import Network

__all__ = ["HEADS", "Runner"]

Grid = tuple[int, int]
States = tuple[list[Tensor], list[Tensor]]
_MOST = 48  # recordings' keys to keep: six for each pair of image sizes
HEADS = (("dense", 1), ("local", 1), ("dense", 2), ("local", 2))


def _convolutions(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[None]:
    """Let cuDNN try its algorithms at the first call of each shape, except in float32.

    There it keeps to full precision: no tf32, and no search, which may end at an algorithm (Winograd's) whose rounding
    is several times larger.
    """
    return convolutions(search=dtype.itemsize < 4) if device.type == "cuda" else contextlib.nullcontext()


class Runner:
    """A network's encoder, decoder and heads, each recorded once per shape on CUDA.

    Parameters
    ----------
    network
        What to run.
    device
        Where it is.
    """

    def __init__(self, network: Network, device: torch.device) -> None:
        self.network = network
        self._device = device
        self._shared = Shared()
        self._known: dict[tuple[object, ...], Replay] = {}

    def _replay(self, key: tuple[object, ...], fn: Callable[..., list[Tensor]]) -> Replay:
        with self._shared.lock:
            found = self._known.pop(key, None) or Replay(fn, self._device, shared=self._shared)
            self._known[key] = found  # the last one is the one used last
            while len(self._known) > _MOST:
                if self._shared.done is not None:
                    self._shared.done.synchronize()  # another stream may still read what goes with it
                del self._known[next(iter(self._known))]
            return found

    def follow(self, kept: Tensor) -> Tensor:
        """Return a tensor made earlier, perhaps on another stream, safe to use on the current one."""
        if self._device.type == "cuda":
            here = torch.cuda.current_stream(self._device)
            if self._shared.done is not None:
                self._shared.done.wait(here)
            kept.record_stream(here)
        return kept

    def encode(self, images: Tensor) -> Tensor:
        """Encode uint8 images [batch, height, width, 3], on the host or the device: tokens [batch, n, width]."""
        return self._replay(("encode",), lambda x: [self.network.encode(x)])(images)[0]

    def decode(self, first: Tensor, second: Tensor, grids: tuple[Grid, Grid]) -> States:
        """Decode pairs of tokens: for each view the four states its heads read."""

        def run(a: Tensor, b: Tensor) -> list[Tensor]:
            return [state for line in self.network.decode(a, b, grids) for state in line[1:]]

        made = self._replay(("decode", grids), run)(first, second)
        return [first, *made[:3]], [second, *made[3:]]

    def head(self, which: str, view: int, states: list[Tensor], grid: Grid) -> tuple[Tensor, Tensor]:
        """Run one head of one view."""
        head = self.network.dense if which == "dense" else self.network.local
        with _convolutions(self._device, self.network.dtype):
            one, two = self._replay((which, view, grid), lambda *s: list(head(view, list(s), grid)))(*states)
        return one, two

    def heads(self, states: States, grids: tuple[Grid, Grid]) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
        """Run all heads; on CUDA both views at once."""

        def view(k: int, given: tuple[Tensor, ...]) -> list[Tensor]:
            return [
                *self.network.dense(k, list(given), grids[k - 1]),
                *self.network.local(k, list(given), grids[k - 1]),
            ]

        def run(*given: Tensor) -> list[Tensor]:
            return side_by_side(lambda: view(1, given[:4]), lambda: view(2, given[4:]), self._device)

        with _convolutions(self._device, self.network.dtype):
            made = self._replay(("heads", grids), run)(*states[0], *states[1])
        return {name: (made[2 * k], made[2 * k + 1]) for k, name in enumerate(HEADS)}
