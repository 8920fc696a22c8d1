"""Devices: what there is to compute on, what it is good at, and its memory pool.

``device("auto")`` picks cuda, then mps, then cpu. Devices belong to a `Runtime`; the module functions use the default
one, which is the only global state of the library, and ``Runtime()`` makes one that shares nothing with it (pools
included). Importing this module initialises no GPU.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from elinvar.errors import DeviceLost, DeviceUnavailable, InputError

from . import _hardware
from .tuning import tuned

if TYPE_CHECKING:
    from .memory import Pool

__all__ = ["Device", "DeviceProfile", "Runtime", "default_runtime", "device", "devices"]

_SPEC = re.compile(r"(cpu|cuda|mps)(?::(\d+))?")
_DTYPES = ("bf16", "fp16", "fp32")
_KINDS = ("cpu", "cuda", "mps")


@dataclass(frozen=True)
class DeviceProfile:
    """What a device is, and how fast it was measured to be.

    Attributes
    ----------
    kind
        ``"cpu"``, ``"cuda"`` or ``"mps"``.
    name
        As its maker writes it.
    compute_units
        CPU: processors this process may use (affinity, control-group quota). CUDA: multiprocessors. mps: GPU cores.
    memory_bytes
        Memory this process may use at most (on CPU and mps the system's, or the control group's limit).
    recommended_budget_bytes
        A sensible ceiling for pools: half of a CPU's memory, 80 % of an NVIDIA GPU's, Metal's own advice on Apple.
    copy_gbps
        Measured copy bandwidth, GB/s of reads plus writes; None until ``elinvar tune`` has run on this machine.
    matmul_gflops
        Measured matrix-product rate by dtype name, GFLOP/s; None until tuned.
    fast
        Names out of "fp32", "bf16", "fp16" whose arithmetic is fast, not merely present.
    isa
        Instruction sets: torch's names on CPU, ``("sm_90",)`` on CUDA, ``("metal",)`` on mps.
    cache_bytes
        Last-level cache, 0 when unknown.
    """

    kind: str
    name: str
    compute_units: int
    memory_bytes: int
    recommended_budget_bytes: int
    copy_gbps: float | None = None
    matmul_gflops: Mapping[str, float] | None = None
    fast: frozenset[str] = frozenset({"fp32"})
    isa: tuple[str, ...] = ()
    cache_bytes: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise InputError(f"DeviceProfile: kind {self.kind!r} is unknown; use one of {', '.join(_KINDS)}.")
        for field in ("compute_units", "memory_bytes", "recommended_budget_bytes"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"DeviceProfile: {field}={value!r} is not a count; pass a whole number from 1.")
        unknown = set(self.fast) - set(_DTYPES)
        if unknown:
            raise InputError(f"DeviceProfile: fast has {sorted(unknown)}; it may hold {', '.join(_DTYPES)}.")

    def __hash__(self) -> int:
        rates = None if self.matmul_gflops is None else tuple(sorted(self.matmul_gflops.items()))
        return hash((self.kind, self.name, self.compute_units, self.memory_bytes, self.copy_gbps, rates, self.isa))

    def with_measurements(
        self, *, copy_gbps: float | None = None, matmul_gflops: Mapping[str, float] | None = None
    ) -> DeviceProfile:
        """Return a copy with measured rates filled in; None keeps what was there.

        Raises
        ------
        InputError
            A rate is not a positive number.
        """
        rates = {"copy_gbps": copy_gbps, **(matmul_gflops or {})}
        bad = {name: rate for name, rate in rates.items() if rate is not None and not 0 < rate < float("inf")}
        if bad:
            name, rate = next(iter(bad.items()))
            raise InputError(f"DeviceProfile.with_measurements: {name}={rate!r} is not a rate; pass a number above 0.")
        return replace(
            self,
            copy_gbps=self.copy_gbps if copy_gbps is None else float(copy_gbps),
            matmul_gflops=self.matmul_gflops if matmul_gflops is None else dict(matmul_gflops),
        )

    def to_json(self) -> str:
        """Return the profile as one JSON object; `from_json` gives back an equal profile."""
        data = asdict(self) | {"fast": sorted(self.fast), "isa": list(self.isa)}
        return json.dumps(data, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> DeviceProfile:
        """Rebuild a profile from `to_json`'s text, or from the object it parses to.

        Raises
        ------
        InputError
            Not JSON, not an object, or a field is missing or unknown.
        """
        try:
            data = json.loads(text) if isinstance(text, str) else dict(text)
            unknown = set(data) - {field.name for field in fields(cls)}
            if unknown:
                raise InputError(f"DeviceProfile.from_json: unknown field {min(unknown)!r}; write it by to_json.")
            data["fast"] = frozenset(data.get("fast", ("fp32",)))
            data["isa"] = tuple(data.get("isa", ()))
            return cls(**data)
        except (TypeError, json.JSONDecodeError) as error:
            raise InputError(f"DeviceProfile.from_json: {error}; pass what to_json wrote.") from error

    @classmethod
    def fake(cls, **changes: Any) -> DeviceProfile:
        """Return a made-up four-core CPU profile with `changes` applied, for tests."""
        base: dict[str, Any] = {
            "kind": "cpu",
            "name": "fake",
            "compute_units": 4,
            "memory_bytes": 16 << 30,
            "recommended_budget_bytes": 8 << 30,
            "cache_bytes": 32 << 20,
        }
        try:
            return cls(**base | changes)
        except TypeError as error:
            raise InputError(f"DeviceProfile.fake: {error}; pass fields of DeviceProfile.") from error


class Device:
    """One device of a `Runtime`. Get it from `device` or `devices`, not from this constructor.

    Equal devices are those of the same runtime, kind and index. ``str(dev)`` is what `device` accepts.
    """

    __slots__ = ("__weakref__", "_lock", "_pool", "_profile", "_runtime", "index", "kind")

    def __init__(self, runtime: Runtime, kind: str, index: int) -> None:
        self.kind = kind
        """``"cpu"``, ``"cuda"`` or ``"mps"``."""
        self.index = index
        """Which of its kind; 0 on cpu and mps."""
        self._runtime = runtime
        self._profile: DeviceProfile | None = None
        self._pool: Pool | None = None
        self._lock = threading.RLock()

    @property
    def runtime(self) -> Runtime:
        """The runtime this device belongs to."""
        return self._runtime

    @property
    def torch(self) -> torch.device:
        """The device by torch's name, with its index on cuda."""
        return torch.device(self.kind, self.index) if self.kind == "cuda" else torch.device(self.kind)

    @property
    def name(self) -> str:
        """The device's name for humans."""
        return self.profile.name

    @property
    def profile(self) -> DeviceProfile:
        """What the device is and how fast: detected on first use, with the rates ``elinvar tune`` measured by then."""
        with self._lock:
            if self._profile is None:
                self._profile = _detect(self.kind, self.index)
            return self._profile

    @property
    def pool(self) -> Pool:
        """The device's memory pool, made on first use with the profile's recommended budget."""
        with self._lock:
            if self._pool is None:
                from .memory import Pool

                self._pool = Pool(self, budget_bytes=self.profile.recommended_budget_bytes)
            return self._pool

    def synchronize(self) -> None:
        """Wait until everything submitted to the device has finished; returns at once on cpu.

        Raises
        ------
        DeviceLost
            The device reported a fault; nothing can run on it in this process any more.
        """
        try:
            if self.kind == "cuda":
                torch.cuda.synchronize(self.index)
            elif self.kind == "mps":
                torch.mps.synchronize()
        except RuntimeError as error:
            raise DeviceLost(f"synchronize: {self} faulted ({error}); restart the process.") from error

    def __str__(self) -> str:
        return f"cuda:{self.index}" if self.kind == "cuda" else self.kind

    def __repr__(self) -> str:
        return f"<Device {self}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Device):
            return NotImplemented
        return (self._runtime is other._runtime) and (self.kind, self.index) == (other.kind, other.index)

    def __hash__(self) -> int:
        return hash((id(self._runtime), self.kind, self.index))

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process has its own default runtime; an isolated one exists only here.
        if self._runtime is not _default:
            raise InputError(f"pickle: {self} belongs to an isolated Runtime; send its name and open it there.")
        return device, (str(self),)


