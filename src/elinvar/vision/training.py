"""Training a small network of one's own on made-up rooms, with the losses of the published ones.

Pairs come from `elinvar.vision.rooms`, drawn and ray-cast on the device that trains. The losses are the
confidence-weighted regression of points (Wang et al., 2024, equation 4) and matching (InfoNCE, van den Oord et al.,
2018; as in Leroy et al., 2024, equation 10); AdamW with a cosine schedule, averaged weights, and an honest measure on
rooms that are never trained on. ``scripts/train_free_model.py`` is the recipe of the weights that come with elinvar.
"""

# torch leaves Tensor.split, Tensor.unflatten, compile and backward without types.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from elinvar.errors import InputError, WeightsError
from elinvar.runtime.files import atomic_write

from . import plain
from .catalogue import Variant, variant
from .keys import expected
from .rooms import Pairs, draw_pairs

__all__ = ["HELD_OUT", "Recipe", "Trainer", "evaluate", "initial", "losses", "relative_errors", "save", "train"]

HELD_OUT = 1 << 20
"""Seeds from here on are never trained on."""

_PAUSE = 2.0  # seconds: a longer step was stopped from outside, or compiled, and does not count


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    sizes
        (width, height) of rendered pairs, whole patches; steps take turns.
    early, share
        Sizes for the first share of the training: smaller pictures teach faster.
    steps, seconds
        Optimiser steps; with `seconds`, the schedule follows the seconds spent in steps instead.
    batch
        Pairs in a step at the first of `sizes`; other sizes get as many as make the same number of pixels.
    rate, warmup, decay, clip
        Peak learning rate, steps to reach it, weight decay, largest norm of a gradient.
    alpha
        Weight of the confidence's logarithm.
    matching, temperature, matches
        Weight of the matching loss, its temperature, matched pixels per pair.
    average
        How much of the averaged weights stays in a step.
    """

    sizes: tuple[tuple[int, int], ...] = ((256, 192),)
    early: tuple[tuple[int, int], ...] = ()
    share: float = 0.5
    steps: int = 20_000
    seconds: float | None = None
    batch: int = 16
    rate: float = 8e-4
    warmup: int = 500
    decay: float = 0.03
    clip: float = 1.0
    alpha: float = 0.2
    matching: float = 0.3
    temperature: float = 0.07
    matches: int = 512
    average: float = 0.998

    def checked(self, kind: Variant) -> Recipe:
        """Return the recipe if it fits a network; an InputError otherwise."""
        wrong = [size for size in (*self.sizes, *self.early) if size[0] % kind.patch or size[1] % kind.patch]
        if wrong or not self.sizes or self.steps < 1 or self.batch < 1:
            raise InputError(
                f"train: sizes {wrong or self.sizes}, {self.steps} steps, batch {self.batch}; sizes are multiples of "
                f"{kind.patch}, the others counts from 1."
            )
        return self

    def size(self, step: int, done: float) -> tuple[int, int]:
        """Return the size of a step's pairs."""
        some = self.early if self.early and done < self.share else self.sizes
        return some[step % len(some)]

    def pairs(self, size: tuple[int, int]) -> int:
        """Return how many pairs of a size make a step."""
        return max(1, round(self.batch * self.sizes[0][0] * self.sizes[0][1] / (size[0] * size[1])))

    def rate_at(self, step: int, done: float) -> float:
        """Return the learning rate: up in a line, down as a cosine to a hundredth."""
        return self.rate * min(1.0, (step + 1) / self.warmup) * (0.505 + 0.495 * math.cos(math.pi * min(1.0, done)))


def initial(kind: Variant, seed: int = 0) -> dict[str, Tensor]:
    """Draw the weights to begin with: branches that are added start small, points start ahead of the camera."""
    make = torch.Generator().manual_seed(seed)
    deep = (2 * kind.depth) ** -0.5, (3 * kind.decoder_depth) ** -0.5
    out = {}
    for name, where in expected(kind).items():
        if name.endswith("bias"):
            out[name] = torch.zeros(where.shape)
        elif len(where.shape) == 1:
            out[name] = torch.ones(where.shape)
        else:
            spread = math.prod(where.shape[1:])
            if ".act_postprocess." in name and where.shape[-1] in (2, 4):
                spread = where.shape[0]  # a transposed convolution adds up over its inputs only
            gain = spread**-0.5
            if name.endswith((".attn.proj.weight", "cross_attn.proj.weight", "mlp.fc2.weight")):
                gain *= deep["dec_" in name]
            gain *= 0.2 if name.endswith("dpt.head.4.weight") else 1.0
            out[name] = gain * torch.randn(where.shape, generator=make)
    out["downstream_head1.dpt.head.4.bias"][2] = 1.0
    # Descriptors of a place agree from the start, whichever pixel of a patch and whichever view shows it: independent
    # ones become one constant before they learn anything.
    last = "downstream_head1.head_local_features.fc2.weight"
    pixels = out[last].unflatten(0, (kind.descriptor + 1, kind.patch**2))
    out[last] = (0.2 * pixels + pixels[:, :1]).flatten(0, 1)
    for name in out:
        twin = name.replace("dec_blocks2.", "dec_blocks.").replace("downstream_head2.", "downstream_head1.")
        if twin != name:
            out[name] = out[twin].clone()
    return out


