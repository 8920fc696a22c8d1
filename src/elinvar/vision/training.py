"""A recipe to train a small network of one's own on made-up scenes, with the losses of the published ones.

No weights come with elinvar: the published checkpoints are not free, and none of our own has been trained. This module
is the recipe: pairs from `elinvar.vision.synthetic`, the confidence-weighted regression of points (Wang et al., 2024,
equation 4) and the matching loss (InfoNCE, van den Oord et al., 2018; as in Leroy et al., 2024, equation 10), AdamW
with a cosine schedule, and an honest measure on held-out scenes.
"""

# torch leaves Tensor.split and Tensor.unflatten without types.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elinvar.errors import InputError
from elinvar.runtime.files import atomic_write

from . import plain
from .catalogue import Variant, variant
from .checkpoint import Random
from .synthetic import Shot, shots

__all__ = ["Recipe", "batches", "evaluate", "losses", "save", "train"]

_HELD_OUT = 1 << 20
"""Seeds from here on are never trained on."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    size
        (width, height) of the rendered images, whole patches.
    steps, batch
        Optimiser steps and pairs in each.
    rate, warmup, decay
        Peak learning rate, steps to reach it, weight decay.
    alpha
        Weight of the confidence's logarithm.
    matching, temperature, seeds
        Weight of the matching loss, its temperature, matched pixels per pair.
    """

    size: tuple[int, int] = (256, 192)
    steps: int = 20_000
    batch: int = 16
    rate: float = 3e-4
    warmup: int = 500
    decay: float = 0.05
    alpha: float = 0.2
    matching: float = 1.0
    temperature: float = 0.05
    seeds: int = 512


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Pairs: uint8 images [b, h, w, 3], their points in the first camera's frame, matched pixels [b, seeds]."""

    images: tuple[Tensor, Tensor]
    points: tuple[Tensor, Tensor]
    pixels: tuple[Tensor, Tensor]


