"""Options together: every version does a combination as the float64 reference does, or refuses it by name.

The table holds every pair of choices at least once; each of its rows goes through every version on every device here.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch

from elinvar.errors import InputError
from elinvar.seismic import Aperture, Grid, Mute, Survey, Velocity, migrate, synthetic
from elinvar.seismic.choosing import choose
from elinvar.seismic.kernels.migrate import WORDS, features_of
from elinvar.seismic.options import KERNEL

CHOICES = {
    "physics": ("straight", "curved", "vti"),
    "velocity": ("constant", "linear", "lateral"),
    "interpolation": ("linear", "cubic", "sinc8"),
    "antialias": (None, "bank", "triangle"),
    "oversample": (1, 2),
    "dimension": ("3d", "2.5d", "2d"),
    "amplitude": ("true", "none"),
    "normalize": (None, "fold", "illumination"),
    "mute": (None, "table", "header"),
    "aperture": ("dip", "axes", "angles"),
    "datum": (None, "flat", "floating"),
    "gathers": (None, (0.0, 150.0, 500.0)),
}
VERSIONS = ("baseline", "v1", "v2", "v3")
TOLERANCE = 2e-4
COUNTED = 1e-3  # of the contributions: those at the rim of an aperture or a mute, within float32 of it
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# v2 and v3 are compiled anew, for seconds, for each kind of interpolation, copies of traces or none, and bounds: what
# other tests have compiled as well, and the one in which the most meets. Cubic and sinc8 are one code, of more taps.
COMPILED = {
    ("linear", False, "limits"),
    ("linear", False, "relief"),
    ("linear", True, "none"),
    ("cubic", False, "none"),
    ("sinc8", False, "none"),
    ("sinc8", True, "relief"),
}
BONUS = 10  # new pairs that a row which v2 and v3 do is worth more than one that they refuse
GRID = Grid((40.0, 35.0), 20, 3, 4, 25, 25, 110, 0.004, 0.1)


def possible(row):
    """Curved rays are those of one medium."""
    return (row.get("physics"), row.get("velocity")) != ("curved", "lateral")


def code(row):
    """Return what v2 and v3 are compiled anew for; None for what they refuse."""
    asked = needs(row)
    if asked & {"zones", "angles", "curved_relief"}:
        return None
    bounds = "relief" if "relief" in asked else "limits" if asked & {"mute", "limits"} else "none"
    return row["interpolation"], row["antialias"] is not None, bounds


def table(seed=0):
    """Return rows that hold every pair of choices: greedily, the best of some random ones each time.

    What v2 and v3 do comes first, so that they do as many pairs as they can.
    """
    draw = random.Random(seed)
    names = list(CHOICES)

    def pairs(row):
        return {((a, row[a]), (b, row[b])) for a, b in itertools.combinations(names, 2)}

    left = {
        ((a, x), (b, y)) for a, b in itertools.combinations(names, 2) for x in CHOICES[a] for y in CHOICES[b]
        if possible({a: x, b: y})
    }  # fmt: skip
    rows = []
    while left:
        (a, x), (b, y) = min(left, key=repr)
        tries = [{**{n: draw.choice(CHOICES[n]) for n in names}, a: x, b: y} for _ in range(200)]
        tries = [row for row in tries if possible(row) and code(row) in {None, *COMPILED}]
        best = max(tries, key=lambda row: len(pairs(row) & left) + BONUS * (code(row) is not None))
        left -= pairs(best)
        rows.append(best)
    return rows


def hilly():
    """Return noisy diffractions recorded on low hills, some headers saying what to mute."""
    made = synthetic.diffractors([(80, 80, 300)], extent=150, offsets=(100, 400), azimuths=(30,), nt=170, dt=0.004)
    chosen = np.arange(0, made.n_traces, 3)
    data = made.read(chosen) + 0.05 * np.random.default_rng(2).standard_normal((len(chosen), 170)).astype(np.float32)
    hills = 20 + 2 * np.sin(np.arange(2 * len(chosen))).reshape(2, -1)
    muts = np.where(np.arange(len(chosen)) % 3, 0.0, 0.12)
    return Survey.from_arrays(
        data, made.source[chosen], made.receiver[chosen], 0.004, bin_size=made.bin_size, source_elevation=hills[0],
        receiver_elevation=hills[1], headers={"muts": muts, "mute": np.full(len(chosen), 0.22)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def survey():
    return hilly()


def options(row):
    """Return the arguments that a row stands for."""
    corners = Grid((0.0, 0.0), 0.0, 2, 2, 200.0, 200.0, 2, 0.6)
    fields = {
        "constant": lambda: Velocity.constant(2300.0),
        "linear": lambda: Velocity.linear(2000.0, 0.7),
        "lateral": lambda: Velocity.cube([[[2100.0, 2500.0]] * 2, [[2250.0, 2700.0]] * 2], corners),
    }
    apertures = {"dip": {}, "axes": {"inline": 70.0, "crossline": 60.0}, "angles": {"leg_dip": 50.0, "stretch": 1.8}}
    mutes = {"table": Mute(table=((0.0, 0.15), (400.0, 0.3))), "header": Mute(header=True)}
    same = ("physics", "interpolation", "antialias", "oversample", "dimension", "amplitude", "normalize", "gathers")
    found = {name: row[name] for name in same}
    found |= {"velocity": fields[row["velocity"]](), "mute": mutes.get(row["mute"])}
    found |= {"aperture": Aperture(dip=55, minimum=30.0, **apertures[row["aperture"]])}
    if row["physics"] == "vti":
        found["eta"] = np.linspace(0.0, 0.15, GRID.nt)
    if row["datum"] is not None:
        found["datum"] = 40.0 if row["datum"] == "flat" else "floating"
        found["replacement"] = None if row["physics"] == "curved" else 1900.0
    return found


def needs(row):
    """Return what a row asks beyond what all versions do, by the names of `WORDS`."""
    asked = {"interpolation"} if row["interpolation"] != "linear" else set()
    asked |= {"bank"} if row["antialias"] else set()
    asked |= {None: set(), "table": {"mute"}, "header": {"mute", "zones"}}[row["mute"]]
    asked |= {"dip": set(), "axes": {"limits"}, "angles": {"angles"}}[row["aperture"]]
    if row["datum"] is not None:
        asked |= {"curved_relief"} if row["physics"] == "curved" else {"relief"}
    return asked


def relative(found, true):
    return float(np.linalg.norm(found.astype(float) - true) / max(np.linalg.norm(true.astype(float)), 1e-30))


def check(survey, row, true, version, place):
    """Hold a version to the reference's image, or to a refusal that names what it does not do; say which."""
    lacking = {*needs(row)} - {*features_of(version, choose(KERNEL, device_of(place), version, ()).backend)}
    given = {**options(row), "kernel": version, "device": place}
    velocity = given.pop("velocity")
    if lacking:
        with pytest.raises(NotImplementedError, match=f"version {version}.* does not do ") as refused:
            migrate(survey, velocity, GRID, **given)
        said = str(refused.value)
        named = said.partition("does not do ")[2].partition("; choose")[0].split(" or ")
        assert {*named} == {WORDS.get(name, f"interpolation={row['interpolation']!r}") for name in lacking}
        return "refused"
    image = migrate(survey, velocity, GRID, **given)
    assert image.job.version == version
    counted = int(np.abs(image.counts.astype(np.int64) - true.counts).sum())
    assert counted <= COUNTED * true.contributions + 1, f"{version}: {counted} of {true.contributions}"
    same = (image.counts == true.counts) if row["normalize"] else slice(None)  # a mean jumps where its divisor does
    assert relative(image.values[same], true.values[same]) <= TOLERANCE, version
    if true.panels is not None:
        same = (image.panels.fold == true.panels.fold) if row["normalize"] else slice(None)
        assert relative(image.panels.values[same], true.panels.values[same]) <= TOLERANCE, version
    return "runs"


