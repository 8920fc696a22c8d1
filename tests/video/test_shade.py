"""Chains as one kernel: numba and Metal against plain torch in float64."""

from __future__ import annotations

import pytest
import torch

from elinvar import metal
from elinvar.errors import InputError
from elinvar.metal import nvrtc
from elinvar.video import ops, shade
from elinvar.video.kernels.shade.text import resident
from elinvar.video.passes.base import Moment
from elinvar.video.passes.grade import CDL, Grade
from elinvar.video.shadecode import Op, numba_text, read
from elinvar.video.shademetal import metal_text
from elinvar.video.shading import clamp, powr, value_noise, where
from elinvar.video.yuv import coding

VIGNETTE = Op(ops.vignette, {"focal": 50.0, "half_width": 18.0, "power": 4.0, "roundness": 0.7, "intensity": 0.5})
GRAIN = Op(ops.grain, {"amount": 0.02, "shadows": 1.2, "seed": -7})
LOOK = [
    Op(ops.add, {"fr": 0.1, "fg": 0.2, "fb": 0.3}, ("half",)),
    VIGNETTE,
    Op(ops.aces_fit, {}),
    Op(ops.gamma_encode, {"gamma": 2.4}),
    GRAIN,
]
"""The hot look: every test of it uses one compiled kernel."""
AT = Moment(3, 24, 51, 37)  # type: ignore[arg-type]


@pytest.fixture
def inputs(random_frame):
    return random_frame(37, 51, 2.0), random_frame(19, 26, 0.5, 1)


def speckle(r, g, b, y, seed: int):
    """Noise that depends on a colour, behind which the place of nothing is known."""
    y = y / 3.0
    n = value_noise(8.0 * r, y, seed) + value_noise(y, 0.5 * y, seed)
    return r + 0.01 * n, g, b


def everything() -> list[Op]:
    """Every point-wise function of `ops` that takes no further frame, in one chain that stays in range."""
    grade = [
        *Grade(0.3, 0.2, -0.1, 1.1, 0.18, 1.2).ops(AT),
        *CDL((1.1, 1.0, 0.9), (0.01,) * 3, (0.9, 1.0, 1.1), 0.9).ops(AT),
    ]
    leak = {
        "cx": 0.2,
        "cy": 0.3,
        "rx": 0.6,
        "ry": 0.9,
        "fr": 0.3,
        "fg": 0.1,
        "fb": 0.05,
        "scale": 3.0,
        "drift": 0.1,
        "seed": 5,
    }
    pairs = [
        (ops.acescct_encode, ops.acescct_decode),
        (ops.srgb_encode, ops.srgb_decode),
        (ops.hlg_encode, ops.hlg_decode),
    ]
    return [
        Op(ops.finite, {}), *grade, Op(ops.light_leak, leak), *[Op(f, {}) for pair in pairs for f in pair],
        Op(ops.pq_encode, {"nits": 100.0}), Op(ops.pq_decode, {"nits": 100.0}), Op(ops.reinhard, {"white": 4.0}),
        Op(ops.hable, {}), Op(ops.narkowicz, {}), Op(ops.gamma_decode, {"gamma": 2.2}),
        Op(ops.coarse_grain, {"amount": 0.02, "shadows": 1.2, "size": 3.0, "seed": 9}),
        Op(ops.toward, {"cr": 0.1, "cg": 0.2, "cb": 0.3, "t": 0.25}), Op(ops.uniform_dither, {"step": 0.01, "seed": 3}),
        Op(speckle, {"seed": 4}), Op(ops.false_colour, {}),
    ]  # fmt: skip


