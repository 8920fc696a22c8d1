"""The PNG writer against an independent reader of the format written here from the standard."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from elinvar.errors import InputError
from elinvar.report import png

CHANNELS = {0: 1, 2: 3, 3: 1, 6: 4}


def decode(data: bytes) -> tuple[np.ndarray, int, dict[bytes, bytes]]:
    """Return (pixels, colour type, chunks); checks signature and every CRC, understands filters 0 and 2."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    assert next(iter(chunks)) == b"IHDR"
    assert list(chunks)[-1] == b"IEND"
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, rest) == (8, [0, 0, 0])
    channels = CHANNELS[colour]
    raw = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    out = np.zeros((height, width * channels), np.uint8)
    for row in range(height):
        above = out[row - 1] if row else 0
        out[row] = raw[row, 1:] + (above if raw[row, 0] == 2 else 0)
    shape = (height, width) if channels == 1 else (height, width, channels)
    return out.reshape(shape), colour, chunks


@settings(deadline=None, max_examples=40)
@given(
    st.one_of(
        npst.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))),
        npst.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([3, 4]))),
    )
)
def test_pixels_survive(pixels: np.ndarray) -> None:
    data = png.encode(pixels)
    back, colour, _ = decode(data)
    np.testing.assert_array_equal(back, pixels)
    assert colour == (0 if pixels.ndim == 2 else {3: 2, 4: 6}[pixels.shape[2]])
    assert png.size(data) == (pixels.shape[1], pixels.shape[0])


def test_a_view_with_strides_is_written_as_it_looks() -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)[::-1, ::2]
    np.testing.assert_array_equal(decode(png.encode(pixels))[0], pixels)


def test_float_colours_and_masks() -> None:
    back, _, _ = decode(png.encode(np.array([[[0.0, 0.5, 1.0]]])))
    assert back.tolist() == [[[0, 128, 255]]]
    assert decode(png.encode(np.array([[True, False]])))[0].tolist() == [[255, 0]]


def rgb(data: bytes) -> np.ndarray:
    index, colour, chunks = decode(data)
    assert colour == 3
    palette = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)
    alpha = np.frombuffer(chunks[b"tRNS"], np.uint8)
    return np.concatenate([palette[index], alpha[index][..., None]], axis=2)


def test_colour_maps_reach_their_ends() -> None:
    out = rgb(png.colour(np.array([[0.0, 5.0, 10.0]]), "gray"))
    assert out[0, 0].tolist() == [0, 0, 0, 255]
    assert out[0, 1].tolist() == [128, 128, 128, 255]
    assert out[0, 2].tolist() == [255, 255, 255, 255]


def test_signed_data_is_centred_on_white_whatever_its_range() -> None:
    out = rgb(png.colour(np.array([[-1.0, 0.0, 3.0]]), "seismic"))
    assert out[0, 1].tolist() == [255, 255, 255, 255]
    assert out[0, 0, 2] > out[0, 0, 0]  # negative is blue
    assert out[0, 2, 0] > out[0, 2, 2]  # positive is red


def test_limits_clip() -> None:
    out = rgb(png.colour(np.array([[-9.0, 0.0, 1.0, 9.0]]), "gray", (0.0, 1.0)))
    assert out[0, :, 0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_transparent(hole: float) -> None:
    out = rgb(png.colour(np.array([[hole, 0.0, 1.0]])))
    assert out[0, :, 3].tolist() == [0, 255, 255]


@pytest.mark.parametrize("values", [[[2.0, 2.0]], [[np.nan, np.nan]], [[0, 0]]])
@pytest.mark.parametrize("colours", list(png.COLOURS))
def test_constant_and_empty_ranges_are_drawn(values: list[list[float]], colours: str) -> None:
    assert rgb(png.colour(np.array(values), colours)).shape == (1, 2, 4)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 4), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros((2, 2), np.float32),
        np.zeros((2, 2), np.int16),
        np.full((1, 1, 3), 1.5),
        np.full((1, 1, 3), np.nan),
    ],
)
def test_what_is_no_picture_is_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError, match="report"):
        png.encode(array)


def test_bad_colouring_is_refused() -> None:
    with pytest.raises(InputError, match="rainbow"):
        png.colour(np.zeros((2, 2)), "rainbow")
    with pytest.raises(InputError, match="limits"):
        png.colour(np.zeros((2, 2)), "gray", (1.0, 1.0))
    with pytest.raises(InputError, match="real"):
        png.colour(np.zeros((2, 2), np.complex64))
    with pytest.raises(InputError, match="not a PNG"):
        png.size(b"GIF89a")
