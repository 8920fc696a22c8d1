"""Your own fused kernel: one call registers it, checks it against its reference, times it and lists it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from elinvar import metal
from elinvar.errors import InputError
from elinvar.metal.fuse import Fused
from elinvar.runtime import kernels

if TYPE_CHECKING:
    from elinvar.bench import Samples
    from elinvar.runtime.kernels import CheckReport

__all__ = ["CustomKernel", "elementwise_launcher", "register_kernel"]

_COUNTS = ("n", "count", "size", "total")
_DTYPES = {
    "half": torch.float16,
    "bfloat": torch.bfloat16,
    "float": torch.float32,
    "int": torch.int32,
    "uchar": torch.uint8,
}


@dataclass(frozen=True)
class CustomKernel:
    """A registered kernel; call it with tensors, and it runs where they are.

    Attributes
    ----------
    name, version
        As registered.
    """

    name: str
    version: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the version chosen for the device of the first tensor; see `elinvar.kernel`."""
        device = next((a.device for a in args if isinstance(a, torch.Tensor)), torch.device("cpu"))
        return _chosen(self.name, str(device))(*args, **kwargs)

    def explain(self, *args: Any) -> str:
        """Say which version runs where these arguments are, as what, and why."""
        device = next((a.device for a in args if isinstance(a, torch.Tensor)), torch.device("cpu"))
        found = _chosen(self.name, str(device))
        return f"{self.name}: {found.version} as {found.backend} on {device}; {found.why}"

    def check(self, seeds: Sequence[int] = (0, 1, 2)) -> list[CheckReport]:
        """Compare every implementation with the reference in float64 on every device here; raise at the first failure.

        This is the generated test: the CPU implementation, the Metal text on the emulator, and the GPUs present.

        Raises
        ------
        KernelRejected
            An implementation differs by more than the tolerance.
        """
        found = []
        for case in kernels.cases([self.name]):
            if case.version == self.version:
                found += [
                    kernels.check(self.name, self.version, case.device, backend=case.backend, seed=seed).require()
                    for seed in seeds
                ]
        return found

    def bench(self, *args: Any, runs: int = 31, warmup: int = 3, **kwargs: Any) -> dict[str, Samples]:
        """Time the kernel and its reference round by round, on the example's tile or on arguments of yours."""
        from elinvar.bench import interleave

        item = kernels.default_registry.version(self.name, self.version)
        if not args:
            args, kwargs = item.tile(0)
        device = next(a.device for a in args if isinstance(a, torch.Tensor))
        mine, reference = kernels.kernel(self.name, str(device)), item.implementation("reference")
        return interleave(
            {"kernel": lambda: mine(*args, **kwargs), "reference": lambda: reference(*args, **kwargs)},
            runs=runs,
            warmup=warmup,
            device=str(device),
            inner="auto",
        )


@cache
def _chosen(name: str, device: str) -> kernels.Kernel:
    return kernels.kernel(name, device)