@pytest.fixture
def long_walks(monkeypatch) -> None:
    """Several pairs of rows for a thread, as only large frames have."""
    monkeypatch.setattr(shade, "_walk", lambda _groups, lines, _places, _turns=1: (4, -(-lines // 4)))


def test_walks_cover_a_frame_and_are_longer_where_there_is_more_to_do() -> None:
    for groups, lines, places in ((31, 1080, 1848), (16, 540, 1848), (3, 7, 14), (1, 1, 32), (200, 2160, 96)):
        units, rows = shade._walk(groups, lines, places)
        assert (rows - 1) * units < lines <= rows * units
        assert units == 1 or groups * rows > places, "a small frame is worked on by all"
    assert shade._walk(31, 1080, 1848)[0] > shade._walk(16, 540, 1848)[0] > 1
    for lines in (1, 2, 7, 1080):
        units, rows = shade._walk(31, lines, 1848, 2)
        assert units % 2 == 0, "loops of two turns have whole turns"
        assert (rows - 1) * units < lines <= rows * units


@pytest.mark.gxx
@pytest.mark.usefixtures("long_walks")
@pytest.mark.parametrize(("height", "width"), [(6, 66), (9, 2), (5, 1), (1, 8)])
def test_metal_at_every_kind_of_edge(height: int, width: int, random_frame) -> None:
    frame, half = random_frame(height, width, 2.0), random_frame(-(-height // 2), -(-width // 2), 0.5, 1)
    want = shade.reference(frame.double(), LOOK, [half])
    got = shade.apply(frame, LOOK, [half], backend="metal")
    assert (got.double().clamp(0) ** 2.4 - want.clamp(0) ** 2.4).abs().max() < 2e-6
    how = coding("yuv420p", "bt709", "limited", "topleft")
    apart = shade.encode(shade.apply(frame, LOOK, [half]), (), (), how)
    for x, y in zip(apart, shade.encode(frame, LOOK, [half], how, backend="metal"), strict=True):
        assert (x.int() - y.int()).abs().max() <= 1


def test_a_fused_look_is_its_passes_one_by_one(inputs) -> None:
    frame, half = inputs
    want = shade.reference(frame.double(), LOOK, [half])
    got = shade.apply(frame, LOOK, [half])
    # The encoding's slope at black magnifies rounding: compare in linear light, and coarsely in display values.
    assert (got.double().clamp(0) ** 2.4 - want.clamp(0) ** 2.4).abs().max() < 2e-6
    assert (got - want).abs().max() < 2e-3


@pytest.mark.gxx
@pytest.mark.parametrize(("schedule", "races"), [("forward", True), ("random", False)])
def test_metal_gives_the_same_look(inputs, schedule: str, races: bool) -> None:
    frame, half = inputs
    chain = shade.chain_of(frame, LOOK, [half])
    library = metal.compile(metal_text(chain, ["shade_planes"]), "cpu", schedule=schedule, races=races)
    out = torch.empty(3, 37, 51)
    library.shade_planes(frame, half, *shade.packed(LOOK), out, 51, 37, 4, threads=(26, 5))
    want = shade.reference(frame.double(), LOOK, [half])
    assert (out.double().clamp(0) ** 2.4 - want.clamp(0) ** 2.4).abs().max() < 2e-6


@pytest.mark.gxx
@pytest.mark.usefixtures("long_walks")
@pytest.mark.parametrize(
    ("format", "siting", "dither", "height", "width"),
    [
        ("nv12", "left", False, 22, 266), ("nv12", "center", True, 21, 295), ("p010", "topleft", False, 22, 266),
        ("yuv420p10", "topleft", True, 21, 295), ("yuv422p", "left", True, 22, 266),
        ("yuv422p10", "center", False, 21, 295), ("yuv444p", "left", True, 22, 266),
    ],
)  # fmt: skip
def test_codes_are_the_same_bits_on_numba_and_metal(
    format: str, siting: str, dither: bool, height: int, width: int, random_frame
) -> None:
    """Even and odd sides: rows in pairs and alone; several simdgroups and groups of threads."""
    how = coding(format, "bt709", "limited", siting, dither)
    frame = random_frame(height, width, 1.1)
    a = shade.encode(frame, (), (), how, seed=4)
    b = shade.encode(frame, (), (), how, seed=4, backend="metal")
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("format", ["nv12", "p010", "yuv420p10", "yuv422p", "yuv444p12"])
def test_codes_are_the_same_bits_on_a_gpu(format: str, random_frame) -> None:
    for siting, dither in (("left", True), ("topleft", False), ("center", False)):
        how = coding(format, "bt2020", "full", siting, dither)
        frame = random_frame(121, 295, 1.1)
        here = shade.encode(frame, (), (), how, seed=4)
        there = shade.encode(frame.cuda(), (), (), how, seed=4)
        for x, y in zip(here, there, strict=True):
            assert torch.equal(x, y.cpu()), siting


@pytest.mark.gxx
def test_every_word_of_every_pass_in_metal_and_numba(inputs) -> None:
    frame = inputs[0]
    chain = everything()
    want = shade.reference(frame.double(), chain)
    for backend in ("numba", "metal"):
        got = shade.apply(frame, chain, backend=backend)
        assert (got - want).abs().max() < 3e-4, backend


@pytest.mark.gxx
def test_tables_by_tetrahedra(inputs) -> None:
    frame = inputs[0] * 0.6 - 0.1
    axis = torch.linspace(0, 1, 9)
    cube = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    table = torch.zeros(9, 9, 9, 4)
    table[..., :3] = torch.stack([cube[..., 0] ** 2, cube[..., 1] * cube[..., 0], 1 - cube[..., 2]], -1)
    chain = [Op(ops.table_lookup, {"low": 0.0, "high": 1.0, "amount": 0.75, "size": 9}, ("table",))]
    want = shade.reference(frame.double(), chain, [table])
    for backend in ("numba", "metal"):
        assert (shade.apply(frame, chain, [table], backend=backend) - want).abs().max() < 1e-5


@pytest.mark.skipif(not nvrtc.available(), reason="needs NVRTC: pip install nvidia-cuda-nvrtc")
def test_the_look_compiles_for_hopper_without_spills(inputs) -> None:
    chain = shade.chain_of(inputs[0], LOOK, [inputs[1]])
    defines = {"WIDE": 1, "PITCH": 2, "ELINVAR_CUDA_GROUPS": resident(len(LOOK))}
    report = metal.build_cubin(metal_text(chain), defines=defines, group_size=64)
    for name, one in report.kernels.items():
        assert one.spill_bytes == 0, name
        assert one.occupancy >= 0.43, f"{name}: {one}"  # fourteen groups of 64


def test_the_answer_does_not_depend_on_threads(inputs, random_frame) -> None:
    from elinvar.runtime.parallel import set_threads

    frame, half = random_frame(130, 51, 2.0), random_frame(65, 26)
    old = set_threads(1)
    try:
        one = shade.apply(frame, LOOK, [half])
        set_threads(3)
        three = shade.apply(frame, LOOK, [half])
    finally:
        set_threads(old)
    assert torch.equal(one, three)


def test_in_place_is_the_same(inputs) -> None:
    frame, half = inputs
    want = shade.apply(frame, LOOK, [half])
    assert torch.equal(shade.apply(frame, LOOK, [half], out=frame), want)


def test_noise_is_a_function_of_seed_and_place_only() -> None:
    zero = torch.full((3, 16, 64), 0.5)
    chain = [Op(ops.uniform_dither, {"step": 1.0, "seed": 11})]
    whole = shade.apply(zero, chain)
    part = shade.apply(zero[:, :8, :48].contiguous(), chain)
    assert torch.equal(whole[:, :8, :48], part)
    assert torch.equal(whole, shade.reference(zero, chain))
    assert abs(float(whole.mean()) - 0.5) < 0.02


def _attribute(r, g, b):
    return r.abs(), g, b


def _loop(r, g, b):
    for _ in range(2):
        r = r * g
    return r, g, b


def _no_tuple(r, g, b):
    return r


def _calls(r, g, b):
    return print(r), g, b


def _unknown(r, g, b):
    return r * missing, g, b  # noqa: F821


def _order(x, r, g, b):
    return r, g, b


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (_attribute, "Attribute|calls"), (_loop, "For"), (_no_tuple, "return red"), (_calls, "known are"),
        (_order, "start"), (lambda r, g, b: (r, g, b), "def"), (len, "cannot be read"),
    ],
)  # fmt: skip
def test_what_kernels_cannot_say_is_refused(function, word: str) -> None:
    with pytest.raises(InputError, match=word):
        read(function)


def test_names_and_values_are_checked(inputs) -> None:
    frame = inputs[0]
    with pytest.raises(InputError, match="missing"):
        shade.apply(frame, [Op(_unknown, {})])
    with pytest.raises(InputError, match="factor"):
        shade.apply(frame, [Op(ops.gain, {})])
    with pytest.raises(InputError, match="extra"):
        shade.apply(frame, [Op(ops.gain, {"factor": 1.0})], [frame])
    with pytest.raises(InputError, match="half-resolution"):
        shade.apply(frame, [LOOK[0]], [frame])


def soft_knee(r, g, b, knee: float):
    """A user's pass: swaps through locals that hide an argument's name."""
    top = clamp(r, 0.0, 1.0)
    r2 = where(top > knee, powr(top, 0.5), r)
    g, top = r2, g
    return top, g, b


def test_a_users_function_becomes_part_of_the_kernel(inputs) -> None:
    chain = [Op(soft_knee, {"knee": 0.4}), Op(ops.gain, {"factor": 2.0})]
    got, want = shade.apply(inputs[0], chain), shade.reference(inputs[0].double(), chain)
    assert (got - want).abs().max() < 1e-6
    text = numba_text(shade.chain_of(inputs[0], chain, []))
    assert text.count("def shade_row") == 1, "one kernel"
    assert text.count("for i in range(width)") == 2, "one loop for each pass, over a row in the cache"


def test_half_float_frames_are_read_as_they_are(inputs) -> None:
    frame, half = inputs
    assert (
        shade.apply(frame.half(), LOOK, [half]) - shade.apply(frame.half().float(), LOOK, [half])
    ).abs().max() < 1e-6


@pytest.mark.parametrize("form", ["nv12", "p010", "yuv420p", "yuv422p10"])
def test_codes_are_the_same_wherever_planes_lie(form: str, random_frame) -> None:
    """Whole, aligned vectors of codes pass the caches by, others do not."""
    frame, how = random_frame(70, 96, 1.0), coding(form)
    want = [torch.zeros(s, dtype=how.format.dtype) for s in how.format.shapes(96, 70)]
    shade.encode(frame, (), (), how, want)
    for shift in (1, 32):
        memory = [torch.zeros(p.numel() + 64, dtype=p.dtype) for p in want]
        got = [m[shift : shift + p.numel()].view(p.shape) for m, p in zip(memory, want, strict=True)]
        shade.encode(frame, (), (), how, got)
        for x, y, m in zip(got, want, memory, strict=True):
            assert torch.equal(x, y)
            assert not m[:shift].any()
            assert not m[shift + x.numel() :].any(), "nothing beside a plane is written"
    apart = [torch.zeros(*p.shape, 2, dtype=p.dtype)[..., 0] for p in want]
    shade.encode(frame, (), (), how, apart)
    assert all(torch.equal(x, y) for x, y in zip(apart, want, strict=True)), "elements that are not beside each other"
    with pytest.raises(InputError, match="planes do not fit"):
        shade.encode(frame, (), (), how, [want[0], *[p.float() for p in want[1:]]])
    narrow = shade.encode(frame[:, :, :90].contiguous(), (), (), how)
    assert torch.equal(narrow[0], want[0][:, :90]), "a last step that is no whole vector"
