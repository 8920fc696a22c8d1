from __future__ import annotations

import inspect
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import ConfigError, InputError
from elinvar.seismic import Aperture, Grid, Mute, Velocity, config, jobfile, migrate, synthetic, workflow
from elinvar.seismic.config import JobConfig, memory_bytes

LEAST = {"input": {"path": "a.sgy"}, "velocity": {"type": "constant", "v": 2500}}


def job(**sections) -> JobConfig:
    return JobConfig.model_validate({**LEAST, **sections})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    synthetic.diffractors([(100, 100, 500)], extent=200, offsets=(150, 250), nt=400, noise=0.05).write_segy(
        folder / "a.sgy"
    )
    return folder


# -------------------------------------------------------------------- to YAML and back

positive = st.floats(1e-3, 1e7)
number = st.floats(-1e7, 1e7)
texts = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1, max_size=20)
maybe = st.none() | positive
pairs = st.tuples(positive, positive)
velocities = st.one_of(
    st.builds(config.ConstantVelocity, v=positive, bounds=pairs),
    st.builds(config.LinearVelocity, v0=positive, k=number),
    st.lists(st.tuples(number, positive), min_size=1, max_size=4).map(
        lambda p: config.TableVelocity(times_ms=[a for a, _ in p], v=[b for _, b in p], kind="interval")
    ),
    st.builds(config.CubeVelocity, path=texts, smooth_m=positive),
    st.builds(config.AsciiVelocity, path=texts, columns=st.none() | texts, percent=positive),
)
sizes = {"dx": positive, "dy": positive, "nt": st.integers(1, 9999), "dt_ms": positive, "t0_ms": positive}
corner = st.tuples(number, number)
grids = st.one_of(
    st.builds(config.SurveyGrid, bin_size=st.none() | pairs, azimuth=st.none() | number, t_max_ms=maybe, dt_ms=maybe),
    st.builds(
        config.ExplicitGrid, origin=corner, azimuth=number, nx=st.integers(1, 999), ny=st.integers(1, 999),
        inline=st.tuples(st.integers(), st.integers()), inlines=st.none() | st.lists(st.integers()), **sizes,
    ),
    st.builds(config.CornersGrid, corners=st.tuples(corner, corner, corner, corner), **sizes),
    st.builds(config.BoxGrid, x=corner, y=corner, **sizes),
    st.builds(
        config.LinesGrid, known=st.lists(st.tuples(st.integers(), st.integers(), number, number), min_size=3),
        inline=st.just((1, 9, 2)), crossline=st.just((9, 1, -2)), nt=st.integers(1, 99), dt_ms=positive,
    ),
)  # fmt: skip
gathers = st.one_of(
    st.none(),
    st.builds(config.OffsetGathers, edges=st.lists(number, min_size=2), along=st.none() | number),
    st.builds(config.AzimuthGathers, edges=st.lists(number, min_size=2), reciprocal=st.booleans()),
    st.builds(config.TileGathers, dx=positive, dy=positive),
)
jobs = st.builds(
    JobConfig,
    input=st.builds(
        config.Input, path=texts, dt_ms=maybe, bin_size=st.none() | pairs,
        header_bytes=st.dictionaries(st.sampled_from(["sx", "gx"]), st.integers(1, 240)),
        select=st.builds(config.Selection, where=st.none() | texts, offset=st.none() | pairs),
    ),
    velocity=velocities,
    grid=grids,
    algorithm=st.builds(config.Algorithm, amplitude=st.sampled_from(["true", "none"]), eta=maybe, gathers=gathers),
    output=st.builds(config.Output, zarr=texts, segy=st.none() | texts),
    execution=st.builds(
        config.Execution, device=texts, devices=st.none() | st.just("all") | st.lists(texts),
        memory=st.none() | st.just("8 GiB") | st.integers(1, 1 << 40),
        checkpoint=st.builds(config.Checkpointing, folder=st.none() | texts, seconds=positive),
    ),
)  # fmt: skip


scans = st.builds(config.ScanOptions, first=st.floats(1, 90), last=st.floats(90, 200), step=positive)
previews = st.builds(config.PreviewOptions, coarse=st.integers(2, 99), threshold=st.floats(0, 1))


