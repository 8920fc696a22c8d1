"""Migration and demigration as one linear operator, for SciPy's and PyLops' solvers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError
from elinvar.runtime.device import device as resolve_device

from . import demigration
from ._check import optional_library
from .choosing import choose
from .finishing import describe_weighed, lanes_of, run_of
from .options import KERNEL, check_options, resolve
from .traces import ArrayTraces

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as _ScipyOperator

    from .aperture import Aperture
    from .grid import Grid
    from .mute import Mute
    from .survey import Survey
    from .velocity import Velocity
else:
    _ScipyOperator = optional_library("scipy.sparse.linalg", "LinearOperator").LinearOperator

__all__ = ["LinearOperator"]

Samples = NDArray[np.float32]
_AT_ONCE = 4096  # traces looked at together


class LinearOperator(_ScipyOperator):
    """From an image to traces and back: ``matvec`` demigrates, ``rmatvec`` migrates.

    It is a :class:`scipy.sparse.linalg.LinearOperator`; ``pylops.aslinearoperator`` makes it one of PyLops'.
    Least-squares migration is then one line, ``scipy.sparse.linalg.lsqr(operator, survey.read().ravel())[0]``.

    Parameters
    ----------
    survey
        Geometry of the traces. Traces that are not live take no part, in either direction.
    velocity, grid
        As for :func:`~elinvar.seismic.migrate`.
    physics, eta, aperture, antialias, amplitude, phase_filter, interpolation, area, oversample, spacing
        As for :func:`~elinvar.seismic.migrate`; for both directions.
    normalize, mute, dimension, datum, replacement
        As for :func:`~elinvar.seismic.migrate`; for both directions.
    device, memory
        As for :func:`~elinvar.seismic.migrate`.
    skip_silent
        Read the survey once and leave out traces that are zero throughout: nothing was recorded there, and an image
        that explains the others should not be asked to explain silence.

    Attributes
    ----------
    shape
        (traces * samples, nx * ny * nt).
    dims, dimsd
        What the two sides are before they are flattened: (nx, ny, nt), and (traces, samples).
    live
        Traces that take part, bool (traces,).

    Examples
    --------
    >>> from scipy.sparse.linalg import lsqr
    >>> from elinvar import seismic
    >>> survey = seismic.synthetic.dataset("tiny")
    >>> grid = seismic.Grid.from_survey(survey, nt=401)
    >>> operator = seismic.LinearOperator(survey, survey.velocity, grid)  # doctest: +SKIP
    >>> image = lsqr(operator, survey.read().ravel(), iter_lim=10)[0].reshape(grid.shape)  # doctest: +SKIP
    """

    def __init__(
        self,
        survey: Survey,
        velocity: Velocity,
        grid: Grid,
        *,
        physics: str = "straight",
        eta: ArrayLike | None = None,
        aperture: Aperture | None = None,
        antialias: str | None = None,
        amplitude: str = "true",
        phase_filter: bool = True,
        interpolation: str = "linear",
        device: Any = "auto",
        area: float | None = None,
        oversample: int = 1,
        spacing: tuple[float, float] | None = None,
        memory: int | None = None,
        skip_silent: bool = True,
        normalize: str | None = None,
        mute: Mute | None = None,
        dimension: str = "3d",
        datum: ArrayLike | str | None = None,
        replacement: float | None = None,
    ) -> None:
        check_options(physics, eta, antialias, amplitude, interpolation, oversample, normalize, mute, dimension)
        self.live = _sounding(survey) if skip_silent else survey.live.copy()
        if not self.live.any():
            raise InputError(f"LinearOperator: every trace of {survey.name} is zero throughout or not live.")
        self.survey = survey.with_traces(survey.traces)
        self.survey.live = self.live
        asked = (aperture, amplitude, phase_filter, None, area, physics, eta)
        more = (normalize, mute, dimension, datum, replacement)
        options = resolve(self.survey, velocity, grid, *asked, interpolation, oversample, antialias, spacing, *more)
        where = resolve_device(device)
        self._options = options
        self._migration, back = (choose(name, where, None, options.needs()) for name in (KERNEL, demigration.KERNEL))
        self._plan = describe_weighed(options, self._migration, budget_bytes=memory)
        self._demigration = demigration.Demigration(options, back, memory=memory)
        self.dims = grid.shape
        self.dimsd = (survey.n_traces, survey.n_samples)
        shape = int(np.prod(self.dimsd)), int(np.prod(self.dims))
        cast("Any", super()).__init__(np.dtype(np.float32), shape)

    def demigrate(self, image: ArrayLike) -> Samples:
        """Return traces (n, ns) for an image (nx, ny, nt), or one that is flattened."""
        given = self._float32("image", image, self.dims)
        return self._demigration.run(given.reshape(self._options.grid.size, -1))

    def migrate(self, traces: ArrayLike) -> Samples:
        """Return the image (nx, ny, nt) of traces (n, ns), or of ones that are flattened."""
        given = self._float32("traces", traces, self.dimsd)
        if not given[self.live].any():
            return np.zeros(self.dims, np.float32)  # a migration of nothing is refused as a mistake
        options = replace(self._options, survey=self.survey.with_traces(ArrayTraces(given)))
        job, steps = self._plan
        lanes = lanes_of(options, [self._migration], job, steps)
        return run_of(options, job, steps, lanes).execute(0.0).values

    def _matvec(self, x: ArrayLike) -> Samples:
        return self.demigrate(x).ravel()

    def _rmatvec(self, x: ArrayLike) -> Samples:
        return self.migrate(x).ravel()

    @staticmethod
    def _float32(name: str, values: ArrayLike, shape: tuple[int, ...]) -> Samples:
        array = np.asarray(values)
        if array.size != np.prod(shape) or array.dtype.kind not in "fiu":
            raise InputError(f"LinearOperator: {name} is {array.dtype} of shape {array.shape}; give real {shape}.")
        if not np.isfinite(array).all():
            raise InputError(f"LinearOperator: {name} has values that are not finite; repair or leave them out first.")
        return cast("Samples", np.ascontiguousarray(array, np.float32).reshape(shape))


def _sounding(survey: Survey) -> NDArray[np.bool_]:
    """Return which live traces are not zero throughout."""
    found = np.zeros(survey.n_traces, bool)
    for block in survey.blocks(_AT_ONCE):
        found[block.index] = block.traces.any(axis=1)
    return found
