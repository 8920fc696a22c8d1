"""Whether the same frames come out again: hashes of rendered codes, kept in a file, rendered again and compared.

What is hashed are the codes fed to an encoder, never a lossy encoder's packets: those differ from run to run. Two
classes:

exact
    Y'CbCr codes of frames that went through integer hashing and the conversion alone: the same on every device.
float
    Rendered frames: the same for one version, device kind and processor, whatever the threads, the frames in flight or
    the order; across devices they agree within a tolerance. The record names where it was made.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.runtime.files import write_text
from elinvar.runtime.transfers import to_host
from elinvar.video.graph import Graph
from elinvar.video.yuv import coding

__all__ = ["Record", "Verdict", "frame_hash", "record", "verify"]


def frame_hash(planes: Iterable[torch.Tensor]) -> str:
    """Return SHA-256 of planes' bytes with their shapes and types."""
    digest = hashlib.sha256()
    for plane in planes:
        digest.update(f"{tuple(plane.shape)} {plane.dtype};".encode())
        host = to_host(plane).contiguous()
        digest.update(host.view(torch.uint8).numpy().tobytes() if host.dtype != torch.uint8 else host.numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Record:
    """Hashes of some frames, and where they were made."""

    width: int
    height: int
    format: str
    view: str
    device: str
    processor: str
    version: str
    hashes: dict[str, str]

    def write(self, path: Any) -> None:
        """Write as JSON."""
        write_text(Path(path), json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Any) -> Record:
        """Read what `write` wrote."""
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, TypeError, json.JSONDecodeError) as error:
            raise InputError(
                f"video verify: {path} is no record of hashes ({error}); make one with --record."
            ) from error


@dataclass(frozen=True)
class Verdict:
    """Whether frames came out the same."""

    same: bool
    differing: tuple[int, ...]
    comparable: bool
    """Whether the record was made on the same kind of device and processor, so that equality can be expected."""
    why: str = ""


def _processor() -> str:
    from llvmlite import binding

    return f"{platform.machine()} {binding.get_host_cpu_name()}"


def record(graph: Graph, frames: Sequence[int], size: tuple[int, int] | None = None, format: str = "p010") -> Record:  # noqa: A002
    """Render frames to codes and return their hashes, in the order given."""
    from elinvar import __version__

    width, height = size or graph.size
    how = coding(format)
    hashes = {str(n): frame_hash(graph.render_yuv(n, how, (width, height))) for n in frames}
    return Record(width, height, format, graph.view, graph.device.kind, _processor(), __version__, hashes)


def verify(graph: Graph, known: Record | Any) -> Verdict:
    """Render a record's frames again and compare.

    Parameters
    ----------
    known
        A `Record`, or the path of one.

    Returns
    -------
    Verdict
    """
    before = known if isinstance(known, Record) else Record.read(known)
    now = record(graph, [int(n) for n in before.hashes], (before.width, before.height), before.format)
    differing = tuple(int(n) for n in before.hashes if before.hashes[n] != now.hashes[n])
    changed = [
        f"{name} {getattr(before, name)} -> {getattr(now, name)}"
        for name in ("device", "processor", "version", "view")
        if getattr(before, name) != getattr(now, name)
    ]
    return Verdict(not differing, differing, not changed, "; ".join(changed))