def also(job, scan=None, preview=None):
    """A job whose result is a scan or a preview; it may then not ask for everything."""
    output = job.output.model_copy(update={"segy": None})
    algorithm = job.algorithm.model_copy(update={"gathers": None} if preview is not None else {})
    return job.model_copy(update={"output": output, "algorithm": algorithm, "scan": scan, "preview": preview})


@settings(max_examples=60, deadline=None)
@given(jobs | st.builds(also, jobs, scan=scans) | st.builds(also, jobs, preview=previews))
def test_nothing_is_lost_between_a_job_and_its_file(made):
    text = jobfile.render(made)
    assert jobfile.parse(text) == made
    assert jobfile.render(jobfile.parse(text)) == text


@pytest.mark.parametrize(
    "word", ["true", "null", "no", "1e3", "0x10", "2020-01-01", "~", "- a", "a: b", "#", "'", "ä µ"]
)
def test_words_that_yaml_reads_otherwise(word):
    made = job(input={"path": word}, output={"zarr": word})
    assert jobfile.parse(jobfile.render(made)) == made


def test_every_option_has_a_comment_with_its_meaning():
    for line in jobfile.render(job()).splitlines():
        if line.strip() and not line.lstrip().startswith(("#", "type:")):
            assert re.search(r"#\s\S", line), line


def test_the_jobs_in_the_guide_are_jobs():
    page = (Path(__file__).parents[2] / "docs" / "seismic_jobs.md").read_text(encoding="utf-8")
    made, scan = (jobfile.parse(text) for text in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL))
    assert scan.scan.last == 110
    assert made.grid.bin_size == (25, 25)
    assert memory_bytes(made.execution.memory) == 8 << 30


def test_a_bare_true_is_an_amplitude():
    assert jobfile.parse("input: {path: a}\nvelocity: {type: constant, v: 1}\nalgorithm: {amplitude: true}").algorithm


# -------------------------------------------------------------------- the file and the library agree


def test_apertures_have_the_same_options_and_defaults():
    known = {f.name: f.default for f in fields(Aperture)}
    assert {name: field.default for name, field in config.ApertureOptions.model_fields.items()} == known


def test_every_argument_of_migrate_can_be_written():
    arguments = set(inspect.signature(migrate).parameters) - {"survey", "velocity", "grid", "progress"}
    written = set(config.Algorithm.model_fields) | set(config.Execution.model_fields)
    assert arguments <= written
    assert set(inspect.signature(Grid).parameters) - {"dt", "t0"} <= set(config.ExplicitGrid.model_fields)


def test_defaults_are_those_of_migrate(tiny):
    defaults = {
        name: p.default for name, p in inspect.signature(migrate).parameters.items() if p.default is not p.empty
    }
    options = dict(workflow.assemble(job(), tiny).options)
    assert options.pop("aperture") == Aperture()
    for name, value in options.items():
        assert value == defaults[name], name
    assert set(defaults) - set(options) == {"aperture", "checkpoint", "progress"}


# -------------------------------------------------------------------- what is wrong