def register_kernel(
    name: str,
    *,
    reference: Callable[..., Any],
    example: Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]],
    source: str | Path | None = None,
    function: str | None = None,
    fused: Fused | None = None,
    cpu: Callable[..., Any] | str | None = None,
    defines: Mapping[str, int | float | str] | None = None,
    tolerance: float = 1e-6,
    summary: str = "",
    version: str = "v1",
) -> CustomKernel:
    """Register an element-wise kernel under a name.

    Parameters
    ----------
    name
        ``"yours.job"``.
    reference
        Plain torch, also in float64: what is right.
    example
        ``example(seed) -> (args, kwargs)``: a small case on the CPU.
    source, function
        Metal text or a ``.metal`` file, and the kernel in it (the only one by default). One thread computes one
        element. ``const`` pointers take the tensor arguments in order, the other pointers receive results shaped like
        the first tensor; a scalar called n, count, size or total gets the number of elements, other scalars take the
        number arguments in order.
    fused
        Instead: a function decorated with `elinvar.fuse`, whose Metal and numba text is generated.
    cpu
        A numba function, or anything else that is fast on a CPU, with the reference's arguments.
    defines
        Macros for the Metal text.
    tolerance
        Largest relative L2 error against the reference in float64.
    summary
        One line for ``elinvar kernels``.
    version
        Several may be registered; the highest one is chosen.

    Returns
    -------
    CustomKernel
        Call it; ``.check()`` is its test, ``.bench()`` its benchmark.

    Raises
    ------
    InputError
        Neither or both of `source` and `fused`, or the name and version are taken.
    """
    if (source is None) == (fused is None):
        raise InputError(f"register_kernel: {name} has {'both' if source else 'neither'} source= and fused=; give one")
    if fused is not None:
        given: object = fused
        if not isinstance(given, Fused):
            raise InputError(f"register_kernel: fused= is a {type(given).__name__}; give elinvar.fuse(function)")
        launch: Callable[..., Any] = _FusedLauncher(fused)
        cpu = cpu or fused
    else:
        assert source is not None
        launch = elementwise_launcher(source, function, defines)
    is_file = isinstance(source, Path) or (source is not None and "\n" not in source and source.endswith(".metal"))
    kernels.register(
        name,
        version,
        reference=reference,
        cpu=cpu,
        metal=launch,
        source=source if is_file else None,
        example=example,
        tolerance=tolerance,
        summary=summary or (inspect.getdoc(reference) or name).partition("\n")[0],
        defines=defines,
    )
    _chosen.cache_clear()
    return CustomKernel(name, version)


@dataclass(frozen=True)
class _FusedLauncher:
    """The Metal text of a fused function, wherever the arguments are."""

    fused: Fused

    def __call__(self, *args: Any, device: Any = None, **keywords: Any) -> Any:
        del device
        return self.fused.metal(*args, **keywords)


def elementwise_launcher(
    source: str | Path, function: str | None = None, defines: Mapping[str, int | float | str] | None = None
) -> Callable[..., Any]:
    """Return ``launch(*tensors_and_numbers, device=)`` for a Metal kernel of one thread per element.

    Raises
    ------
    InputError
        On the first call: the arguments do not fit the kernel's.
    """

    @cache
    def library(device: str) -> Any:
        return metal.compile(source, device, defines=dict(defines) if defines else None)

    def launch(*args: Any, device: Any = "cpu") -> Any:
        found = library(str(device))
        name = function or _only(found.kernels)
        tensors = [a.contiguous() for a in args if isinstance(a, torch.Tensor)]
        if not tensors:
            raise InputError(f"{name}: no argument is a tensor; give at least one")
        numbers = iter([a for a in args if not isinstance(a, torch.Tensor)])
        inputs, given, outputs = iter(tensors), [], []
        for buffer in found.signature(name).buffers:
            if buffer.is_reference:
                given.append(tensors[0].numel() if buffer.name in _COUNTS else _next(numbers, name, buffer.name))
            elif buffer.is_const:
                given.append(_next(inputs, name, buffer.name))
            else:
                scalar = buffer.type_name.rstrip("234")
                outputs.append(torch.empty_like(tensors[0], dtype=_DTYPES.get(scalar, tensors[0].dtype)))
                given.append(outputs[-1])
        left = len(list(inputs)) + len(list(numbers))
        if left or not outputs:
            raise InputError(f"{name}: {left} argument(s) too many" if left else f"{name}: it writes to no argument")
        if tensors[0].numel():
            getattr(found, name)(*given, threads=tensors[0].numel())
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return launch


def _only(names: Sequence[str]) -> str:
    if len(names) != 1:
        raise InputError(f"register_kernel: the source has the kernels {', '.join(names)}; name one with function=")
    return names[0]


def _next(values: Any, name: str, wanted: str) -> Any:
    try:
        return next(values)
    except StopIteration:
        raise InputError(f"{name}: no argument is left for {wanted}; give as many as the kernel takes") from None