def losses(out: Mapping[str, Tensor], batch: Pairs, recipe: Recipe) -> dict[str, Tensor]:
    """Return the losses of a batch's outputs: points, matching, and the confidence of descriptors."""
    guess = torch.cat([out[f"pts3d_{k}"].float().flatten(1, 2) for k in (1, 2)], 1)
    truth = torch.cat([p.flatten(1, 2) for p in batch.points], 1)
    conf = torch.cat([out[f"conf_{k}"].float().flatten(1) for k in (1, 2)], 1)
    # Both are divided by their mean distance: a pair does not know its own scale.
    scaled = [p / p.norm(dim=-1).mean(1)[:, None, None] for p in (guess, truth)]
    error = (scaled[0] - scaled[1]).norm(dim=-1)
    regression = (conf * error - recipe.alpha * conf.log()).mean()
    picked, sure = [], []
    for k, pixels in zip((1, 2), batch.pixels, strict=True):
        desc, surety = out[f"desc_{k}"].float().flatten(1, 2), out[f"desc_conf_{k}"].float().flatten(1)
        picked.append(torch.take_along_dim(desc, pixels[..., None], 1))
        sure.append(torch.take_along_dim(surety, pixels, 1))
    products = picked[0] @ picked[1].transpose(1, 2) / recipe.temperature
    target = torch.arange(products.shape[1], device=products.device).expand(len(products), -1)
    real, count = batch.valid, batch.valid.sum().clamp_min(1)
    # A match that is not real is nobody's answer.
    wrong = [
        functional.cross_entropy(p.masked_fill(~real[:, None], -1e4).transpose(1, 2), target, reduction="none") * real
        for p in (products, products.transpose(1, 2))
    ]
    both = zip(sure, wrong, strict=True)
    trust = torch.stack([((c * w.detach() - 0.5 * c.clamp_min(1e-6).log()) * real).sum() for c, w in both]).sum()
    return {
        "regression": regression,
        "matching": (wrong[0] + wrong[1]).sum() / (2 * count),
        "trust": trust / (2 * count),
        "error": error.detach().mean(),
    }


def relative_errors(out: Mapping[str, Tensor], batch: Pairs) -> Tensor:
    """Return every pair's median relative error of points [b], after the scale that fits best in the median."""
    guess = torch.cat([out[f"pts3d_{k}"].float().flatten(1, 2) for k in (1, 2)], 1)
    truth = torch.cat([p.flatten(1, 2) for p in batch.points], 1)
    length = truth.norm(dim=-1)
    scale = (length / guess.norm(dim=-1).clamp_min(1e-12)).median(1).values
    return ((scale[:, None, None] * guess - truth).norm(dim=-1) / length).median(1).values


