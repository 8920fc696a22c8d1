"""Fetching, converting and checking checkpoints, for the command line."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from elinvar.errors import InputError, WeightsError
from elinvar.runtime import weights
from elinvar.runtime.files import atomic_write

from .catalogue import Variant
from .checkpoint import find_weights, open_weights

__all__ = ["DTYPES", "URLS", "convert", "fetch", "inspect", "status"]

URLS = {
    "mast3r_vit_large": "https://huggingface.co/naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric/resolve/main/"
    "model.safetensors",
}
"""Where the publishers keep single files. The others are on project pages: give their address."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_PIECE = 1 << 20


def fetch(
    kind: Variant,
    *,
    url: str | None = None,
    sha256: str | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> Path:
    """Download a checkpoint into the weights folder and return its path; whole and checked, or not there.

    Raises
    ------
    WeightsError
        The address cannot be read, or the file has another digest.
    InputError
        No address is known, or it is neither https nor file.
    """
    address = url or URLS.get(kind.name)
    if address is None:
        raise InputError(f"weights download: no single file is known for {kind.name}; pass --url from {kind.where}.")
    parts = urllib.parse.urlparse(address)
    if parts.scheme not in ("https", "file"):
        raise InputError(f"weights download: {address} is not https; pass an https address.")
    target = weights.folders()[-1] / kind.name / (Path(parts.path).name or "model.safetensors")
    try:
        with urllib.request.urlopen(address, timeout=60) as source, atomic_write(target) as temporary:  # noqa: S310
            length = source.headers.get("Content-Length")
            total = int(length) if length else None
            done = 0
            with temporary.open("wb") as file:
                while piece := source.read(_PIECE):
                    file.write(piece)
                    done += len(piece)
                    if progress is not None:
                        progress(done, total)
            if total is not None and done != total:
                raise WeightsError(f"{address} ended after {done} of {total} bytes; try again.")
            found = weights.sha256_of(temporary)
            if sha256 is not None and found != sha256.lower():
                raise WeightsError(f"{address} has SHA-256 {found[:16]}…, expected {sha256[:16]}…; it was not kept.")
    except (urllib.error.URLError, OSError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{address} cannot be fetched ({error}); download it elsewhere and copy it to {target.parent}."
        ) from error
    return target


def inspect(path: Path, kind: Variant) -> dict[str, Any]:
    """Open a checkpoint, check names, shapes and values, and say what it holds.

    Raises
    ------
    WeightsError
        It does not fit the variant, or holds values that are not finite.
    """
    source, names = open_weights(path, kind)
    total, kinds, bad = 0, set(), []
    for name in names:
        tensor = source.get([name])[name]
        total += tensor.numel()
        kinds.add(str(tensor.dtype).removeprefix("torch."))
        if not bool(torch.isfinite(tensor.float().sum())):
            bad.append(name)
    if bad:
        raise WeightsError(f"{path}: {len(bad)} tensors hold values that are not finite, first {bad[0]}; get it again.")
    return {"path": path, "variant": kind.name, "tensors": len(names), "parameters": total, "dtypes": sorted(kinds)}


def convert(path: Path, kind: Variant, out: Path, dtype: str) -> Path:
    """Write a checkpoint of any layout as one safetensors file.

    Raises
    ------
    InputError
        Unknown dtype, or the output would replace its input.
    WeightsError
        The disk has too little room, or the input does not fit.
    """
    from safetensors.torch import save_file

    if dtype not in DTYPES:
        raise InputError(f"weights convert: dtype {dtype!r}; use {', '.join(DTYPES)}.")
    if out.suffix != ".safetensors":
        out = out / "model.safetensors"
    if out.exists() and path.exists() and out.resolve() == path.resolve():
        raise InputError(f"weights convert: {out} is the input; choose another output.")
    source, names = open_weights(path, kind)
    state: dict[str, torch.Tensor] = {}
    for name in names:
        stored = source.get([name])[name]
        state[name] = stored.to(DTYPES[dtype]).clone().contiguous()
    out.parent.mkdir(parents=True, exist_ok=True)
    size = sum(t.numel() * t.element_size() for t in state.values())
    if shutil.disk_usage(out.parent).free < size:
        raise WeightsError(f"weights convert: {out.parent} has no room for {size / 1e6:.0f} MB; choose another folder.")
    with atomic_write(out) as temporary:
        save_file(state, str(temporary), metadata={"format": "pt", "variant": kind.name})
    return out


def status(kind: Variant) -> dict[str, Any]:
    """Say whether a variant's weights are found, and where."""
    row: dict[str, Any] = {"variant": kind.name, "licence": kind.licence, "found": None, "bytes": None}
    try:
        path = find_weights(kind)
    except WeightsError:
        return row
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    return row | {"found": path, "bytes": sum(file.stat().st_size for file in files)}
