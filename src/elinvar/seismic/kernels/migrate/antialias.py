r"""Anti-aliasing: traces that a steep operator would alias are read from a copy that lacks the frequencies it would.

Between the midpoints of neighbouring traces, ``dx`` and ``dy`` metres apart along the two axes, the operator moves by

.. math:: a = \frac1{dt}\sqrt{(p_x\,dx)^2 + (p_y\,dy)^2}, \qquad
   (p_x, p_y) = \frac1{V^2}\left(\frac{x - s}{t_s} + \frac{x - r}{t_r}\right)

samples, the slope of both legs together (Abma, Sun and Bernitsas 1999), here always that of straight legs
:math:`t_s, t_r` with the :math:`V` that the legs' formula has (:math:`V^2 = V_0 V_z` for curved rays). It aliases
frequencies above :math:`1/(2a)` cycles per sample (Gray 1992, Lumley, Claerbout and Bevc 1994).

A *bank* holds filtered copies of every trace: copy j is for :math:`a = 2^{j/2}`, copy 0 is the trace. Of 16 output
samples that begin at a multiple of 16, all read the copies of the 9th sample's :math:`a`: with :math:`a^2 = 2^j(1+b)`,
the copies j and j + 1, mixed linearly by b. Where :math:`a \le 1` that is the trace, and beyond the last copy the last.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from elinvar.errors import InputError

__all__ = ["KINDS", "SPAN", "Bank", "copies_for", "middles", "response", "share", "steepness"]

KINDS = ("bank", "triangle")
SPAN = 16
"""Output samples that share their copies."""
_MOST = 16  # copies: half an octave each
_END = 1.3  # where the filters of "bank" reach zero, over the aliased frequency


class Bank(NamedTuple):
    """What a kernel has to know to choose copies.

    Attributes
    ----------
    copies
        How many there are of each trace, the trace itself included; row k of the traces has them one after the other.
    dx, dy
        Distances of neighbouring midpoints in metres along the axes of the kernel's frame; 0 for a direction in which
        there are no neighbours (a single line).
    """

    copies: int
    dx: float
    dy: float

    def check(self, row: int) -> None:
        """Refuse numbers that make no bank of rows of traces."""
        good = 2 <= self.copies <= _MOST and row % self.copies == 0 and row >= 2 * self.copies
        if not (good and 0 <= self.dx < math.inf and 0 <= self.dy < math.inf):
            raise InputError(
                f"seismic.migrate: bank is {self} for rows of {row} samples; give 2 to {_MOST} copies of each trace "
                "side by side, and distances >= 0"
            )


def copies_for(steepest: float) -> int:
    """Return how many copies serve slopes of up to ``steepest`` samples."""
    return min(_MOST, 2 + max(0, math.ceil(2 * math.log2(max(steepest, 1.0)))))


def response(kind: str, copy: int, cycles: torch.Tensor) -> torch.Tensor:
    """Return the response of the filter that makes a copy, at cycles per sample up to 1/2; real, no phase.

    ``"bank"``: half a cosine from 1 to 0 at 1.3 times the frequency that ``a`` aliases. A steeper one would cut the
    operator off at an edge, which a reflector answers with 10 to 20 % too much amplitude.
    ``"triangle"``: ``sinc^2``, the spectrum of a triangle (Claerbout 1992) that reaches over ``sqrt(a^2 - 1)`` samples
    to either side, so that copy 0 is the trace.
    """
    square = 2.0**copy
    if kind == "triangle":
        return torch.sinc(cycles * math.sqrt(square - 1)).square()
    if copy == 0:
        return torch.ones_like(cycles)
    return 0.5 + 0.5 * torch.cos(math.pi * (cycles * (2 * math.sqrt(square) / _END)).clamp(0, 1))


def middles(rows: torch.Tensor, nt: int) -> torch.Tensor:
    """Return what a table over padded output times (its second axis) holds at the sample each span goes by."""
    return rows[:, SPAN // 2 :: SPAN][:, : -(-nt // SPAN)]


def steepness(
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillar: torch.Tensor,
    tau: torch.Tensor,
    slow: torch.Tensor,
    bank: Bank,
) -> torch.Tensor:
    """Return ``a^2``, shape (traces, times), in the squared unit of the one-way times ``tau``; ``slow`` is ``1 / V^2``.

    ``source`` and ``receiver`` are (traces, 2), ``pillar`` (2,), in metres.
    """
    step = torch.tensor([bank.dx, bank.dy], dtype=tau.dtype, device=tau.device)
    total = torch.zeros(len(source), len(tau), 2, dtype=tau.dtype, device=tau.device)
    for end in (source, receiver):
        away = pillar - end
        leg = torch.sqrt(tau.square() + away.square().sum(1)[:, None] * slow)
        total += (away * step)[:, None] / leg[..., None]
    return (total * slow[:, None]).square().sum(-1)


def share(square: torch.Tensor, copies: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which copy serves a slope of ``a^2 = square`` samples^2, and how much the next one has of it."""
    within = square.clamp(1, 2.0 ** (copies - 1))
    copy = (torch.frexp(within).exponent - 1).clamp(max=copies - 2)
    return copy.long(), within / torch.pow(2.0, copy) - 1
