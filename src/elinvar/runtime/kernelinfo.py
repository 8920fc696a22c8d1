"""What the kernel registry stores and hands out: versions, bound kernels, reports, listings."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from elinvar.errors import ConfigError, InputError, KernelRejected, UnknownKernel

if TYPE_CHECKING:
    from .device import Device

__all__ = [
    "Case",
    "CheckReport",
    "Implementation",
    "Kernel",
    "KernelInfo",
    "Outcome",
    "Version",
    "parse_choices",
    "version_order",
]

Implementation = Callable[..., Any] | str
_NAME = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*")
_NUMBER = re.compile(r"(\d+(?:\.\d+)*)$")


def version_order(version: str) -> tuple[tuple[int, ...], str]:
    """Sort key of a version name: by its trailing number; names without one (``"baseline"``) come first."""
    found = _NUMBER.search(version)
    numbers = tuple(int(part) for part in found[1].split(".")) if found else (-1,)
    return numbers, version


def parse_choices(choices: str | Mapping[str, str], who: str) -> dict[str, str]:
    """Read ``"name=version,name=version"``; `who` names its origin in the error.

    Raises
    ------
    ConfigError
        An entry is not ``name=version``.
    """
    if not isinstance(choices, str):
        return dict(choices)
    wanted: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in choices.split(","))):
        name, equals, version = (part.strip() for part in entry.partition("="))
        if not (equals and version and _NAME.fullmatch(name)):
            raise ConfigError(f"{who} has {entry!r}, which is not name=version, e.g. seismic.migrate=v2")
        wanted[name] = version
    return wanted


def _load(implementation: Implementation) -> Callable[..., Any]:
    if not isinstance(implementation, str):
        return implementation
    module, _, attribute = implementation.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    loaded: Callable[..., Any] = found
    return loaded


@dataclass(frozen=True)
class Version:
    """One registered version of a kernel; the fields are the arguments of `register`."""

    name: str
    version: str
    reference: Implementation
    cpu: Implementation | None
    metal: Implementation | None
    source: str | Path | None
    example: Implementation | None
    tolerance: float
    summary: str
    default: bool = False
    group_size: int | Mapping[str, int] | None = None
    defines: Mapping[str, int | float | str] = field(default_factory=dict)
    occupancy_reason: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(f"[register] {self.name!r} is no kernel name; use words and dots, e.g. 'my.blur'")
        if not re.fullmatch(r"[\w.-]+", self.version) or self.version == "reference":
            raise InputError(
                f"[register] {self.version!r} is no version of kernel {self.name!r}; use letters, digits, '.', '-', "
                f"and not 'reference', which every kernel has"
            )
        if not self.tolerance >= 0:
            raise InputError(f"[register] tolerance {self.tolerance} of kernel {self.name!r} must be 0 or more")
        for role in ("reference", "cpu", "metal", "example"):
            given = getattr(self, role)
            fits = callable(given) or (isinstance(given, str) and given.count(":") == 1)
            if not fits and (given is not None or role == "reference"):
                raise InputError(
                    f"[register] {role} of kernel {self.name!r} is {given!r}; give a callable or 'package.module:name'"
                )
        if self.cpu is None and self.metal is None:
            raise InputError(f"[register] kernel {self.name!r} {self.version} has neither cpu= nor metal=; give one")

    def backends(self) -> tuple[str, ...]:
        """Return which of ``"cpu"`` and ``"metal"`` it implements."""
        return tuple(role for role in ("cpu", "metal") if getattr(self, role) is not None)

    def devices(self) -> tuple[str, ...]:
        """Return the kinds of device it is chosen on (the emulator is for tests and not one of them)."""
        return (*(("cpu",) if self.cpu is not None else ()), *(("cuda", "mps") if self.metal is not None else ()))

    def backend_for(self, kind: str) -> str | None:
        """Return the implementation that serves a kind of device, or None."""
        return ("cpu" if kind == "cpu" else "metal") if kind in self.devices() else None

    def require_backend(self, backend: str | None, kind: str) -> str:
        """Return `backend`, or the device kind's own; raise `UnknownKernel` when it is not implemented."""
        chosen = backend or self.backend_for(kind)
        if chosen not in self.backends() or (chosen == "cpu" and kind != "cpu"):
            raise UnknownKernel(
                f"[kernel] {self.name!r} version {self.version!r} has no {backend or kind} implementation for {kind}; "
                f"it has {', '.join(self.backends())}"
            )
        return chosen

    def implementation(self, role: str) -> Callable[..., Any]:
        """Import and return ``"reference"``, ``"cpu"``, ``"metal"`` or ``"example"``."""
        return _load(getattr(self, role))

    def tile(self, seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the example's (args, kwargs), or raise `InputError` when it was registered without one."""
        if self.example is None:
            raise InputError(f"[check] kernel {self.name!r} {self.version} is registered without example=; add one")
        args, kwargs = self.implementation("example")(seed)
        return tuple(args), dict(kwargs)

    @cached_property
    def source_path(self) -> Path | None:
        """Where its ``.metal`` file lies on disk, or None without one."""
        if self.source is None:
            return None
        text = str(self.source)
        package, colon, file = text.partition(":")
        candidates = [Path(text)]
        if colon and re.fullmatch(r"[\w.]+", package):
            spec = importlib.util.find_spec(package)
            origin = None if spec is None else spec.origin
            candidates = [Path(origin).parent / file] if origin else []
        else:
            root = Path(__file__).parents[1]
            candidates += [root / text, root.parent / text]
        for path in candidates:
            if path.is_file():
                return path
        raise InputError(
            f"[register] source {text!r} of kernel {self.name!r} {self.version} is no file; give a path, "
            f"'package.module:file.metal', or a path inside the elinvar package"
        )


@dataclass(frozen=True)
class Outcome:
    """How a first-use self-check ended, with the sentence that listings and logs show."""

    passed: bool
    sentence: str
    error: Exception | None = None


@dataclass(frozen=True)
class Kernel:
    """A kernel chosen for a device; call it like its reference.

    Attributes
    ----------
    name, version
        What was chosen; `version` is ``"reference"`` when the reference runs.
    device
        Where it runs.
    backend
        ``"cpu"`` (numba), ``"metal"`` (the ``.metal`` source on cuda or mps) or ``"reference"`` (torch).
    why
        One sentence on how the choice came about.
    tolerance
        Declared relative L2 error against the reference in float64.
    """

    name: str
    version: str
    device: Device
    backend: str
    why: str
    tolerance: float
    implementation: Callable[..., Any] = field(repr=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the kernel on `args`, which live on `device`."""
        if self.backend == "metal":
            return self.implementation(*args, **kwargs, device=self.device)
        return self.implementation(*args, **kwargs)


class Case(NamedTuple):
    """One thing to check: a version of a kernel, on a device, by one of its implementations."""

    name: str
    version: str
    device: str
    backend: str

    def __str__(self) -> str:
        emulated = self.backend == "metal" and self.device == "cpu"
        return f"{self.name}-{self.version}-{'emulator' if emulated else self.device}"


@dataclass(frozen=True)
class CheckReport:
    """The outcome of comparing a version with its reference in float64.

    Attributes
    ----------
    error
        Largest relative L2 error of any output.
    max_error
        Largest absolute error over the largest reference value.
    """

    name: str
    version: str
    device: str
    backend: str
    seed: int
    error: float
    max_error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the error is within the declared tolerance."""
        return self.error <= self.tolerance

    def require(self) -> CheckReport:
        """Return self, or raise `KernelRejected` when the error is too large."""
        if not self.ok:
            raise KernelRejected(str(self))
        return self

    def __str__(self) -> str:
        verb = "agrees with" if self.ok else "disagrees with"
        sign = "≤" if self.ok else ">"
        return (
            f"kernel {self.name!r} {self.version} ({self.backend} on {self.device}) {verb} its reference: relative "
            f"error {self.error:.2e} {sign} {self.tolerance:.2e} on its example, seed {self.seed}"
        )


@dataclass(frozen=True)
class KernelInfo:
    """One row of ``elinvar kernels``.

    Attributes
    ----------
    versions
        Every version, highest first, with the kinds of device it runs on.
    device, version, backend, why
        What the listed device gets.
    checked
        Whether that version passed its self-check in this process; None when it has not run yet.
    """

    name: str
    summary: str
    versions: dict[str, tuple[str, ...]]
    device: str
    version: str
    backend: str
    why: str
    tolerance: float
    checked: bool | None
    source: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)
