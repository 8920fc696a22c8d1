"""Colour transforms against OpenColorIO, published numbers and formulas."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from elinvar.errors import InputError
from elinvar.video import color, ocio, ops, shade, sources
from elinvar.video.shadecode import Op
from elinvar.video.spaces import SPACES, matrix

OCIO = pytest.importorskip("PyOpenColorIO")

AP1_TO_709 = [
    [1.7050509, -0.6217921, -0.0832589],
    [-0.1302564, 1.1408048, -0.0105483],
    [-0.0240034, -0.1289690, 1.1529723],
]
AP1_TO_2020 = [
    [1.0258248, -0.0200532, -0.0057716],
    [-0.0022344, 1.0045865, -0.0023521],
    [-0.0050134, -0.0252901, 1.0303035],
]


def test_matrices_are_the_published_ones() -> None:
    assert np.abs(matrix("ap1", "rec709") - AP1_TO_709).max() < 1e-6
    assert np.abs(matrix("ap1", "rec2020") - AP1_TO_2020).max() < 1e-6
    for source in ("ap0", "p3", "rec2020"):
        assert np.allclose(matrix(source, "ap1") @ matrix("ap1", source), np.eye(3), atol=1e-12)


@pytest.fixture(scope="module")
def scene() -> torch.Tensor:
    """Random scene-linear ACEScg over ten stops."""
    make = torch.Generator().manual_seed(3)
    return torch.exp2(torch.rand(3, 60, 80, generator=make) * 10 - 7)


@pytest.mark.parametrize("view", ["aces1.3-sdr", "aces1.3-pq1000", "aces2-srgb"])
def test_exact_output_is_opencolorio(view: str, scene: torch.Tensor) -> None:
    config = OCIO.Config.CreateFromBuiltinConfig("studio-config-v2.1.0_aces-v1.3_ocio-v2.3")
    where = {
        "aces1.3-sdr": ("Rec.1886 Rec.709 - Display", "ACES 1.0 - SDR Video"),
        "aces1.3-pq1000": ("Rec.2100-PQ - Display", "ACES 1.1 - HDR Video (1000 nits & Rec.2020 lim)"),
    }
    got = color.transform(scene, "acescg", view)
    if view in where:
        transform = OCIO.DisplayViewTransform("ACEScg", *where[view])
        processor = config.getProcessor(transform).getOptimizedCPUProcessor(
            OCIO.OptimizationFlags.OPTIMIZATION_LOSSLESS
        )
        pixels = scene.movedim(0, -1).contiguous().numpy().copy()
        processor.applyRGB(pixels)
        assert np.abs(got.movedim(0, -1).numpy() - pixels).max() < 1e-4
    assert torch.isfinite(got).all()


def test_the_fast_mode_is_within_its_promise(scene: torch.Tensor) -> None:
    exact, fast = (color.transform(scene, "acescg", "aces1.3-sdr", mode) for mode in ("exact", "fast"))
    difference = color.delta_e(exact, fast, "rec709")
    assert difference.mean() <= 0.1
    assert difference.max() <= 0.8


def test_our_table_lookup_is_opencolorios(scene: torch.Tensor) -> None:
    chain, tables = color.encode_ops("aces1.3-sdr")
    ours = shade.reference(scene.double(), chain, tables)
    assert (ours - color.transform(scene, "acescg", "aces1.3-sdr", "fast")).abs().max() < 2e-4


def test_the_fit_is_near_aces(chart) -> None:
    linear = color.transform(chart.frame(0), "srgb", "acescg")
    difference = color.delta_e(*(color.transform(linear, "acescg", v) for v in ("aces1.3-sdr", "aces-fit")), "rec709")
    assert difference.mean() <= 0.6
    assert difference.max() <= 3


def test_published_values_of_pq_and_hlg() -> None:
    nits = torch.tensor([0.1, 1, 10, 100, 203, 1000, 4000, 10000]).repeat(3, 1)[:, None] / 100
    want = torch.tensor([0.062337, 0.149946, 0.299699, 0.508078, 0.580689, 0.751827, 0.902572, 1.0])
    got = shade.apply(nits, [Op(ops.pq_encode, {"nits": 100.0})])
    assert (got[0, 0] - want).abs().max() < 5e-6
    codes = color.to_yuv(got[:, :, [3, 4, 5]].contiguous(), "yuv444p10", "bt2020")[0]
    assert codes.flatten().tolist() == [509, 573, 723]
    light = torch.tensor([1 / 12, 0.18, 0.264963, 0.5, 1.0]).repeat(3, 1)[:, None]
    got = shade.apply(light, [Op(ops.hlg_encode, {})])
    assert (got[0, 0] - torch.tensor([0.5, 0.672358, 0.75, 0.871643, 1.0])).abs().max() < 2e-6


@pytest.mark.parametrize("name", [n for n in SPACES if n not in ("rec2100-hlg", "aces2065-1")])
def test_spaces_and_back(name: str) -> None:
    grey = torch.linspace(0.01, 0.9, 64).reshape(1, 8, 8).expand(3, 8, 8).contiguous()
    there = shade.reference(grey.double(), color.encode_ops(name)[0])
    back = shade.reference(there, color.decode_ops(name))
    assert (back - grey).abs().max() < 2e-6


def test_transform_carries_alpha_and_checks_names() -> None:
    frame = torch.rand(4, 4, 4)
    out = color.transform(frame, "srgb", "acescg")
    assert torch.equal(out[3], frame[3])
    for source, target in (("foo", "srgb"), ("srgb", "bar")):
        with pytest.raises(InputError, match="acescg"):
            color.transform(frame, source, target)
    with pytest.raises(InputError, match="exact"):
        color.transform(frame, "srgb", "acescg", "quick")


def test_cameras_are_opencolorios() -> None:
    config = OCIO.Config.CreateFromBuiltinConfig("studio-config-v2.1.0_aces-v1.3_ocio-v2.3")
    processor = config.getProcessor("S-Log3 S-Gamut3.Cine", "ACEScg").getDefaultCPUProcessor()
    frame = torch.rand(3, 5, 6)
    want = frame.movedim(0, -1).contiguous().numpy().copy()
    processor.applyRGB(want)
    got = color.transform(frame, "s-log3-cine", "acescg").movedim(0, -1).numpy()
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_affine_in_batches_and_by_the_scalar_loop() -> None:
    make = torch.Generator().manual_seed(1)
    frames = torch.rand(4, 3, 7, 9, generator=make)
    m, offset = torch.rand(3, 3, generator=make).numpy() - 0.5, [0.1, -0.2, 0.3]
    got = color.affine(frames, m, offset)
    assert torch.allclose(got, color.affine(frames, m, offset, backend="scalar"), atol=1e-6)
    assert torch.allclose(got[2], color.affine(frames[2], m, offset), atol=1e-6)
    with pytest.raises(InputError, match=r"\(3, 3\)"):
        color.affine(frames, np.eye(4))
    with pytest.raises(InputError, match="finite"):
        color.affine(frames, np.full((3, 3), np.nan))
    with pytest.raises(InputError, match=r"\[3, H, W\]"):
        color.affine(frames[0, 0], m)


def test_ciede2000_of_sharmas_table() -> None:
    from elinvar.video.difference import ciede2000

    pairs = [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425), ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.5, 0), (73, 25, -18), 27.1492), ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ]  # fmt: skip
    for a, b, want in pairs:
        first, second = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (a, b))
        assert float(ciede2000(first, second)) == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize(
    "name", ["iridas_3d.cube", "iridas_1d.cube", "resolve_1d3d.cube", "crosstalk.3dl", "sRGB_to_linear.spi1d"]
)
def test_lut_files(name: str, reference_data) -> None:
    processor = ocio.lut_processor(str(reference_data(f"video/ocio_luts/{name}")))
    assert torch.isfinite(ocio.apply_processor(processor, torch.rand(3, 8, 8))).all()


@pytest.mark.parametrize("name", sorted(ocio.CAMERAS))
def test_camera_curves_are_what_opencolorio_does(name: str) -> None:
    ops_of = color.camera_ops(name)
    if name in ("apple-log", "canon-log2", "canon-log3"):
        assert ops_of is None, "OpenColorIO has a table for these"
        return
    assert ops_of is not None
    grey = torch.linspace(-0.2, 1.1, 2601).expand(3, 1, -1)
    mixed = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(2)) * 1.2 - 0.1
    for frame in (grey.contiguous(), mixed):
        want = ocio.apply_processor(ocio.camera_processor(name), frame)
        got = shade.apply(frame, ops_of)
        assert ((got - want).abs() / want.abs().amax(0).clamp(min=0.01)).max() < 1e-5


@pytest.mark.gxx
def test_camera_curves_on_a_gpu() -> None:
    frame = torch.linspace(-0.2, 1.1, 240).reshape(3, 4, 20).contiguous()
    chain = color.camera_ops("s-log3-cine")
    assert chain is not None
    want = shade.reference(frame.double(), chain)
    assert ((shade.apply(frame, chain, backend="metal") - want).abs() / want.abs().clamp(min=0.01)).max() < 2e-5


def test_log_footage_is_fused(simple) -> None:
    source = sources.Arrays([torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(1))], space="logc4")
    graph = simple(source=source, view="aces-fit")
    assert len(graph.plan().steps) == 1
    want = color.transform(color.transform(source.frame(0), "logc4", "acescg"), "acescg", "aces-fit")
    assert torch.allclose(graph.render(0), want, atol=2e-5)


@pytest.mark.parametrize("name", ["crosstalk.3dl", "discreet-3d-lut.3dl", "lut3d_17x17x17_10i_12i.clf"])
def test_a_lut_that_is_one_table_is_the_same_by_our_lookup(name: str, reference_data) -> None:
    path = str(reference_data(f"video/ocio_luts/{name}"))
    table = ocio.lut_table(path)
    assert table is not None
    frame = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(1)) * 1.4 - 0.2
    values = {"low": 0.0, "high": 1.0, "amount": 1.0, "size": table.shape[0]}
    got = shade.apply(frame, [Op(ops.table_lookup, values, ("table",))], [table])
    assert (got - ocio.apply_processor(ocio.lut_processor(path), frame)).abs().max() < 2e-6


@pytest.mark.parametrize(
    "name", ["iridas_1d.cube", "iridas_3d.cube", "resolve_1d3d.cube", "multiple_ops.clf", "lut1d_lut3d_lut1d.clf"]
)
def test_a_lut_that_is_more_than_a_table_is_none(name: str, reference_data) -> None:
    assert ocio.lut_table(str(reference_data(f"video/ocio_luts/{name}"))) is None


def test_a_lut_that_is_written_anew_is_read_anew(tmp_path) -> None:
    path = tmp_path / "a.cube"
    for k, level in enumerate((0.5, 0.25, 0.75)):
        rows = "\n".join(" ".join(str(level * v) for v in (r, g, b)) for b in (0, 1) for g in (0, 1) for r in (0, 1))
        path.write_text(f"LUT_3D_SIZE 2\n{rows}\n")
        os.utime(path, ns=(k, k))
        out = ocio.apply_processor(ocio.lut_processor(str(path)), torch.ones(3, 2, 2))
        assert float(out.max()) == pytest.approx(level), level
        table = ocio.lut_table(str(path))
        assert table is not None
        assert float(table.max()) == pytest.approx(level), level


def test_a_lut_that_is_missing_or_no_lut(tmp_path) -> None:
    with pytest.raises(InputError, match="no such file"):
        ocio.lut_processor(str(tmp_path / "a.cube"))
    bad = tmp_path / "b.cube"
    bad.write_text("LUT_3D_SIZE x\n1 2\n")
    with pytest.raises(InputError, match="cannot read"):
        ocio.lut_processor(str(bad))
