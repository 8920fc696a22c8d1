"""What a user asked of a migration, checked and with the defaults filled in."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, is_dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError

from . import kernels as _registered  # importing registers the kernels
from ._check import choice, number
from .aperture import Aperture
from .binning import Assignment, Binning, binning
from .elevations import datum_of, heights
from .kernels.migrate.antialias import KINDS as ANTIALIAS
from .kernels.migrate.antialias import Bank, copies_for
from .mute import Mute
from .traveltime import PHYSICS, check_eta

if TYPE_CHECKING:
    from .grid import Grid
    from .survey import Survey
    from .velocity import Velocity

__all__ = ["DIMENSIONS", "KERNEL", "NORMALIZE", "Options", "check_options", "digest", "resolve"]

KERNEL = _registered.migrate.NAME
DIMENSIONS = ("3d", "2.5d", "2d")
NORMALIZE = ("fold", "illumination")


@dataclass(frozen=True)
class Options:
    """What a user chose, resolved: the same for every device, block and process of a job."""

    survey: Survey
    velocity: Velocity
    grid: Grid
    aperture: Aperture
    amplitude: str
    phase_filter: bool
    bins: Assignment | None
    area: float
    physics: str = "straight"
    medium: tuple[float, float] | None = None  # v0 and k of curved rays
    eta: NDArray[np.float64] | None = None  # (1 or pillars, times), for VTI
    interpolation: str = "linear"
    oversample: int = 1  # samples that the kernel reads per recorded one
    antialias: str | None = None
    spacing: tuple[float, float] = (0.0, 0.0)  # of neighbouring midpoints, metres, for antialias
    copies: int = 1  # of each trace, filtered against aliasing
    normalize: str | None = None
    mute: Mute | None = None
    dimension: str = "3d"
    datum: NDArray[np.float64] | None = None  # (1 or pillars,), metres; None: travel times know no elevations
    replacement: float | None = None  # m/s between the datum and the ends of traces

    @property
    def line(self) -> bool:
        """Whether midpoints are summed along a line, with the weight of one."""
        return self.dimension != "3d" and self.amplitude == "true"

    @property
    def own_rays(self) -> int:
        """How many tables of one value per pillar and time the travel times need: velocity, eta."""
        return int(self.velocity.varies_laterally) + int(self.eta is not None and len(self.eta) > 1)

    def features(self) -> dict[str, Any]:
        """Return what the kernel is asked beyond what every version does, by the names of its options.

        What belongs to single traces is not among it: `needs` names that too.
        """
        asked: dict[str, Any] = {} if self.interpolation == "linear" else {"interpolation": self.interpolation}
        if self.antialias is not None:
            asked["bank"] = Bank(self.copies, *self.spacing)
        limits = self.aperture.limits()
        return asked if limits is None else {**asked, "limits": limits}

    def needs(self) -> dict[str, Any]:
        """Return all that not every version of the kernel does, by its name."""
        asked: dict[str, Any] = _registered.migrate.asked(**self.features())
        if self.mute is not None:
            asked["mute"] = self.mute
            if self.mute.inner(self.survey):
                asked["zones"] = self.mute
        name = "relief" if self.replacement is not None else "curved_relief"
        return asked if self.datum is None else {**asked, name: self.datum}

    def attributes(self) -> dict[str, Any]:
        """Return what the image should remember, as plain values."""
        return {
            "survey": self.survey.name,
            "velocity": str(self.velocity),
            "physics": self.physics,
            **({} if self.eta is None else {"eta": f"{self.eta.min():g} to {self.eta.max():g}"}),
            "amplitude": self.amplitude,
            "phase_filter": str(self.phase_filter),
            "antialias": "none"
            if self.antialias is None
            else "{}, {:g} x {:g} m".format(self.antialias, *self.spacing),
            "interpolation": self.interpolation + (f", {self.oversample}x oversampled" if self.oversample > 1 else ""),
            **({"area_m2": self.area} if self.dimension == "3d" else {"interval_m": self.area}),
            "aperture": str(self.aperture),
            **({} if self.dimension == "3d" else {"dimension": self.dimension}),
            **({} if self.normalize is None else {"normalized": self.normalize}),
            **({} if self.mute is None else {"mute": str(self.mute)}),
            **({} if self.datum is None else {"datum": self._datum()}),
            "azimuth": self.grid.azimuth,
        }

    def _datum(self) -> str:
        assert self.datum is not None
        low, high = self.datum.min(), self.datum.max()
        where = f"{low:g} m" if low == high else f"{low:g} to {high:g} m"
        return where if self.replacement is None else f"{where}, replacement {self.replacement:g} m/s"

    def identity(self) -> dict[str, Any]:
        """Return everything the image depends on but the survey's samples, as plain values that JSON can hold."""
        described: dict[str, Any] = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("survey", "velocity", "grid", "aperture", "bins", "eta", "mute", "datum")
        }
        everyone = np.arange(self.survey.n_traces)
        place = asdict(self.grid)
        place.pop("base", None)
        gathers = None if self.bins is None else f"{self.bins.axis.dim}: {'; '.join(self.bins.axis.labels)}"
        return {
            **described,
            "aperture": asdict(self.aperture),
            "grid": {name: list(value) if isinstance(value, tuple) else value for name, value in place.items()},
            "pillars": digest(self.grid.local_pillars),
            "medium": None if self.medium is None else list(self.medium),
            "spacing": list(self.spacing),
            "eta": digest(self.eta),
            "mute": None if self.mute is None else digest((self.mute, self.mute.zones(self.survey, everyone))),
            "datum": None if self.datum is None else digest((self.datum, heights(self.survey, everyone))),
            "velocity": {"is": str(self.velocity), "values": digest(self.velocity)},
            "gathers": {"bins": gathers, "members": digest(None if self.bins is None else self.bins.member)},
        }


