from __future__ import annotations

import shutil

import numpy as np
import pytest
import segyio
import xarray

from elinvar.errors import InputError
from elinvar.seismic import Grid, Velocity, jobfile, synthetic, workflow
from elinvar.seismic.velocity_field import Cube, Scattered

GRID = Grid((431000.0, 6780000.0), 30, 4, 3, 200, 300, 61, 0.032, inline=(100, 2), crossline=(70, -1))
CUBE = Velocity.cube(1500 + 10 * np.arange(61) + 50 * np.arange(12).reshape(4, 3, 1), GRID)


def same(found, truth=CUBE, within=0.01):
    x, y = (c + s for c, s in zip(GRID.map, (37.0, -55.0), strict=True))
    places = np.stack([x.ravel(), y.ravel()], axis=1)
    t = np.linspace(0, 2.5, 11)
    assert found.on_pillars(t, places) == pytest.approx(truth.on_pillars(t, places), abs=within)


@pytest.mark.parametrize("kind", ["rms", "interval", "average"])
@pytest.mark.parametrize("ending", [".sgy", ".zarr"])
def test_cubes_survive_whatever_their_kind(tmp_path, ending, kind):
    path = tmp_path / f"v{ending}"
    CUBE.save(path, GRID, kind)
    found = Velocity.open(path)  # the file knows what its values are
    assert isinstance(found, Cube)
    assert np.abs(np.sort(found.grid.pillars, axis=0) - np.sort(GRID.pillars, axis=0)).max() < 0.01
    assert found.grid.t == pytest.approx(GRID.t)
    same(found)
    same(Velocity.open(path, kind))
    other = "average" if kind == "rms" else "rms"
    with pytest.raises(InputError, match=f"says its velocities are {kind}, not {other}"):
        Velocity.open(path, other)
    CUBE.scaled(90).save(path, GRID, kind)  # replaced
    same(Velocity.open(path), CUBE.scaled(90))


@pytest.mark.parametrize("kind", ["rms", "interval", "average"])
def test_text_survives_at_its_places(tmp_path, kind):
    CUBE.save(tmp_path / "v.txt", GRID, kind)
    found = Velocity.open(tmp_path / "v.txt")
    assert isinstance(found, Scattered)
    t = GRID.t[1:]
    assert found.on_pillars(t, GRID.pillars) == pytest.approx(CUBE.on_pillars(t, GRID.pillars), abs=0.05)


def test_any_order_of_traces_and_lines_makes_the_same_cube(tmp_path):
    path = tmp_path / "v.sgy"
    CUBE.save(path, GRID)
    with segyio.open(path, "r+", ignore_geometry=True) as file:
        order = np.random.default_rng(4).permutation(12)
        headers = [dict(file.header[int(i)]) for i in order]
        samples = file.trace.raw[:][order]
        for i in range(12):
            file.header[i] = headers[i]
            file.trace[i] = samples[i]
    same(Velocity.open(path))


def part_of(path, keep, out):
    """Copy some traces of a SEG-Y file."""
    with segyio.open(path, ignore_geometry=True) as file:
        spec = segyio.tools.metadata(file)
        spec.tracecount = len(keep)
        with segyio.create(out, spec) as other:
            other.bin = file.bin
            other.text[0] = file.text[0]
            for i, k in enumerate(keep):
                other.header[i] = file.header[k]
                other.trace[i] = file.trace[k]


@pytest.mark.parametrize("kind", ["rms", "interval"])
def test_a_cube_with_holes_becomes_functions(tmp_path, kind):
    CUBE.save(tmp_path / "v.sgy", GRID, kind)
    part_of(tmp_path / "v.sgy", [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11], tmp_path / "holes.sgy")
    found = Velocity.open(tmp_path / "holes.sgy")
    assert isinstance(found, Scattered)
    places = GRID.pillars[[0, 5, 11]]
    assert found.on_pillars(GRID.t[1:], places) == pytest.approx(CUBE.on_pillars(GRID.t[1:], places), abs=0.05)


@pytest.mark.parametrize("keep", [[0, 1, 2], [0, 3, 6, 9]], ids=["1xN", "Mx1"])
def test_sections(tmp_path, keep):
    CUBE.save(tmp_path / "v.sgy", GRID)
    part_of(tmp_path / "v.sgy", keep, tmp_path / "line.sgy")
    found = Velocity.open(tmp_path / "line.sgy")
    assert isinstance(found, Cube)
    assert found.grid.crossline_side == "right"
    assert found.on_pillars(GRID.t, GRID.pillars[keep]) == pytest.approx(
        CUBE.on_pillars(GRID.t, GRID.pillars[keep]), abs=0.01
    )


def test_one_trace_is_a_table(tmp_path):
    CUBE.save(tmp_path / "v.sgy", GRID)
    part_of(tmp_path / "v.sgy", [4], tmp_path / "one.sgy")
    found = Velocity.open(tmp_path / "one.sgy")
    assert not found.varies_laterally
    assert found.rms(GRID.t) == pytest.approx(CUBE.on_pillars(GRID.t, GRID.pillars[4:5])[0], abs=0.01)


