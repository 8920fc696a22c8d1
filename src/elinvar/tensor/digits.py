"""Handwritten digits (Alpaydin and Kaynak, 1998, as scikit-learn ships them) and a training loop for them."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from elinvar.errors import MissingDependency
from elinvar.runtime.device import Device
from elinvar.runtime.device import device as find_device
from elinvar.runtime.memory import Pool
from elinvar.tensor.loss import softmax_cross_entropy
from elinvar.tensor.nn import FusedMLP

__all__ = ["Digits", "Training", "load", "train"]


@dataclass(frozen=True)
class Digits:
    """1,797 images of 8×8 pixels from 0 to 1, shuffled and cut into a part to learn from and a part to test on."""

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


@dataclass
class Training:
    """How a training went: per epoch the mean loss and the share of test images recognised."""

    model: FusedMLP
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    allocations: list[int] = field(default_factory=list)
    """Pool allocations after every step."""
    seconds: float = 0.0
    pool: Pool | None = None


def load(seed: int = 0, test_share: float = 0.25) -> Digits:
    """Return the data set, split at random.

    Raises
    ------
    MissingDependency
        scikit-learn is not installed.
    """
    try:
        load_digits = importlib.import_module("sklearn.datasets").load_digits
    except ImportError as error:
        raise MissingDependency(
            "The digits come with scikit-learn, which is not installed; pip install 'elinvar[tensor]'."
        ) from error
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    x = torch.from_numpy(images).float()[order] / 16.0
    y = torch.from_numpy(labels).long()[order]
    cut = round(len(y) * (1 - test_share))
    return Digits(x[:cut], y[:cut], x[cut:], y[cut:])


def train(
    digits: Digits,
    *,
    epochs: int = 40,
    hidden: int = 128,
    batch: int = 64,
    device: str | Device = "cpu",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Training:
    """Train a `FusedMLP` on the digits with torch's Adam; workspaces come from a pool.

    Parameters
    ----------
    digits
        From `load`.
    epochs, hidden, batch, seed
        Of the training; the same seed gives the same model on the same machine.
    device
        Where.
    progress
        ``progress(epochs done, epochs)``.
    """
    target = find_device(device)
    before = torch.get_num_threads()
    if target.kind == "cpu":
        torch.set_num_threads(1)  # matrices this small only wait for a second thread
    try:
        return _train(digits, target, epochs, hidden, batch, seed, progress)
    finally:
        torch.set_num_threads(before)


def _train(
    digits: Digits,
    target: Device,
    epochs: int,
    hidden: int,
    batch: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Training:
    pool = Pool(target)
    torch.manual_seed(seed)
    model = FusedMLP([64, hidden, hidden, 10], "gelu", pool=pool).to(target.torch)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-5)
    x, y = digits.images.to(target.torch), digits.labels.to(target.torch)
    test, truth = digits.test_images.to(target.torch), digits.test_labels.to(target.torch)
    done = Training(model, pool=pool)
    shuffle = torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    for epoch in range(epochs):
        order = torch.randperm(len(y), generator=shuffle).to(target.torch)
        total = 0.0
        for start in range(0, len(y) - batch + 1, batch):
            chosen = order[start : start + batch]
            optimiser.zero_grad()
            loss = softmax_cross_entropy(model(x[chosen]), y[chosen], pool=pool)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach()) * batch
            done.allocations.append(pool.stats().allocation_count)
        done.losses.append(total / (len(y) // batch * batch))
        with torch.no_grad(), pool.frame():
            done.accuracies.append(float((model(test).argmax(1) == truth).float().mean()))
        if progress is not None:
            progress(epoch + 1, epochs)
    done.seconds = time.perf_counter() - started
    return done