class _Parts:
    """Calls the network's blocks compiled: each kind of block once, whatever its place in the network."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self._names: dict[str, dict[str, str]] = {}
        self._made: dict[Any, Any] = {}

    def __call__(self, part: Any, state: Any, name: str, *arguments: Any) -> Any:
        if "head" in name:
            return part(state, name, *arguments)  # convolutions: nothing to gain, and they take longest
        if name not in self._names:
            self._names[name] = {f"part{n[len(name) :]}": n for n in self._weights if n.startswith(f"{name}.")}
        if part not in self._made:
            self._made[part] = torch.compile(part, dynamic=False)
        mine = {short: self._weights[n] for short, n in self._names[name].items()}
        return self._made[part](mine, "part", *arguments)


class Trainer:
    """A training that can be stopped and gone on with.

    Parameters
    ----------
    kind
        Which network.
    recipe
        How.
    device
        Where, as torch takes it.
    seed
        Of the first weights and the rooms.
    state
        Begin with these weights.
    compiled
        Compile the transformer's blocks, for GPUs.
    """

    def __init__(
        self,
        kind: Variant | str,
        recipe: Recipe | None = None,
        *,
        device: Any = "cpu",
        seed: int = 0,
        state: Mapping[str, Tensor] | None = None,
        compiled: bool = False,
    ) -> None:
        self.kind = variant(kind)
        self.recipe = (recipe or Recipe()).checked(self.kind)
        self.device, self.seed = torch.device(device), seed
        self.step, self.spent, self.best = 0, 0.0, math.inf
        begin = state or initial(self.kind, seed)
        self.weights = {name: t.to(self.device, torch.float32).clone().requires_grad_() for name, t in begin.items()}
        self.average = {name: t.detach().clone() for name, t in self.weights.items()}
        self._used = [t for name, t in self.weights.items() if ".refinenet4.resConfUnit1." not in name]
        groups = [
            {"params": [t for t in self._used if t.dim() > 1], "weight_decay": self.recipe.decay},
            {"params": [t for t in self._used if t.dim() == 1], "weight_decay": 0.0},
        ]
        self._solver = torch.optim.AdamW(groups, lr=self.recipe.rate, betas=(0.9, 0.98), fused=True)
        self._parts = _Parts(self.weights) if compiled else None
        self._before: Any = None

    @property
    def done(self) -> float:
        """How much of the training lies behind, 0 to 1."""
        if self.recipe.seconds is not None:
            return min(1.0, self.spent / self.recipe.seconds)
        return self.step / self.recipe.steps

    def draw(self, size: tuple[int, int], seed: int, count: int) -> Pairs:
        """Render a batch on the training's device."""
        return draw_pairs(count, seed, size, matches=self.recipe.matches, device=self.device)

    def forward(self, batch: Pairs, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the network on a batch: in bfloat16 on a GPU, in float32 elsewhere."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            if self._parts is not None and weights is self.weights:
                return plain.forward(weights, self.kind, *batch.images, attention="sdpa", run=self._parts)
            return plain.forward(weights, self.kind, *batch.images, attention="sdpa")

    def advance(self) -> dict[str, Tensor]:
        """Do one step; return its losses, on the device."""
        start = time.perf_counter()
        recipe, done = self.recipe, self.done
        for group in self._solver.param_groups:
            group["lr"] = recipe.rate_at(self.step, done)
        size = recipe.size(self.step, done)
        # A batch's seed stands for all its rooms; those of other trainings differ from the first step on.
        batch = self.draw(size, (self.seed * 7919 << 21) + self.step % HELD_OUT, recipe.pairs(size))
        out = self.forward(batch, self.weights)
        parts = losses(out, batch, recipe)
        total = parts["regression"] + recipe.matching * parts["matching"] + 0.02 * parts["trust"]
        self._solver.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._used, recipe.clip)
        # A step whose gradient is not finite is left out, without waiting for the device to know.
        self._solver.grad_scale, self._solver.found_inf = None, (~norm.isfinite()).float()  # type: ignore[attr-defined]
        self._solver.step()
        keep = min(recipe.average, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.weights.values()), 1 - keep)
        self._wait()
        took = time.perf_counter() - start
        self.spent += took if took < _PAUSE else 0.0
        self.step += 1
        return {name: value.detach() for name, value in parts.items()}

    def _wait(self) -> None:
        """Wait for the step before this one: the device stays busy and a step's time is its own."""
        if self.device.type == "cuda":
            now = torch.cuda.Event()
            now.record()
            if self._before is not None:
                self._before.synchronize()
            self._before = now

    def held_out(self, pairs: int = 64, size: tuple[int, int] | None = None) -> float:
        """Return the averaged weights' median relative error of points on held-out rooms."""
        return evaluate(self.average, self.kind, pairs=pairs, size=size or self.recipe.sizes[0], device=self.device)

    # -- stopping and going on --------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write what is needed to go on, eight bytes per weight, whole or not at all.

        The solver's second moments are kept in bfloat16, the averaged weights in float16, the first moments, which
        forget within ten steps, not at all. What goes on here is rounded the same way: stopping changes nothing.
        """
        with torch.no_grad():
            moments = [self._solver.state[t] for t in self._used]
            for state in (m for m in moments if m):
                state["exp_avg"].zero_()
                state["exp_avg_sq"].copy_(state["exp_avg_sq"].to(torch.bfloat16))
            for t in self.average.values():
                t.copy_(t.to(torch.float16))
        held = {
            "kind": self.kind.name,
            "step": self.step,
            "spent": self.spent,
            "best": self.best,
            "seed": self.seed,
            "weights": {name: t.detach().cpu() for name, t in self.weights.items()},
            "average": {name: t.to(torch.float16).cpu() for name, t in self.average.items()},
            "moments": [m["exp_avg_sq"].to(torch.bfloat16).cpu() for m in moments if m],
        }
        with atomic_write(path) as temporary:
            torch.save(held, temporary)
        return Path(path)

    def resume(self, path: str | Path) -> Trainer:
        """Go on from what `save` wrote.

        Raises
        ------
        WeightsError
            It belongs to another network.
        """
        held = torch.load(path, map_location="cpu", weights_only=True)
        if held.get("kind") != self.kind.name or set(held["weights"]) != set(self.weights):
            raise WeightsError(f"{path} is a training of {held.get('kind')}, not of {self.kind.name}; begin anew.")
        with torch.no_grad():
            for name, t in self.weights.items():
                t.copy_(held["weights"][name])
                self.average[name].copy_(held["average"][name])
        for t, square in zip(self._used, held["moments"], strict=False):
            self._solver.state[t] = {
                "step": torch.tensor(float(held["step"]), device=t.device if t.is_cuda else "cpu"),
                "exp_avg": torch.zeros_like(t),
                "exp_avg_sq": square.to(t.device, torch.float32),
            }
        self.step, self.spent, self.seed = held["step"], held["spent"], held["seed"]
        self.best = held.get("best", math.inf)
        return self

    def run(
        self,
        folder: str | Path,
        *,
        every: float = 60.0,
        look: int = 500,
        tell: Callable[[str], object] = print,
        until: float | None = None,
    ) -> dict[str, Tensor]:
        """Train to the end; return the averaged weights.

        Into the folder go ``last.pt`` to go on from, the averaged weights as ``ema.safetensors``, and the best of them
        at any look at the final sizes as ``best.safetensors``.

        Parameters
        ----------
        folder
            Where to write, about every `every` seconds and at the end.
        every, look
            Seconds between checkpoints, steps between looks at held-out rooms.
        tell
            Gets a line per look.
        until
            Stop early, after so many seconds.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        began = saved = time.monotonic()
        parts: dict[str, Tensor] = {}
        while self.done < 1 and (until is None or time.monotonic() - began < until):
            parts = self.advance()
            if self.step % look == 0 or self.step in (20, 100, 250):
                now = ", ".join(f"{name} {float(value):.4f}" for name, value in parts.items())
                size = self.recipe.size(0, self.done)
                error = self.held_out(size=size)
                where = f"step {self.step}, {self.spent:.1f} s, {self.done:.3f}"
                tell(f"{where}: {now}; held-out error {error:.4f} at {size}")
                if size in self.recipe.sizes and error < self.best:
                    self.best = error
                    save(self.average, folder / "best.safetensors", torch.float16)
            if time.monotonic() - saved > every:
                self.checkpoint(folder)
                saved = time.monotonic()
        self.checkpoint(folder)
        return {name: t.cpu() for name, t in self.average.items()}

    def checkpoint(self, folder: Path) -> None:
        """Write ``last.pt`` and ``ema.safetensors``."""
        self.save(folder / "last.pt")
        save(self.average, folder / "ema.safetensors", torch.float16)


