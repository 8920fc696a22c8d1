"""The registry of kernels: one name, several versions, and a reference that decides what is right.

A kernel is registered once and is then testable, benchmarkable, listed and chosen per device::

    register("my.blur", "v1", reference=blur_torch, metal="my.blur:launch", example=tile,
             tolerance=1e-5, summary="3x3 box blur")
    blur = kernel("my.blur", "cuda")

Which version runs, first rule that names one: the `version` argument, `use()`, ``ELINVAR_KERNELS``, `configure()`,
the version that tuning found fastest on this device, the highest version registered with ``default=True`` (the
highest version where none is), the reference. The first four are somebody's explicit wish and never fall back.
Otherwise a version without an implementation for the device, or one that fails its self-check, gives way to the
previous version and finally to the reference; that is logged once and decided before any output exists.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elinvar.errors import InputError, KernelError, KernelRejected, UnknownKernel

from ._plugins import import_all, import_package
from ._wishes import Wishes
from .kernelinfo import (
    Case,
    CheckReport,
    Implementation,
    Kernel,
    KernelInfo,
    Outcome,
    Version,
    parse_choices,
    version_order,
)

if TYPE_CHECKING:
    from .device import Device

__all__ = [
    "CATALOGUE",
    "Case",
    "CheckReport",
    "Kernel",
    "KernelInfo",
    "Registry",
    "Version",
    "cases",
    "check",
    "configure",
    "default_registry",
    "kernel",
    "kernels",
    "prepare",
    "register",
    "use",
    "versions",
]

_log = logging.getLogger("elinvar.kernels")

CATALOGUE: list[str] = []
"""Extra packages whose import registers kernels. ``elinvar.<engine>.kernels`` packages are found by themselves, and so
are modules that installed packages name as entry points of the group ``elinvar.kernels``."""


class Registry:
    """A set of kernels with their versions, choices and check outcomes. Thread-safe.

    The module-level functions act on one default registry; a separate one is for tests.

    Parameters
    ----------
    discover
        Import the engines' kernel packages when a name is asked for that is not registered yet.
    """

    def __init__(self, *, discover: bool = False) -> None:
        self._discover = discover
        self._versions: dict[str, dict[str, Version]] = {}
        self._outcomes: dict[tuple[str, str, str, str], Outcome] = {}
        self._locks: dict[tuple[str, str, str, str], threading.RLock] = {}
        self._lock = threading.RLock()
        self._wishes = Wishes()
        self._logged: set[tuple[str, str]] = set()

    # -- registering ------------------------------------------------------------------------------------------------

    def register(
        self,
        name: str,
        version: str,
        *,
        reference: Implementation,
        cpu: Implementation | None = None,
        metal: Implementation | None = None,
        source: str | Path | None = None,
        example: Implementation | None = None,
        tolerance: float,
        summary: str,
        default: bool = False,
        group_size: int | Mapping[str, int] | None = None,
        defines: Mapping[str, int | float | str] | None = None,
        occupancy_reason: str | None = None,
    ) -> Version:
        """Register one version of a kernel.

        Parameters
        ----------
        name, version
            ``"engine.job"`` and e.g. ``"baseline"`` or ``"v2"``; versions are ordered by their number, names without
            one come first.
        reference, cpu, metal
            Callables, or ``"package.module:attribute"`` strings imported on first use. All take the same arguments;
            `metal` also takes ``device=`` and serves cuda, mps and, for tests, the emulator.
            `reference` is plain torch and accepts float64.
        source
            The ``.metal`` file: a path, ``"package.module:file.metal"``, or a path inside the elinvar package.
        example
            ``example(seed) -> (args, kwargs)``: one small tile on the CPU. Let the shape vary with the seed.
        tolerance
            Largest relative L2 error against the reference in float64; 0 for integer kernels.
        summary
            One line for listings.
        default
            Whether this version may be chosen when nobody asks for one.
        group_size, defines
            Threads per group (or a mapping from kernel function to it) and the defines it is normally launched with,
            for the offline resource report.
        occupancy_reason
            Why less than 75 % theoretical occupancy is right for it, with the measurement.

        Returns
        -------
        Version

        Raises
        ------
        InputError
            An empty or already taken name and version, a tolerance below 0, or no implementation at all.
        """
        fresh = Version(
            name=name,
            version=version,
            reference=reference,
            cpu=cpu,
            metal=metal,
            source=source,
            example=example,
            tolerance=tolerance,
            summary=summary,
            default=default,
            group_size=group_size,
            defines=dict(defines or {}),
            occupancy_reason=occupancy_reason,
        )
        with self._lock:
            known = self._versions.setdefault(name, {})
            if version in known and known[version] != fresh:
                raise InputError(
                    f"[register] kernel {name!r} already has a version {version!r}: choose another version name"
                )
            known[version] = fresh
        return fresh

    def versions(self, name: str) -> list[Version]:
        """Return the versions of one kernel, highest first.

        Raises
        ------
        UnknownKernel
            Nothing is registered under that name.
        """
        if name not in self._versions and self._discover:
            import_package(f"elinvar.{name.partition('.')[0]}.kernels")
            if name not in self._versions:
                import_all(CATALOGUE)
        with self._lock:
            found = list(self._versions.get(name, {}).values())
        if not found:
            known = ", ".join(sorted(self._versions)) or "none"
            raise UnknownKernel(f"[kernel] no kernel is registered as {name!r}; registered are: {known}")
        return sorted(found, key=lambda item: version_order(item.version), reverse=True)

    def version(self, name: str, version: str) -> Version:
        """Return one version of a kernel, or raise `UnknownKernel` naming the versions there are."""
        found = {item.version: item for item in self.versions(name)}
        if version not in found:
            raise UnknownKernel(
                f"[kernel] {name!r} has no version {version!r}; it has {', '.join(found)} and 'reference'"
            )
        return found[version]

    # -- choosing ---------------------------------------------------------------------------------------------------

    def kernel(self, name: str, device: Device | str = "auto", version: str | None = None) -> Kernel:
        """Choose, check and return a kernel for a device.

        Parameters
        ----------
        name
            As registered, e.g. ``"seismic.migrate"``.
        device
            Where it will run; its tensor arguments must live there.
        version
            Insist on one version, or on ``"reference"``. Such a version never falls back.

        Returns
        -------
        Kernel
            Callable; `.version`, `.backend` and `.why` are final, nothing changes them later.

        Raises
        ------
        UnknownKernel
            No such kernel or version, or the insisted version has no implementation for the device.
        KernelRejected
            The insisted version disagrees with its reference on the self-check tile.
        """
        from .device import device as resolve

        return self._choose(name, resolve(device), version, verify=True)

    def _chain(self, name: str, device: Device) -> tuple[list[Version], str]:
        """Return the versions to try when nobody asked for one, best first, and why the first is first."""
        known = self.versions(name)
        tuned = _tuned_version(name, device)
        top = next((item for item in known if item.version == tuned), None)
        why = "fastest on this device when tuned"
        if top is None:
            top = next((item for item in known if item.default), None)
            why = "highest default version"
        if top is None:
            top, why = known[0], "highest version"
        return known[known.index(top) :], why

    def _choose(self, name: str, device: Device, version: str | None, *, verify: bool) -> Kernel:
        wish = self._wishes.about(name, version)
        if wish is not None:
            return self._insist(name, device, *wish, verify=verify)
        chain, why = self._chain(name, device)
        notes: list[str] = []
        for item in chain:
            backend = item.backend_for(device.kind)
            if backend is None:
                notes.append(f"{item.version} has no implementation for {device.kind}")
                continue
            outcome = self._outcome(item, backend, device) if verify else self._known(item, backend, device)
            if outcome is None or outcome.passed:
                said = [*notes, f"{item.version} is the next version" if notes else why]
                if outcome is not None:
                    said.append(outcome.sentence)
                return self._bind(item, device, backend, "; ".join(said))
            notes.append(outcome.sentence)
        return self._bind(chain[0], device, "reference", "; ".join([*notes, "the reference is what is left"]))

    def _insist(self, name: str, device: Device, version: str, who: str, *, verify: bool) -> Kernel:
        if version == "reference":
            return self._bind(self.versions(name)[0], device, "reference", who)
        item = self.version(name, version)
        backend = item.backend_for(device.kind)
        if backend is None:
            raise UnknownKernel(
                f"[kernel] {name!r} version {version!r} ({who}) has no implementation for {device}; "
                f"it runs on {', '.join(item.devices()) or 'nothing but its reference'}"
            )
        if not verify:
            return self._bind(item, device, backend, who)
        outcome = self._outcome(item, backend, device)
        if not outcome.passed:
            if isinstance(outcome.error, KernelError):
                raise copy.copy(outcome.error)  # a fresh traceback each time
            raise KernelRejected(
                f"[kernel] {name!r} version {version!r} ({who}) cannot run on {device}: {outcome.sentence}; "
                f"choose another version or 'reference'"
            ) from outcome.error
        return self._bind(item, device, backend, f"{who}; {outcome.sentence}")

    @staticmethod
    def _bind(item: Version, device: Device, backend: str, why: str) -> Kernel:
        return Kernel(
            name=item.name,
            version="reference" if backend == "reference" else item.version,
            device=device,
            backend=backend,
            why=why,
            tolerance=item.tolerance,
            implementation=item.implementation(backend),
        )

    # -- checking ---------------------------------------------------------------------------------------------------

    def _known(self, item: Version, backend: str, device: Device) -> Outcome | None:
        with self._lock:
            return self._outcomes.get((item.name, item.version, backend, str(device)))

    def _outcome(self, item: Version, backend: str, device: Device) -> Outcome:
        """Return the self-check's outcome, running it once per (kernel, version, device) whatever the threads."""
        key = (item.name, item.version, backend, str(device))
        with self._lock:
            lock = self._locks.setdefault(key, threading.RLock())
        with lock:
            from . import selfcheck

            outcome = self._known(item, backend, device)
            if outcome is None:
                outcome = selfcheck.first_use_apart(item, backend, device)
                with self._lock:
                    self._outcomes[key] = outcome
                if not outcome.passed:
                    _log.warning("kernel %s on %s: %s", item.name, device, outcome.sentence)
        return outcome

    def check(
        self, name: str, version: str, device: Device | str = "cpu", *, backend: str | None = None, seed: int = 0
    ) -> CheckReport:
        """Compare one version with its reference in float64 on its example tile.

        Parameters
        ----------
        name, version, device
            What to check and where. Nothing is cached and nothing falls back.
        backend
            ``"cpu"`` or ``"metal"``; by default the device's own. ``"metal"`` on the CPU runs the emulator.
        seed
            Given to the kernel's `example`.

        Returns
        -------
        CheckReport
            ``.ok``, ``.error`` (relative L2), ``.max_error``, ``.tolerance``.

        Raises
        ------
        InputError
            The kernel was registered without an example.
        UnknownKernel
            It has no such version, or no implementation for that device.
        """
        from . import selfcheck
        from .device import device as resolve

        place = resolve(device)
        item = self.version(name, version)
        return selfcheck.compare(item, item.require_backend(backend, place.kind), place, seed)

    def prepare(
        self, name: str, version: str, device: Device | str = "cpu", *, backend: str | None = None, seed: int = 0
    ) -> Callable[[], Any]:
        """Return a no-argument call of one version on its example tile, placed on the device: for benchmarks.

        `version` may be ``"reference"``.
        """
        from . import selfcheck
        from .device import device as resolve

        place = resolve(device)
        item = self.versions(name)[0] if version == "reference" else self.version(name, version)
        chosen = "reference" if version == "reference" else item.require_backend(backend, place.kind)
        bound = self._bind(item, place, chosen, "prepared")
        args, kwargs = selfcheck.as_device(item.tile(seed), place.torch)
        return lambda: bound(*args, **kwargs)

    def cases(self, names: Iterable[str] | None = None, devices: Iterable[Device | str] | None = None) -> list[Case]:
        """List every (name, version, device, backend) that can be checked here; feed it to `pytest.mark.parametrize`.

        On the CPU a kernel with Metal source appears twice: its own CPU implementation, and the source on the
        emulator. ``str(case)`` is a readable test id.
        """
        from .device import device as resolve
        from .device import devices as present

        places = present() if devices is None else [resolve(spec) for spec in devices]
        return [
            Case(name, item.version, str(place), backend)
            for name in (self.names() if names is None else list(names))
            for item in self.versions(name)
            if item.example is not None
            for place in places
            for backend in item.backends()
            if backend == "metal" or place.kind == "cpu"
        ]

    # -- listing and wishing ----------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names of every kernel there is, importing the engines' kernel packages."""
        if self._discover:
            import_all(CATALOGUE)
        with self._lock:
            return sorted(self._versions)

    def kernels(self, device: Device | str = "auto") -> list[KernelInfo]:
        """List every kernel: its versions, where they run, which one `device` gets and why. Runs no check.

        Raises
        ------
        UnknownKernel
            ``ELINVAR_KERNELS`` or the configuration names a kernel or version that does not exist.
        """
        from .device import device as resolve

        place = resolve(device)
        names = self.names()
        for name in self._wishes.of_the_process():
            self.versions(name)
        return [self._info(name, place) for name in names]

    def _info(self, name: str, device: Device) -> KernelInfo:
        chosen = self._choose(name, device, None, verify=False)
        known = self.versions(name)
        item = next((entry for entry in known if entry.version == chosen.version), known[0])
        outcome = self._known(item, chosen.backend, device)
        return KernelInfo(
            name=name,
            summary=item.summary,
            versions={entry.version: entry.devices() for entry in known},
            device=str(device),
            version=chosen.version,
            backend=chosen.backend,
            why=chosen.why,
            tolerance=item.tolerance,
            checked=None if outcome is None else outcome.passed,
            source=None if item.source is None else str(item.source),
        )

    @contextlib.contextmanager
    def use(self, choices: str | Mapping[str, str]) -> Iterator[None]:
        """Insist on versions inside a ``with`` block: ``use("seismic.migrate=v2")``.

        Acts in the current context only: other threads, and tasks started before, are not affected.

        Raises
        ------
        ConfigError
            The text is not ``name=version[,name=version...]``.
        UnknownKernel
            A name or version that does not exist.
        """
        with self._wishes.use(self._validated(choices, "use()")):
            yield

    def configure(self, choices: str | Mapping[str, str] | None) -> dict[str, str]:
        """Set the configured versions for the whole process and return the old ones; None clears them."""
        wanted = {} if choices is None else self._validated(choices, "the configuration")
        with self._lock:
            return self._wishes.configure(wanted)

    def _validated(self, choices: str | Mapping[str, str], who: str) -> dict[str, str]:
        wanted = parse_choices(choices, who)
        for name, version in wanted.items():
            if version == "reference":
                self.versions(name)
            else:
                self.version(name, version)
        return wanted


def _tuned_version(name: str, device: Device) -> str | None:
    """Return the version that ``elinvar tune`` found fastest on this device, if it was tuned."""
    from .tuning import tuned

    return tuned(device.profile).kernels.get(name)


default_registry = Registry(discover=True)
register = default_registry.register
versions = default_registry.versions
kernel = default_registry.kernel
kernels = default_registry.kernels
use = default_registry.use
configure = default_registry.configure
check = default_registry.check
prepare = default_registry.prepare
cases = default_registry.cases
