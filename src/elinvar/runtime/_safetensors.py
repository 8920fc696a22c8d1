"""Safetensors files and their shard index, checked before they are mapped.

Format (Hugging Face, safetensors): an 8-byte little-endian header length, a JSON header of
``name -> {dtype, shape, data_offsets}``, then the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from elinvar.errors import WeightsError

__all__ = ["read_index", "shards_of", "stream_file"]

_LARGEST_HEADER = 100_000_000  # the format's own limit


def _header(path: Path) -> dict[str, Any]:
    """Return the parsed header of a complete file; mapping a truncated one would crash the process on first use."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _LARGEST_HEADER):
                raise WeightsError(
                    f"{path} ends inside its header ({size} bytes) or is no safetensors file; get it again."
                )
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} has no valid safetensors header; it is damaged, get it again.") from error
    need = 8 + length + max(ends, default=0)
    if size < need:
        raise WeightsError(f"{path} is truncated: {size} of {need} bytes; get it again.")
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def stream_file(path: Path, names: Iterable[str] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield ``(name, tensor)`` of one file, memory-mapped; `names` picks some, in that order."""
    from safetensors import SafetensorError, safe_open

    header = _header(path)
    wanted = list(header) if names is None else list(names)
    absent = [name for name in wanted if name not in header]
    if absent:
        raise WeightsError(f"{path} lacks tensor {absent[0]!r} that the index says it has; get the whole folder again.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in wanted:
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged ({error}); get it again.") from error


def read_index(path: Path) -> dict[Path, list[str]]:
    """Return ``shard path -> tensor names`` of a ``.safetensors.index.json``; all shards exist, beside the index."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        pairs = [(str(name), str(shard)) for name, shard in table.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is no safetensors index (no weight_map in it); get it again.") from error
    shards: dict[Path, list[str]] = {}
    for name, shard in pairs:
        if Path(shard).name != shard:
            raise WeightsError(f"{path} points outside its folder ({shard!r}); do not use it.")
        shards.setdefault(path.parent / shard, []).append(name)
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise WeightsError(f"{path} needs {len(missing)} files that are not there, first {missing[0]}; get them too.")
    return shards


def shards_of(path: Path) -> list[Path]:
    """Return the files a ``.safetensors.index.json`` refers to."""
    return list(read_index(path))
