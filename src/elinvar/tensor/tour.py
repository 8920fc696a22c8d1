"""The tensor part of ``elinvar tour``: fused beside unfused operations, and a network that learns digits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from elinvar.bench import interleave
from elinvar.errors import MissingDependency
from elinvar.report import bars
from elinvar.tensor import digits, explaining, measure

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from elinvar.report import Page
    from elinvar.runtime.device import Device

__all__ = ["Context", "curve", "gallery", "tour", "ways"]

_BLUE, _ORANGE = "#2f7fc1", "#e0792b"


class Context(Protocol):
    """What the tour's runner gives an engine; see ``elinvar.cli.tour``."""

    device: Device
    out: Path
    quick: bool
    engine: str
    seconds: dict[str, float]

    def progress(self, label: str, *, total: int | None = None, unit: str = "items") -> Any:
        """Return a context manager yielding ``report(done, total)``."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Trace, time and announce one stage."""

    def jit(self, what: str) -> AbstractContextManager[None]:
        """Time compilation on a line of its own."""


def ways(device: Device, *, quick: bool) -> dict[str, dict[str, Any]]:
    """The operations the tour times, each in three ways, by title."""
    place, large = device.torch, 1 << (20 if quick else 23)
    table = {
        "relu(a + b), 1 M elements": measure.elementwise_ways("add", 1_000_000, place)[0],
        f"relu(x * scale + bias), {large >> 20} M": measure.affine_ways(large, place)[0],
        "relu(x @ w' + b), 64 x 64": measure.linear_ways(64, place)[0],
        "relu(x @ w' + b), 256 x 256": measure.linear_ways(256, place)[0],
    }
    return {
        title: {name: fn for name, fn in row.items() if not name.startswith("copy")} for title, row in table.items()
    }


def tour(page: Page, context: Context) -> None:
    """Add the tensor section to the tour's page."""
    with context.jit("fused operations"), torch.no_grad():
        table = ways(context.device, quick=context.quick)
        for row in table.values():
            for fn in row.values():
                fn()
    times: dict[str, dict[str, float]] = {}
    # One thread and its CPU time: the tour shares the machine with whatever else runs.
    clock = "thread_cpu" if context.device.kind == "cpu" else "wall"
    with context.stage("fused beside unfused"), torch.no_grad(), measure.one_thread():
        for title, row in table.items():
            samples = interleave(
                row, runs=5 if context.quick else 15, warmup=2, device=context.device, clock=clock, inner="auto",
                yardsticks=False,
            )  # fmt: skip
            times[title] = {name: found.median for name, found in samples.items()}
    epochs = 3 if context.quick else 30
    training, data, missing = None, None, ""
    try:
        data = digits.load()
        with context.stage("learn the digits"), context.progress("learning", total=epochs, unit="epochs") as report:
            training = digits.train(data, epochs=epochs, device=context.device, progress=report)
    except MissingDependency as error:
        missing = str(error)
    _write(page, context, times, training, data, missing)


