"""Which version of a kernel a job gets: the fastest that does all it asks, or a refusal that names what is missing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from elinvar.errors import KernelRejected, UnknownKernel
from elinvar.runtime.kernels import kernel as choose_kernel

from . import kernels as _registered
from .kernels.migrate import FEATURES, WORDS

if TYPE_CHECKING:
    from elinvar.runtime.device import Device
    from elinvar.runtime.kernels import Kernel

__all__ = ["choose"]

_log = logging.getLogger("elinvar.seismic")
_MODULES: dict[str, Any] = {module.NAME: module for module in (_registered.migrate, _registered.demigrate)}


def choose(name: str, device: Device, version: str | None, needs: Mapping[str, Any] | Iterable[str]) -> Kernel:
    """Return a kernel for a device that does what is needed.

    Parameters
    ----------
    name
        ``"seismic.migrate"`` or ``"seismic.demigrate"``.
    device
        Where it runs.
    version
        The version that is insisted on, or None.
    needs
        Names of options, of :data:`elinvar.seismic.kernels.migrate.FEATURES`, perhaps with what they are.

    Raises
    ------
    NotImplementedError
        The version that was asked for does not do it.
    """
    wanted = dict(needs) if isinstance(needs, Mapping) else dict.fromkeys(needs)
    first = choose_kernel(name, device, version)
    module = _MODULES[name]
    missing = _missing(module, first, wanted)
    if not missing:
        return first
    if version is not None or first.why.startswith("asked for"):
        module.require(first.version, backend=first.backend, **{one: wanted[one] for one in missing})
    lacking = f"{first.version} does not do {' or '.join(WORDS.get(one, one) for one in missing)}"
    for other in FEATURES:
        if other == first.version:
            continue
        try:
            found = choose_kernel(name, device, other)
        except (UnknownKernel, KernelRejected):
            continue
        if not _missing(module, found, wanted):
            found = replace(found, why=f"the fastest version on {device} for these options: {lacking}")
            slow = found.backend == "reference"
            _log.log(
                logging.WARNING if slow else logging.INFO,
                "%s: %s is %s%s",
                name,
                found.version,
                found.why,
                " (torch in float64: slow)" if slow else "",
            )
            return found
    raise NotImplementedError(f"{name}: no version for {device} does these options; {lacking}.")  # pragma: no cover


def _missing(module: Any, kernel: Kernel, needs: Iterable[str]) -> list[str]:
    known = (
        {*FEATURES["reference"]}
        if kernel.backend == "reference"
        else module.features_of(kernel.version, kernel.backend)
    )
    return [name for name in needs if name not in known]
