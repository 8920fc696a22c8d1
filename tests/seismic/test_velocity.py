from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import InputError
from elinvar.seismic import Grid, Velocity
from elinvar.seismic.velocity import convert, dix

T = np.array([0.5, 1.0, 1.8, 3.0])
LAYERS = np.array([1600.0, 2100.0, 2600.0, 3400.0])


def integrate(velocity, t, power):
    """Mean of v_interval^power over 0..t, by summation."""
    fine = (np.arange(200_000) + 0.5) * t / 200_000
    return np.mean(velocity.interval(fine) ** power)


def test_constant():
    v = Velocity.constant(2500)
    assert (v.rms(np.linspace(0, 4, 9)) == 2500).all()
    assert (v.average([1.0]) == 2500).all()
    assert v.gradient() == (2500, 0)
    assert v.on_pillars(np.arange(5) * 0.1, np.zeros((3, 2))).shape == (1, 5)


@pytest.mark.parametrize("velocity", [Velocity.linear(1800, 0.6), Velocity.table(T, LAYERS, "interval")], ids=str)
@pytest.mark.parametrize("t", [0.3, 1.0, 1.4, 4.0])
def test_rms_and_average_are_means_of_the_interval_velocity(velocity, t):
    assert velocity.rms(t) ** 2 == pytest.approx(integrate(velocity, t, 2), rel=1e-5)
    assert velocity.average(t) == pytest.approx(integrate(velocity, t, 1), rel=1e-5)


def test_linear_by_the_closed_form():
    t = np.array([0.4, 2.0])
    assert Velocity.linear(1800, 0.6).rms(t) == pytest.approx(1800 * np.sqrt((np.exp(0.6 * t) - 1) / (0.6 * t)))
    assert Velocity.linear(1800, 0.6).rms(0.0) == 1800
    assert Velocity.linear(2000, -0.3).rms(1.0) < 2000


def test_an_rms_table_is_linear_between_and_constant_outside():
    v = Velocity.table([1.0, 2.0], [2000, 3000])
    assert v.rms([0.2, 1.0, 1.5, 2.0, 9.0]).tolist() == [2000, 2000, 2500, 3000, 3000]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(1000, 6000), min_size=1, max_size=8))
def test_dix_undoes_rms(layers):
    t = 0.3 * np.arange(1, len(layers) + 1)
    rms = Velocity.table(t, layers, "interval").rms(t)
    assert dix(t, rms) == pytest.approx(layers, rel=1e-9)
    assert Velocity.table(t, rms).interval(t - 0.15) == pytest.approx(layers, rel=1e-9)


def test_an_average_table_becomes_layers():
    layered = Velocity.table(T, LAYERS, "interval")
    averaged = Velocity.table(T, layered.average(T), "average")
    t = np.linspace(0, 4, 33)
    assert averaged.rms(t) == pytest.approx(layered.rms(t), rel=1e-12)
    assert averaged.interval(t) == pytest.approx(layered.interval(t), rel=1e-12)


def test_dix_names_the_impossible_pick():
    with pytest.raises(InputError, match=r"between 1 s and 1\.1 s"):
        dix([0.5, 1.0, 1.1], [2000, 3000, 2500])


GRID = Grid((1000.0, 2000.0), 30.0, 3, 4, 200.0, 300.0, 5, 0.5)


def test_a_cube_is_trilinear_and_clamped():
    i, j, k = np.meshgrid(range(3), range(4), range(5), indexing="ij")
    cube = Velocity.cube(2000 + 100 * i + 10 * j + 50 * k, GRID)
    x, y = GRID.position([0.5, 1.25, -3, 7], [1.5, 2.75, 0, 9])
    assert cube.rms([0.75, 1.0, 0.0, 9.0], x, y) == pytest.approx([2140, 2252.5, 2000, 2430])
    assert cube.on_pillars(GRID.t, GRID.pillars).shape == (12, 5)
    assert cube.on_pillars(GRID.t, GRID.pillars) == pytest.approx((2000 + 100 * i + 10 * j + 50 * k).reshape(12, 5))
    with pytest.raises(InputError, match="needs x and y"):
        cube.rms([1.0])


