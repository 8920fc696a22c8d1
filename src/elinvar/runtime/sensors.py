"""What tells a Monitor that the machine is short of memory, hot, or short of power.

Every sensor is a plain function that returns a number (bigger is worse) or None, with the thresholds that turn the
number into a `Pressure`. ``default_sensors`` finds those this machine has by reading files; nothing here needs psutil
or a vendor's library, though NVIDIA's temperature needs ``nvidia-ml-py``. The thresholds are judgement, except the
trip points a thermal zone states itself.

The macOS readers follow Apple's documentation (``kern.memorystatus_vm_pressure_level``, ``NSProcessInfo``) and have
not run on Apple hardware.
"""

from __future__ import annotations

import ctypes
import dataclasses
import enum
import importlib
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elinvar.errors import InputError

from ._cgroup import memory_groups, read_number

__all__ = ["KINDS", "Pressure", "Sensor", "default_sensors"]

KINDS = ("memory", "thermal", "power")


class Pressure(enum.IntEnum):
    """How badly the machine needs a job to slow down."""

    NOMINAL = 0
    WARNING = 1
    CRITICAL = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclasses.dataclass(frozen=True)
class Sensor:
    """One number that rises with pressure.

    Attributes
    ----------
    kind
        ``"memory"``, ``"thermal"`` or ``"power"``.
    name
        For messages.
    read
        Returns the number, or None when it cannot be known now. An OSError counts as None.
    warning, critical
        From these values on the pressure is WARNING or CRITICAL.
    margin
        The level falls again only when the value is this far below its threshold.
    unit
        For messages.
    """

    kind: str
    name: str
    read: Callable[[], float | None]
    warning: float
    critical: float
    margin: float = 0.0
    unit: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"Sensor got kind={self.kind!r}; it takes one of {', '.join(KINDS)}.")
        if not (self.warning <= self.critical and 0 <= self.margin < math.inf):
            raise InputError(
                f"Sensor {self.name!r} got warning={self.warning!r}, critical={self.critical!r}, "
                f"margin={self.margin!r}; it takes warning <= critical and a margin from 0."
            )

    def level(self, value: float, held: Pressure) -> Pressure:
        """Return the pressure at `value` for a sensor that is at `held`: up at once, down only past the margin."""
        up = self._at(value, 0.0)
        return up if up >= held else min(held, self._at(value, self.margin))

    def _at(self, value: float, margin: float) -> Pressure:
        if value >= self.critical - margin:
            return Pressure.CRITICAL
        return Pressure.WARNING if value >= self.warning - margin else Pressure.NOMINAL


# ---------------------------------------------------------------------------------------------------- memory


def _meminfo(root: Path) -> Sensor | None:
    """Share of the machine's memory that could not be given to a new process without swapping."""
    file = root / "proc/meminfo"

    def read() -> float | None:
        numbers = dict(re.findall(r"^(\w+):\s+(\d+)", file.read_text(encoding="ascii"), re.MULTILINE))
        total = int(numbers.get("MemTotal", 0))
        return 1 - int(numbers["MemAvailable"]) / total if total and "MemAvailable" in numbers else None

    return Sensor("memory", "memory in use", read, 0.85, 0.95, 0.03, "of RAM") if file.exists() else None


def _group(limit: int, folder: Path) -> Sensor:
    """Share of a control group's limit in use, without the file cache the kernel would drop first."""

    def read() -> float | None:
        used = read_number(folder / "memory.current")
        if used is None:
            used = read_number(folder / "memory.usage_in_bytes")
        if used is None:
            return None
        stat = (folder / "memory.stat").read_text(encoding="ascii")
        cache = re.search(r"^(?:total_)?inactive_file (\d+)$", stat, re.MULTILINE)
        return (used - (int(cache.group(1)) if cache else 0)) / limit

    return Sensor("memory", "container memory in use", read, 0.85, 0.95, 0.03, "of its limit")


def _stalls(file: Path) -> Sensor:
    """Pressure stall information: percent of the last ten seconds in which some task waited for memory."""

    def read() -> float | None:
        found = re.search(r"^some avg10=([\d.]+)", file.read_text(encoding="ascii"), re.MULTILINE)
        return float(found.group(1)) if found else None

    return Sensor("memory", "time lost waiting for memory", read, 10.0, 40.0, 5.0, "%")