def device_of(place):
    from elinvar.runtime.device import device

    return device(place)


@pytest.mark.parametrize("row", table(), ids=lambda row: "-".join(str(v).split(",")[0] for v in row.values()))
def test_a_combination_is_done_right_or_refused_by_name(survey, row):
    given = options(row)
    velocity = given.pop("velocity")
    true = migrate(survey, velocity, GRID, **given, kernel="reference", device="cpu")
    assert true.contributions > 0
    for place in DEVICES:
        outcomes = {version: check(survey, row, true, version, place) for version in VERSIONS}
        # One that does all is always there.
        assert "runs" in outcomes.values() or place != "cpu", outcomes
        given = {**options(row), "device": place}
        chosen = migrate(survey, given.pop("velocity"), GRID, **given)
        assert (
            relative(chosen.values[chosen.counts == true.counts], true.values[chosen.counts == true.counts])
            <= TOLERANCE
        )


def test_the_table_holds_every_pair():
    rows = table()
    for a, b in itertools.combinations(CHOICES, 2):
        wanted = {(x, y) for x, y in itertools.product(CHOICES[a], CHOICES[b]) if possible({a: x, b: y})}
        assert {(row[a], row[b]) for row in rows} == wanted
    assert {code(row) for row in rows} == {None, *COMPILED}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"physics": "curved", "velocity": "lateral"}, "curved"),
        ({"physics": "curved", "replacement": 1900.0, "datum": 40.0}, "replacement"),
        ({"physics": "straight", "eta": 0.1}, "eta belongs to physics='vti'"),
        ({"physics": "vti", "eta": None}, "eta"),
        ({"physics": "straight", "datum": 40.0, "replacement": None}, "replacement"),
        ({"physics": "straight", "datum": None, "replacement": 1900.0}, "datum"),
    ],
)
def test_what_makes_no_sense_together_is_a_sentence(survey, more, words):
    row = {name: values[0] for name, values in CHOICES.items()} | {"velocity": more.pop("velocity", "linear")}
    given = {**options(row), **more}
    with pytest.raises(InputError, match=words):
        migrate(survey, given.pop("velocity"), GRID, **given, device="cpu")