WRONG = {
    "algorithm: {aperture: {raduis: 3}}": "aperture.raduis is no option; did you mean algorithm.aperture.radius",
    "algorithm: {aperature: {}}": "algorithm.aperature is no option; did you mean algorithm.aperture",
    "algorithm: {dip: 30}": "algorithm.dip is no option; it belongs in algorithm.aperture.dip",
    "algorithm: {antialias: bank, spacing: 12.5}": "spacing is 12.5; it should be a list in brackets, such as [25, 25]",
    "dip: 30": "dip is no option; it belongs in algorithm.aperture.dip",
    "velocity: {type: constant, v: 2000, k: 0.5}": "velocity.k is no option",
    "velocity: {type: konstant, v: 2}": "velocity.type is 'konstant'; choose one of constant, linear, table, cube",
    "velocity: {v: 2}": "velocity.type is None; choose one of constant",
    "velocity: {type: constant}": "velocity.v is missing; it has no default",
    "velocity: {type: constant, v: fast}": "velocity.v is 'fast'; it should be a valid number",
    "velocity: {type: constant, v: .nan}": "velocity.v is nan; it should be a finite number",
    "velocity: {type: table, times_ms: [0, 1], v: [2000]}": "velocity: 2 times_ms for 1 v: give as many",
    "grid: {type: explicit, nx: 0}": "grid.nx is 0; it should be greater than or equal to 1",
    "algorithm: {physics: magic}": "algorithm.physics is 'magic'; it should be 'straight', 'curved' or 'vti'",
    "algorithm: {gathers: {type: offset, edges: [0, x]}}": "algorithm.gathers.edges[1] is 'x'",
    "output: {zarr: null}": "output: zarr and segy are both null: name one",
    "output: {zarr: null, segy: a.sgy, products: {qc: a.html}}": "output: pyramid and qc are made from the Zarr folder",
    "execution: {memory: plenty}": "execution.memory: 'plenty' is no amount of memory: write 8 GiB",
    "execution: {devices: all, cluster: local}": "leave one null",
    "scan: {first: 110, last: 90}": "scan: 110 % does not lead to 90 %",
    "scan: {by: 3}": "scan.by is no option; here are first, last, step",
    "scan: {}\npreview: {}": ": scan and preview are two different results: leave one null",
    "scan: {}\noutput: {segy: a.sgy}": ": output.segy holds one image, not a scan: leave it null",
    "preview: {coarse: 1}": "preview.coarse is 1; it should be greater than or equal to 2",
    "preview: {}\nalgorithm: {gathers: {type: offset, edges: [0, 9]}}": "belong to a real image",
    "preview: {}\nexecution: {limits: {minutes: 3}}": "cannot pause: leave it null",
    "execution: {limits: {minutes: 3}, checkpoint: {enabled: false}}": "which needs checkpoint.enabled: true",
    "elinvar: 2": "elinvar is 2; it should be 1",
    "algorithm: 3": "algorithm is 3; it should be a section: Algorithm",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named_with_what_is_right(text):
    name = text.partition(":")[0]
    rest = {"input": "input: {path: a.sgy}", "velocity": "velocity: {type: constant, v: 2500}"}
    rest.pop(name, None)
    with pytest.raises(ConfigError) as caught:
        jobfile.parse("\n".join([*rest.values(), text]), "line7.yaml")
    assert WRONG[text] in str(caught.value)
    assert str(caught.value).startswith("line7.yaml")
    assert "\n" not in str(caught.value)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError, match=r"has 3 problems: \(1\) .*; \(2\) .*; \(3\) .*\.$"):
        jobfile.parse("input: {path: a, pat: b}\nvelocity: {type: constant, v: x}\ngird: {}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("input: {path: a\n", "line 2, column 1"),
        ("\tinput: 3", "line 1, column 1"),
        ("- a", "a job file has sections"),
        ("", "a job file has sections"),
        ("input: {path: a}\ninput: {path: b}", "'input' is given twice at line 2, column 1"),
        ("input: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ],
)
def test_what_is_not_yaml(text, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        jobfile.parse(text)


def test_a_missing_or_binary_file(tmp_path):
    with pytest.raises(ConfigError, match="there is no job file"):
        jobfile.read(tmp_path / "no.yaml")
    (tmp_path / "b.yaml").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ConfigError, match="cannot be read"):
        jobfile.read(tmp_path / "b.yaml")


@pytest.mark.parametrize(
    ("text", "number"),
    [("8 GiB", 8 << 30), ("500M", 500 << 20), ("1.5 k", 1536), (12345, 12345), ("2TB", 2 << 40), (None, None)],
)
def test_amounts_of_memory(text, number):
    assert memory_bytes(text) == number
    for bad in ("0", "-1", "GiB", "8 apples", ""):
        with pytest.raises(ValueError, match="no amount of memory"):
            memory_bytes(bad)


# -------------------------------------------------------------------- what the library does not do yet


def test_what_is_not_built_is_refused_by_name(tiny):
    """Whatever migrate() refuses with NotImplementedError is an error of the job file, not of the running job."""
    tried = {
        "physics": ("curved", "vti"), "antialias": ("bank", "triangle"), "interpolation": ("cubic", "sinc8"),
    }  # fmt: skip
    survey = workflow.open_survey(config.Input(path="a.sgy"), tiny)
    for name, values in tried.items():
        for value in values:
            made = job(algorithm={name: value, **({"eta": 0.1} if value == "vti" else {})})
            refused = None
            try:
                migrate(
                    survey, Velocity.constant(2500), Grid.from_survey(survey, nt=20), device="cpu",
                    **{name: value, **({"eta": 0.1} if value == "vti" else {})},
                )  # fmt: skip
            except NotImplementedError as error:
                refused = str(error)
            if refused is None:
                workflow.assemble(made, tiny)
                continue
            with pytest.raises(ConfigError, match=f"{name}='{value}'"):
                workflow.assemble(made, tiny)


def test_every_problem_of_the_pieces_is_said(tiny):
    made = job(
        input={"path": "no.sgy"},
        velocity={"type": "constant", "v": 50000},
        algorithm={"aperture": {"dip": 95}},
        output={"zarr": "a.sgy/image.zarr"},
    )
    with pytest.raises(ConfigError) as caught:
        workflow.assemble(made, tiny)
    text = str(caught.value)
    for words in ("4 problems", "there is no file", "50000 m/s is outside", "dip is 95", "is no folder to write in"):
        assert words in text


# -------------------------------------------------------------------- what the sections become


def test_selection(tiny):
    survey = workflow.open_survey(config.Input(path="a.sgy"), tiny)
    some = {"where": "offset > 200", "azimuth": (350, 10)}
    picked = workflow.open_survey(config.Input.model_validate({"path": "a.sgy", "select": some}), tiny)
    assert len(picked) == len(survey) // 2
    near = config.Input.model_validate({"path": "a.sgy", "select": {"offset": [0, 200]}})
    assert workflow.open_survey(near, tiny).offset.max() < 200
    with pytest.raises(ConfigError, match="leaves no trace"):
        workflow.open_survey(config.Input.model_validate({"path": "a.sgy", "select": {"where": "offset > 1e6"}}), tiny)
    with pytest.raises(ConfigError, match=r"give input\.select\.offset"):
        workflow.open_survey(config.Input.model_validate({"path": "a.sgy", "select": {"along": 3}}), tiny)
    with pytest.raises(InputError, match="is not understood"):
        workflow.open_survey(config.Input.model_validate({"path": "a.sgy", "select": {"where": "open(3)"}}), tiny)


def test_grids(tiny):
    survey = workflow.open_survey(config.Input(path="a.sgy"), tiny)
    grid = workflow.build_grid(config.SurveyGrid(bin_size=(50, 25), t_max_ms=400, dt_ms=4), survey)
    assert (grid.dx, grid.dy, grid.nt, grid.dt) == (50, 25, 101, 0.004)
    assert workflow.build_grid(workflow.explicit(grid), survey) == grid
    line = workflow.build_grid(config.SurveyGrid(inlines=[3], t_max_ms=100), survey)
    assert (line.nx, line.ny) == (1, 9)
    assert line.inlines.tolist() == [3]


def test_grids_from_corners_boxes_and_lines(tiny):
    survey = workflow.open_survey(config.Input(path="a.sgy"), tiny)
    times = {"nt": 20, "dt_ms": 4, "t0_ms": 100}
    box = workflow.build_grid(config.BoxGrid(x=(0, 200), y=(0, 100), dx=50, dy=25, **times), survey)
    assert (box.nx, box.ny, box.nt, box.dt, box.t0) == (3, 9, 20, 0.004, 0.1)
    corners = ((0, 0), (0, 100), (200, 100), (200, 0))
    assert workflow.build_grid(config.CornersGrid(corners=corners, dx=50, dy=25, **times), survey).shape == box.shape
    known = [(10, 1, 0.0, 0.0), (12, 1, 0.0, 50.0), (10, 9, 200.0, 0.0)]
    grid = config.LinesGrid(known=known, inline=(10, 14, 2), crossline=(1, 9, 1), **times)
    assert workflow.build_grid(grid, survey).inlines.tolist() == [10, 12, 14]
    with pytest.raises(InputError, match=r"Grid\.from_corners"):
        workflow.build_grid(config.CornersGrid(corners=(*corners[:3], (200, 40)), dx=50, dy=25, **times), survey)


def test_velocity_files(tiny):
    field = Velocity.table([0.0, 1.0], [2000, 3000])
    field.save(tiny / "v.zarr", Grid((0, 0), 0, 3, 3, 100, 100, 11, 0.1))
    cube = workflow.build_velocity(config.CubeVelocity(path="v.zarr"), tiny)
    assert cube.varies_laterally
    assert cube.rms(0.5, 50.0, 50.0) == pytest.approx(2500, rel=1e-6)
    field.save(tiny / "v.txt", Grid((0, 0), 0, 2, 2, 100, 100, 11, 0.1))
    table = workflow.build_velocity(config.AsciiVelocity(path="v.txt", percent=110), tiny)
    assert table.rms(0.5, 50.0, 50.0) == pytest.approx(2750, rel=1e-6)
    (tiny / "w.txt").write_text("500 2000\n1000 3000\n")
    spelled = config.AsciiVelocity(path="w.txt", columns="t v", unit="ms", kind="interval", smooth_ms=10)
    assert workflow.build_velocity(spelled, tiny).rms(1.0) == pytest.approx(np.sqrt(6.5e6), rel=0.05)
    with pytest.raises(InputError, match="there is no file"):
        workflow.build_velocity(config.CubeVelocity(path="no.sgy"), tiny)


def test_other_formats_of_surveys(tiny):
    survey = workflow.open_survey(config.Input(path="a.sgy"), tiny)
    survey.to_zarr(tiny / "a.zarr")
    again = workflow.open_survey(config.Input(path="a.zarr", bin_size=(25, 25)), tiny)
    assert np.array_equal(again.read(), survey.read())
    assert again.bin_size == (25, 25)
    with pytest.raises(ConfigError, match="belong to SEG-Y and SU files"):
        workflow.open_survey(config.Input(path="a.zarr", dt_ms=2), tiny)
    with pytest.raises(InputError, match=r"a\.sgy"):
        workflow.open_survey(config.Input(path="a.sgy", format="su"), tiny)


def test_gathers_and_velocities():
    bins = workflow.build_gathers(config.OffsetGathers(edges=[0, 300, 600], along=90))
    assert (bins.edges, bins.along) == ((0, 300, 600), 90)
    assert workflow.build_gathers(config.AzimuthGathers(edges=[0, 90])).edges == (0, 90)
    assert workflow.build_gathers(config.TileGathers(dx=400, dy=300)).dy == 300
    assert workflow.build_gathers(None) is None
    table = config.TableVelocity(times_ms=[500, 1000], v=[2000, 3000], kind="interval")
    assert workflow.build_velocity(table, None).rms(1.0) == pytest.approx(np.sqrt(6.5e6))
    assert workflow.build_velocity(config.LinearVelocity(v0=1800, k=0.6), None).gradient() == (1800, 0.6)
    with pytest.raises(InputError, match="outside 1500 to 2500"):
        workflow.build_velocity(config.ConstantVelocity(v=3000, bounds=(1500, 2500)), None)


def test_a_new_job_is_valid_and_covers_the_survey(tiny):
    made = workflow.create("a.sgy", tiny)
    assert jobfile.parse(jobfile.render(made)) == made
    work = workflow.assemble(made, tiny)
    assert work.grid == Grid.from_survey(work.survey)
    assert workflow.create().input.path == "survey.sgy"


def test_times_survive_milliseconds():
    for dt in (0.001, 0.002, 0.004, 1 / 3000, 0.0005):
        grid = Grid((0, 0), 0, 1, 1, 1, 1, 5, dt, 3 * dt)
        assert workflow.build_grid(workflow.explicit(grid), None).dt == pytest.approx(dt, rel=1e-9)


# -------------------------------------------------------------------- looking at samples, estimating


def test_checking_samples(tiny):
    survey = workflow.open_survey(config.Input(path="a.sgy"), tiny)
    found = workflow.check_data(survey)
    assert (found.traces, found.silent, found.broken) == (len(survey), 0, 0)
    assert found.rms > 0
    data = survey.read()
    data[7] = 0
    made = type(survey).from_arrays(data, survey.source, survey.receiver, survey.dt)
    assert workflow.check_data(made).silent == 1
    data[9, 3] = np.nan
    made = type(survey).from_arrays(data, survey.source, survey.receiver, survey.dt)
    with pytest.raises(InputError, match=r"1 of \d+ traces have samples that are not finite, first trace 9"):
        workflow.check_data(made)
    made = type(survey).from_arrays(0 * survey.read(), survey.source, survey.receiver, survey.dt)
    with pytest.raises(InputError, match="zero throughout"):
        workflow.check_data(made)
    with pytest.raises(InputError, match="zero throughout; there is nothing to image"):
        migrate(made, Velocity.constant(2500), Grid.from_survey(made, nt=50), device="cpu")


def test_the_time_says_where_it_comes_from(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path / "cache"))
    made = job(execution={"device": "cpu"}, output={"zarr": str(tmp_path / "image.zarr")})
    work = workflow.assemble(made, tiny)
    assert workflow.estimate(work).plan.seconds is None
    tried = workflow.estimate(work, measure=True)
    assert tried.plan.seconds > 0
    assert "measured just now on a small part of the job." in str(tried)
    assert replace(tried, plan=workflow.estimate(work).plan) == workflow.estimate(work)
    from elinvar.runtime.device import device
    from elinvar.runtime.tuning import save_tuned

    save_tuned(device("cpu").profile, "rate.seismic.migrate", 1e9)
    plan = workflow.estimate(work)
    assert plan.plan.seconds == pytest.approx(plan.contributions / 1e9)
    assert "1e+09 contributions/s, measured by `elinvar tune`." in str(plan)
    monkeypatch.setattr(workflow, "_WORTH_A_RATE", 0.0)
    image = workflow.execute(work, None)
    plan = workflow.estimate(work)
    assert plan.plan.seconds == pytest.approx(image.timing.kernel, rel=0.2)
    assert "measured by the run of 2" in str(plan)


def test_an_existing_result_is_not_replaced_unasked(tiny, tmp_path):
    (tmp_path / "image.zarr").mkdir()
    made = job(
        execution={"device": "cpu"},
        output={"zarr": str(tmp_path / "image.zarr")},
        grid={"type": "survey", "t_max_ms": 100},
    )
    with pytest.raises(ConfigError, match=r"exists; set output\.overwrite: true"):
        workflow.execute(workflow.assemble(made, tiny), None)
    made.output.overwrite = True
    workflow.execute(workflow.assemble(made, tiny), None)
    assert (tmp_path / "image.zarr" / "zarr.json").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["image.zarr"]


def test_mutes_limits_and_datums_reach_the_migration(tiny):
    text = """
input: {path: a.sgy}
velocity: {type: constant, v: 2500}
algorithm:
  aperture: {inline: 300, crossline: 200, leg_dip: 50, stretch: 1.5}
  mute: {table: [[0, 0], [400, 250]], taper_ms: 12}
  normalize: illumination
  dimension: 2.5d
  datum: 20
  replacement: 1600
"""
    work = workflow.assemble(jobfile.parse(text), tiny)
    assert work.options["mute"] == Mute(False, ((0, 0), (400, 0.25)), 0.012)
    assert work.options["aperture"] == Aperture(inline=300, crossline=200, leg_dip=50, stretch=1.5)
    assert [work.options[k] for k in ("normalize", "dimension", "datum", "replacement")] == [
        "illumination", "2.5d", 20, 1600
    ]  # fmt: skip
    job = workflow.estimate(work)
    assert job.version == "baseline"
    assert jobfile.parse(jobfile.render(work.config)) == work.config


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        ("mute: {taper_ms: 5}", "neither header nor table"),
        ("mute: {table: [[5, 1], [5, 2]]}", "offsets rising"),
        ("datum: 5", "needs replacement"),
        ("replacement: 1500", "belongs to datum"),
        ("aperture: {stretch: 1}", "stretch is 1"),
        ("normalize: volume", "normalize is 'volume'"),
        ("dimension: 2d5", "dimension is '2d5'"),
    ],
)
def test_wrong_mutes_and_datums_are_named(tiny, ways, words):
    text = f"input: {{path: a.sgy}}\nvelocity: {{type: constant, v: 2500}}\nalgorithm: {{{ways}}}\n"
    with pytest.raises(ConfigError, match=words):
        workflow.assemble(jobfile.parse(text), tiny)
