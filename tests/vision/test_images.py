from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from elinvar.errors import InputError
from elinvar.vision import preprocess
from elinvar.vision.images import Prepared, prepared, read


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("size", "given", "options", "want"),
    [
        ((640, 480), 512, {}, (384, 512)),
        ((480, 640), 512, {}, (512, 384)),
        ((500, 500), 512, {}, (384, 512)),  # a square becomes 4:3
        ((500, 500), 448, {"patch": 14, "square_ok": True}, (448, 448)),
        ((741, 500), 512, {}, (336, 512)),
        ((640, 480), 224, {}, (224, 224)),
        ((100, 300), 224, {}, (224, 224)),
        ((640, 480), 518, {"patch": 14, "square_ok": True}, (378, 518)),
        ((20, 30), 64, {}, (64, 32)),
    ],
)
def test_sizes(size, given, options, want):
    ready = preprocess(noise(size[1], size[0]), given, **options)
    assert ready.array.shape == (*want, 3)
    assert ready.array.dtype == np.uint8
    assert ready.size == size


def test_the_published_rule_step_by_step():
    picture = Image.fromarray(noise(333, 500))
    resized = picture.resize((256, 170), Image.Resampling.LANCZOS)
    cropped = resized.crop((0, 85 - 80, 256, 85 + 80))
    ready = preprocess(picture, 256)
    assert np.array_equal(ready.array, np.asarray(cropped))
    assert ready.crop == (0.0, 5.0, 256.0, 165.0)
    larger = preprocess(picture, 512).array
    assert np.array_equal(
        larger, np.asarray(picture.resize((512, 341), Image.Resampling.BICUBIC).crop((0, 2, 512, 338)))
    )


def test_pixels_map_back():
    ready = preprocess(noise(300, 700), 256)
    xy = np.array([[0.0, 0.0], [100.5, 33.25], [255.0, 95.0]])
    assert np.allclose(ready.to_network(ready.to_original(xy)), xy)
    # A bright dot of the original is found where the map says.
    dark = np.zeros((300, 700, 3), np.uint8)
    dark[147:154, 347:354] = 255
    small = preprocess(dark, 256)
    light = small.array[..., 0].astype(float)
    y, x = (light.sum(1 - k) @ np.arange(light.shape[k]) / light.sum() for k in (0, 1))
    assert np.abs(small.to_original([x, y]) - [350, 150]).max() < 0.1


def test_cameras_map_back():
    ready = preprocess(noise(300, 700), 256)
    K = np.array([[900.0, 0, 341], [0, 910.0, 155], [0, 0, 1]])
    inside = ready.intrinsics(K)
    assert np.allclose(ready.intrinsics_original(inside), K)
    point = np.array([0.1, -0.2, 3.0])
    a, b = K @ point, inside @ point
    assert np.allclose(ready.to_network(a[:2] / a[2]), b[:2] / b[2])
    for bad in (np.eye(4), -np.eye(3), np.full((3, 3), np.nan)):
        with pytest.raises(InputError, match="camera matrix"):
            ready.intrinsics(bad)


def test_inputs_of_every_kind(tmp_path):
    array = noise(48, 64)
    want = preprocess(array, 64).array
    Image.fromarray(array).save(tmp_path / "a.png")
    rgba = np.dstack([array, np.full((48, 64), 7, np.uint8)])
    same = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(array),
        rgba,
        array / 255.0,
        array * np.uint16(257),
    ]
    for image in same:
        assert np.array_equal(preprocess(image, 64).array, want)
    grey = preprocess(array[..., 0], 64).array
    assert np.array_equal(grey[..., 0], grey[..., 2])
    assert preprocess(array[..., :1] > 99, 64).array.max() == 255
    import torch

    assert np.array_equal(preprocess(torch.from_numpy(array), 64).array, want)


