"""Reading a network's tensors from every published layout, a few at a time.

A large checkpoint is never held twice: tensors are read group by group, converted, and what was mapped is let go.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from elinvar.errors import InputError, WeightsError
from elinvar.runtime import weights

from .catalogue import Variant
from .keys import Shape, canonical, derive, expected, optional

__all__ = ["Files", "Random", "Source", "State", "checked", "open_weights", "shipped"]

_INERT = ("argparse.Namespace",)  # the official .pth files keep their training options in one
_AT_ONCE = 384 << 20  # bytes read from a mapped pickle before it is mapped anew
_SHIPPED = Path(__file__).parent / "data"  # weights that come with elinvar
_FREE = "elinvar_free"
_PICKLED = (".pth", ".pt", ".th", ".bin", ".ckpt")


class Source(Protocol):
    """Where tensors come from: their shapes at once, their values in groups."""

    @property
    def shapes(self) -> Mapping[str, Any]:
        """Names, and anything with a ``shape``."""
        ...

    where: str

    def get(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Return some tensors by name, on the CPU, in the dtype they are stored in."""
        ...


class State:
    """A state dict in memory, with the names of `elinvar.vision.keys.expected`."""

    def __init__(self, state: Mapping[str, torch.Tensor], where: str = "The state dict") -> None:
        self.shapes: Mapping[str, Any] = state
        self.where = where

    def get(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Return some of the tensors."""
        return {name: self.shapes[name] for name in names}


class Random:
    """Random weights that keep activations in range: for smoke tests and timing, never for results.

    Every tensor depends on its name and the seed alone.
    """

    def __init__(self, kind: Variant, seed: int) -> None:
        self.shapes: Mapping[str, Shape] = expected(kind)
        self.where = f"Random weights (seed {seed})"
        self._seed = seed

    def get(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Draw some tensors."""
        return {name: self._draw(name, self.shapes[name].shape) for name in names}

    def _draw(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        make = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ (self._seed * 0x9E3779B1 & 0xFFFFFFFF))
        z = torch.randn(shape, generator=make)
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "gamma":
            return z.mul_(0.1).add_(0.5)
        if len(shape) == 1:
            return z.mul_(0.1).add_(1.0) if leaf == "weight" else z.mul_(0.05)
        if leaf in ("cls_token", "pos_embed", "register_tokens"):
            return z.mul_(0.3)
        fan = 1
        for n in shape[1:]:
            fan *= n
        if ".act_postprocess." in name and name.split(".")[-2] == "1" and shape[-1] in (2, 4):
            fan = shape[0]  # a transposed convolution whose stride is its side adds up over its inputs only
        return z.mul_((0.35 if name.endswith("dpt.head.4.weight") else 1.0) * fan**-0.5)


def _tensors(checkpoint: Any, path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict in a pickled checkpoint: itself, or the entry with most tensors."""
    places = [checkpoint] if isinstance(checkpoint, Mapping) else []
    places += [value for place in places for value in place.values() if isinstance(value, Mapping)]
    held = [{str(k): v for k, v in place.items() if isinstance(v, torch.Tensor)} for place in places]
    best = max(held, key=len, default={})
    if not best:
        raise WeightsError(f"{path} holds no tensors; pass the checkpoint of a two-view network.")
    return best


class _File:
    """One file: its stored names and shapes, and groups of its tensors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pickled = path.suffix in _PICKLED
        self._state: dict[str, torch.Tensor] = {}
        self._served = 0
        self.shapes = {name: Shape(tuple(tensor.shape)) for name, tensor in self._open().items()}
        self._state = {}

    def _open(self) -> dict[str, torch.Tensor]:
        if self._pickled:
            return _tensors(weights.load_checkpoint(self.path, inert=_INERT), self.path)
        return dict(weights.stream(self.path))

    def get(self, names: list[str]) -> dict[str, torch.Tensor]:
        if not self._pickled:
            return dict(weights.stream(self.path, names=names))
        if not self._state or self._served > _AT_ONCE:
            self._state, self._served = {}, 0
            self._state = self._open()
        found = {name: self._state[name].detach() for name in names}
        self._served += sum(t.numel() * t.element_size() for t in found.values())
        return found

    def close(self) -> None:
        self._state = {}


class Files:
    """The files of one checkpoint, under our names.

    Parameters
    ----------
    paths
        One file, or an encoder's and a decoder's.
    kind
        The network, which says how its layouts are spelled.
    """

    def __init__(self, paths: Iterable[Path], kind: Variant) -> None:
        self._files = [_File(path) for path in paths]
        self.where = ", ".join(str(file.path) for file in self._files)
        self._home: dict[str, tuple[_File, str]] = {}
        for file in self._files:
            for stored in file.shapes:
                name = canonical(stored, kind)
                if name is not None:
                    self._home.setdefault(name, (file, stored))
        self.shapes: dict[str, Any] = {name: file.shapes[stored] for name, (file, stored) in self._home.items()}

    def get(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Read some tensors; each file is opened once."""
        out: dict[str, torch.Tensor] = {}
        wanted = list(names)
        for file in self._files:
            mine = {self._home[name][1]: name for name in wanted if self._home[name][0] is file}
            if mine:
                out |= {mine[stored]: tensor for stored, tensor in file.get(list(mine)).items()}
        return out

    def close(self) -> None:
        """Let go of what is still mapped."""
        for file in self._files:
            file.close()


class _Doubled:
    """A checkpoint with one decoder stack, used for both branches (DUSt3R's older files)."""

    def __init__(self, inner: Source) -> None:
        self._inner = inner
        self.where = inner.where
        twins = {n.replace("dec_blocks.", "dec_blocks2.", 1): s for n, s in inner.shapes.items() if "dec_blocks." in n}
        self.shapes: Mapping[str, Any] = {**inner.shapes, **twins}

    def get(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        wanted = list(names)
        stored = {name: name.replace("dec_blocks2.", "dec_blocks.", 1) for name in wanted}
        found = self._inner.get(dict.fromkeys(stored.values()))
        return {name: found[stored[name]] for name in wanted}


def _choose(path: Path, kind: Variant) -> list[Path]:
    """Return the files to read for a path: itself, or what a folder holds, by the published names first."""
    if not path.is_dir():
        return [path]
    for folder in (path, path / kind.name):
        for stem in ("unified", "model"):
            for suffix in (".safetensors", ".safetensors.index.json", ".pth"):
                if (folder / f"{stem}{suffix}").exists():
                    return [folder / f"{stem}{suffix}"]
        for suffix in (".safetensors", ".pth"):
            pair = [folder / f"{part}{suffix}" for part in ("encoder", "decoder")]
            if all(file.exists() for file in pair):
                return pair
    found = [
        file
        for suffix in ("*.safetensors", *(f"*{suffix}" for suffix in _PICKLED))
        for file in sorted(path.glob(suffix))
        if not file.name.startswith(("retrieval", "codebook"))
    ]
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:5]) or "no checkpoint"
        raise WeightsError(
            f"{path} holds {names}; pass one file, or a folder with model.safetensors, unified.safetensors or "
            "encoder.safetensors and decoder.safetensors."
        )
    return found


def checked(source: Source, kind: Variant) -> tuple[Source, dict[str, Shape]]:
    """Return the source, completed where the layout allows, and the names and shapes of the network it holds.

    Raises
    ------
    WeightsError
        Tensors are missing, unexpected or of another shape: the first five are named.
    """
    if not any(name.startswith("dec_blocks2.") for name in source.shapes):
        source = _Doubled(source)
    wanted = expected(kind, **derive(kind, source.shapes))
    needed = {name: shape for name, shape in wanted.items() if not optional(name) or name in source.shapes}
    if any(tuple(getattr(s, "shape", ())) == () and n in needed for n, s in source.shapes.items()):
        raise WeightsError(f"{source.where} holds scalars where tensors belong; get the published checkpoint.")
    weights.check_keys(needed, source.shapes, where=f"{source.where} ({kind.name})")
    return source, {name: shape for name, shape in needed.items() if not optional(name)}


def open_weights(path: str | os.PathLike[str], kind: Variant) -> tuple[Source, dict[str, Shape]]:
    """Open a checkpoint in any published layout; see `checked` for what is returned and raised."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"vision: weights are {type(path).__name__}; pass a file, a folder or a state dict.")
    where = Path(path).expanduser()
    if not where.exists():
        raise WeightsError(missing(kind, where))
    return checked(Files(_choose(where, kind), kind), kind)


def missing(kind: Variant, looked: Path | None = None) -> str:
    """Return the sentence for weights that are not there: where to get them, under which licence, where to put them."""
    folder = weights.folders()[-1]
    lead = f"{looked} does not exist" if looked is not None else f"No weights for {kind.name} were found"
    if shipped(kind.name) is not None:
        return f"{lead}; leave the path out: weights of {kind.name} come with elinvar."
    if not kind.where:
        return f"{lead}; {kind.name} has no published weights: pass the path of your own, or use random weights."
    free = " Without them: the variant 'free' (--model free) comes with elinvar, small and weak on photographs."
    return (
        f"{lead} (licence: {kind.licence}). Three ways to supply them: download them from {kind.where} into {folder}; "
        f"or set ELINVAR_WEIGHTS to a folder that has a sub-folder {kind.name}; or pass their path (--weights)."
        f"{free if shipped(_FREE) is not None else ''}"
    )


def shipped(name: str) -> Path | None:
    """Return the file with a network's weights that comes with elinvar, if there is one."""
    path = _SHIPPED / f"{name}.safetensors"
    return path if path.is_file() else None


def find_weights(kind: Variant) -> Path:
    """Return the first folder or file that is named after the network: ``ELINVAR_WEIGHTS``, the cache, the package.

    Raises
    ------
    WeightsError
        There is none; the message says the three ways to supply it.
    """
    for folder in (*weights.folders(), _SHIPPED):
        for candidate in (folder / kind.name, *(folder / f"{kind.name}{end}" for end in (".safetensors", ".pth"))):
            if candidate.exists():
                return candidate
    raise WeightsError(missing(kind))
