"""Least-squares migration of a survey with three traces in four missing, with a solver from SciPy.

A migration is the adjoint of demigration, not its inverse: where traces are missing it leaves smiles, and amplitudes
that depend on how many traces happened to be near. Asking instead for the image whose demigration is the data removes
much of both, and the traces that were left out say by how much.

Run it:  python examples/least_squares_migration.py
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import lsqr

from elinvar import seismic

SCATTERERS = [(200, 300, 500), (400, 200, 600), (350, 420, 400)]  # x, y, depth in metres


def focus(image: NDArray[np.float32], grid: seismic.Grid, points: list[tuple[float, float, float]]) -> float:
    """Return the part of the image's energy within 40 m and 30 ms of a scatterer."""
    x, y = np.moveaxis(grid.pillars.reshape(grid.nx, grid.ny, 2), -1, 0)
    near = np.zeros(grid.shape, bool)
    for px, py, t in points:
        near |= (np.hypot(x - px, y - py)[..., None] <= 40) & (np.abs(grid.t - t) <= 0.03)
    energy = np.square(image, dtype=np.float64)
    return float(energy[near].sum() / energy.sum())


def misfit(predicted: NDArray[np.float32], recorded: NDArray[np.float32]) -> float:
    """Return the part of the recording that a prediction does not explain, at the scale that suits it best."""
    p, r = predicted.ravel().astype(np.float64), recorded.ravel().astype(np.float64)
    return float(np.linalg.norm(r - p * (p @ r) / (p @ p)) / np.linalg.norm(r))


def main() -> dict[str, float]:
    whole = seismic.synthetic.diffractors(
        SCATTERERS, extent=600, spacing=25, nt=251, dt=0.004, frequency=20.0, noise=0.05, seed=1
    )
    kept = np.zeros(len(whole), bool)
    kept[np.random.default_rng(7).choice(len(whole), len(whole) // 4, replace=False)] = True
    survey, missing = whole.select(kept), whole.select(~kept)
    grid = seismic.Grid.from_survey(whole, nt=181)
    options = {"aperture": seismic.Aperture(dip=60), "amplitude": "none"}
    print(survey)

    operator = seismic.LinearOperator(survey, whole.velocity, grid, **options)
    data = survey.read().ravel()
    migrated = operator.migrate(data)

    # Stopping early is the regularisation here: late iterations explain noise.
    result = lsqr(operator, data, iter_lim=10)
    image = result[0].reshape(grid.shape).astype(np.float32)
    print(f"10 iterations leave {result[3] / np.linalg.norm(data):.0%} of the recorded amplitude unexplained")

    # The survey's other traces were never seen: an image is better when it predicts them better.
    unseen = seismic.LinearOperator(missing, whole.velocity, grid, **options)
    scores = {
        "focus, migrated": focus(migrated, grid, whole.truth["points"]),
        "focus, least squares": focus(image, grid, whole.truth["points"]),
        "unseen misfit, migrated": misfit(unseen.demigrate(migrated), missing.read()),
        "unseen misfit, least squares": misfit(unseen.demigrate(image), missing.read()),
        "residual": float(result[3] / np.linalg.norm(data)),
    }
    for name, value in scores.items():
        print(f"{name:<30}{value:.2f}")
    return scores


if __name__ == "__main__":
    main()