def _write(
    page: Page,
    context: Context,
    times: dict[str, dict[str, float]],
    training: digits.Training | None,
    data: digits.Digits | None,
    missing: str,
) -> None:
    page.section(
        "Tensor: one pass instead of three",
        "A layer is a product with a bias and an activation behind it. In three operations every intermediate result "
        "goes to memory and comes back; fused, it stays in registers and is rounded once.",
    )
    # Against the best written by hand: most of the gain over fresh memory is the memory's, not the fusion's.
    gains = {title: row["unfused, pooled"] / list(row.values())[-1] for title, row in times.items()}
    best = max(gains, key=gains.__getitem__)
    facts: list[tuple[object, str]] = [(f"{gains[best]:.1f}x", f"{best}, against three ops in given memory")]
    if training is not None and training.pool is not None:
        per_epoch = len(training.allocations) // len(training.losses)
        facts += [
            (f"{100 * training.accuracies[-1]:.1f} %", "of unseen digits recognised"),
            (training.allocations[-1] - training.allocations[per_epoch], "pool allocations after the first epoch"),
            (f"{100 * training.pool.stats().reuse_rate:.0f} %", "of the pool's requests reused memory"),
        ]
    page.facts(facts)
    names = [f"{title}: {way}" for title, row in times.items() for way in row]
    relative = [seconds / row["unfused, allocating"] for row in times.values() for seconds in row.values()]
    page.figure(
        bars(
            names,
            relative,
            unit="of three ops",
            labels=[_microseconds(seconds) for row in times.values() for seconds in row.values()],
            highlight=[name for name in names if ": fused" in name],
        ),
        "Time against three torch operations with fresh memory; less is better. *Pooled* is the best that can be "
        "written by hand with `out=` and in-place calls. Where the middle bar is as short, fusion does not help; the "
        "guide says when that is. " + ("One thread, CPU time." if context.device.kind == "cpu" else "Wall time."),
    )
    if training is None or data is None:
        page.note(missing)
    else:
        with page.row():
            page.figure(curve(training), "Loss on the images it learns from, and errors on those it has not seen.")
            page.image(
                gallery(data, training),
                caption="Some of the test images; a frame marks those it got wrong.",
                alt="handwritten digits in a grid",
            )
    half = torch.ones(256, 256, dtype=torch.float16, device=context.device.torch)
    lines = [
        explaining.explain("linear", half.float(), half.float(), half[0].float(), "relu"),
        explaining.explain("linear", half, half, half[0], "gelu"),
        explaining.explain("affine", half, half, half),
    ]
    page.table([{"what runs here, as tensor.explain says": line} for line in lines])


def _microseconds(seconds: float) -> str:
    return f"{1e6 * seconds:.3g} µs" if seconds < 1e-3 else f"{1e3 * seconds:.3g} ms"


def curve(training: digits.Training) -> Any:
    """Draw loss and error rate by epoch, both on one logarithmic axis."""
    import plotly.graph_objects as go

    epochs = list(range(1, len(training.losses) + 1))
    least = 0.5 / 449  # half a test image: zero has no logarithm
    wrong = [max(1 - share, least) for share in training.accuracies]
    layout = go.Layout(
        xaxis={"title": {"text": "epoch"}},
        yaxis={"type": "log", "title": {"text": "loss, share of errors"}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 60, "r": 10, "t": 10, "b": 45},
        height=320,
    )
    lines = [
        go.Scatter(x=epochs, y=training.losses, mode="lines+markers", name="training loss", line={"color": _BLUE}),
        go.Scatter(x=epochs, y=wrong, mode="lines+markers", name="test errors", line={"color": _ORANGE}),
    ]
    return go.Figure(lines, layout)


def gallery(data: digits.Digits, training: digits.Training, rows: int = 6, columns: int = 12) -> np.ndarray[Any, Any]:
    """Return a picture of test images, wrongly recognised ones first and framed; [height, width, 3] bytes."""
    weight = next(training.model.parameters())
    with torch.no_grad():
        found = training.model(data.test_images.to(weight.device)).argmax(1).cpu()
    wrong = (found != data.test_labels).nonzero()[:, 0].tolist()
    right = (found == data.test_labels).nonzero()[:, 0].tolist()
    cell, zoom = 36, 4
    picture = np.full((rows * cell, columns * cell, 3), 255, np.uint8)
    for k, index in enumerate((wrong + right)[: rows * columns]):
        top, left = (k // columns) * cell, (k % columns) * cell
        ink = 255 - np.round(255 * data.test_images[index].view(8, 8).numpy()).astype(np.uint8)
        if index in wrong:
            picture[top : top + cell, left : left + cell] = (224, 121, 43)
        big = ink.repeat(zoom, 0).repeat(zoom, 1)[:, :, None]
        picture[top + 2 : top + 2 + 8 * zoom, left + 2 : left + 2 + 8 * zoom] = big
    return picture