def test_exif_rotation_is_obeyed(tmp_path):
    picture = Image.fromarray(noise(40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert read(tmp_path / "turned.jpg").size == (40, 60)
    assert preprocess(tmp_path / "turned.jpg", 64).size == (40, 60)


def test_sixteen_bit_png(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert np.abs(np.asarray(read(tmp_path / "deep.png"))[..., 0].astype(int) - np.round(ramp / 257.0)).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_wide_grey_keeps_its_upper_bits_from_a_file_and_from_pillow(tmp_path, dtype, suffix):
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64)
    image = Image.fromarray((ramp / 65535 if dtype == np.float32 else ramp).astype(dtype))
    if image.mode not in ("I", "F") or suffix == "tif":
        image.save(tmp_path / f"deep.{suffix}")
        with Image.open(tmp_path / f"deep.{suffix}") as opened:
            for source in (tmp_path / f"deep.{suffix}", opened):
                got = np.asarray(read(source))[..., 0].astype(int)
                assert np.abs(got - ramp / 257.0).max() <= 1
    assert np.abs(np.asarray(read(image))[..., 0] - ramp / 257.0).max() <= 1


def test_grey_beyond_what_an_image_is_and_broken_pillow_images(tmp_path):
    Image.fromarray(noise(200, 200)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    closed = Image.open(tmp_path / "whole.png")
    closed.close()
    cases = [
        (Image.fromarray(np.full((9, 9), 70000, np.int32)), "dtype int32"),
        (Image.fromarray(np.full((9, 9), 2.0, np.float32)), "must be in"),
        (closed, "a PIL image cannot be read"),
    ]
    for image, message in cases:
        with pytest.raises(InputError, match=message):
            read(image)
    with Image.open(tmp_path / "cut.png") as cut, pytest.raises(InputError, match="a PIL image cannot be read"):
        read(cut)


@pytest.mark.parametrize(("size", "patch"), [("512", 16), (128.0, 16), (True, 1), (128, 0), (128, 16.0), (8, 16)])
def test_sizes_are_whole_numbers(size, patch):
    with pytest.raises(InputError, match="whole numbers"):
        preprocess(noise(40, 60), size, patch)


def test_network_size_passes_unchanged():
    array = noise(48, 64)
    assert np.array_equal(prepared(array, 64, 16, False).array, array)
    square = noise(64, 64)
    assert prepared(square, 64, 16, False).array.shape == (64, 64, 3)  # given so: kept
    assert prepared(noise(40, 64), 64, 16, False).array.shape == (32, 64, 3)
    assert prepared(noise(448, 504), 512, 14, True).array.shape == (448, 504, 3)
    ready = preprocess(array, 64)
    assert prepared(ready, 64, 16, False) is ready
    with pytest.raises(InputError, match="whole patches"):
        prepared(Prepared(noise(20, 20), (1, 1), (0, 0, 20, 20), (20, 20)), 64, 16, False)


def test_bad_images(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    Image.fromarray(noise(200, 200)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    cases = [
        (tmp_path / "none.jpg", "is not a file"),
        (tmp_path, "is not a file"),
        (tmp_path / "text.jpg", "cannot be read"),
        (tmp_path / "cut.png", "cannot be read"),
        (np.zeros((0, 5, 3), np.uint8), "empty"),
        (np.zeros((5, 5, 2), np.uint8), "shape"),
        (np.zeros((3, 40, 50), np.uint8), "channels-first"),
        (np.zeros(5, np.uint8), "shape"),
        (np.full((9, 9, 3), 2.0), "must be in"),
        (np.full((9, 9, 3), np.nan), "must be in"),
        (np.zeros((9, 9, 3), np.int32), "dtype"),
        (np.zeros((9, 900, 3), np.uint8), "elongated"),
    ]
    for image, message in cases:
        with pytest.raises(InputError, match=message):
            preprocess(image, 64)
    assert preprocess(np.zeros((1, 1, 3), np.uint8), 64).array.shape == (48, 64, 3)  # one pixel is a picture
    with pytest.raises(InputError, match="size=8"):
        preprocess(noise(9, 9), 8)
    with pytest.raises(InputError, match="multiple"):
        preprocess(noise(50, 50), 80)  # three quarters of 80 are no whole patches


def test_huge_files_are_refused_before_they_are_read(tmp_path, monkeypatch):
    from elinvar.vision import images

    Image.fromarray(noise(60, 60)).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "_MOST_PIXELS", 1000)
    with pytest.raises(InputError, match="limit"):
        read(tmp_path / "a.png")
