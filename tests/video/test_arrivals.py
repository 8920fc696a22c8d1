"""Frames on their way to a device: codes or pixels, always to the same place."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from elinvar.runtime.device import device
from elinvar.runtime.transfers import transfers
from elinvar.video.arrivals import Arrivals
from elinvar.video.decode import Codes
from elinvar.video.graph import Graph
from elinvar.video.media import VideoFile
from elinvar.video.passes import Exposure
from elinvar.video.yuv import coding

NAMES = ("bt709_full_range.mp4", "nasa_13013_rotated.mp4", "h265_10bits.mp4", "bt2020_10bit.mp4")


def made(turns: int = 0) -> Codes:
    how = coding("nv12", "bt709")
    make = torch.Generator().manual_seed(3)
    planes = [torch.randint(16, 236, s, generator=make).to(torch.uint8) for s in how.format.shapes(12, 6)]
    return Codes(tuple(planes), how, turns)


@pytest.mark.parametrize("turns", range(4))
def test_codes_become_pixels_upright(turns: int) -> None:
    codes = made(turns)
    pixels = codes.pixels()
    assert tuple(pixels.shape) == codes.shape == ((3, 12, 6) if turns % 2 else (3, 6, 12))
    assert torch.equal(pixels, torch.rot90(made().pixels(), turns, (1, 2)))
    assert torch.equal(codes.pixels(torch.empty(codes.shape)), pixels)
    assert codes.nbytes == 12 * 6 * 3 // 2


def test_every_frame_arrives_at_the_same_place() -> None:
    cpu = device("cpu")
    arrivals, before = Arrivals(cpu), cpu.pool.stats().bytes_live
    codes, here = made(), torch.rand(3, 4, 5)
    first = arrivals.place({0: codes, 1: here})
    assert first[1] is here, "what is on the device stays where it is"
    for turns in (0, 2):
        fetched = {0: made(turns)}
        arrivals.bring(fetched)
        placed = arrivals.place(fetched)[0]
        assert placed.data_ptr() == first[0].data_ptr()
        assert torch.equal(placed, made(turns).pixels())
    other = arrivals.place({0: made(1)})[0]
    assert tuple(other.shape) == (3, 12, 6)
    arrivals.close()
    assert cpu.pool.stats().bytes_live == before


def test_pixels_of_the_host_are_copied_and_counted() -> None:
    """A tensor of another device in the role of the host's: this machine has only one."""
    arrivals = Arrivals(SimpleNamespace(kind="cuda", index=0, torch=torch.device("cpu"), pool=device("cpu").pool))
    frame = torch.rand(3, 4, 6).half()
    with transfers.count() as counted:
        arrivals.bring({0: frame})
    assert torch.equal(arrivals.place({0: frame})[0], frame)
    assert (counted.h2d_calls, counted.h2d_bytes) == (1, 3 * 4 * 6 * 2)
    arrivals.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_is_sent_codes(name: str, media) -> None:
    file: VideoFile = media(f"torchcodec/{name}")
    graph = Graph("cpu")
    graph.add(Exposure(0.3), graph.source(file))
    graph.output("aces-fit")
    plan = graph.plan()
    want = plan.draw(3, plan.fetch(3))
    plan.device = SimpleNamespace(kind="mps")
    fetched = plan.fetch(3)
    plan.device = graph.device
    assert all(isinstance(f, Codes) for f in fetched.values())
    size = 1.5 if file.info.pixel_format.endswith("p") else 3
    assert sum(f.nbytes for f in fetched.values()) == size * file.width * file.height
    assert torch.equal(plan.draw(3, fetched), want)
    graph.close()
