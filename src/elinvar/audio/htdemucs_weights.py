"""Where HTDemucs' published weights come from, and how a checkpoint becomes a model without running what is in it.

elinvar ships no weights and downloads none. Their author's code is under the MIT licence; of the weights he writes that
they are not covered by it and were made available for scientific purposes only (facebookresearch/demucs, issue 327).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from elinvar.audio.htdemucs import HTDemucs, HTDemucsConfig, Network
from elinvar.audio.htdemucs_layers import Shape
from elinvar.errors import InputError, WeightsError
from elinvar.runtime import weights
from elinvar.runtime.files import atomic_write

__all__ = ["LICENCE", "MODELS", "Bag", "Checkpoint", "Separator", "load_model", "locate", "save_model"]

LICENCE = "not covered by the code's MIT licence; published for scientific purposes only (the author, demucs issue 327)"
_BASE = "https://dl.fbaipublicfiles.com/demucs/hybrid_transformer/"
_STORAGE = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_FOUR = ("drums", "bass", "other", "vocals")
_SIX = (*_FOUR, "guitar", "piano")
# What the published pickles name beside tensors. They become inert records: nothing of them is imported or run.
_NAMED = (
    "demucs.htdemucs.HTDemucs",
    "demucs.hdemucs.HDemucs",
    "fractions.Fraction",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "typing.Any",
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One published file.

    Attributes
    ----------
    signature
        Its name in the publisher's lists.
    digest
        First eight hex digits of the SHA-256 of the ``.th`` file, which its name ends in.
    safetensors
        First and last digits of the SHA-256 of ``<signature>.safetensors``, where known.
    """

    signature: str
    digest: str
    safetensors: tuple[str, str] = ("", "")

    @property
    def th(self) -> str:
        """File name of the pickle."""
        return f"{self.signature}-{self.digest}.th"

    @property
    def url(self) -> str:
        """Where the publisher has the pickle."""
        return _BASE + self.th

    def check(self, path: Path) -> str:
        """Return the file's SHA-256, or raise `WeightsError` when it is not the published one's."""
        found = weights.sha256_of(path)
        first, last = (self.digest, "") if path.suffix == ".th" else self.safetensors
        if not (found.startswith(first) and found.endswith(last)):
            raise WeightsError(
                f"{path} has SHA-256 {found[:16]}…, which should start with {first}: it is damaged or another file; "
                "get it again."
            )
        return found


MODELS: dict[str, tuple[Checkpoint, ...]] = {
    "htdemucs": (Checkpoint("955717e8", "8726e21a"),),
    "htdemucs_ft": (
        Checkpoint("f7e0c4bc", "ba3fe64a"),
        Checkpoint("d12395a8", "e57c48e6"),
        Checkpoint("92cfc3b6", "ef3bcb9c"),
        Checkpoint("04573f0d", "f3cf25b2"),
    ),
    "htdemucs_6s": (Checkpoint("5c90dfd2", "34c22ccb", ("d2a1745f", "d411")),),
}
"""Published models; of the four of ``htdemucs_ft`` each is tuned for one stem: drums, bass, other, vocals."""


class Bag(Network):
    """Several models of the same stems, averaged stem by stem.

    Parameters
    ----------
    models
        With the same sources, rate and segment.
    shares
        ``[model][stem]``: weights of the average; None weighs all alike.
    """

    _table: Tensor

    def __init__(self, models: Sequence[HTDemucs], shares: Sequence[Sequence[float]] | None = None) -> None:
        super().__init__()
        if not models or any(m.config != models[0].config for m in models):
            raise InputError("Bag: give at least one model, all of the same configuration.")
        stems = len(models[0].sources)
        given = [[1.0] * stems] * len(models) if shares is None else shares
        table = torch.tensor(given, dtype=torch.float32, device="cpu")
        if table.shape != (len(models), stems) or bool((table.sum(0) <= 0).any()):
            raise InputError(
                f"Bag: shares have shape {tuple(table.shape)}; give [{len(models)} models][{stems} stems] "
                "with a positive sum for every stem."
            )
        self.models = nn.ModuleList(models)
        self.shares: list[list[float]] = (table / table.sum(0)).tolist()
        self.register_buffer("_table", table / table.sum(0), persistent=False)  # on the device, for CUDA graphs
        self.config = models[0].config

    @property
    def fingerprint(self) -> str:
        """What tells this bag's weights from others."""
        parts = [f"{model.fingerprint}{share}" for model, share in zip(self.models, self.shares, strict=True)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]

    def forward(self, mix: Tensor, mode: str = "full", compute: torch.dtype | None = None) -> Tensor:
        """As `HTDemucs.forward`: each model runs, each stem is the weighted mean over those with a share in it."""
        total: Tensor | None = None
        for k, (model, share) in enumerate(zip(self.models, self.shares, strict=True)):
            if not any(share):
                continue
            out = model(mix, mode, compute) * self._table[k, :, None, None]
            total = out if total is None else total + out
        assert total is not None
        return total


