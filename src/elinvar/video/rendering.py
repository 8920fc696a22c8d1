"""An export's frames as codes, in order: read ahead, rendered, and brought to where the encoder reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from elinvar.runtime.pipeline import Pipeline, Stage
from elinvar.runtime.transfers import transfers
from elinvar.video import adaptive
from elinvar.video.arrivals import Fetched
from elinvar.video.slots import DeviceSlots, Slot, Slots

if TYPE_CHECKING:
    from elinvar.video.exporting import Job

__all__ = ["rendered", "slots_for"]


def rendered(job: Job, slots: Slots) -> Iterator[tuple[int, Slot]]:
    """Yield (index, slot with the frame's codes) in order: sources are read ahead, rendering runs beside the
    consumer, and so does the way of a device's codes to the host where the encoder reads them there.
    """
    plan = job.graph.plan(job.size, job.fit)
    device = job.graph.device
    # Codes are drawn where the encoder reads them, or on their way there into slots of the device.
    direct = device.kind == "cpu" or job.settings.surface == "cuda"
    drawn = slots if direct else Slots(job.coding.format, *job.size, device=device.torch)

    def fetch(k: int) -> tuple[int, dict[int, Fetched]]:
        return k, plan.fetch(job.first + k)

    def render(item: tuple[int, dict[int, Fetched]]) -> tuple[int, Slot]:
        k, fetched = item
        with _unless_it_fails(drawn.acquire()) as slot:
            plan.draw_yuv(job.first + k, fetched, job.coding, slot.planes)
        return k, slot

    def download(item: tuple[int, Slot]) -> tuple[int, Slot]:
        k, source = item
        with _unless_it_fails(slots.acquire()) as slot:
            for target, plane in zip(slot.planes, source.planes, strict=True):
                transfers.record(False, plane.numel() * plane.element_size())
                target.copy_(plane, non_blocking=device.kind == "cuda")
            if device.kind == "cuda":  # the codes may be drawn over when they have arrived, not before
                torch.cuda.current_stream(device.torch).record_event().synchronize()
        source.discard()
        return k, slot

    def dispose(item: tuple[int, Slot]) -> None:
        item[1].discard()

    stages = [
        Stage(fetch, "decode"),
        Stage(render, "render", device=device, compute=True, dispose=dispose),
    ]
    if not direct:
        stages.append(Stage(download, "download", device=device, dispose=dispose))
    limits = adaptive.Limits(job.in_flight, 0)
    with (
        Pipeline(stages, in_flight=job.in_flight) as pipeline,
        adaptive.giving_way(job.monitor, pipeline, device.pool, limits),
    ):
        yield from pipeline.run(range(job.frames))


@contextmanager
def _unless_it_fails(slot: Slot) -> Iterator[Slot]:
    try:
        yield slot
    except BaseException:
        slot.discard()
        raise


def slots_for(job: Job) -> Slots:
    """Return slots where the job's encoder reads its frames."""
    device = job.graph.device
    if job.settings.surface == "cuda":
        return DeviceSlots(job.coding.format, *job.size, device.torch)
    return Slots(job.coding.format, *job.size, pinned=device.kind == "cuda")