def _memory(root: Path) -> list[Sensor]:
    groups = memory_groups(root)
    found = [sensor] if (sensor := _meminfo(root)) is not None else []
    found += [_group(limit, folder) for limit, folder in groups]
    stalls = [folder / "memory.pressure" for _, folder in groups] + [root / "proc/pressure/memory"]
    found += [_stalls(file) for file in stalls if file.exists()][:1]
    return found


# ---------------------------------------------------------------------------------------------------- thermal, power


def _zones(root: Path) -> list[Sensor]:
    """One sensor per thermal zone, in °C, with the zone's own passive and hot trip points where it states them."""

    def zone(folder: Path) -> Sensor:
        trips: dict[str, float] = {}
        for file in sorted(folder.glob("trip_point_*_type")):
            at = read_number(file.with_name(file.name.replace("_type", "_temp")))
            if at is not None and at > 0:
                trips.setdefault(file.read_text(encoding="ascii").strip(), at / 1000)
        critical = trips.get("hot", trips.get("critical", 100.0) - 5)
        warning = min(trips.get("passive", 85.0), critical)

        def read() -> float | None:
            value = read_number(folder / "temp")
            return None if value is None else value / 1000

        name = (folder / "type").read_text(encoding="ascii").strip() if (folder / "type").exists() else folder.name
        return Sensor("thermal", name, read, warning, critical, 3.0, "°C")

    return [zone(folder) for folder in sorted((root / "sys/class/thermal").glob("thermal_zone*"))]


def _batteries(root: Path) -> list[Sensor]:
    """Percent of a battery that is gone while it discharges; 0 on mains power."""

    def battery(folder: Path) -> Sensor:
        def read() -> float | None:
            left = read_number(folder / "capacity")
            discharging = (folder / "status").read_text(encoding="ascii").strip() == "Discharging"
            return None if left is None else float(100 - left) if discharging else 0.0

        return Sensor("power", f"battery {folder.name} used", read, 80.0, 90.0, 2.0, "%")

    return [battery(folder) for folder in sorted((root / "sys/class/power_supply").glob("BAT*"))]


# ---------------------------------------------------------------------------------------------------- vendors


def _cuda(torch: Any) -> list[Sensor]:
    """Memory and, with nvidia-ml-py, temperature of each CUDA device this process has already touched."""
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return []
    found = []
    for index in range(torch.cuda.device_count()):

        def used(index: int = index) -> float:
            free, total = torch.cuda.mem_get_info(index)
            cached = torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
            return float(1 - (free + cached) / total)  # torch gives its own cache back by itself

        def temperature(index: int = index) -> float:
            return float(torch.cuda.temperature(index))

        found.append(Sensor("memory", f"cuda:{index} memory in use", used, 0.92, 0.98, 0.02, "of its memory"))
        try:
            temperature()
        except (RuntimeError, ImportError, OSError, AttributeError):
            continue  # no NVML here
        found.append(Sensor("thermal", f"cuda:{index}", temperature, 83.0, 90.0, 3.0, "°C"))
    return found


def _sysctl(name: str) -> int | None:
    value, size = ctypes.c_int(0), ctypes.c_size_t(4)
    libc = ctypes.CDLL(None)
    done = libc.sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
    return value.value if done == 0 else None


def _process_info() -> Any | None:
    """Return NSProcessInfo when pyobjc is installed."""
    try:
        foundation: Any = importlib.import_module("Foundation")
    except ImportError:
        return None
    return foundation.NSProcessInfo.processInfo()


def _apple(sysctl: Callable[[str], int | None] = _sysctl, info: Any | None = None) -> list[Sensor]:
    """Memory pressure (1 normal, 2 warning, 4 critical), thermal state (0 nominal to 3 critical), low-power mode."""

    def memory() -> float | None:
        return sysctl("kern.memorystatus_vm_pressure_level")

    found = [Sensor("memory", "system memory pressure", memory, 2, 4)]
    process = _process_info() if info is None else info
    if process is not None:
        found.append(Sensor("thermal", "thermal state", lambda: float(process.thermalState()), 2, 3))
        found.append(Sensor("power", "low-power mode", lambda: float(process.isLowPowerModeEnabled()), 1, math.inf))
    return found


def default_sensors(root: Path = Path("/")) -> list[Sensor]:
    """Return the sensors this machine has; GPUs are included once the process has used them."""
    found = [*_memory(root), *_zones(root), *_batteries(root), *_cuda(sys.modules.get("torch"))]
    if sys.platform == "darwin":
        found += _apple()
    return found