def _detect(kind: str, index: int) -> DeviceProfile:
    if kind == "cuda":
        found = DeviceProfile(**_hardware.cuda_facts(index))
    else:
        found = DeviceProfile(**(_hardware.mps_facts() if kind == "mps" else _hardware.cpu_facts()))
    known = tuned(found)
    try:
        return found.with_measurements(copy_gbps=known.copy_gbps, matmul_gflops=known.matmul_gflops)
    except InputError:  # a stored rate that is no rate counts as not measured
        return found


def _present() -> list[tuple[str, int]]:
    """Every (kind, index) on this machine, best first. Counting GPUs creates no CUDA context."""
    found: list[tuple[str, int]] = []
    if torch.cuda.is_available():
        found += [("cuda", index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(("mps", 0))
    return [*found, ("cpu", 0)]


def _wanted(spec: object) -> tuple[str, int] | None:
    """Parse a device spec into (kind, index); None for "auto"."""
    if isinstance(spec, Device):
        return spec.kind, spec.index
    if isinstance(spec, torch.device):
        spec = str(spec)
        if spec == "cuda" and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return "cuda", torch.cuda.current_device()  # torch's meaning; before initialisation that is 0
    if not isinstance(spec, str):
        raise InputError(f'device: {spec!r} is not a device; pass "auto", "cpu", "cuda", "cuda:1" or "mps".')
    if spec == "auto":
        return None
    match = _SPEC.fullmatch(spec)
    if match is None:
        names = ", ".join(_names(_present()))
        raise InputError(f'device: {spec!r} is not a device; pass "auto" or one that is present here: {names}.')
    return match.group(1), int(match.group(2) or 0)


def _names(pairs: list[tuple[str, int]]) -> list[str]:
    return [f"cuda:{index}" if kind == "cuda" else kind for kind, index in pairs]


class Runtime:
    """An isolated owner of devices: its devices and their pools are shared with no other runtime."""

    def __init__(self) -> None:
        self._devices: dict[tuple[str, int], Device] = {}
        self._lock = threading.Lock()

    def device(self, spec: str | Device | torch.device = "auto") -> Device:
        """Return this runtime's device for a spec; see the module function `device`."""
        wanted = _wanted(spec)
        present = _present()
        if wanted is None:
            wanted = present[0]
        if wanted not in present:
            names = ", ".join(_names(present))
            raise DeviceUnavailable(f"device: {spec} is not on this machine; present here: {names}.")
        with self._lock:
            found = self._devices.get(wanted)
            if found is None:
                found = self._devices[wanted] = Device(self, *wanted)
            return found

    def devices(self) -> list[Device]:
        """Return every device present, best first and the cpu last."""
        return [self.device(name) for name in _names(_present())]


_default = Runtime()


def default_runtime() -> Runtime:
    """Return the runtime that `device` and `devices` use: the library's only global state."""
    return _default


def device(spec: str | Device | torch.device = "auto") -> Device:
    """Return a device of the default runtime.

    Parameters
    ----------
    spec
        ``"auto"`` (cuda, else mps, else cpu), ``"cpu"``, ``"cuda"`` (the first), ``"cuda:1"``, ``"mps"``, a
        `torch.device`, or a `Device`, which is returned as it is, whatever runtime it belongs to.

    Raises
    ------
    InputError
        The spec names no kind of device.
    DeviceUnavailable
        The device is not on this machine; the message lists those that are.
    """
    return spec if isinstance(spec, Device) else _default.device(spec)


def devices() -> list[Device]:
    """Return every device present, best first and the cpu last."""
    return _default.devices()