def test_a_cube_of_interval_velocities_is_converted():
    t = Grid((0, 0), 0, 1, 1, 1, 1, 6, 0.5).t
    layers = np.array([1500.0, 1500, 1800, 2200, 2500, 3000])
    cube = Velocity.cube(layers[None, None], Grid((0, 0), 0, 1, 1, 1, 1, 6, 0.5), "interval")
    table = Velocity.table(t[1:], layers[1:], "interval")
    assert cube.rms(t, 0.0, 0.0) == pytest.approx(table.rms(t), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Velocity.constant(2.5), "2.5 m/s is outside 100 to 12000"),
        (lambda: Velocity.constant(float("nan")), "nan"),
        (lambda: Velocity.constant("fast"), "give one number"),
        (lambda: Velocity.constant(1500, bounds=(2000, 3000)), "outside 2000 to 3000"),
        (lambda: Velocity.linear(1800, 60), "k is 60"),
        (lambda: Velocity.table([1, 2], [2000]), "equal length"),
        (lambda: Velocity.table([2, 1], [2000, 2100]), "increasing"),
        (lambda: Velocity.table([-1, 1], [2000, 2100]), "increasing"),
        (lambda: Velocity.table([1], [2000], "nmo"), "rms, interval, average"),
        (lambda: Velocity.table([0, 1], [1500, 2000], "interval"), "must be > 0"),
        (lambda: Velocity.table([1], [0.0]), "outside"),
        (lambda: Velocity.cube(np.ones((2, 2, 2)), GRID), "this grid needs"),
        (lambda: Velocity.cube(np.ones(GRID.shape), GRID), "outside"),
        (lambda: Velocity.table([1, 2], [3000, 1000], "average").rms(1.0), "depth decreases"),
    ],
)
def test_wrong_velocities_are_named(make, words):
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        make()


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(1000, 6000), min_size=1, max_size=8),
    st.sampled_from(["rms", "interval", "average"]),
    st.sampled_from(["rms", "interval", "average"]),
    st.booleans(),
)
def test_kinds_turn_into_one_another_and_back_exactly(layers, kind, to, from_zero):
    t = 0.3 * np.arange(1, len(layers) + 1)
    if from_zero:
        t, layers = np.concatenate([[0.0], t]), [layers[0], *layers]
    v = convert(t, layers, "interval", kind)
    assert convert(t, convert(t, v, kind, to), to, kind) == pytest.approx(v, rel=1e-9)
    summed = np.cumsum(np.square(layers) * np.diff(t, prepend=0.0))
    assert convert(t, layers, "interval", "rms") ** 2 * t == pytest.approx(summed, rel=1e-12)


def test_an_impossible_layer_is_found_on_the_map():
    values = np.full(GRID.shape, 2000.0)
    values[2, 1, 3] = 500.0
    x, y = GRID.position(2, 1)
    with pytest.raises(InputError, match=rf"at inline 3, crossline 2 \(x {x:.1f}, y {y:.1f}\)"):
        Velocity.cube(values, GRID, "average")
    cube = Velocity.cube(values, GRID)  # as RMS it can be migrated with; it has no layers
    with pytest.raises(InputError, match=rf"between 1 s and 1\.5 s at x {x:.1f}, y {y:.1f}"):
        cube.interval(GRID.t, *(side[..., None] for side in GRID.map))
    values[2, 1, 3] = 50.0
    with pytest.raises(InputError, match=r"50 m/s at inline 3, crossline 2 .* 1\.5 s is outside"):
        Velocity.cube(values, GRID)


def test_a_cube_has_layers():
    layers = np.array([1500.0, 1500, 1800, 2200, 2500]) + 100 * np.arange(12).reshape(3, 4, 1)
    cube = Velocity.cube(layers, GRID, "interval")
    x, y = (side[..., None] for side in GRID.map)
    assert cube.interval(GRID.t, x, y) == pytest.approx(layers, rel=1e-9)
    assert cube.interval(0.7, x[2, 1], y[2, 1]) == pytest.approx(layers[2, 1, 2])
    table = Velocity.table(GRID.t[1:], layers[2, 1, 1:], "interval")
    t = np.array([0.0, 0.2, 0.5, 1.3, 2.0, 3.5])
    assert cube.average(t, *GRID.position(2, 1)) == pytest.approx(table.average(t), rel=1e-9)