def digest(value: object) -> str:
    """Return a short hash of arrays, dataclasses and plain values by what they hold, the same in every process."""
    code = sha256()
    _feed(code, value)
    return code.hexdigest()[:16]


def _feed(code: Any, value: object) -> None:
    if isinstance(value, np.ndarray):
        code.update(f"{value.dtype.str}{value.shape}".encode())
        code.update(np.ascontiguousarray(value).data)
    elif is_dataclass(value) and not isinstance(value, type):
        code.update(type(value).__name__.encode())
        for field in fields(value):
            code.update(field.name.encode())
            _feed(code, getattr(value, field.name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            _feed(code, item)
        code.update(f"#{len(value)}".encode())
    else:
        code.update(f"{type(value).__name__}:{value!r};".encode())


def check_kinds(survey: object, velocity: object, grid: object) -> None:
    """Refuse what is no survey, velocity field or grid, before anything is asked of it."""
    from .grid import Grid
    from .survey import Survey
    from .velocity import Velocity

    wanted = (
        ("survey", survey, Survey, "seismic.open_segy(path), or Survey.from_arrays(...)"),
        ("velocity", velocity, Velocity, "Velocity.constant(2500), .linear, .table, .cube or .open"),
        ("grid", grid, Grid, "Grid(...) or Grid.from_survey(survey)"),
    )
    for name, value, kind, how in wanted:
        if not isinstance(value, kind):
            raise InputError(f"migrate: {name} is of type {type(value).__name__}; give {how}.")
    assert isinstance(grid, Grid)
    if grid.dt > 1.0:
        raise InputError(f"migrate: the grid's dt is {grid.dt:g}; it is given in seconds (4 ms is 0.004).")


def resolve(
    survey: Survey,
    velocity: Velocity,
    grid: Grid,
    aperture: Aperture | None,
    amplitude: str,
    phase_filter: bool,
    gathers: ArrayLike | Binning | None,
    area: float | None,
    physics: str = "straight",
    eta: ArrayLike | None = None,
    interpolation: str = "linear",
    oversample: int = 1,
    antialias: str | None = None,
    spacing: tuple[float, float] | None = None,
    normalize: str | None = None,
    mute: Mute | None = None,
    dimension: str = "3d",
    datum: ArrayLike | str | None = None,
    replacement: float | None = None,
) -> Options:
    """Fill in defaults and check what can be checked without reading."""
    check_kinds(survey, velocity, grid)
    if survey.n_samples < 2:
        raise InputError("migrate: the traces have 1 sample; interpolation needs at least 2.")
    cell = (grid.dx, grid.dy) if survey.bin_size is None else survey.bin_size
    along = int(grid.ny > grid.nx)  # the axis that a line of midpoints runs along
    if area is None:
        area = cell[0] * cell[1] if dimension == "3d" else cell[along]
    if dimension != "3d":
        cell = (0.0, cell[1]) if along else (cell[0], 0.0)  # neighbours that operators may alias
    if mute is not None:
        mute.check(survey)
    copies, apart = 1, (0.0, 0.0)
    if antialias is not None:
        apart = _spacing(cell if spacing is None else spacing)
        slowest = float(velocity.on_pillars(grid.t, grid.pillars[:: max(1, grid.size // 256)]).min())
        # No operator is steeper than that of legs along the surface.
        copies = copies_for(2 * math.hypot(*apart) * oversample / (slowest * survey.dt))
    elif spacing is not None:
        raise InputError("migrate: spacing belongs to antialias; leave it out, or choose 'bank' or 'triangle'.")
    return Options(
        survey,
        velocity,
        grid,
        Aperture() if aperture is None else aperture,
        amplitude,
        bool(phase_filter),
        None if gathers is None else binning(gathers).assign(survey),
        number("migrate", "area", area, low=0.0, open_low=True),
        physics,
        velocity.gradient() if physics == "curved" else None,
        None if eta is None else _on_grid(eta, grid),
        interpolation,
        oversample,
        antialias,
        apart,
        copies,
        normalize,
        mute,
        dimension,
        datum_of(datum, replacement, grid, survey, velocity, physics),
        None if replacement is None else float(replacement),
    )


def _spacing(value: tuple[float, float]) -> tuple[float, float]:
    try:
        dx, dy = (number("migrate", "spacing", each, low=0.0) for each in value)
    except (TypeError, ValueError):
        raise InputError(f"migrate: spacing is {value!r}; give two distances in metres.") from None
    if dx == dy == 0:
        raise InputError(
            "migrate: spacing is 0 along both axes; give the distances of neighbouring midpoints in metres."
        )
    return dx, dy


def _on_grid(eta: ArrayLike, grid: Grid) -> NDArray[np.float64]:
    """Return eta as (1, nt), or (pillars, nt) when it is given at every point of the grid."""
    values = np.asarray(eta, np.float64)
    if values.ndim == 0 or values.shape == (grid.nt,):
        return np.broadcast_to(values, (1, grid.nt)).copy()
    if values.shape == grid.shape:
        return values.reshape(grid.size, grid.nt)
    raise InputError(
        f"migrate: eta has shape {values.shape}; give a number, one value per output time ({grid.nt},), or one per "
        f"point of the grid {grid.shape}."
    )


def check_options(
    physics: str,
    eta: ArrayLike | None,
    antialias: str | None,
    amplitude: str,
    interpolation: str,
    oversample: int = 1,
    normalize: str | None = None,
    mute: Mute | None = None,
    dimension: str = "3d",
) -> None:
    """Refuse what does not exist, and by name what is not built yet."""
    choice("migrate", "physics", physics, PHYSICS)
    if physics == "vti":
        check_eta("migrate", eta)
    elif eta is not None:
        raise InputError("migrate: eta belongs to physics='vti'; leave it out.")
    if antialias is not None:
        choice("migrate", "antialias", antialias, ANTIALIAS)
    choice("migrate", "amplitude", amplitude, _registered.migrate.AMPLITUDES)
    choice("migrate", "interpolation", interpolation, _registered.migrate.INTERPOLATIONS)
    choice("migrate", "dimension", dimension, DIMENSIONS)
    if normalize is not None:
        choice("migrate", "normalize", normalize, NORMALIZE)
    if mute is not None and not isinstance(mute, Mute):
        raise InputError(f"migrate: mute is {mute!r}; give seismic.Mute(header=True) or seismic.Mute(table=...).")
    if oversample not in (1, 2):
        raise InputError(f"migrate: oversample is {oversample!r}; 1 or 2 is accepted.")
