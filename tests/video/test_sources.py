"""Generators, arrays, functions, images."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from elinvar.errors import InputError
from elinvar.video import sources


@pytest.mark.parametrize(
    "make", [sources.smpte, sources.zone_plate, sources.color_checker, sources.starfield, sources.ramp]
)
def test_generators_have_their_size_and_repeat_themselves(make) -> None:
    source = make(33, 21, frame_rate="30000/1001", frame_count=4)
    frame = source.frame(2)
    assert frame.shape == (3, 21, 33)
    assert frame.dtype == torch.float32
    assert torch.isfinite(frame).all()
    assert torch.equal(frame, source.frame(2))
    assert (source.frame_rate, source.frame_count) == (Fraction(30000, 1001), 4)
    assert isinstance(source, sources.Source)


def test_floats_for_broadcast_rates_become_exact() -> None:
    assert sources.ramp(4, 4, frame_rate=23.976).frame_rate == Fraction(24000, 1001)
    assert sources.ramp(4, 4, frame_rate=29.97).frame_rate == Fraction(30000, 1001)
    assert sources.ramp(4, 4, frame_rate=12.5).frame_rate == Fraction(25, 2)
    for bad in (0, -1, "x", float("nan"), 1e9):
        with pytest.raises(InputError, match="rate"):
            sources.ramp(4, 4, frame_rate=bad)


def test_the_bars_are_the_bars() -> None:
    frame = sources.smpte(70, 40).frame(0)
    assert frame[:, 0, 5].tolist() == pytest.approx([0.75, 0.75, 0.75])
    assert frame[:, 0, 15].tolist() == pytest.approx([0.75, 0.75, 0])
    assert frame[:, 0, 65].tolist() == pytest.approx([0, 0, 0.75])


def test_arrays_of_any_layout() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    for frames in (pixels, torch.from_numpy(pixels).movedim(-1, 1), list(pixels)):
        source = sources.open_source(frames, frame_rate=25)
        assert (source.width, source.height, source.frame_count) == (7, 5, 2)
        assert np.allclose(source.frame(1).movedim(0, -1).numpy(), pixels[1] / 255)
    alpha = np.full((1, 2, 2, 4), 255, np.uint8)
    alpha[..., 3] = 51
    assert float(sources.Arrays(alpha).frame(0).max()) == pytest.approx(0.2)
    with pytest.raises(InputError, match="no frames"):
        sources.Arrays([])
    with pytest.raises(InputError, match="pixels are"):
        sources.Arrays(np.zeros((2, 5, 5, 2)))


def test_functions_must_keep_their_size() -> None:
    source = sources.Function(lambda n: np.zeros((4, 6 + n, 3)), 6, 4)
    assert source.frame(0).shape == (3, 4, 6)
    with pytest.raises(InputError, match="declared"):
        source.frame(1)


def test_image_sequences_and_their_gaps(tmp_path: Path) -> None:
    from PIL import Image

    for k in (1, 2, 3, 5):
        Image.fromarray(np.full((4, 6, 3), 10 * k, np.uint8)).save(tmp_path / f"a.{k:04d}.png")
    with pytest.raises(InputError, match="no image 4"):
        sources.open_source(tmp_path)
    (tmp_path / "a.0005.png").unlink()
    source = sources.open_source(str(tmp_path / "a.*.png"))
    assert (source.frame_count, source.space) == (3, "srgb")
    assert float(source.frame(2)[0, 0, 0]) == pytest.approx(30 / 255)
    with pytest.raises(InputError, match="not there"):
        sources.Images(tmp_path / "b.*.png")
    broken = tmp_path / "c.png"
    broken.write_text("no")
    with pytest.raises(InputError, match="cannot be read"):
        sources.Images(broken)


def test_exr_files_of_the_standard_set(reference_data) -> None:
    pytest.importorskip("OpenEXR")
    folder = reference_data("video/openexr")
    for name, space in (
        ("TestImages_BrightRingsNanInf.exr", "linear-rec709"),
        ("TestImages_AllHalfValues.exr", "linear-rec709"),
        ("Chromaticities_Rec709.exr", "linear-rec709"),
        ("ScanLines_CandleGlass.exr", "linear-rec709"),
    ):
        source = sources.open_source(folder / name)
        frame = source.frame(0)
        assert source.space == space, name
        assert torch.isfinite(frame).all(), name
        assert frame.abs().max() <= 65504
    ball = sources.open_source(str(folder / "Beachball_singlepart.*.exr"))
    assert ball.frame_count == 3
    assert [tuple(ball.frame(n).shape) for n in (0, 1)] == [(3, 1556, 2048)] * 2, "the display window, however cropped"
    with pytest.raises(InputError, match="channels are"):
        sources.open_source(folder / "Chromaticities_Rec709_YC.exr")
    with pytest.raises(InputError, match="chromaticities"):
        sources.open_source(folder / "Chromaticities_XYZ.exr")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "alpha.png", "grey.png", "grey.tif", "float.tif"])
def test_images_of_sixteen_bits_keep_them(tmp_path: Path, name: str) -> None:
    cv2 = pytest.importorskip("cv2")
    kind, channels = name.split(".")[0], {"a": 3, "alpha": 4, "grey": 1, "float": 3}[name.split(".")[0]]
    codes = np.random.default_rng(0).integers(0, 65536, (6, 10, channels)).astype(np.uint16)
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3], 1: [0]}[channels]
    values = (codes / 65535).astype(np.float32) if kind == "float" else codes
    assert cv2.imwrite(str(tmp_path / name), values[..., order])
    want = codes.astype(np.float64) / 65535
    want = want[..., :3] * want[..., 3:] if channels == 4 else np.broadcast_to(want, (6, 10, 3))
    frame = sources.open_source(tmp_path / name).frame(0)
    assert np.abs(frame.movedim(0, -1).numpy() - want).max() < 1e-6


@pytest.mark.parametrize(("left", "top"), [(2, 1), (-3, -2), (0, 0), (20, 0), (7, -1)])
def test_exr_data_lies_where_its_window_says(tmp_path: Path, left: int, top: int) -> None:
    openexr = pytest.importorskip("OpenEXR")
    data = np.random.default_rng(0).random((6, 9, 3)).astype(np.float32)
    box = ((left, top), (left + 8, top + 5))
    header = {
        "dataWindow": tuple(np.array(v, np.int32) for v in box),
        "displayWindow": (np.array((0, 0), np.int32), np.array((7, 4), np.int32)),
    }
    with openexr.File(header, {"RGB": data}) as file:
        file.write(str(tmp_path / "a.exr"))
    want = np.zeros((5, 8, 3), np.float32)
    for y in range(5):
        for x in range(8):
            if 0 <= y - top < 6 and 0 <= x - left < 9:
                want[y, x] = data[y - top, x - left]
    frame = sources.open_source(tmp_path / "a.exr").frame(0)
    assert np.array_equal(frame.movedim(0, -1).numpy(), want)


def test_what_is_no_source() -> None:
    with pytest.raises(InputError, match="no source"):
        sources.open_source(7)