FIELDS = [
    Velocity.constant(2500),
    Velocity.linear(1800, 0.6),
    Velocity.table([0.5, 2.0], [1800, 2600]),
    Velocity.table(T, LAYERS, "interval"),
    Velocity.table(T, LAYERS, "average"),
    Velocity.cube(np.linspace(1500, 3000, 60).reshape(GRID.shape), GRID),
    Velocity.functions([(900, 1900), (2000, 2500), (1200, 3000)], [(T, LAYERS), (T[1:], LAYERS[1:]), ([1], [2000])]),
    Velocity.functions([(900, 1900), (2000, 2500)], [(T, LAYERS), (T[1:], LAYERS[1:])], "interval"),
]


@pytest.mark.parametrize("velocity", FIELDS, ids=str)
def test_percent_scans_scale_every_kind(velocity):
    place = GRID.position([0.3, 1.7], [2.2, 0.1])
    t = np.array([0.3, 1.7])
    scan = dict(velocity.scan((90, 110, 5)))
    assert list(scan) == [90, 95, 100, 105, 110]
    for percent, scaled in scan.items():
        for kind in ("rms", "interval", "average"):
            before = getattr(velocity, kind)(t, *place)
            assert getattr(scaled, kind)(t, *place) == pytest.approx(0.01 * percent * before, rel=1e-12), kind
    assert [p for p, _ in velocity.scan((110, 90, -10))] == [110, 100, 90]
    assert [p for p, _ in velocity.scan((99, 101, 0.1))][3] == 99.3


@pytest.mark.parametrize("velocity", FIELDS, ids=str)
def test_smoothing_a_field(velocity):
    place = GRID.position([0.3, 1.7], [2.2, 0.1])
    t = np.linspace(0, 3, 7)[:, None]
    assert velocity.smoothed().rms(t, *place) == pytest.approx(velocity.rms(t, *place), rel=1e-12)
    wide = velocity.smoothed(metres=1e5, seconds=10.0)
    rough, flat = (np.std(v.rms(t, *place)) for v in (velocity, wide))
    assert flat <= rough * (1.0 if isinstance(velocity, type(FIELDS[0])) else 0.4) + 1e-9


def test_smoothing_is_a_gaussian_of_slowness():
    grid = Grid((0, 0), 0, 81, 81, 50, 25, 1, 0.1)
    values = np.full(grid.shape, 2000.0)
    values[40, 40] = 1000.0
    found = 1 / Velocity.cube(values, grid).smoothed(metres=200).values[..., 0] - 1 / 2000
    assert found.sum() == pytest.approx(1 / 1000 - 1 / 2000, rel=1e-3)  # slowness is kept
    x, y = (c - c[40, 40] for c in grid.map)
    assert np.sqrt((found * y**2).sum() / found.sum()) == pytest.approx(200, rel=0.01)  # along inlines, 50 m bins
    assert np.sqrt((found * x**2).sum() / found.sum()) == pytest.approx(200, rel=0.01)  # across them, 25 m bins
    table = Velocity.table(np.linspace(0, 4, 401), np.where(np.arange(401) < 200, 2000.0, 4000.0)).smoothed(seconds=0.2)
    slow = 1 / table.rms([1.795, 1.995, 2.195])
    edge = 0.5 * (1 / 2000 + 1 / 4000)
    assert slow == pytest.approx([1 / 4000 + 0.8413 / 4000, edge, 1 / 4000 + 0.1587 / 4000], rel=0.02)


PLACES = [(0.0, 0.0), (1000.0, 0.0), (0.0, 1000.0), (1000.0, 1000.0)]


def plane(x, y, t):
    return 2000 + 0.3 * x + 0.5 * y + 100 * t


