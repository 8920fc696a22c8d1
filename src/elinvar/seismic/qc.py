"""A report of one image that a person can look at: sections, fold, gathers, survey, velocity, spectra, in one file.

Numbers come from the full volume where it is at most a quarter of a gigabyte, else from its pyramid; what was reduced
for display says so. Sections and gathers are always read at full resolution.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import elinvar
from elinvar.report import Page

from .gathers import PERCENTS, flatness_ms, moveout_scan, residual_moveout, semblance
from .qc_figures import CLIP, clip, curves, histogram, picture, points, rose, shown
from .spectra import amplitude_spectrum, decibels, frequency_wavenumber
from .velocity_checks import check_velocity, layers
from .volume import Source, Volume

if TYPE_CHECKING:
    from .survey import Survey
    from .velocity import Velocity

__all__ = ["qc_report"]

Floats = NDArray[np.float64]
_GATHERS = 3
_MOST_SECTIONS = 1 << 31  # bytes of fold read for a map of it


def qc_report(
    image: Source,
    survey: Survey | None = None,
    velocity: Velocity | None = None,
    path: str | os.PathLike[str] = "qc.html",
) -> Path:
    """Write a report of an image as one HTML file that needs no network.

    Parameters
    ----------
    image
        An :class:`Image`, its Dataset, or its Zarr folder.
    survey
        What it was made from: offsets, azimuths, coverage. Samples are not read.
    velocity
        What it was migrated with: velocity sections and checks, residual moveout of offset gathers.
    path
        The file to write.

    Returns
    -------
    Path
        `path`.
    """
    with Volume.open(image) as volume:
        return _Report(volume, survey, velocity).page().write(path)


@dataclass(frozen=True)
class _Cut:
    """One vertical section: its name, where it is in a volume, and the distance between its traces in metres."""

    name: str
    where: tuple[Any, Any]
    step: float

    def of(self, values: Any) -> NDArray[Any]:
        """Return this section of a volume's variable."""
        return np.asarray(values[self.where].values if hasattr(values, "values") else values[self.where])


