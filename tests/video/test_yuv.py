"""Codes against the definition of ITU-T H.273 in float64, for every format, matrix, range and siting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from elinvar.errors import InputError
from elinvar.video import color
from elinvar.video.yuv import FORMATS, MATRICES, RANGES, SITINGS, coding


def oracle(rgb: np.ndarray, format: str, matrix: str, range_: str, siting: str) -> list[np.ndarray]:
    """Planes of codes by definition: float64, no code shared with the package."""
    kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}[matrix]
    f = FORMATS[format]
    n = f.bits
    y = kr * rgb[0] + (1 - kr - kb) * rgb[1] + kb * rgb[2]
    chroma = [(rgb[2] - y) / (2 * (1 - kb)), (rgb[0] - y) / (2 * (1 - kr))]
    unit = 2 ** (n - 8)
    if range_ == "limited":
        luma, chroma = 219 * unit * y + 16 * unit, [224 * unit * c + 128 * unit for c in chroma]
    else:
        luma, chroma = (2**n - 1) * y, [(2**n - 1) * c + 2 ** (n - 1) for c in chroma]

    def at(c: np.ndarray, axis: int, offset: int) -> np.ndarray:
        index = np.clip(2 * np.arange(-(-c.shape[axis] // 2)) + offset, 0, c.shape[axis] - 1)
        return np.take(c, index, axis)

    for axis, factor, co_sited in ((0, f.down, siting == "topleft"), (1, f.across, siting != "center")):
        if factor == 2:
            chroma = [
                (at(c, axis, -1) + 2 * at(c, axis, 0) + at(c, axis, 1)) / 4
                if co_sited
                else (at(c, axis, 0) + at(c, axis, 1)) / 2
                for c in chroma
            ]
    planes = [np.clip(np.floor(p + 0.5), 0, 2**n - 1) for p in (luma, *chroma)]
    planes = [p.astype(np.int64) << f.shift for p in planes]
    return [planes[0], np.stack(planes[1:], -1)] if f.interleaved else planes


@pytest.mark.parametrize("format", FORMATS)
def test_codes_are_those_of_the_standard(format, random_frame) -> None:
    for matrix, range_, siting in itertools.product(MATRICES, RANGES, SITINGS):
        frame = random_frame(37, 51, 1.2) - 0.1
        want = oracle(frame.double().numpy(), format, matrix, range_, siting)
        got = color.to_yuv(frame, format, matrix, range_, siting)
        assert [tuple(g.shape) for g in got] == [w.shape for w in want]
        for g, w in zip(got, want, strict=True):
            difference = np.abs(g.numpy().astype(np.int64) - w) >> FORMATS[format].shift
            assert difference.max() <= 1, (matrix, range_, siting)
            assert (difference > 0).mean() < 0.01


FLATS = {
    (1, 1, 1): ([235, 128, 128], [940, 512, 512]),
    (0, 0, 0): ([16, 128, 128], [64, 512, 512]),
    (1, 0, 0): ([63, 102, 240], [250, 409, 960]),
    (0, 0, 1): ([32, 240, 118], [127, 960, 471]),
}


@pytest.mark.parametrize("dither", [False, True])
def test_flat_colours_have_exactly_the_published_codes(dither: bool) -> None:
    for rgb, (eight, ten) in FLATS.items():
        frame = torch.tensor(rgb, dtype=torch.float32)[:, None, None].expand(3, 6, 8).contiguous()
        for format, want in (("yuv420p", eight), ("yuv420p10", ten), ("yuv444p", eight), ("yuv422p10", ten)):
            if dither and rgb in ((1, 0, 0), (0, 0, 1)):
                continue  # their luma lies between two codes
            planes = color.to_yuv(frame, format, dither=dither)
            assert [p.unique().tolist() for p in planes] == [[w] for w in want], format
    black_p010 = color.to_yuv(torch.zeros(3, 4, 4), "p010")
    assert int(black_p010[0][0, 0]) == 64 << 6
    assert int(black_p010[1][0, 0, 1]) == 512 << 6


def test_dither_keeps_the_mean_and_moves_with_the_seed() -> None:
    frame = torch.full((3, 200, 200), 0.5003)
    want = 219 * 0.5003 + 16
    plain = color.to_yuv(frame, "nv12")[0].double()
    first, second = (color.to_yuv(frame, "nv12", dither=True, seed=s)[0].double() for s in (0, 1))
    assert abs(plain.mean() - want) > 0.05
    assert abs(first.mean() - want) < 0.02
    assert not torch.equal(first, second)
    assert torch.equal(first, color.to_yuv(frame, "nv12", dither=True)[0].double())


@pytest.mark.parametrize("format", ["nv12", "p010", "yuv422p10", "yuv444p12", "yuv420p"])
def test_and_back(format: str) -> None:
    y, x = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 60), indexing="ij")
    frame = torch.stack([x, 0.5 * x + 0.5 * y, 1 - y])
    for siting, range_ in itertools.product(SITINGS, RANGES):
        back = color.from_yuv(color.to_yuv(frame, format, "bt709", range_, siting), format, "bt709", range_, siting)
        step = 1 / 219 if FORMATS[format].bits == 8 else 1 / 876
        inner = (back - frame)[:, 2:-2, 2:-2].abs().max()  # edges repeat, ramps do not
        assert inner < 1.7 * step


def test_what_is_not_a_number_does_not_spread() -> None:
    frame = torch.full((3, 8, 8), 0.5)
    clean = color.to_yuv(frame, "yuv444p")
    frame[:, 3, 3] = float("nan")
    frame[1, 5, 5] = float("inf")
    dirty = color.to_yuv(frame, "yuv444p")
    changed = torch.stack([a != b for a, b in zip(clean, dirty, strict=True)]).any(0)
    assert changed.sum() <= 2


def test_sizes_down_to_one_pixel() -> None:
    for format in FORMATS:
        for height, width in ((1, 1), (1, 2), (2, 1), (3, 5)):
            planes = color.to_yuv(torch.ones(3, height, width), format)
            assert int(planes[0].flatten()[0]) >> FORMATS[format].shift == 235 << (FORMATS[format].bits - 8)


def test_the_default_siting_is_what_decoders_assume() -> None:
    assert coding("nv12").siting == "left"
    assert coding("p010", "bt2020").siting == "topleft"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"format": "yv12"}, "nv12"),
        ({"matrix": "ycgco"}, "bt709"),
        ({"range": "tv"}, "limited"),
        ({"siting": "x"}, "left"),
    ],
)
def test_unknown_words_are_refused_with_the_known_ones(arguments, word: str) -> None:
    with pytest.raises(InputError, match=word):
        color.to_yuv(torch.zeros(3, 4, 4), **arguments)
    with pytest.raises(InputError, match=r"\[C, H, W\]"):
        color.to_yuv(torch.zeros(4, 4))
    with pytest.raises(InputError, match="float"):
        color.to_yuv(torch.zeros(3, 4, 4, dtype=torch.uint8))
