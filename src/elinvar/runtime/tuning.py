"""What ``elinvar tune`` found out about this machine, and the documented defaults until it has run.

One JSON file per kind of device under ``<cache>/tuning``, named after a hash of what the device is (kind, name, units,
instruction sets), so a cache folder shared between machines never mixes them up. Keys:

=====================  ==========================================================================================
``kernel.NAME``        version of the kernel NAME that was fastest
``crossover.OP``       size (see `elinvar.runtime.placement`) from which moving host data to this device pays
``rate.JOB``           units of work per second of the job JOB
``copy_gbps``          copy bandwidth inside the device's memory, GB/s of reads plus writes
``link_gbps``          copies between host and device, GB/s
``matmul_gflops``      mapping of format to GFLOP/s
``option.NAME``        anything else an engine measured: a group size, an unroll factor
=====================  ==========================================================================================
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from elinvar.errors import InputError

from .files import cache_dir, write_text

if TYPE_CHECKING:
    from .device import DeviceProfile

__all__ = ["DEFAULT_CROSSOVERS", "Tuned", "save_tuned", "tuned", "tuning_file"]

_log = logging.getLogger("elinvar.tuning")
_FORMAT = 1
_writing = threading.Lock()

DEFAULT_CROSSOVERS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        # Judgement, for data on the host, both copies included. An elementwise operation or a reduction reads memory
        # once, and the copy to the device does that already, more slowly: it never pays alone.
        "cuda": {"matmul": 2**27, "conv": 2**27, "attention": 2**27, "fft": 2**16, "elementwise": math.inf,
                 "reduction": math.inf, "sort": 2**18},
        "mps": {"matmul": 2**30, "conv": 2**28, "attention": 2**28, "fft": 2**18, "elementwise": math.inf,
                "reduction": math.inf, "sort": 2**20},
    }
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What is known about one device.

    Attributes
    ----------
    kernels
        Kernel name to the version that was fastest here.
    crossovers
        Operation to the size from which the device pays; defaults where not measured.
    rates
        Job name to units of work per second.
    options
        What engines stored besides.
    copy_gbps, link_gbps, matmul_gflops
        Measured bandwidths (inside the device, and between host and device) and matrix product rates; None until then.
    measured
        The keys that were measured on this machine; everything else is a default.
    """

    kernels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    crossovers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    copy_gbps: float | None = None
    link_gbps: float | None = None
    matmul_gflops: Mapping[str, float] | None = None
    measured: frozenset[str] = frozenset()


def tuning_file(profile: DeviceProfile) -> Path:
    """Return where a device's measurements are kept."""
    # Measured rates and memory limits change without making the device another one.
    identity = [profile.kind, profile.name, profile.compute_units, sorted(profile.isa)]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    return cache_dir() / "tuning" / f"{profile.kind}-{digest}.json"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0  # also refuses NaN


def _rates(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(k, str) and _number(v) for k, v in value.items())


_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "kernel": (lambda value: isinstance(value, str) and bool(value), "a version name"),
    "crossover": (_number, "a size above 0 (inf for never)"),
    "rate": (_number, "units per second above 0"),
    "copy_gbps": (_number, "GB/s above 0"),
    "link_gbps": (_number, "GB/s above 0"),
    "matmul_gflops": (_rates, "a mapping of formats to GFLOP/s"),
    "option": (lambda _: True, "anything JSON can hold"),
}


def _check(key: str) -> tuple[Callable[[Any], bool], str] | None:
    """Return the test and description of a key's values, or None for an unknown key."""
    head, dot, rest = key.partition(".")
    named = head in ("kernel", "crossover", "rate", "option")
    return _CHECKS.get(head) if named == bool(dot and rest) else None


def _read(file: Path) -> dict[str, Any]:
    """Return the stored values that are valid; a missing or damaged file is the same as an untuned machine."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        values = data["values"] if data["format"] == _FORMAT else {}
        pairs = list(values.items())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        _log.warning("%s is damaged; defaults are used until `elinvar tune` writes it again.", file)
        return {}
    return {key: value for key, value in pairs if (check := _check(key)) is not None and check[0](value)}


def tuned(profile: DeviceProfile) -> Tuned:
    """Return what was measured on this machine for a device like `profile`, with defaults for the rest."""
    values = _read(tuning_file(profile))

    def part(head: str) -> dict[str, Any]:
        return {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{head}.")}

    return Tuned(
        kernels=part("kernel"),
        crossovers={**DEFAULT_CROSSOVERS.get(profile.kind, {}), **part("crossover")},
        rates=part("rate"),
        options=part("option"),
        copy_gbps=values.get("copy_gbps", profile.copy_gbps),
        link_gbps=values.get("link_gbps"),
        matmul_gflops=values.get("matmul_gflops", profile.matmul_gflops),
        measured=frozenset(values),
    )


def save_tuned(profile: DeviceProfile, key: str, value: Any) -> Path:
    """Store one measurement, keeping the others, and return the file.

    The file is replaced as a whole; two processes that tune at the same time do not lose each other's keys.

    Raises
    ------
    InputError
        If the key is not one of this module's table, or the value is not of its kind.
    """
    check = _check(key) if isinstance(key, str) else None
    if check is None:
        raise InputError(
            f"save_tuned got the key {key!r}; it takes kernel.NAME, crossover.OP, rate.JOB, option.NAME, copy_gbps, "
            "link_gbps or matmul_gflops."
        )
    if not check[0](value):
        raise InputError(f"save_tuned got {key}={value!r}; it takes {check[1]}.")
    file = tuning_file(profile)
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"save_tuned got {key}={value!r}, which JSON cannot hold; store plain values.") from error
    with _writing, _locked(file):
        values = {**_read(file), key: value}
        head = {"format": _FORMAT, "device": profile.name, "kind": profile.kind}
        write_text(file, json.dumps({**head, "values": dict(sorted(values.items()))}, indent=1) + "\n")
    return file


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Keep other processes out while a file is read and rewritten, where the system has file locks."""
    try:
        import fcntl
    except ImportError:  # not POSIX: the last writer wins
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