Separator: TypeAlias = HTDemucs | Bag


def locate(name: str) -> tuple[Path, ...]:
    """Return the files of a published model in the first folder that has each, safetensors before pickles.

    The folders are those of ``ELINVAR_WEIGHTS`` and the cache's, themselves or with a folder of the model's name.

    Raises
    ------
    WeightsError
        A file is nowhere; the message says where it comes from, under which licence, and where to put it.
    """
    folders = weights.folders()
    return tuple(_locate_one(name, checkpoint, folders) for checkpoint in MODELS[name])


def _locate_one(name: str, checkpoint: Checkpoint, folders: Sequence[Path]) -> Path:
    for folder in folders:
        for place in (folder, folder / name):
            for file in (f"{checkpoint.signature}.safetensors", checkpoint.th):
                if (place / file).is_file():
                    return place / file
    looked = ", ".join(map(str, folders))
    raise WeightsError(
        f"The weights of {name} ({checkpoint.th} or {checkpoint.signature}.safetensors; licence: {LICENCE}) are not in "
        f"{looked}. Download {checkpoint.url} into {folders[-1]}, or set ELINVAR_WEIGHTS to a folder that has it, or "
        "pass a file's path; `elinvar audio weights` says more."
    )


def load_model(model: str | os.PathLike[str], *, storage: str = "fp32", sha256: str | None = None) -> Separator:
    """Load a separation network.

    Parameters
    ----------
    model
        ``"htdemucs"``, ``"htdemucs_ft"`` (four models) or ``"htdemucs_6s"``, found as by `locate`; or the path of a
        ``.safetensors`` or ``.th`` file, or of a folder with the files of one published model.
    storage
        ``"fp32"``, or ``"fp16"``/``"bf16"``: half the bytes.
    sha256
        Digest of a single file, checked before anything is parsed. The published names are checked by themselves.

    Raises
    ------
    WeightsError
        The file is missing, damaged, unsafe, quantised, or of another network.
    InputError
        The storage is unknown.
    """
    if storage not in _STORAGE:
        raise InputError(f"load_model: storage={storage!r} is unknown; choose one of {', '.join(_STORAGE)}.")
    name, path = os.fspath(model), Path(model).expanduser()
    if name in MODELS and not path.exists():
        return _join(name, locate(name), storage)
    if path.is_dir():
        found = {n: _all_in(path, MODELS[n]) for n in MODELS}
        complete = [(n, files) for n, files in found.items() if files]
        if len(complete) > 1:
            raise WeightsError(f"{path} holds {', '.join(n for n, _ in complete)}; pass the path of one file.")
        if complete:
            return _join(*complete[0], storage)
    if not path.exists():
        raise WeightsError(f"{path} does not exist; pass {', '.join(MODELS)}, or the path of a checkpoint.")
    return _read(path, storage, sha256)


def _all_in(folder: Path, checkpoints: Sequence[Checkpoint]) -> tuple[Path, ...]:
    files = []
    for checkpoint in checkpoints:
        named = (folder / f"{checkpoint.signature}.safetensors", folder / checkpoint.th)
        present = [file for file in named if file.is_file()]
        if not present:
            return ()
        files.append(present[0])
    return tuple(files)


def _join(name: str, files: Sequence[Path], storage: str) -> Separator:
    models = []
    for checkpoint, file in zip(MODELS[name], files, strict=True):
        checkpoint.check(file)
        models.append(_read(file, storage, None, name))
    if len(models) == 1:
        return models[0]
    return Bag(models, [[float(i == k) for i in range(len(models))] for k in range(len(models))])


def _read(path: Path, storage: str, sha256: str | None, name: str = "") -> HTDemucs:
    facts, state = _open(path, sha256)
    config = _config(facts, state, path)
    with torch.device("meta"):
        model = HTDemucs(config=config)
    model.name = name or path.stem
    weights.check_keys(model.state_dict(), state, where=os.fspath(path))
    dtype = _STORAGE[storage]
    model.load_state_dict({key: value.to(dtype) for key, value in state.items()}, assign=True)
    return model.requires_grad_(False)


