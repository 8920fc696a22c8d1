"""Scopes count pixels; hashes and limits."""

from __future__ import annotations

import torch

from elinvar.video import scopes, sources
from elinvar.video.sheet import contact_sheet, with_scopes


def test_every_pixel_is_counted_once(random_frame) -> None:
    frame = random_frame(20, 30, 1.4) - 0.2
    frame[0, 0, 0] = float("nan")
    assert scopes.histogram(frame, 64).sum(1).tolist() == [600] * 4
    assert int(scopes.waveform(frame, 10, 32).sum()) == 600
    assert int(scopes.vectorscope(frame, 33).sum()) == 600


def test_grey_is_in_the_middle_and_white_at_the_end() -> None:
    grey = torch.full((3, 4, 4), 0.5)
    vector = scopes.vectorscope(grey, 65)
    assert int(vector[32, 32]) == 16
    assert int(scopes.waveform(torch.ones(3, 4, 4), 4, 16)[15].sum()) == 16
    assert int(scopes.histogram(torch.zeros(3, 4, 4))[3, 0]) == 16


def test_red_is_up_and_blue_is_right() -> None:
    for colour, (row, column) in (((1.0, 0.0, 0.0), (0, 24)), ((0.0, 0.0, 1.0), (35, 64))):
        frame = torch.tensor(colour)[:, None, None].expand(3, 2, 2)
        place = int(scopes.vectorscope(frame, 65).argmax())
        assert abs(place // 65 - row) <= 2
        assert abs(place % 65 - column) <= 2


def test_sheets(simple) -> None:
    graph = simple(source=sources.smpte(96, 64, frame_count=9))
    sheet = contact_sheet(graph, 4, width=48, gap=4)
    assert sheet.shape == (3, 2 * 36 + 4, 2 * 52 + 4)
    assert with_scopes(graph.render(0), 60).shape[1] == 60
