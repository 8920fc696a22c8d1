"""Launches of v2.metal, and the settings that it shares with v3.metal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.runtime.device import device as resolve
from elinvar.runtime.tuning import tuned
from elinvar.seismic.kernels.migrate.antialias import Bank
from elinvar.seismic.kernels.migrate.aperture import RadiusAperture
from elinvar.seismic.kernels.migrate.interpolation import TAPS
from elinvar.seismic.kernels.migrate.kept import kept_tables
from elinvar.seismic.kernels.migrate.launching import bend_rows, library, padded_rows, physics_words, table_rows, tiles
from elinvar.seismic.kernels.migrate.physics import stretched
from elinvar.seismic.kernels.migrate.tables import Tables, chebyshev_nodes

__all__ = ["Tuning", "hard_edged", "migrate_v2", "tuned_for"]

_WARPS = 40  # that share a multiprocessor of an NVIDIA GPU: they leave each thread the 48 registers that its loops want


_LARGEST = 13  # halves of lines are below 2 to this, times four for the difference of two lines

# Samples behind the first of 32 traces that float32 counts beside half samples; what a block reaches beyond a trace.
_NEAR, _BEHIND = 1 << 22, 1 << 12


@dataclass(frozen=True)
class Tuning:
    """How v2 is specialised; beyond rounding and ``tolerance`` the answer does not depend on it.

    Attributes
    ----------
    simdgroups : int
        Simdgroups per threadgroup, each with a pillar of its own.
    samples : int
        Output samples per lane; a polynomial spans 32 times as many.
    pairs : bool
        Keep the line through neighbouring samples in memory: twice the bytes, one load for two. Linear interpolation
        only.
    tolerance : float
        Largest error of a block's travel-time cubic in input samples; traces beyond it are evaluated exactly.
    window : int
        Input samples, a multiple of 64, over which the lines of ``pairs`` are measured from one place.
    storage : str
        ``"fp32"``, or ``"fp16"``: the lines of ``pairs`` as halves over a power of two that each trace has of its own.
        Half the bytes; the answer is off by some 2e-4 of itself, within 5e-4. All arithmetic stays float32.
    """

    simdgroups: int = 4
    samples: int = 2
    pairs: bool = True
    tolerance: float = 4e-4
    window: int = 2048
    storage: str = "fp32"

    def __post_init__(self) -> None:
        if self.storage not in ("fp32", "fp16") or (self.storage == "fp16" and not self.pairs):
            raise InputError(
                f"seismic.migrate: storage {self.storage!r} with pairs={self.pairs}; give 'fp32', or 'fp16' with pairs"
            )

    def halves(self, interpolation: str) -> bool:
        """Tell whether lines are kept as halves, which other interpolations than linear know nothing of."""
        if self.storage == "fp16" and interpolation != "linear":
            raise InputError(f"seismic.migrate: fp16 storage interpolates linearly, not {interpolation!r}; use fp32")
        return self.storage == "fp16"

    def defines(
        self,
        amplitude: str,
        physics: str = "straight",
        interpolation: str = "linear",
        bank: Bank | None = None,
        *,
        hard: bool = False,
    ) -> dict[str, int | str]:
        """Return the preprocessor words of this specialisation."""
        return {
            **physics_words(physics, interpolation, bank),
            **({"HARD": 1} if hard else {}),
            "SIMDGROUPS": self.simdgroups,
            "SAMPLES": self.samples,
            "PAIRS": 2 if self.halves(interpolation) else int(self.pairs and interpolation == "linear"),
            "WEIGHTED": int(amplitude == "true"),
            "WINDOW": self.window,
            "ELINVAR_CUDA_GROUPS": max(1, _WARPS // self.simdgroups),
        }

    def spread(self, traces: torch.Tensor, interpolation: str, bank: Bank | None) -> dict[str, int | str]:
        """Return the words for rows so long that 32 of them are beyond the digits of a float."""
        copies = 1 if bank is None else bank.copies
        row = traces.shape[1] + copies * (TAPS[interpolation] - 1)
        return {"FAR_ROWS": 1} if 32 * row + 4 * self.window + _BEHIND > _NEAR else {}

    def rows(
        self, traces: torch.Tensor, interpolation: str, bank: Bank | None, device: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the traces as the kernel of these settings reads them, and the unit of each."""
        copies = bank or Bank(1, 0.0, 0.0)
        if self.pairs and interpolation == "linear":
            units = _units(traces) if self.halves(interpolation) else None
            return _lines(traces, self.window, copies.copies, device, units), traces[0, :1] if units is None else units
        return padded_rows(traces, TAPS[interpolation], copies), traces[0, :1]