def _open(path: Path, sha256: str | None) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """Return the constructor's keywords, as far as the file has them, and the tensors."""
    if path.suffix == ".safetensors":
        state = weights.load(path, sha256=sha256)
        facts = _metadata(path)
        if "structure" in facts:
            raise WeightsError(f"{path} is quantised, which elinvar does not read; get the plain checkpoint.")
        return facts, state
    if path.suffix not in (".th", ".pth", ".pt"):
        raise WeightsError(f"{path} is no checkpoint by its name; pass a .safetensors file, or a .th one.")
    checkpoint = weights.load_checkpoint(path, sha256=sha256, inert=_NAMED)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state"), dict):
        raise WeightsError(f"{path} holds no HTDemucs checkpoint (a dictionary with klass, kwargs and state).")
    state = checkpoint["state"]
    if state.get("__quantized") or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} is quantised, which elinvar does not read; get the plain checkpoint.")
    kwargs = checkpoint.get("kwargs")
    return kwargs if isinstance(kwargs, dict) else {}, dict(state)


def _metadata(path: Path) -> dict[str, Any]:
    """Return the ``kwargs`` that a safetensors file carries as JSON, and ``structure`` if it has one."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(size, 100 << 20)))
    carried = header.get("__metadata__", {})
    facts: dict[str, Any] = {}
    try:
        kwargs = json.loads(carried.get("kwargs", "{}"))
    except (ValueError, TypeError):
        kwargs = {}
    if isinstance(kwargs, dict):
        facts.update(kwargs)
    if carried.get("structure") not in (None, "", "null"):
        facts["structure"] = carried["structure"]
    return facts


def _fraction(value: Any) -> Fraction | None:
    """Return seconds from a number, a JSON record of a fraction, or a pickled one."""
    try:
        if isinstance(value, weights.Inert) and value.args:
            value = value.args[0] if len(value.args) == 1 else Fraction(*value.args)
        if isinstance(value, dict) and value.get("_type") == "fraction":
            value = Fraction(int(value["numerator"]), int(value["denominator"]))
        return Fraction(value).limit_denominator(1_000_000) if value is not None else None
    except (ValueError, TypeError, KeyError, ArithmeticError):
        return None


def _config(facts: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> HTDemucsConfig:
    """Work out the sizes: what shapes tell comes from the shapes, the rest from the file or the published models."""
    try:
        first = state["encoder.0.conv.weight"]
        audio = state["tencoder.0.conv.weight"].shape[1]
        depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("encoder."))
        stems = state[f"tdecoder.{depth - 1}.conv_tr.weight"].shape[1] // audio
        bins = state["freq_emb.embedding.weight"].shape[0]
        layers = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("crosstransformer.layers."))
        hidden = state["crosstransformer.layers.0.linear1.weight"].shape
        branches = 1 + max(int(key.split(".")[4]) for key in state if key.startswith("encoder.0.dconv.layers."))
        narrow = state["encoder.0.dconv.layers.0.0.weight"].shape[0]
        growth = state["encoder.1.conv.weight"].shape[0] // first.shape[0] if depth > 1 else 2
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"{path} is no HTDemucs checkpoint (it lacks {error}); pass one of its files.") from None
    bottom = state.get("channel_upsampler.weight")
    sources = facts.get("sources")
    if not isinstance(sources, (list, tuple)) or len(sources) != stems:
        sources = {4: _FOUR, 6: _SIX}.get(stems, tuple(f"stem {i + 1}" for i in range(stems)))
    defaults = HTDemucsConfig()
    try:
        shape = Shape(first.shape[2], int(facts.get("stride", 4)), first.shape[0] // narrow, branches)
        return HTDemucsConfig(
            sources=tuple(str(s) for s in sources),
            audio_channels=audio,
            sample_rate=int(facts.get("samplerate", defaults.sample_rate)),
            channels=first.shape[0],
            growth=growth,
            depth=depth,
            n_fft=bins * shape.stride * 2,
            bottom_channels=0 if bottom is None else bottom.shape[0],
            layers=layers,
            heads=int(facts.get("t_heads", defaults.heads)),
            hidden_scale=hidden[0] / hidden[1],
            segment=_fraction(facts.get("segment")) or defaults.segment,
            shape=shape,
        )
    except (ValueError, TypeError, ArithmeticError) as error:
        told = {name: facts.get(name) for name in ("sources", "samplerate", "segment", "t_heads", "stride")}
        raise WeightsError(
            f"{path} describes a network that cannot be ({error}); it says {told}. Pass a published checkpoint."
        ) from None


def save_model(model: HTDemucs, path: str | os.PathLike[str]) -> None:
    """Write a model as safetensors, with what `load_model` needs to know beside the tensors.

    Converts a ``.th`` pickle once and for all: ``save_model(load_model("x.th"), "x.safetensors")``.
    """
    from safetensors.torch import save_file

    c = model.config
    segment = {"_type": "fraction", "numerator": c.segment.numerator, "denominator": c.segment.denominator}
    kwargs = {"sources": c.sources, "samplerate": c.sample_rate, "segment": segment, "t_heads": c.heads,
              "stride": c.shape.stride}  # fmt: skip
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={"klass": "HTDemucs", "args": "[]", "kwargs": json.dumps(kwargs)})
