"""Slots: what encoders read without a copy comes back exactly when the last reference is gone, wherever it lies."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from elinvar.video import slots as module
from elinvar.video.slots import DeviceSlots, Slots
from elinvar.video.spaces import TAGS
from elinvar.video.yuv import FORMATS

av = pytest.importorskip("av")
HOST = torch.device("cpu")


def borrow(loan: Any) -> torch.Tensor:
    """What torch does with CUDA's array interface, done with NumPy's: a tensor that keeps the loan."""
    return torch.from_numpy(np.asarray(loan))


def made(kind: str, format: str, width: int = 64, height: int = 48) -> Slots:
    form = FORMATS[format]
    return Slots(form, width, height) if kind == "host" else DeviceSlots(form, width, height, HOST, borrow)


@pytest.mark.parametrize(
    ("kind", "format"), [("host", "nv12"), ("host", "yuv420p10"), ("device", "nv12"), ("device", "p010")]
)
def test_a_slot_comes_back_with_the_last_reference(kind: str, format: str) -> None:
    slots = made(kind, format)
    slot = slots.acquire()
    for k, plane in enumerate(slot.planes):
        plane.fill_(16 * (k + 1) << FORMATS[format].shift)
    frame = slot.frame(7, TAGS["rec709"])
    planes = [np.frombuffer(p, np.uint8 if slot.planes[0].dtype == torch.uint8 else np.uint16) for p in frame.planes]
    assert [int(p[0]) for p in planes] == [16 * (k + 1) << FORMATS[format].shift for k in range(len(planes))]
    assert (frame.pts, frame.format.name) == (7, FORMATS[format].av)
    other = frame.planes[0]  # as an encoder does
    del frame, planes
    gc.collect()
    assert slots.free == []
    assert slots.acquire() is not slot
    del other
    gc.collect()
    assert slots.free == [slot]
    assert (slots.acquire(), slots.made) == (slot, 2)


def test_a_slot_waits_for_all_of_its_planes(monkeypatch) -> None:
    slots = made("host", "yuv420p")
    monkeypatch.setattr(slots, "wrap", lambda views: SimpleNamespace(views=list(views)))
    held = slots.acquire().frame(0, TAGS["rec709"]).views
    while held:
        assert slots.free == []
        held.pop()
    assert len(slots.free) == 1


def test_planes_for_nvenc_are_one_piece_with_one_pitch() -> None:
    luma, chroma = made("device", "p010", 50, 6).acquire().planes
    assert chroma.data_ptr() == luma.data_ptr() + 50 * 6 * 2
    assert (luma.stride(0), chroma.stride(0)) == (50, 50)


def test_the_memory_outlives_its_slot_while_an_encoder_reads_it() -> None:
    slots = made("device", "nv12")
    slot = slots.acquire()
    slot.planes[0].fill_(99)
    gone = weakref.ref(slot.planes[0].untyped_storage())
    frame = slot.frame(0, TAGS["rec709"])
    del slot, slots
    gc.collect()
    assert np.frombuffer(frame.planes[0], np.uint8)[0] == 99
    del frame
    gc.collect()
    assert gone() is None


def test_an_encoder_reads_many_frames_of_a_few_slots(tmp_path: Path) -> None:
    slots, path = made("device", "nv12"), tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "nv12"
        for k in range(60):
            slot = slots.acquire()
            slot.planes[0].fill_(16 + 3 * k)
            slot.planes[1].fill_(128)
            container.mux(stream.encode(slot.frame(k, TAGS["rec709"])))
        container.mux(stream.encode(None))
    assert slots.made < 30
    with av.open(str(path)) as container:
        assert [int(f.to_ndarray()[0, 0]) for f in container.decode(video=0)] == [16 + 3 * k for k in range(60)]


def test_frames_on_cuda_share_one_context_of_ffmpegs(monkeypatch) -> None:
    """No NVIDIA card here: what PyAV is asked for, and with what."""
    asked: list[dict[str, Any]] = []

    class Frames:
        class VideoFrame:
            @staticmethod
            def from_dlpack(planes: tuple[torch.Tensor, ...], **options: Any) -> Any:
                asked.append({"shapes": [tuple(p.shape) for p in planes], **options})
                return type("Frame", (), {})()

        class CudaContext:
            def __init__(self, **options: Any) -> None:
                self.options = options

    touched: list[int] = []
    stream = SimpleNamespace(query=lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: touched.append(index) or stream)
    monkeypatch.setattr(module, "optional_library", lambda *_: Frames)
    slots = made("device", "p010", 8, 4)
    slots.device = torch.device("cuda", 1)
    views = [torch.zeros(4, 8, dtype=torch.uint16), torch.zeros(2, 4, 2, dtype=torch.uint16)]
    for _ in range(2):
        slots.wrap(views)
    assert asked[0]["shapes"] == [(4, 8), (2, 4, 2)]
    assert asked[0]["format"] == "p010le"
    assert asked[0]["cuda_context"] is asked[1]["cuda_context"]
    # FFmpeg will not retain torch's primary context, whose flags are others: it takes the current one as it is.
    assert asked[0]["cuda_context"].options == {"device_id": 1, "primary_ctx": False, "current_ctx": True}
    assert touched == [1]
