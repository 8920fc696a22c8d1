"""Colour spaces: primaries, white points, transfer functions, and the codes files carry for them.

Matrices between primaries are computed in float64 from chromaticities with Bradford adaptation (Lam, 1985), which is
what OpenColorIO's built-in transforms do; tests compare the two. Nothing here renders for a display: ACES output
transforms come from OpenColorIO (:mod:`elinvar.video.ocio`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elinvar.video._check import choice

__all__ = ["PRIMARIES", "SPACES", "TAGS", "Space", "Tag", "matrix", "space", "to_xyz"]

PRIMARIES: dict[str, tuple[tuple[float, float], ...]] = {
    # red, green, blue, white as CIE xy
    "ap0": ((0.7347, 0.2653), (0.0, 1.0), (0.0001, -0.077), (0.32168, 0.33767)),
    "ap1": ((0.713, 0.293), (0.165, 0.83), (0.128, 0.044), (0.32168, 0.33767)),
    "rec709": ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06), (0.3127, 0.329)),
    "p3": ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.3127, 0.329)),
    "rec2020": ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046), (0.3127, 0.329)),
    "bt601": ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), (0.3127, 0.329)),
    "bt470bg": ((0.64, 0.33), (0.29, 0.6), (0.15, 0.06), (0.3127, 0.329)),
}
"""SMPTE ST 2065-1, ST 2065-4 (ACES), ITU-R BT.709-6, SMPTE RP 431-2 with D65, BT.2020-2, SMPTE 170M, BT.470 B/G."""

_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class Space:
    """A colour space: primaries and transfer function."""

    name: str
    primaries: str
    transfer: str


SPACES = {
    s.name: s
    for s in (
        Space("acescg", "ap1", "linear"),
        Space("acescct", "ap1", "acescct"),
        Space("aces2065-1", "ap0", "linear"),
        Space("linear-rec709", "rec709", "linear"),
        Space("linear-p3", "p3", "linear"),
        Space("linear-rec2020", "rec2020", "linear"),
        Space("srgb", "rec709", "srgb"),
        Space("rec709", "rec709", "bt1886"),
        Space("p3-d65", "p3", "srgb"),
        Space("rec601-525", "bt601", "bt1886"),
        Space("rec601-625", "bt470bg", "bt1886"),
        Space("rec2020", "rec2020", "bt1886"),
        Space("rec2100-pq", "rec2020", "pq"),
        Space("rec2100-hlg", "rec2020", "hlg"),
    )
}
"""Known spaces. ``rec709`` and ``rec2020`` are display-referred: BT.1886 as a power of 2.4. In ``rec2100-pq`` a linear
1.0 is 100 cd/m²; ``rec2100-hlg`` is scene-referred with its linear signal in [0, 1]."""


def space(name: str) -> Space:
    """Return a space by name, or raise InputError listing them."""
    return SPACES[choice("color space", "name", name.lower(), SPACES)]


def to_xyz(primaries: str) -> NDArray[np.float64]:
    """Return the matrix from linear RGB to CIE XYZ, Y of white 1 (SMPTE RP 177)."""
    choice("spaces.to_xyz", "primaries", primaries, PRIMARIES)
    columns = np.array([[x / y, 1.0, (1.0 - x - y) / y] for x, y in PRIMARIES[primaries]]).T
    scale: NDArray[np.float64] = np.linalg.solve(columns[:, :3], columns[:, 3])
    product: NDArray[np.float64] = columns[:, :3] * scale
    return product


@functools.lru_cache(maxsize=128)
def _matrix(source: str, target: str) -> tuple[tuple[float, ...], ...]:
    if source == target:
        return tuple(tuple(float(v) for v in row) for row in np.eye(3))
    (x0, y0), (x1, y1) = PRIMARIES[source][3], PRIMARIES[target][3]
    whites = [_BRADFORD @ np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in ((x0, y0), (x1, y1))]
    adapt = np.linalg.inv(_BRADFORD) @ np.diag(whites[1] / whites[0]) @ _BRADFORD
    full = np.linalg.inv(to_xyz(target)) @ adapt @ to_xyz(source)
    return tuple(tuple(float(v) for v in row) for row in full)


def matrix(source: str, target: str) -> NDArray[np.float64]:
    """Return the 3 x 3 matrix from linear RGB in one set of primaries to another's."""
    for name in (source, target):
        choice("spaces.matrix", "primaries", name, PRIMARIES)
    return np.array(_matrix(source, target))


@dataclass(frozen=True)
class Tag:
    """What a file says about its colours, as ITU-T H.273 codes.

    Attributes
    ----------
    primaries, transfer, matrix
        ColourPrimaries, TransferCharacteristics and MatrixCoefficients; 2 is "unspecified".
    full_range
        Whether black is code 0.
    """

    primaries: int = 2
    transfer: int = 2
    matrix: int = 2
    full_range: bool = False

    @property
    def known(self) -> bool:
        """Whether primaries, transfer and matrix are all specified."""
        return 2 not in (self.primaries, self.transfer, self.matrix)


TAGS = {
    "rec709": Tag(1, 1, 1),
    "srgb": Tag(1, 13, 1),
    "p3-d65": Tag(12, 13, 1),
    "rec2020": Tag(9, 14, 9),
    "rec2100-pq": Tag(9, 16, 9),
    "rec2100-hlg": Tag(9, 18, 9),
    "rec601-525": Tag(6, 6, 6),
    "rec601-625": Tag(5, 6, 5),
}
"""How the spaces that files are delivered in are tagged."""