def test_scattered_functions_are_linear_between_and_nearest_outside():
    tables = [
        (t, plane(x, y, t))
        for (x, y), t in zip(PLACES, map(np.array, ([0, 4.0], [0, 1, 4.0], [0, 2, 4.0], [0, 4.0])), strict=True)
    ]
    far = np.array([4e5, 6.7e6])
    field = Velocity.functions(np.add(PLACES, far), tables)
    rng = np.random.default_rng(2)
    x, y, t = rng.uniform(0, 1000, 50), rng.uniform(0, 1000, 50), rng.uniform(0, 4, 50)
    assert field.rms(t, x + far[0], y + far[1]) == pytest.approx(plane(x, y, t), rel=1e-9)
    outside = np.array([(-500, 300, 0, 300), (1200, 1300, 1000, 1000), (400, -50, 400, 0), (2000, 400, 1000, 400)])
    a, b, c, d = outside.T
    assert field.rms(9.0, a + far[0], b + far[1]) == pytest.approx(plane(c, d, 4.0), rel=1e-9)
    pillars = np.stack([x, y], axis=1) + far
    times = np.linspace(0, 4, 9)
    assert field.on_pillars(times, pillars) == pytest.approx(plane(x[:, None], y[:, None], times), rel=1e-9)
    again = pickle.loads(pickle.dumps(field))
    assert np.array_equal(again.on_pillars(times, pillars), field.on_pillars(times, pillars))


def test_functions_along_a_line_are_the_same_across_it():
    field = Velocity.functions([(0, 0), (300, 400), (600, 800)], [([1], [2000]), ([1], [3000]), ([1], [3500])])
    assert field.rms(1.0, [150, 150 - 40, 450 + 80, -100, 900], [200, 200 + 30, 600 - 60, 0, 900]) == pytest.approx(
        [2500, 2500, 3250, 2000, 3500]
    )


@pytest.mark.parametrize("kind", ["interval", "average"])
def test_scattered_layers_are_exact_at_their_places(kind):
    tables = [Velocity.table(T, LAYERS * f, kind) for f in (1.0, 1.1, 0.9)]
    field = Velocity.functions(PLACES[:3], [(T, LAYERS * f) for f in (1.0, 1.1, 0.9)], kind)
    t = np.linspace(0, 4, 41)
    for (x, y), table in zip(PLACES, tables, strict=False):
        assert field.rms(t, x, y) == pytest.approx(table.rms(t), rel=1e-9)
        assert field.interval(t, x, y) == pytest.approx(table.interval(t), rel=1e-9)
        assert field.average(t, x, y) == pytest.approx(table.average(t), rel=1e-9)


def test_one_function_is_a_table():
    assert not Velocity.functions([(5, 5)], [(T, LAYERS)]).varies_laterally


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Velocity.functions([], []), "no functions|shape"),
        (lambda: Velocity.functions([(0, 0), (1, 1)], [([1], [2000])]), r"give \(1, 2\)"),
        (lambda: Velocity.functions([(0, 0)] * 2, [([1], [2000])] * 2), "several functions at x 0.0, y 0.0"),
        (lambda: Velocity.functions([(0, 0)], [([1, 2], [2000])]), "at x 0.0, y 0.0 t has shape"),
        (lambda: Velocity.functions([(0, 9)], [([2, 1], [2000, 2100])]), "times at x 0.0, y 9.0 do not rise"),
        (lambda: Velocity.functions([(0, 9)], [([0, 1], [2000, 2100])], "interval"), "first time at x 0.0, y 9.0 is 0"),
        (lambda: Velocity.functions([(0, 9)], [([1], [20])]), "20 m/s at x 0.0, y 9.0, 1 s is outside"),
        (lambda: Velocity.functions(PLACES[:2], [([1, 2], [3000, 1000])] * 2, "average"), "before 2 s at x 0.0, y 0.0"),
        (lambda: Velocity.constant(2000).scaled(0), "percent is 0"),
        (lambda: Velocity.constant(2000).scan((90, 110, -2)), "90 does not lead to 110"),
        (lambda: Velocity.constant(2000).scan((90, 110, 0)), "does not lead"),
        (lambda: Velocity.constant(2000).scan((90, 110)), "first, last and step"),
        (lambda: Velocity.constant(2000).scan((90, 2000, 10)), "percent is 1010"),
        (lambda: Velocity.constant(2000).smoothed(-1), "metres is -1"),
        (lambda: Velocity.constant(2000).smoothed(0, 100), "in seconds"),
    ],
)
def test_wrong_fields_are_named(make, words):
    with pytest.raises(InputError, match=words):
        make()