def train(
    kind: Variant | str,
    recipe: Recipe | None = None,
    *,
    device: Any = "cpu",
    seed: int = 0,
    state: Mapping[str, Tensor] | None = None,
    progress: Callable[[int, dict[str, float]], object] | None = None,
) -> dict[str, Tensor]:
    """Train a network and return its averaged state dict, on the CPU, with the published names.

    Parameters
    ----------
    kind, recipe, device, seed, state
        As `Trainer` takes them.
    progress
        ``progress(step, losses)``.
    """
    trainer = Trainer(kind, recipe, device=device, seed=seed, state=state)
    while trainer.done < 1:
        parts = trainer.advance()
        if progress is not None:
            progress(trainer.step - 1, {name: float(value) for name, value in parts.items()})
    return {name: t.cpu() for name, t in trainer.average.items()}


def evaluate(
    state: Mapping[str, Tensor],
    kind: Variant | str,
    *,
    pairs: int = 50,
    size: tuple[int, int] = (256, 192),
    device: Any = "cpu",
) -> float:
    """Return the median relative error of points on held-out rooms, each pair brought to the true scale by a median."""
    kind = variant(kind)
    weights = {name: t.to(device, torch.float32) for name, t in state.items()}
    errors = []
    with torch.no_grad():
        for first in range(0, pairs, 16):
            batch = draw_pairs(min(16, pairs - first), HELD_OUT + first, size, matches=1, device=device)
            errors.append(relative_errors(plain.forward(weights, kind, *batch.images, attention="sdpa"), batch))
    return float(torch.cat(errors).median())


def save(state: Mapping[str, Tensor], path: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Write a state dict as safetensors, whole or not at all."""
    from safetensors.torch import save_file

    with atomic_write(path) as temporary:
        save_file({name: t.detach().to("cpu", dtype).contiguous() for name, t in state.items()}, str(temporary))
    return Path(path)
