"""Each pass against its formula."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import ndimage

from elinvar.errors import InputError
from elinvar.video import filters, passes, shade
from elinvar.video.passes.base import Moment, Pass
from elinvar.video.passes.light import _Halo

AT = Moment(4, Fraction(24), 60, 40)
FULL = Moment(0, Fraction(24), 64, 1080)


def run(one: Pass, *frames: torch.Tensor, at: Moment = AT) -> torch.Tensor:
    if isinstance(one, passes.Point):
        return shade.reference(frames[0].double(), one.ops(at), [f.double() for f in frames[1:]])
    assert isinstance(one, passes.Spatial)
    height, width = frames[0].shape[1:]
    w, h = one.output_size(width, height)
    out = torch.full((3, h, w), float("nan"))
    one.run(at, list(frames), out, [torch.empty(s) for s in one.scratch(width, height)])
    return out


@pytest.mark.parametrize("sigma", [0.7, 4.0, 9.3])
def test_gaussian_is_scipys(sigma: float, random_frame) -> None:
    frame = random_frame(47, 61)
    want = np.stack([ndimage.gaussian_filter(c, sigma, mode="nearest", truncate=4.0) for c in frame.double().numpy()])
    got = filters.gaussian(frame, sigma)
    assert np.abs(got.numpy() - want).max() < 1e-5 * np.abs(want).max()
    torch_path = filters._separable_torch(frame, filters.gaussian_weights(sigma), filters.gaussian_weights(sigma))
    assert (torch_path - got).abs().max() < 1e-5


def test_box_is_scipys(random_frame) -> None:
    frame = random_frame(30, 40)
    want = np.stack([ndimage.uniform_filter(c, 7, mode="nearest") for c in frame.numpy()])
    out = torch.empty_like(frame)
    assert np.abs(filters.box(frame, 3, 3, out).numpy() - want).max() < 1e-5


def test_vignette_falls_off_as_the_cosine() -> None:
    one = torch.ones(3, 1080, 1920)
    at = Moment(0, Fraction(24), 1920, 1080)
    corner = {(35.0, 1.0): 0.741743, (50.0, 0.5): 0.623401}
    for (focal, smooth), want in corner.items():
        frame = run(passes.Vignette(1.0, smooth, 1.0, focal), one[:, :2, :2].contiguous().expand(3, 2, 2), at=at)
        assert frame.shape == (3, 2, 2)
        full = shade.reference(one.double(), passes.Vignette(1.0, smooth, 1.0, focal).ops(at))
        assert float(full[0, 0, 0]) == pytest.approx(want, abs=2e-3)  # a pixel's centre is not the corner
        assert float(full[0, 540, 960]) == pytest.approx(1.0, abs=1e-5)


def test_the_natural_vignette_is_the_general_one() -> None:
    grey = torch.full((3, 40, 60), 0.5, dtype=torch.float64)
    fast = passes.Vignette(0.6, 0.75, 1.0).ops(AT)
    assert fast[0].name == "natural_vignette"
    values = dict(fast[0].values) | {"power": 4.0, "roundness": 1.0}
    from elinvar.video import ops

    general = shade.reference(grey, [ops_of(ops.vignette, values)])
    assert (shade.reference(grey, fast) - general).abs().max() < 1e-12


def ops_of(function, values):
    from elinvar.video.shadecode import Op

    return Op(function, values)


def test_cdl_is_the_asc_formula(random_frame) -> None:
    frame = random_frame().double()
    slope, offset, power = (1.2, 0.9, 1.1), (0.05, -0.02, 0.0), (0.8, 1.2, 1.0)
    out = [(frame[k] * slope[k] + offset[k]).clamp(min=0) ** power[k] for k in range(3)]
    luma = 0.2126 * out[0] + 0.7152 * out[1] + 0.0722 * out[2]
    want = torch.stack([luma + 0.8 * (c - luma) for c in out])
    assert (run(passes.CDL(slope, offset, power, 0.8), frame) - want).abs().max() < 1e-9


def test_grades_do_what_they_say() -> None:
    grey = torch.full((3, 4, 4), 0.18)
    assert torch.allclose(run(passes.Exposure(1.0), grey).float(), grey * 2)
    assert torch.allclose(run(passes.Contrast(1.5), grey).float(), grey, atol=1e-6)
    warm = run(passes.WhiteBalance(1.0), grey)
    assert warm[0, 0, 0] > warm[1, 0, 0] > warm[2, 0, 0]
    luma = 0.2722287168 * warm[0] + 0.6740817658 * warm[1] + 0.0536895174 * warm[2]
    assert torch.allclose(luma.float(), grey[0], atol=1e-6)
    colour = torch.tensor([0.9, 0.2, 0.1])[:, None, None].expand(3, 2, 2)
    flat = run(passes.Saturation(0.0), colour)
    assert torch.allclose(flat[0], flat[2])
    assert passes.Grade().ops(AT) == []


@pytest.mark.parametrize("kind", ["hill", "narkowicz", "reinhard", "hable"])
def test_tone_maps_rise_and_stay_in_range(kind: str) -> None:
    line = torch.logspace(-3, 3, 64).repeat(3, 1)[:, None]
    out = shade.reference(line.double(), passes.ToneMap(kind).ops(AT))
    assert out.min() >= -1e-3
    assert out.max() <= 1.001
    assert (out[1, 0].diff() >= -1e-6).all()


def test_lens_keeps_the_centre_and_is_symmetric(random_frame) -> None:
    frame = random_frame(40, 60)
    still = run(passes.Lens(), frame)
    assert (still - frame).abs().max() < 1e-5, "no half-pixel shift"
    ring = torch.ones(3, 40, 60)
    out = run(passes.Lens(k1=-0.2), ring)
    assert float(out[0, 20, 30]) == pytest.approx(1.0)
    assert float(out[0, 0, 0]) == 0.0, "black outside"
    assert torch.allclose(out, out.flip(1), atol=1e-5)
    edge = torch.zeros(3, 40, 60)
    edge[:, :, 50:] = 1.0
    apart = run(passes.Lens(aberration=0.05), edge)
    assert not torch.allclose(apart[0], apart[2])
    assert torch.allclose(apart[1], edge[1], atol=1e-5), "green stays"


def test_dispersion_moves_red_and_blue_by_its_spread() -> None:
    frame = torch.zeros(3, 1080, 64)
    frame[:, 300] = 1.0
    out = run(passes.Dispersion(6.0), frame, at=FULL)
    column = out[:, :, 32]
    assert int(column[1].argmax()) == 300
    assert abs(int(column[0].argmax()) - 300) == 6
    assert int(column[0].argmax()) - 300 == 300 - int(column[2].argmax())


def test_depth_of_field_blurs_what_is_out_of_focus_only(random_frame) -> None:
    frame = random_frame(40, 60)
    depth = torch.ones(3, 40, 60)
    depth[:, :, 30:] = 4.0
    at = Moment(0, Fraction(24), 60, 1080)
    out = torch.empty(3, 40, 60)
    passes.DepthOfField(1.0, aperture=8.0, radius=6.0).run(at, [frame, depth], out, [])
    assert (out[:, :, :20] - frame[:, :, :20]).abs().max() < 1e-5
    assert out[:, :, 40:].std() < 0.5 * frame[:, :, 40:].std()


def test_bilateral_keeps_edges() -> None:
    frame = torch.zeros(3, 20, 20)
    frame[:, :, 10:] = 1.0
    noisy = frame + 0.02 * torch.randn(3, 20, 20, generator=torch.Generator().manual_seed(0))
    out = run(passes.Bilateral(3.0, 0.2), noisy, at=Moment(0, Fraction(24), 20, 1080))
    assert (out - frame).abs().mean() < 0.5 * (noisy - frame).abs().mean()
    assert float(out[0, 10, 9]) < 0.05 < 0.95 < float(out[0, 10, 10])


def test_halos_are_round_and_streaks_are_flat() -> None:
    frame = torch.zeros(3, 128, 128)
    frame[:, 62:66, 62:66] = 50.0
    at = Moment(0, Fraction(24), 128, 128)
    round_, flat = (run(_Halo(0.8, 60.0), frame, at=at), run(_Halo(0.8, 0.0, 200.0), frame, at=at))
    assert torch.allclose(round_, round_.transpose(1, 2), atol=1e-5)
    assert float(flat[0, 32, 45]) > 10 * max(1e-9, float(flat[0, 45, 32]))
    assert float(round_.sum()) == pytest.approx(float(frame.sum()) / 4, rel=0.02), "light is kept"


@pytest.mark.parametrize("filter_", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(60, 40), (30, 20), (17, 53), (120, 80)])
def test_scaling_keeps_constants_and_lines(filter_: str, size: tuple[int, int]) -> None:
    width, height = size
    y, x = torch.meshgrid((torch.arange(40) + 0.5) / 40, (torch.arange(60) + 0.5) / 60, indexing="ij")
    frame = torch.stack([torch.ones_like(x), x, y])
    out = run(passes.Scale(width, height, filter_, "stretch"), frame)
    assert torch.allclose(out[0], torch.ones(height, width), atol=1e-5)
    want = ((torch.arange(width) + 0.5) / width).expand(height, width)
    inner = slice(width // 4, -(width // 4))
    assert (out[1] - want)[:, inner].abs().max() < 0.01
    again = filters._resample_torch(
        frame,
        *filters.resample_weights(filter_, 60, width, 0, 60),
        *filters.resample_weights(filter_, 40, height, 0, 40),
    )
    assert torch.allclose(out, again, atol=1e-5)


def test_fits() -> None:
    frame = torch.ones(3, 40, 60)
    assert float(run(passes.Scale(60, 60, fit="fit"), frame)[0, 0, 0]) == 0
    assert float(run(passes.Scale(60, 60, fit="fill"), frame).min()) == pytest.approx(1.0)
    ramp = torch.linspace(0, 1, 60).expand(3, 40, 60)
    cut = run(passes.Scale(20, 20, fit="crop", window=(0.5, 0, 1, 1)), ramp)
    assert float(cut.min()) > 0.45
    with pytest.raises(InputError, match="window"):
        passes.Scale(4, 4, fit="crop", window=(0.6, 0, 0.5, 1)).check()


TRANSITIONS = [passes.Crossfade, passes.Dip, passes.Wipe, passes.Iris, passes.Push, passes.Slide]


@pytest.mark.parametrize("kind", TRANSITIONS)
def test_transitions_start_at_one_and_end_at_the_other(kind, random_frame) -> None:
    old, new = random_frame(40, 60), random_frame(40, 60, seed=1)
    assert torch.allclose(run(kind(0.0), old, new).float(), old, atol=1e-6)
    assert torch.allclose(run(kind(1.0), old, new).float(), new, atol=1e-6)
    middle = run(kind(0.5), old, new)
    assert not torch.allclose(middle.float(), old, atol=1e-3)


@pytest.mark.parametrize("direction", ["left", "right", "up", "down"])
def test_pushes_and_wipes_go_where_they_say(direction: str) -> None:
    old, new = torch.zeros(3, 40, 60), torch.ones(3, 40, 60)
    for kind in (passes.Push, passes.Slide):
        out = run(kind(0.25, direction=direction), old, new)
        assert float(out.mean()) == pytest.approx(0.25, abs=0.01)
        spot = {"left": (20, 59), "right": (20, 0), "up": (39, 30), "down": (0, 30)}[direction]
        assert float(out[0][spot]) == 1.0
    wiped = run(passes.Wipe(0.25, direction=direction), old, new)
    start = {"left": (20, 59), "right": (20, 0), "up": (39, 30), "down": (0, 30)}[direction]
    assert float(wiped[0][start]) == pytest.approx(1.0)


def test_easings_go_from_0_to_1() -> None:
    for name, curve in passes.EASINGS.items():
        assert (curve(0.0), curve(1.0)) == (0.0, 1.0), name
        values = [curve(k / 50) for k in range(51)]
        assert values == sorted(values), name


def test_grain_has_its_strength_and_changes_with_the_frame() -> None:
    grey = torch.full((3, 200, 300), 0.6)
    one = run(passes.Grain(0.02, shadows=1.0), grey)
    assert float((one - grey)[0].std()) == pytest.approx(0.02, rel=0.03)
    assert torch.equal(one[0], one[2]), "monochrome"
    other = run(passes.Grain(0.02, shadows=1.0), grey, at=Moment(5, Fraction(24), 60, 40))
    assert not torch.equal(one, other)
    coarse = run(passes.Grain(0.02, shadows=1.0, size=100.0), grey)
    assert float((coarse - grey)[0].std()) == pytest.approx(0.02, rel=0.25)


def test_watermarks_sit_in_their_corner() -> None:
    mark = torch.ones(4, 8, 16)
    out = run(passes.Watermark(mark, "top left", 1.0, 0.25, 0.0), torch.zeros(3, 40, 60))
    assert float(out[0, 0, 0]) == 1.0
    assert float(out[0, 39, 59]) == 0.0
    assert float(out.sum()) == pytest.approx(3 * 15 * 8, rel=0.02)
    with pytest.raises(InputError, match="PNG"):
        passes.Watermark("none.png")


def test_luts_mix(tmp_path, simple) -> None:
    pytest.importorskip("PyOpenColorIO")
    rows = "\n".join(f"{1 - r} {1 - g} {1 - b}" for b in (0, 1) for g in (0, 1) for r in (0, 1))
    path = tmp_path / "negative.cube"
    path.write_text(f"LUT_3D_SIZE 2\n{rows}\n")
    frame = torch.rand(3, 8, 8) * 0.8 + 0.1
    out = run(passes.LUT(str(path), 1.0, "acescg"), frame)
    assert (out - (1 - frame)).abs().max() < 1e-5
    assert torch.allclose(run(passes.LUT(str(path), 0.25, "acescg"), frame), frame + 0.25 * (out - frame), atol=1e-5)


@pytest.mark.parametrize(
    "one",
    [
        passes.Exposure(99.0),
        passes.Bloom(-1.0),
        passes.Bloom(levels=0),
        passes.Halation(tint=(1.0, 0.0)),
        passes.Lens(k1=math.nan),
        passes.Vignette(2.0),
        passes.Grain(5.0),
        passes.GaussianBlur(-1.0),
        passes.CDL(slope=(1.0,)),
        passes.Temporal(()),
        passes.Temporal((-1.0,)),
        passes.DepthOfField(taps=0),
        passes.Bilateral(0.0),
        passes.Wipe(2.0),
        passes.Wipe(direction="north"),
        passes.Push(direction="x"),
        passes.LUT("none.cube"),
        passes.Scale(0, 4),
        passes.ToneMap("filmic"),
        passes.LightLeak(radius=(0.0, 1.0)),
        passes.Anamorphic(length=0.0),
        passes.BoxBlur(-1),
    ],
    ids=lambda p: p.name,
)  # fmt: skip
def test_parameters_out_of_range_are_refused(one: Pass) -> None:
    with pytest.raises(InputError):
        one.check()
