"""Records of hashes, and limits that adapt."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from elinvar.errors import InputError
from elinvar.video import passes
from elinvar.video.verifying import Record, frame_hash, record, verify


def test_the_same_graph_has_the_same_hashes(simple, tmp_path) -> None:
    made = record(simple(passes.Grain(0.02)), [3, 0])
    made.write(tmp_path / "a.json")
    assert verify(simple(passes.Grain(0.02)), tmp_path / "a.json").same
    other = verify(simple(passes.Grain(0.03)), made)
    assert (other.same, other.differing, other.comparable) == (False, (3, 0), True)
    moved = verify(simple(passes.Grain(0.02)), dataclasses.replace(made, processor="elsewhere"))
    assert (moved.same, moved.comparable) == (True, False)
    with pytest.raises(InputError, match="record"):
        Record.read(tmp_path / "none.json")


def test_exact_codes_have_one_hash_on_every_device() -> None:
    """Integer noise and the conversion: pinned, so that another device or version that differs is noticed."""
    from elinvar.video import color, ops, shade
    from elinvar.video.shadecode import Op

    grey = torch.full((3, 16, 32), 0.5)
    noise = shade.apply(grey, [Op(ops.uniform_dither, {"step": 0.5, "seed": 7})])
    assert frame_hash([noise]).startswith("70a85d333084")
    assert frame_hash(color.to_yuv(noise, "p010")).startswith("d9bae45818c3")


def test_hashes_see_shape_type_and_content() -> None:
    zero = torch.zeros(2, 3, dtype=torch.uint8)
    hashes = {frame_hash([z]) for z in (zero, zero.T, zero.to(torch.uint16), zero + 1)}
    assert len(hashes) == 4