def test_feet_become_metres(tmp_path):
    CUBE.save(tmp_path / "v.sgy", GRID)
    with segyio.open(tmp_path / "v.sgy", "r+", ignore_geometry=True) as file:
        file.bin[3255] = 2
    found = Velocity.open(tmp_path / "v.sgy")
    assert found.values.max() == pytest.approx(0.3048 * CUBE.values.max(), rel=1e-6)
    assert found.grid.dx == pytest.approx(0.3048 * 200, abs=0.01)


def test_other_peoples_cubes(shared):
    cube = Velocity.open(shared / "segyio" / "acute-small.sgy", bounds=(0.1, 12000))  # amplitudes 1 to 5, as velocities
    assert cube.values.shape == (5, 5, 50)
    assert cube.rms(0.0, 0.0, 10.0) == pytest.approx(1.2, abs=1e-4)
    with pytest.raises(InputError, match=r"all coordinates of 1xN\.sgy are zero|have inline 0"):
        Velocity.open(shared / "segyio" / "1xN.sgy", bounds=(-10, 1e5))
    with pytest.raises(InputError, match=r"m/s at inline .* is outside"):
        Velocity.open(shared / "segyio" / "f3.sgy")


PLAIN = """\
# kind: rms
X Y TIME VELOCITY
0 0 0 1500
0 0 1000 2000      # a comment
1000 0 0 1600
1000,0,1000,2200
0 1000 1000 2400
0 1000 0 1700
"""
CARDS = """\
V2 LINE-1  101  0.0 0.0       0 1500 1000 2000
V2 LINE-1  102  1000.0 0.0    0 1600
V2 LINE-1  102  1000.0 0.0    1000 2200
V2LINE-1   103  0.0 1000.0    0 1700 1000 2400
"""
ESSO = """\
V1 some title
V2 LINE-1  101  0 1500 1000 2000
V2 LINE-1  102  0 1600 1000 2200
V2 LINE-1  103  0 1700 1000 2400
"""
WESTERN = """\
LINE NORTH
SPNT       101   0.0 0.0
VELF  0 1500 1000 2000
SPNT       102   1000.0 0.0
VELF  0 1600
VELF  1000 2200
SPNT       103   0.0 1000.0
VELF  0 1700 1000 2400
"""
PLACES = {101: (0, 0), 102: (1000, 0), 103: (0, 1000)}


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (PLAIN, {}),
        (PLAIN.replace("1000 2", "1.000 2").replace("1000,2", "1,2"), {}),
        (PLAIN, {"unit": "ms", "columns": "x y t v"}),
        (CARDS, {}),
        (ESSO, {"places": PLACES}),
        (WESTERN, {}),
    ],
    ids=["plain", "seconds", "named", "cards", "esso", "western"],
)
def test_tables_of_picks(tmp_path, text, options):
    (tmp_path / "picks.dat").write_text(text)
    found = Velocity.open(tmp_path / "picks.dat", **options)
    assert found.rms([0.5, 1.0, 2.0], 0.0, 0.0) == pytest.approx([1750, 2000, 2000])
    assert found.rms([0.5, 1.0], 500.0, 0.0) == pytest.approx([1825, 2100])
    assert found.rms(1.0, 250.0, 250.0) == pytest.approx(0.5 * 2000 + 0.25 * 2200 + 0.25 * 2400)
    assert found.rms(1.0, -300.0, -300.0) == pytest.approx(2000)


def test_other_columns_and_one_function(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("IL XL X Y T V\n1 7 0 0 500 1500\n1 7 0 0 900 1800\n")
    assert Velocity.open(path, columns="- - x y t v").rms([0.7]) == pytest.approx([1650])
    path.write_text("500 1500\n900 1800\n")
    assert Velocity.open(path, "interval").interval([0.7]) == pytest.approx([1800])


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("0 0 500\n", {}, r"line 1 has 3 columns, not 2 \(t v\)"),
        ("0 0 500 1500\n0 0 600\n", {}, "line 2 has 3 columns, not 4"),
        ("0 0 500 1500\n0 0 x 1500\n", {}, "line 2: 'x' is no number"),
        ("0 0 500 1500\n0 0 500 1600\n", {}, "times at x 0.0, y 0.0 do not rise"),
        ("0 0 500 25\n", {}, "25 m/s at x 0.0, y 0.0, 0.5 s is outside"),
        ("0 0 0 1500\n0 0 500 1600\n", {"kind": "interval"}, "first time at x 0.0, y 0.0 is 0"),
        ("0 0 500 3000\n0 0 900 1500\n9 9 500 1500", {"kind": "average"}, "before 0.9 s at x 0.0, y 0.0"),
        ("# nothing\n", {}, "holds no picks"),
        ("title only\n", {}, "holds no picks"),
        ("# kind: stacking\n0 0 500 1500\n", {}, "velocities are 'stacking'"),
        ("# kind: rms\n0 0 500 1500\n", {"kind": "interval"}, "are rms, not interval"),
        ("1 2\n", {"columns": "x y t"}, "name x, y, t and v once each"),
        ("1 2\n", {"unit": "min"}, "auto, ms, s"),
        ("1 2\n", {"inline": 189}, "inline is no option here"),
        ("1 2\n", {"kind": "nmo"}, "rms, interval, average"),
        ("V2 L 101 500 1500\n", {}, "line 1: the point has no x and y"),
        ("V2 L 109 500 1500\n", {"places": PLACES}, "point 109 is not in places"),
        ("V2 L 101 0 0 500 1500 900\n", {}, "3 numbers are no pairs"),
        ("VELF 500 1500\n", {}, "the point has no x and y"),
    ],
)
def test_bad_tables_are_one_clear_sentence(tmp_path, text, options, words):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        Velocity.open(tmp_path / "a.txt", **options)
    assert "\n" not in str(caught.value)


