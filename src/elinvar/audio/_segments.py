"""How long audio goes through a network that sees one segment at a time: where segments lie and how they are joined.

Segments overlap, each is weighted by a triangle raised to a power, and the sum is divided by the sum of the weights.
A segment shorter than what the network takes is surrounded by the audio around it, not by zeros. Shifts repeat the
whole with the segments somewhere else and average. Nothing here holds more than a few segments, however long the audio.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Generator, Iterable, Iterator

import torch
from torch import Tensor

from elinvar.audio._check import count, number

__all__ = ["Grid", "Load", "Loaded", "Place", "groups", "overlap_add"]

_SHIFT_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Place:
    """One run of the network: shift ``shift``, samples ``start`` to ``start + n``, round ``round``."""

    round: int
    shift: int
    start: int
    n: int


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where the segments of `length` samples lie.

    Attributes
    ----------
    length
        Samples of the audio.
    window
        Samples the network takes.
    segment
        Samples a segment contributes, at most `window`.
    stride
        Samples between segments.
    origins
        Where the first segment of each shift begins: 0, or up to half a second before the audio.
    """

    length: int
    window: int
    segment: int
    stride: int
    origins: tuple[int, ...]
    power: float

    @classmethod
    def make(
        cls,
        length: int,
        window: int,
        rate: int,
        *,
        segment: float | None,
        overlap: float,
        shifts: int,
        seed: int,
        power: float,
    ) -> Grid:
        """Check the options of `separate` and lay the segments."""
        overlap = number("separate", "overlap", overlap, low=0.0, high=0.95)
        power = number("separate", "transition_power", power, low=0.0, high=100.0)
        shifts = count("separate", "shifts", shifts, minimum=0)
        most = window / rate
        seconds = most if segment is None else number("separate", "segment", segment, low=0.0, high=most, open_low=True)
        samples = max(1, round(seconds * rate))
        origins: tuple[int, ...] = (0,)
        if shifts:
            draw, far = random.Random(seed), int(_SHIFT_SECONDS * rate)  # noqa: S311
            origins = tuple(draw.randint(0, far) - far for _ in range(shifts))
        return cls(length, window, samples, max(1, int((1 - overlap) * samples)), origins, power)

    @property
    def rounds(self) -> int:
        """Segments of the shift that has most."""
        return max(0, *(-(-(self.length - origin) // self.stride) for origin in self.origins)) if self.length else 0

    def places(self) -> Iterator[Place]:
        """Every run of the network, in the order in which results are added."""
        for k in range(self.rounds):
            for shift, origin in enumerate(self.origins):
                start = origin + k * self.stride
                n = min(self.segment, self.length - start)
                if start + n > 0 and n > 0:
                    yield Place(k, shift, start, n)

    @property
    def runs(self) -> int:
        """How many times the network runs."""
        return sum(1 for _ in self.places())

    @property
    def reach(self) -> int:
        """Samples before the end of what has been read that may still be asked for."""
        return self.window + self.segment - min(self.origins)

    def triangle(self) -> Tensor:
        """Weights of a segment: rising and falling, 1 in the middle, raised to `power`."""
        half = self.segment // 2
        up, down = torch.arange(1, half + 1, device="cpu"), torch.arange(self.segment - half, 0, -1, device="cpu")
        weight = torch.cat([up, down]).float()
        return (weight / weight.max()) ** self.power

    def settled(self, k: int) -> int:
        """Where the samples begin that a round after `k` may change; before 0 while shifts still start there."""
        return self.length if k + 1 >= self.rounds else min(self.origins) + (k + 1) * self.stride


class _Joiner:
    """Adds weighted segments of all shifts and hands out what is final."""

    def __init__(self, grid: Grid, shape: tuple[int, int], device: torch.device) -> None:
        self.grid = grid
        self.weight = grid.triangle().to(device)
        size = grid.segment + max(grid.origins) - min(grid.origins)
        self.total = torch.zeros(len(grid.origins), *shape, size, dtype=torch.float32, device=device)
        self.weights = torch.zeros(len(grid.origins), size, dtype=torch.float32, device=device)
        self.begin = min(grid.origins)  # sample at the left end of the buffers
        self.given = 0

    def add(self, place: Place, out: Tensor) -> None:
        """Add a segment ``[stems, channels, n]``."""
        at, w = place.start - self.begin, self.weight[: place.n]
        self.total[place.shift, ..., at : at + place.n].addcmul_(out, w)
        self.weights[place.shift, at : at + place.n] += w

    def settle(self, end: int) -> Iterator[tuple[int, Tensor]]:
        """Yield ``(start, samples)`` up to `end` and move on."""
        first, last = self.given - self.begin, end - self.begin
        if end > self.given:
            mean = self.total[..., first:last] / self.weights[:, None, None, first:last]
            yield self.given, mean.mean(dim=0) if len(mean) > 1 else mean[0]
            self.given = end
        if last > 0:
            for buffer in (self.total, self.weights):
                kept = buffer.shape[-1] - last
                if kept > 0:
                    buffer[..., :kept] = buffer[..., last:].clone()
                buffer[..., max(0, kept) :] = 0
            self.begin = end


Loaded = tuple[list[Place], Tensor]
Load = Callable[[list[Place]], Loaded]


def groups(grid: Grid, batch: int) -> Iterator[list[Place]]:
    """Yield the network's runs, `batch` at once; the last group may be smaller."""
    places = grid.places()
    while group := list(itertools.islice(places, batch)):
        yield group


def overlap_add(
    grid: Grid,
    read: Callable[[int, int], Tensor],
    run: Callable[[Tensor], Tensor],
    *,
    batch: int = 1,
    progress: Callable[[int, int | None], object] | None = None,
    ahead: Callable[[Load, Iterator[list[Place]]], Iterable[Loaded]] = map,
) -> Generator[tuple[int, Tensor], None, None]:
    """Yield ``(start, [stems, channels, n])``, consecutive and without gaps, from 0 to ``grid.length``.

    Parameters
    ----------
    read
        ``read(start, stop) -> [channels, stop - start]``: zeros outside the audio. Never asks for what lies more than
        ``grid.reach`` before what it asked for before.
    run
        ``run([b, channels, window]) -> [b, stems, channels, window]``.
    batch
        Segments per call of `run`.
    progress
        Called with samples done and ``grid.length``.
    ahead
        How the audio of the runs is loaded: ``map``, or something like it that loads in another thread.
    """
    joiner: _Joiner | None = None
    current = 0

    def load(group: list[Place]) -> Loaded:
        begins = [w.start - (grid.window - w.n) // 2 for w in group]
        return group, torch.stack([read(begin, begin + grid.window) for begin in begins])

    for group, windows in ahead(load, groups(grid, batch)):
        for w, out in zip(group, run(windows), strict=True):
            if joiner is None:
                joiner = _Joiner(grid, (out.shape[0], out.shape[1]), out.device)
            if w.round > current:
                current = w.round
                yield from joiner.settle(grid.settled(w.round - 1))
                if progress is not None and joiner.given:
                    progress(joiner.given, grid.length)
            skip = (grid.window - w.n) // 2
            joiner.add(w, out[..., skip : skip + w.n])
    if joiner is not None:
        yield from joiner.settle(grid.length)
        if progress is not None:
            progress(grid.length, grid.length)