def _matched(one: Shot, two: Shot, count: int, make: np.random.Generator) -> tuple[Any, Any]:
    """Return flat indices of pixels of both images that see one point, by projecting and comparing depths."""
    height, width = one.image.shape[:2]
    inside = one.points_in(two).reshape(-1, 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        xy = np.rint((inside @ two.K.T)[:, :2] / inside[:, 2:])
    seen = (inside[:, 2] > 0) & (xy >= 0).all(1) & (xy < (width, height)).all(1)
    where = np.flatnonzero(seen)
    other = (xy[where, 1] * width + xy[where, 0]).astype(np.int64)
    depth = two.points_in(two).reshape(-1, 3)[other, 2]
    same = np.abs(inside[where, 2] / depth - 1) < 0.01
    where, other = where[same], other[same]
    if len(where) == 0:
        return np.zeros(count, np.int64), np.zeros(count, np.int64)
    some = make.choice(len(where), count, replace=len(where) < count)
    return where[some], other[some]


def batches(recipe: Recipe, first_seed: int = 0) -> Iterator[Batch]:
    """Render batches without end, every pair from a room of its own."""
    seed = first_seed
    while True:
        columns: list[list[Any]] = [[] for _ in range(6)]
        for _ in range(recipe.batch):
            make = np.random.default_rng([seed, 2])
            one, two = shots(seed, 2, recipe.size, baseline=float(make.uniform(0.2, 1.0)))
            values = (
                one.image,
                two.image,
                one.points_in(one),
                two.points_in(one),
                *_matched(one, two, recipe.seeds, make),
            )
            for column, value in zip(columns, values, strict=True):
                column.append(torch.from_numpy(np.ascontiguousarray(value)))
            seed += 1
        t = [torch.stack(column) for column in columns]
        yield Batch((t[0], t[1]), (t[2].float(), t[3].float()), (t[4], t[5]))


def losses(out: dict[str, Tensor], batch: Batch, recipe: Recipe) -> dict[str, Tensor]:
    """Return the regression and the matching loss of a batch's outputs."""
    guess = torch.cat([out[f"pts3d_{k}"].flatten(1, 2) for k in (1, 2)], 1)
    truth = torch.cat([p.flatten(1, 2) for p in batch.points], 1).to(guess)
    conf = torch.cat([out[f"conf_{k}"].flatten(1) for k in (1, 2)], 1)
    # Both are divided by their mean distance: a pair does not know its own scale.
    scaled = [p / p.norm(dim=-1).mean(1)[:, None, None] for p in (guess, truth)]
    error = (scaled[0] - scaled[1]).norm(dim=-1)
    regression = (conf * error - recipe.alpha * conf.log()).mean()
    picked = [
        torch.take_along_dim(out[f"desc_{k}"].flatten(1, 2), pixels.to(guess.device)[..., None], 1)
        for k, pixels in zip((1, 2), batch.pixels, strict=True)
    ]
    products = picked[0] @ picked[1].transpose(1, 2) / recipe.temperature
    target = torch.arange(products.shape[1], device=products.device).expand(len(products), -1)
    both = [torch.nn.functional.cross_entropy(p, target) for p in (products, products.transpose(1, 2))]
    return {"regression": regression, "matching": (both[0] + both[1]) / 2}


def _rate(recipe: Recipe, step: int) -> float:
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def train(
    kind: Variant | str,
    recipe: Recipe | None = None,
    *,
    device: Any = "cpu",
    seed: int = 0,
    state: dict[str, Tensor] | None = None,
    progress: Callable[[int, dict[str, float]], object] | None = None,
) -> dict[str, Tensor]:
    """Train a network and return its state dict, on the CPU, with the published names.

    Parameters
    ----------
    kind
        Which network; heads are those of the published ones, 40 M parameters of them.
    recipe
        How.
    device
        Where, as torch takes it.
    seed
        Of the first weights and the first room.
    state
        Go on from these weights.
    progress
        ``progress(step, losses)``.
    """
    kind, recipe = variant(kind), recipe or Recipe()
    if recipe.size[0] % kind.patch or recipe.size[1] % kind.patch or recipe.steps < 1:
        raise InputError(f"train: size {recipe.size} and {recipe.steps} steps; sizes are multiples of {kind.patch}.")
    source = Random(kind, seed)
    begin = state or source.get(source.shapes)
    weights = {name: t.to(device).clone().requires_grad_() for name, t in begin.items()}
    solver = torch.optim.AdamW(list(weights.values()), lr=recipe.rate, weight_decay=recipe.decay, betas=(0.9, 0.95))
    for step, batch in zip(range(recipe.steps), batches(recipe, seed), strict=False):
        for group in solver.param_groups:
            group["lr"] = _rate(recipe, step)
        images = [x.to(device) for x in batch.images]
        parts = losses(plain.forward(weights, kind, images[0], images[1], attention="sdpa"), batch, recipe)
        total = parts["regression"] + recipe.matching * parts["matching"]
        solver.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_([t for t in weights.values() if t.grad is not None], 1.0)
        solver.step()
        if progress is not None:
            progress(step, {name: float(value.detach()) for name, value in parts.items()})
    return {name: t.detach().cpu() for name, t in weights.items()}


def evaluate(
    state: dict[str, Tensor], kind: Variant | str, *, pairs: int = 50, size: tuple[int, int] = (256, 192)
) -> float:
    """Return the median relative error of points on held-out rooms, each pair brought to the true scale by a median."""
    kind = variant(kind)
    errors = []
    with torch.no_grad():
        for k in range(pairs):
            one, two = shots(_HELD_OUT + k, 2, size)
            out = plain.infer(state, kind, torch.from_numpy(one.image), torch.from_numpy(two.image), attention="sdpa")
            guess = np.concatenate([out[f"pts3d_{v}"].numpy().reshape(-1, 3) for v in (1, 2)])
            truth = np.concatenate([one.points_in(one).reshape(-1, 3), two.points_in(one).reshape(-1, 3)])
            length = np.linalg.norm(truth, axis=1)
            scale = np.median(length / np.maximum(np.linalg.norm(guess, axis=1), 1e-12))
            errors.append(np.median(np.linalg.norm(scale * guess - truth, axis=1) / length))
    return float(np.median(errors))


def save(state: dict[str, Tensor], path: str | Path) -> Path:
    """Write a state dict as safetensors, whole or not at all."""
    from safetensors.torch import save_file

    with atomic_write(path) as temporary:
        save_file({name: t.contiguous() for name, t in state.items()}, str(temporary))
    return Path(path)