class _Report:
    """One report while it is being written."""

    def __init__(self, volume: Volume, survey: Survey | None, velocity: Velocity | None) -> None:
        self.volume = volume
        self.survey = survey
        self.velocity = velocity
        self.ms = 1e3 * volume.t
        self.overview = volume.overview()

    @cached_property
    def spot(self) -> tuple[int, int, int]:
        """Inline, crossline and time index of the strongest sample, or the middle of a volume too large to look at."""
        if self.overview is None:
            nx, ny, nt = self.volume.shape
            return nx // 2, ny // 2, nt // 2
        values, factors, _ = self.overview
        at = np.unravel_index(int(np.argmax(np.abs(values))), values.shape)
        i, j, k = (min(int(a) * f, n - 1) for a, f, n in zip(at, factors, self.volume.shape, strict=True))
        return i, j, k

    def page(self) -> Page:
        """Write all sections."""
        attributes = self.volume.data.attrs
        made = f"Made with elinvar {elinvar.__version__}. Times are two-way; amplitudes have no unit."
        page = Page(f"Image of {attributes.get('survey', self.volume.name)}", self._subtitle(), footer=made)
        self._summary(page)
        self._sections(page)
        self._fold(page)
        if self.volume.gathers is not None:
            self._gathers(page)
        if self.survey is not None:
            self._survey(page, self.survey)
        if self.velocity is not None:
            self._velocity(page, self.velocity)
        self._spectra(page)
        return page

    def _subtitle(self) -> str:
        nx, ny, nt = self.volume.shape
        sides = " x ".join(f"{size:g}" for n, size in zip((nx, ny), self.volume.spacing, strict=True) if n > 1)
        bins = f"bins {sides} m, " if sides else ""
        return f"{nx:,} inlines x {ny:,} crosslines x {nt:,} samples; {bins}{1e3 * self.volume.dt:g} ms"

    @property
    def is_line(self) -> bool:
        """Whether there is one inline or one crossline only, so that there is nothing to draw a map of."""
        return min(self.volume.shape[:2]) == 1

    @cached_property
    def cut(self) -> _Cut:
        """The section through the strongest sample: an inline, or the only crossline."""
        (i, j, _), volume = self.spot, self.volume
        if volume.shape[1] == 1 and volume.shape[0] > 1:
            return _Cut(f"crossline {volume.crosslines[j]}", (slice(None), j), volume.spacing[0])
        return _Cut(f"inline {volume.inlines[i]}", (i, slice(None)), volume.spacing[1])

    def _map(self, page: Page, values: NDArray[Any], title: str, caption: str) -> None:
        """Show one number per bin: as a map, or as a curve when the volume is a line."""
        if self.is_line:
            along = self.cut.step * np.arange(values.size)
            page.figure(curves([(title, along, values.ravel())], "distance (m)", f"{title} (traces)"), caption)
            return
        dx, dy = self.volume.spacing
        what = shown(values, dy * np.arange(values.shape[1]), dx * np.arange(values.shape[0]))
        page.figure(
            picture(
                what, "crossline axis (m)", "inline axis (m)", colours="viridis",
                limits=(0.0, float(max(values.max(), 1))), bar=title, square=True,
            ),
            caption + what.note,
        )  # fmt: skip

    # -- sections -------------------------------------------------------------------------------------------------

    def _summary(self, page: Page) -> None:
        attributes = self.volume.data.attrs
        page.section("Summary")
        if "preview" in attributes:
            page.note(f"**This is a preview, not an image**: {attributes['preview']}.")
        facts: list[tuple[object, str]] = [(f"{np.prod(self.volume.shape) / 1e6:.3g} M", "samples")]
        if self.overview is not None:
            values, factors, level = self.overview
            loud = np.abs(values)
            facts += [
                (f"{loud.max():.3g}", "largest amplitude"),
                (f"{float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))):.3g}", "rms amplitude"),
                (f"{100 * (~values.any(axis=2)).mean():.2g} %", "empty pillars"),
            ]
            if level:
                page.text(
                    f"Amplitudes are those of level {level} of the pyramid, every {factors[0]}th line, low-passed."
                )
        else:
            page.note(
                "The volume is too large to be read as a whole: run `elinvar seismic pyramid` first for statistics."
            )
        page.facts(facts)
        rows = [
            {"what": str(k).replace("_", " "), "value": _text(v)} for k, v in attributes.items() if k != "multiscales"
        ]
        if rows:
            page.table(rows, caption="How it was made.")

    def _sections(self, page: Page) -> None:
        volume, (i, j, k) = self.volume, self.spot
        why = "through the strongest sample" if self.overview is not None else "through the middle"
        page.section("Sections", f"Inline, crossline and time slices {why}. Colours end at the {CLIP:g}th percentile.")
        dx, dy = volume.spacing
        for axis, (cut, step, n, number) in {
            "inline": (volume.image[i], dy, volume.shape[1], volume.inlines[i]),
            "crossline": (volume.image[:, j], dx, volume.shape[0], volume.crosslines[j]),
        }.items():
            if n == 1 and max(volume.shape[:2]) > 1:
                continue  # a section of one trace beside a whole line says nothing
            what = shown(np.asarray(cut.values).T, step * np.arange(n), self.ms)
            page.figure(
                picture(what, f"distance along {axis} {number} (m)", "two-way time (ms)", bar="amplitude"),
                f"{axis.capitalize()} {number}. Colours: ±{clip(what.values)[1]:.3g}.{what.note}",
            )
        self._slices(page, k)

    def _slices(self, page: Page, k: int) -> None:
        if self.overview is None or self.is_line:
            return
        values, factors, level = self.overview
        dx, dy = self.volume.spacing
        note = f" From level {level} of the pyramid." if level else ""
        times = sorted({k // factors[2], values.shape[2] // 2})
        with page.row():
            for index in times:
                cut = values[:, :, index]
                x, y = (f * s * np.arange(n) for f, s, n in zip(factors[:2], (dx, dy), cut.shape, strict=True))
                what = shown(cut, y, x)
                at = self.ms[min(index * factors[2], len(self.ms) - 1)]
                page.figure(
                    picture(what, "crossline axis (m)", "inline axis (m)", bar="amplitude", square=True),
                    f"Time slice at {at:g} ms. Colours: ±{clip(what.values)[1]:.3g}.{what.note}{note}",
                )

    def _fold(self, page: Page) -> None:
        fold = self.volume.fold
        if fold is None:
            return
        k, line = self.spot[2], self.cut
        page.section(
            "Fold", "How many traces contributed to each sample: where the image is made of much, and of little."
        )
        cut = line.of(fold)
        what = shown(cut.T, line.step * np.arange(cut.shape[0]), self.ms)
        limits = (0.0, float(max(cut.max(), 1)))
        with page.row():
            page.figure(
                picture(
                    what, f"distance along {line.name} (m)", "two-way time (ms)", colours="viridis", limits=limits,
                    bar="fold",
                ),
                f"{line.name.capitalize()}: 0 to {int(cut.max()):,}.{what.note}",
            )  # fmt: skip
            if fold.size * 4 <= _MOST_SECTIONS:
                level = np.asarray(fold[:, :, k].values)
                self._map(
                    page,
                    level,
                    "fold",
                    f"At {self.ms[k]:g} ms: {int(level.min()):,} to {int(level.max()):,}, mean {level.mean():,.0f}; "
                    f"{100 * (level == 0).mean():.2g} % of the bins have none.",
                )
        if fold.size * 4 > _MOST_SECTIONS:
            page.note("The map of the fold is left out: a slice of a volume of this size would be read from all of it.")

    def _gathers(self, page: Page) -> None:
        volume = self.volume
        assert volume.gathers is not None
        intro = {
            "offset": "An event that is flat over offset was migrated with the right velocity: one that rises with "
            "offset with too slow a one, one that falls with too fast a one.",
            "azimuth": "An event that is not flat over azimuth travelled otherwise than believed: anisotropy?",
        }.get(str(volume.bin_dim), "One trace for each tile of offset vectors.")
        page.section("Gathers", intro)
        moves = self.velocity is not None and volume.bin_dim == "offset"
        for i, j in self._places():
            with page.row():
                self._one_gather(page, i, j, moves=moves)

    def _places(self) -> list[tuple[int, int]]:
        """Return the strongest pillar and others spread over the map."""
        nx, ny, _ = self.volume.shape
        i, j, _ = self.spot
        spread = [(nx // 4, ny // 4), (3 * nx // 4, 3 * ny // 4)]
        return list(dict.fromkeys([(i, j), *spread]))[:_GATHERS]

    def _one_gather(self, page: Page, i: int, j: int, *, moves: bool) -> None:
        volume = self.volume
        assert volume.gathers is not None
        values = np.asarray(volume.gathers[i, j].values)
        fold = None if volume.gather_fold is None else np.asarray(volume.gather_fold[i, j].values)
        name = f"Inline {volume.inlines[i]}, crossline {volume.crosslines[j]}"
        x = np.asarray(volume.gathers[volume.bin_dim].values, np.float64)
        label = {"offset": "offset (m)", "azimuth": "azimuth (degrees)"}.get(str(volume.bin_dim), "tile number")
        what = shown(values.T, x, self.ms)
        page.figure(
            picture(what, label, "two-way time (ms)", colours="gray", height=520),
            f"{name}: gather. Colours: ±{clip(what.values)[1]:.3g}.{what.note}",
        )
        if not moves or self.velocity is None:
            s = semblance(values, volume.dt, fold=fold)
            flat = flatness_ms(values, volume.t, fold=fold)
            figure = curves(
                [("semblance", s, self.ms)], "semblance (0 to 1)", "two-way time (ms)", down=True, height=520
            )
            figure.update_xaxes(range=[0, 1])
            page.figure(figure, f"{name}: semblance in windows of 24 ms; {_flat(flat)}.")
            return
        v = self.velocity.on_pillars(volume.t, volume.map[i, j][None])[0]
        h = volume.offsets()
        panel = moveout_scan(values, volume.t, h, v, fold=fold)
        picked = residual_moveout(values, volume.t, h, v, fold=fold)
        flat = flatness_ms(values, volume.t, fold=fold, offset=h, v=v, moveout=picked)
        what = shown(np.nan_to_num(panel).T, PERCENTS, self.ms)
        figure = picture(
            what, "velocity error (%)", "two-way time (ms)", colours="viridis", limits=(0.0, 1.0), height=520,
            bar="semblance",
        )  # fmt: skip
        figure.add_scatter(
            x=picked.percent, y=self.ms, mode="markers", marker={"color": "#e0792b", "size": 4}, name="pick"
        )
        page.figure(
            figure, f"{name}: semblance of residual moveout, 40 ms windows. {_pick(picked.percent)}; {_flat(flat)}."
        )

    def _survey(self, page: Page, survey: Survey) -> None:
        live = survey.live
        offset, azimuth, middle = survey.offset[live], survey.azimuth[live], survey.midpoint[live]
        page.section("Survey", f"{survey.n_traces:,} traces, {int(live.sum()):,} live, {survey.n_samples} samples.")
        counts, edges = np.histogram(offset, bins=min(60, max(10, len(offset) // 50)))
        with page.row():
            page.figure(
                histogram(counts, edges, "offset (m)", "traces"),
                f"Offsets: {offset.min():.0f} to {offset.max():.0f} m, median {np.median(offset):.0f} m.",
            )
            directed = offset > 0
            page.figure(
                rose(azimuth[directed], offset[directed]) if directed.any() else rose([0.0], [0.0]),
                "Traces by direction from source to receiver (clockwise from north) and offset.",
            )
        corners = self.volume.map[[0, -1, -1, 0, 0], [0, 0, -1, -1, 0]]
        count, outside = self._coverage(middle)
        covered = 100 * (count > 0).mean()
        with page.row():
            places = [
                ("midpoints", middle),
                ("sources", np.unique(survey.source[live], axis=0)),
                ("receivers", np.unique(survey.receiver[live], axis=0)),
                ("image", corners),
            ]
            page.figure(points(places), "The survey and the image on the map. Up to 4000 of each are shown.")
            self._map(
                page,
                count,
                "midpoints",
                f"Midpoints per image bin: {covered:.1f} % of the bins have one, at most {int(count.max())}; "
                f"{outside:,} midpoints lie outside the image.",
            )

    def _coverage(self, middle: Floats) -> tuple[NDArray[np.int64], int]:
        """Count midpoints in the image's bins, and those in none."""
        nx, ny, _ = self.volume.shape
        index = self.volume.bins(middle)
        inside = ((index >= 0) & (index < (nx, ny))).all(axis=1)
        flat = index[inside, 0] * ny + index[inside, 1]
        return np.bincount(flat, minlength=nx * ny).reshape(nx, ny), int((~inside).sum())

    def _velocity(self, page: Page, velocity: Velocity) -> None:
        volume, (i, j, _) = self.volume, self.spot
        steps = [max(1, n // 24) for n in volume.shape[:2]]
        t = np.linspace(volume.t[0], volume.t[-1], min(len(volume.t), 120))
        found = check_velocity(velocity, t, volume.map[:: steps[0], :: steps[1]])
        page.section("Velocity", f"{velocity}. Interval velocities by Dix's equation between {len(t)} times.")
        page.facts(
            [
                (f"{found.rms[0]:.0f}–{found.rms[1]:.0f}", "RMS velocity (m/s)"),
                (f"{found.interval[0]:.0f}–{found.interval[1]:.0f}", "interval velocity (m/s)"),
                (f"{found.gradient:.2f}", "median gradient (1/s)"),
                (f"{found.lateral:.0f}", "largest lateral change (m/s per km)"),
            ]
        )
        for sentence in found.findings():
            page.note(sentence)
        if not found.findings():
            page.text("No inversion, no layer that cannot exist, no unusual gradient.")
        rms, layer = layers(velocity, t, volume.map[i, j][None, None])
        middle = 5e2 * (t[1:] + t[:-1])
        both = [("RMS", rms[0, 0], 1e3 * t), ("interval", layer[0, 0], middle)]
        with page.row():
            page.figure(
                curves(both, "velocity (m/s)", "two-way time (ms)", down=True, xrange=_around(rms, layer)),
                f"At inline {volume.inlines[i]}, crossline {volume.crosslines[j]}.",
            )
            line, places = self.cut, self.cut.of(volume.map)
            _, section = layers(velocity, t, places[None])
            rows = np.broadcast_to(section[0], (len(places), len(middle))).T
            what = shown(np.nan_to_num(rows), line.step * np.arange(len(places)), middle)
            low, high = found.interval
            limits = (low, high) if np.isfinite(low) and high > low else (found.rms[0] - 1, found.rms[1] + 1)
            page.figure(
                picture(
                    what, f"distance along {line.name} (m)", "two-way time (ms)", colours="viridis", limits=limits,
                    bar="interval velocity (m/s)",
                ),
                f"Interval velocity along {line.name}.{what.note}",
            )  # fmt: skip

    def _spectra(self, page: Page) -> None:
        volume, line = self.volume, self.cut
        section = line.of(volume.image).astype(np.float64)
        if section.shape[1] < 16 or not section.any():
            return
        page.section("Spectra", f"Of {line.name}, in dB below the largest value.")
        parts = np.array_split(np.arange(section.shape[1]), 3 if section.shape[1] >= 96 else 1)
        lines = []
        top = 0.0
        for part in parts:
            f, a = amplitude_spectrum(section[:, part], volume.dt)
            lines.append((f"{self.ms[part[0]]:.0f} to {self.ms[part[-1]]:.0f} ms", f, a))
            top = max(top, float(a.max()))
        dB = [(name, f, np.maximum(20 * np.log10(np.maximum(a / (top or 1.0), 1e-9)), -80.0)) for name, f, a in lines]
        with page.row():
            page.figure(
                curves(dB, "frequency (Hz)", "amplitude (dB)", yrange=(-80, 3)),
                "Amplitude spectra in windows of time, rms over traces.",
            )
            if section.shape[0] >= 8:
                k, f, a = frequency_wavenumber(section, line.step, volume.dt)
                what = shown(decibels(a, -60).T, 1e3 * k, f)
                page.figure(
                    picture(what, "wavenumber (1/km)", "frequency (Hz)", colours="heat", limits=(-60.0, 0.0), bar="dB"),
                    "Frequency and wavenumber along the section. Energy at the left and right edges would be aliased."
                    + what.note,
                )


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple, np.ndarray)):
        return ", ".join(str(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _around(*values: Floats) -> tuple[float, float]:
    """Return an axis range that holds some velocities; a constant one lies in its middle."""
    known = np.concatenate([v[np.isfinite(v)].ravel() for v in values])
    return 0.97 * float(known.min()), 1.03 * float(known.max())


def _flat(values: Floats) -> str:
    known = values[np.isfinite(values)]
    return (
        f"events lie {np.median(known):.2g} ms rms from flat (median)" if known.size else "no event to be flat or not"
    )


def _pick(percent: Floats) -> str:
    known = percent[np.isfinite(percent)]
    if not known.size:
        return "Nothing to pick"
    middle = float(np.median(known))
    kind = "right" if abs(middle) < 0.25 else f"{abs(middle):.1f} % too {'slow' if middle > 0 else 'fast'}"
    return f"The velocity is {kind} here (median of {known.size} picks)"