NOWHERE = (("inline", "crossline"), np.zeros((4, 3)))


def swap(path, **changes):
    with xarray.open_zarr(path, consolidated=False) as data:
        data = data.load()
    shutil.rmtree(path)
    for name, value in changes.items():
        data = data.drop_vars(name) if value is None else data.assign_coords({name: value})
    data.to_zarr(path, zarr_format=3, consolidated=False)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "there is no file"),
        (lambda p: [shutil.rmtree(p), p.mkdir()], "cannot be opened as Zarr"),
        (lambda p: swap(p, velocity=None), "has 0 variables over inline, crossline and time"),
        (lambda p: swap(p, cdp_y=None), "has no coordinate cdp_y"),
        (lambda p: swap(p, time=np.arange(61) ** 2.0), "not evenly spaced"),
        (lambda p: swap(p, cdp_x=NOWHERE, cdp_y=NOWHERE), "are zero"),
    ],
)
def test_bad_folders_are_one_clear_sentence(tmp_path, spoil, words):
    CUBE.save(tmp_path / "v.zarr", GRID)
    spoil(tmp_path / "v.zarr")
    with pytest.raises(InputError, match=words) as caught:
        Velocity.open(tmp_path / "v.zarr")
    assert "\n" not in str(caught.value)


def test_bad_cubes_are_one_clear_sentence(tmp_path):
    path = tmp_path / "v.sgy"
    CUBE.save(path, GRID)
    with segyio.open(path, "r+", ignore_geometry=True) as file:
        file.header[5] = {189: 100, 193: 70}
    with pytest.raises(InputError, match="2 traces have inline 100 and crossline 70"):
        Velocity.open(path)
    with pytest.raises(InputError, match="sx is no header name"):
        Velocity.open(path, sx=73)
    CUBE.save(path, GRID)
    with segyio.open(path, "r+", ignore_geometry=True) as file:
        file.header[5] = {109: 8}
    with pytest.raises(InputError, match=r"traces start at 0 to 0\.008 s"):
        Velocity.open(path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="cut off, corrupt"):
        Velocity.open(path)
    with pytest.raises(InputError, match=r"ending is '.vel'; choose one of .sgy"):
        CUBE.save(tmp_path / "a.vel", GRID)
    (tmp_path / "mine.zarr").mkdir()
    with pytest.raises(InputError, match="exists and is no velocity"):
        CUBE.save(tmp_path / "mine.zarr", GRID)


@pytest.mark.parametrize("ending", [".sgy", ".zarr", ".txt"])
def test_job_files_name_velocity_files_and_other_surveys(tmp_path, ending):
    grid = Grid((-100.0, -100.0), 0, 3, 3, 200, 200, 30, 0.03)
    field = Velocity.cube(np.linspace(2000, 2600, 270).reshape(grid.shape), grid)
    field.save(tmp_path / f"v{ending}", grid)
    synthetic.dataset("tiny").select([0, 5, 900]).to_zarr(tmp_path / "s.zarr")
    text = f"""\
input: {{path: s.zarr}}
velocity: {{type: {"ascii" if ending == ".txt" else "cube"}, path: v{ending}, smooth_m: 300, smooth_ms: 100}}
grid: {{type: corners, corners: [[0, 0], [0, 50], [75, 50], [75, 0]], dx: 25, dy: 25, nt: 9, dt_ms: 4}}
"""
    work = workflow.assemble(jobfile.parse(text), tmp_path)
    assert work.grid.shape == (3, 4, 9)
    assert work.survey.n_traces == 3
    truth = Velocity.open(tmp_path / f"v{ending}").smoothed(300, 0.1)
    assert work.velocity.on_pillars([0.5], work.grid.pillars) == pytest.approx(
        truth.on_pillars([0.5], work.grid.pillars)
    )