@lru_cache(maxsize=16)
def tuned_for(version: str, device: Any) -> Tuning:
    """Return the settings that ``elinvar tune`` found fastest on a device; the defaults where it has not run."""
    place = resolve(device)
    if place.kind == "cpu":
        return Tuning()
    try:
        known = tuned(place.profile).options[f"seismic.migrate.{version}"]
        return Tuning(simdgroups=int(known["simdgroups"]), samples=int(known["samples"]))
    except (KeyError, TypeError, ValueError):
        return Tuning()


def migrate_v2(
    image: torch.Tensor,
    fold: torch.Tensor | None,
    traces: torch.Tensor,
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillars: torch.Tensor,
    vrms: torch.Tensor,
    *,
    amplitude: str = "true",
    aperture: RadiusAperture | None = None,
    area: float = 1.0,
    physics: str = "straight",
    medium: tuple[float, float] | None = None,
    eta: torch.Tensor | None = None,
    interpolation: str = "linear",
    bank: Bank | None = None,
    device: Any,
    tuning: Tuning | None = None,
    **axes: float,
) -> None:
    """Run v2.metal; arguments as ``migrate.run``, and ``tuning``."""
    tuning = tuning or tuned_for("v2", device)
    options: dict[str, Any] = {"amplitude": amplitude, "aperture": aperture, "area": area, **axes}
    nt, width = image.shape[1], 32 * tuning.simdgroups
    counted = torch.zeros(1, dtype=torch.int32, device=image.device) if fold is None else fold
    block = 32 * tuning.samples
    given: dict[str, Any] = {"block": block, "nodes": chebyshev_nodes(block), "medium": medium, "eta": eta}
    tables = kept_tables(vrms, hard_edged, **options, **given)
    words = tuning.defines(amplitude, physics, interpolation, bank, hard=tables.left is not None)
    kernel = library("v2.metal", device, words | tuning.spread(traces, interpolation, bank)).migrate_v2
    copies = bank or Bank(1, 0.0, 0.0)
    horizon = stretched(max(traces.shape[1] // copies.copies - 1 + tables.shift, 0.0) + 0.1, tables.kappa)
    n_blocks = tables.blocks.shape[1]
    for p, k in tiles(image, traces, n_blocks * block, copies.copies):
        n = p.stop - p.start
        read, units = tuning.rows(traces[k], interpolation, bank, device)
        kernel(
            read,
            torch.cat([source[k], receiver[k]], 1),
            pillars[p],
            *table_rows(tables, p),
            tables.centres,
            image[p],
            counted if fold is None else counted[p],
            n,
            k.stop - k.start,
            traces.shape[1] // copies.copies,
            nt,
            n_blocks,
            int(len(tables.legs) > 1),
            tables.shift,
            tables.rim,
            tables.stretch,
            tuning.tolerance,
            int(fold is not None),
            bend_rows(tables, p),
            tables.kappa,
            horizon,
            copies.dx**2,
            copies.dy**2,
            units,
            threads=(-(-n // tuning.simdgroups) * width, n_blocks),
            group_size=(width, 1),
        )


def hard_edged(tables: Tables) -> Tables:
    """Put what float32 leaves of the radius where v2 and v3 look for it: in the place of a slope that is zero."""
    if tables.left is None:
        return tables
    return replace(tables, legs=torch.cat([tables.legs[..., :3], tables.left[..., None]], -1))


def _lines(
    traces: torch.Tensor, window: int, copies: int, device: Any, units: torch.Tensor | None = None
) -> torch.Tensor:
    """Return what lines.metal makes of traces [ntr, copies * ns]: [ntr, 1, ns, 2], or [ntr, copies - 1, ns, 4].

    Halves in terms of ``units`` [ntr] where these are given, else float32.
    """
    ns, rows = traces.shape[1] // copies, max(1, copies - 1)
    kept = torch.float32 if units is None else torch.float16
    lines = traces.new_empty((len(traces), rows, ns, 2 if copies == 1 else 4), dtype=kept)
    words = {"WINDOW": window} | ({} if copies == 1 else {"COPIES": copies}) | ({} if units is None else {"HALVES": 1})
    kernel = library("lines.metal", device, words).lines
    kernel(traces.contiguous(), traces[0, :1] if units is None else units, lines, ns, threads=(ns, len(traces) * rows))
    return lines


def _units(traces: torch.Tensor) -> torch.Tensor:
    """Return powers of two, [ntr], over which no sample of a trace nor the sum of two is more than a half holds."""
    exponent = torch.frexp(traces.abs().amax(1)).exponent.clamp(min=-100)
    return torch.ldexp(torch.ones_like(traces[:, 0]), exponent - _LARGEST)
