"""From a SEG-Y file to an image: the whole path on a survey whose answer is known.

Run it:  python examples/seismic_first_image.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from elinvar import seismic


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # A diffractor 800 m below the middle of a 500 m square, in 2500 m/s, recorded with 5 % noise.
        path = Path(folder) / "tiny.sgy"
        seismic.synthetic.dataset("tiny").write_segy(path)

        # Headers now, samples when they are needed. Geometry comes from source and receiver coordinates.
        survey = seismic.open_segy(path)
        print(survey)
        grid = seismic.Grid.from_survey(survey, nt=401)
        velocity = seismic.Velocity.constant(2500.0)

        # What would run where, with how much memory; then do it.
        print(seismic.plan(survey, velocity, grid))
        image = seismic.migrate(survey, velocity, grid, gathers=[100, 300, 500])

        where = np.unravel_index(np.argmax(image.values), image.values.shape)
        x, y = grid.position(where[0], where[1])
        print(f"the image peaks at x {float(x):.0f} m, y {float(y):.0f} m, {1e3 * grid.t[where[2]]:.0f} ms")
        print(f"{image.contributions:,} contributions, kernel {image.timing.kernel:.2f} s")
        assert (float(x), float(y)) == (250.0, 250.0)
        assert abs(grid.t[where[2]] - 0.64) < 1e-9

        # xarray and Zarr from here on.
        section = image.image.isel(inline=int(where[0]))
        print(section.dims, image.gathers.dims if image.gathers is not None else "")
        image.to_zarr(Path(folder) / "image.zarr")


if __name__ == "__main__":
    main()
