"""What was wrong on some GPU system: tested when weights are loaded, and where a test fails done on the CPU.

Metal systems have had fused attention that is wrong for transposed inputs or few queries, convolutions that are wrong
for slices, enlargements that give NaN at the corners, and operations that are simply absent. What a test finds wrong
is computed on the CPU from then on, for this device and number format; everything else stays where it is.
"""

# torch leaves functions' types open.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["RISKS", "Risk", "detour", "tested", "wrong"]

_CLOSE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
_log = logging.getLogger("elinvar.vision")


@dataclasses.dataclass(frozen=True)
class Risk:
    """An operation and the ways it is used here.

    Attributes
    ----------
    name
        Short.
    functions
        What is called: these go to the CPU where a test fails.
    cases
        Functions of a seeded generator that return inputs and what to do with them.
    """

    name: str
    functions: tuple[Callable[..., Any], ...]
    cases: tuple[Callable[[torch.Generator], tuple[list[Tensor], Callable[..., Tensor]]], ...]


def _attention(queries: int, keys: int) -> Callable[[torch.Generator], tuple[list[Tensor], Callable[..., Tensor]]]:
    def case(make: torch.Generator) -> tuple[list[Tensor], Callable[..., Tensor]]:
        parts = [torch.randn(1, n, 2, 64, generator=make) for n in (queries, keys, keys)]
        parts[0] = parts[0] * 0.125

        def run(*given: Tensor) -> Tensor:
            q, k, v = (t.transpose(1, 2).contiguous() for t in given)
            return functional.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).flatten(2)

        return parts, run

    return case


def _linear(make: torch.Generator) -> tuple[list[Tensor], Callable[..., Tensor]]:
    x, weight, bias = (torch.randn(*shape, generator=make) for shape in ((2, 70, 48), (96, 48), (96,)))
    return [x, weight, bias], lambda x, w, b: functional.linear(x, w, b).split(32, -1)[1]


def _products(make: torch.Generator) -> tuple[list[Tensor], Callable[..., Tensor]]:
    x, y, z = (torch.randn(*shape, generator=make) for shape in ((2, 70, 48), (2, 40, 48), (2, 1, 40)))
    return [x, y, z], lambda x, y, z: torch.baddbmm(z, x, y.transpose(1, 2)) + torch.bmm(x, y.transpose(1, 2))


def _softmax(make: torch.Generator) -> tuple[list[Tensor], Callable[..., Tensor]]:
    return [torch.randn(2, 9, 1030, generator=make)], lambda x: torch.softmax(x, -1)


def _normalisation(make: torch.Generator) -> tuple[list[Tensor], Callable[..., Tensor]]:
    x, gain, offset = (torch.randn(*shape, generator=make) for shape in ((2, 70, 96), (96,), (96,)))
    return [x, gain, offset], lambda x, g, o: functional.layer_norm(x[:, 3:], (96,), g, o, 1e-6)


def _gelu(make: torch.Generator) -> tuple[list[Tensor], Callable[..., Tensor]]:
    return [4 * torch.randn(3, 70, 9, generator=make)], functional.gelu


def _convolution(stride: int) -> Callable[[torch.Generator], tuple[list[Tensor], Callable[..., Tensor]]]:
    def case(make: torch.Generator) -> tuple[list[Tensor], Callable[..., Tensor]]:
        x, weight, bias = (torch.randn(*shape, generator=make) for shape in ((2, 16, 11, 13), (8, 16, 3, 3), (8,)))
        return [x, weight / 12, bias], lambda x, w, b: functional.conv2d(x, w, b, stride, 1)

    return case


def _sliced_convolution(make: torch.Generator) -> tuple[list[Tensor], Callable[..., Tensor]]:
    x, weight = (torch.randn(*shape, generator=make) for shape in ((2, 20, 12, 14), (8, 16, 3, 3)))
    return [x, weight / 12], lambda x, w: functional.conv2d(x[:, 4:, :11, 1:].contiguous(), w, None, 1, 1)


def _enlargement(make: torch.Generator) -> tuple[list[Tensor], Callable[..., Tensor]]:
    x = torch.randn(2, 5, 7, 9, generator=make)
    return [x], lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def _enlargement_to(make: torch.Generator) -> tuple[list[Tensor], Callable[..., Tensor]]:
    x = torch.randn(1, 5, 8, 6, generator=make)
    return [x], lambda x: functional.interpolate(x, size=(14, 21), mode="bilinear", align_corners=True)


