"""A network that takes short pieces, run over long audio: overlapping chunks, cross-faded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from elinvar.errors import InputError

__all__ = ["ChunkedInference"]


class ChunkedInference:
    """Runs ``fn`` on overlapping chunks of the last axis and joins the results with a raised-cosine cross-fade.

    Parameters
    ----------
    fn
        ``fn(x [..., chunk]) -> y [..., chunk]``; a module or any function that keeps the length.
    chunk, overlap
        Samples; the overlap is at most half a chunk.
    """

    def __init__(self, fn: Callable[[Tensor], Tensor], chunk: int = 2048, overlap: int = 512) -> None:
        if chunk < 1 or not 0 <= overlap <= chunk // 2:
            raise InputError(
                f"ChunkedInference: chunk={chunk} with overlap={overlap}; give an overlap from 0 to half a chunk."
            )
        self.fn, self.chunk, self.overlap = fn, chunk, overlap
        rise = (
            torch.sin(
                (torch.arange(overlap, dtype=torch.float32, device="cpu") + 0.5) * (torch.pi / (2 * max(1, overlap)))
            )
            ** 2
        )
        self._rise, self._fall = rise, 1.0 - rise
        self.reset()

    @property
    def latency(self) -> int:
        """Samples by which `process` lags behind its input at most."""
        return self.chunk

    def reset(self) -> None:
        """Forget what `process` has heard."""
        self._pending: Tensor | None = None
        self._tail: Tensor | None = None

    @torch.no_grad()
    def process(self, x: Tensor) -> Tensor:
        """Take the next samples ``[..., n]``, return those that are final, possibly none."""
        joined = x if self._pending is None else torch.cat([self._pending, x], dim=-1)
        hop = self.chunk - self.overlap
        done = []
        while joined.shape[-1] >= self.chunk:
            done.append(self._join(self.fn(joined[..., : self.chunk]), last=False))
            joined = joined[..., hop:]
        self._pending = joined
        return torch.cat(done, dim=-1) if done else x[..., :0]

    @torch.no_grad()
    def flush(self) -> Tensor:
        """Return what is left, padding the last chunk with zeros; then start anew."""
        rest = self._pending
        if rest is None:
            raise InputError("ChunkedInference.flush: nothing was processed yet; call process first.")
        n = rest.shape[-1]
        if n > (self.overlap if self._tail is not None else 0):
            out = self.fn(torch.nn.functional.pad(rest, (0, self.chunk - n)))
            out = self._join(out, last=True)[..., :n]
        else:
            out = rest[..., :0] if self._tail is None else self._tail[..., :n]
        self.reset()
        return out

    def _join(self, y: Tensor, *, last: bool) -> Tensor:
        if y.shape[-1] != self.chunk:
            raise InputError(
                f"ChunkedInference: fn returned {y.shape[-1]} samples for {self.chunk}; it must keep them."
            )
        y = y.clone()
        if self._tail is not None and self.overlap:
            head = y[..., : self.overlap]
            head.mul_(self._rise.to(y)).add_(self._tail * self._fall.to(y))
        if last or not self.overlap:
            self._tail = y[..., :0] if self.overlap == 0 else None
            return y
        self._tail = y[..., -self.overlap :]
        return y[..., : -self.overlap]

    def __call__(self, x: Tensor, **unused: Any) -> Tensor:
        """Run over all of ``[..., time]`` at once."""
        self.reset()
        return torch.cat([self.process(x), self.flush()], dim=-1)