def _points(make: torch.Generator) -> tuple[list[Tensor], Callable[..., Tensor]]:
    x = torch.randn(2, 90, 4, generator=make)

    def run(x: Tensor) -> Tensor:
        d = torch.linalg.vector_norm(x[..., :3], dim=-1, keepdim=True)
        return torch.cat([torch.expm1(d), x.exp(), functional.normalize(x, dim=-1)], -1)

    return [x], run


def _order(make: torch.Generator) -> tuple[list[Tensor], Callable[..., Tensor]]:
    x = torch.randint(0, 40, (700,), generator=make).float()

    def run(x: Tensor) -> Tensor:
        order = torch.argsort(-x, stable=True)
        return torch.cat([order, torch.nonzero(x > 20).flatten(), x.argmax(0, keepdim=True) * 0]).float()

    return [x], run


RISKS: tuple[Risk, ...] = (
    # pytorch issues 181133, 163597 (transposed inputs), 169222, 174861 (few queries)
    Risk("attention", (functional.scaled_dot_product_attention,), tuple(map(_attention, (80, 5), (112, 1030)))),
    Risk("linear", (functional.linear,), (_linear,)),  # 116769
    Risk("product", (torch.bmm, torch.baddbmm), (_products,)),  # 197636
    Risk("softmax", (torch.softmax,), (_softmax,)),
    Risk("normalisation", (functional.layer_norm,), (_normalisation,)),
    Risk("gelu", (functional.gelu,), (_gelu,)),
    # 180984, 174345: slices, storage offsets
    Risk("convolution", (functional.conv2d,), (_convolution(1), _convolution(2), _sliced_convolution)),
    Risk("enlargement", (functional.interpolate,), (_enlargement, _enlargement_to)),  # 144245
    Risk("points", (torch.linalg.vector_norm, torch.expm1, Tensor.exp, functional.normalize), (_points,)),
    Risk("order", (torch.argsort, torch.nonzero), (_order,)),  # 92311
)
_EXACT = {"order"}  # of numbers that every format holds


def _there(risk: Risk, run: Callable[..., Tensor], inputs: Sequence[Tensor], device: torch.device) -> Tensor:
    """Run a case on a device; `risk` is for those who replace this."""
    del risk
    return run(*(t.to(device) for t in inputs)).cpu()


def _right(risk: Risk, device: torch.device, dtype: torch.dtype, there: Callable[..., Tensor]) -> bool:
    kind = torch.float32 if risk.name in _EXACT | {"points"} else dtype
    for case in risk.cases:
        inputs, run = case(torch.Generator().manual_seed(0))
        inputs = [t.to(kind) for t in inputs]
        want = run(*(t.double() for t in inputs))
        try:
            got = there(risk, run, inputs, device).double()
        except (RuntimeError, NotImplementedError, TypeError) as error:
            _log.info("%s on %s: %s", risk.name, device, error)
            return False
        close = 0.0 if risk.name in _EXACT else _CLOSE[kind]
        # Written so that NaN is wrong.
        if got.shape != want.shape or not bool((got - want).norm() <= close * want.norm()):
            return False
    return True


def wrong(device: torch.device, dtype: torch.dtype, there: Callable[..., Tensor] = _there) -> tuple[str, ...]:
    """Return the names of what is wrong on a device in a number format; `there` runs a case on the device."""
    found = tuple(risk.name for risk in RISKS if not _right(risk, device, dtype, there))
    if found:
        _log.warning("Wrong on %s in %s, and done on the CPU instead: %s.", device, dtype, ", ".join(found))
    return found


@lru_cache(maxsize=16)
def tested(device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """Return `wrong`, found once per process; nothing on CPUs, and on CUDA, where other kernels serve."""
    return wrong(device, dtype) if device.type == "mps" else ()


def _moved(x: Any, device: torch.device | str) -> Any:
    if isinstance(x, Tensor):
        return x.to(device)
    if isinstance(x, (list, tuple)):
        return type(x)(_moved(item, device) for item in x)
    return x


class _Detour(TorchFunctionMode):
    def __init__(self, functions: Iterable[Any]) -> None:
        super().__init__()
        self._functions = set(functions)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        if func not in self._functions:
            return func(*args, **kwargs)
        place = next(t.device for t in (*args, *kwargs.values()) if isinstance(t, Tensor))
        named = {name: _moved(value, "cpu") for name, value in kwargs.items()}
        return _moved(func(*_moved(args, "cpu"), **named), place)


def detour(names: Sequence[str]) -> AbstractContextManager[Any]:
    """Return a context in which the named risks' functions run on the CPU, whatever device their tensors are on."""
    if not names:
        return nullcontext()
    return _Detour(function for risk in RISKS if risk.name in names for function in risk.functions)
