"""Calls like an earlier one: what they accept is exactly what was accepted before."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from elinvar import tensor
from elinvar.errors import InputError
from elinvar.tensor import again

pytestmark = pytest.mark.skipif(again._guards is None, reason="this torch has no such guards")


class Serve:
    """Stands for a layer."""

    def __init__(self) -> None:
        self.given: list[Any] = []
        self.answers = True

    def __call__(self, *given: torch.Tensor) -> torch.Tensor | None:
        self.given.append(given)
        return given[0] if self.answers else None


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    monkeypatch.setattr(again, "known", ({}, {}))
    return Serve()


def operands(m: int = 16, k: int = 24, n: int = 32, dtype: torch.dtype = torch.float16) -> tuple[torch.Tensor, ...]:
    return torch.ones(m, k, dtype=dtype), torch.ones(n, k, dtype=dtype), torch.ones(n, dtype=dtype)


def only(relu: bool = True) -> again.Layer:
    ((found,),) = again.known[relu].values()
    return found


def test_passes_operands_on(serve: Serve) -> None:
    x, w, b = operands()
    again.remember(x, w, b, serve, relu=True)
    assert not again.known[False]
    for given in ((x, w, b), operands()):
        assert only()(*given) is given[0]
        assert all(one is other for one, other in zip(serve.given[-1], given, strict=True))
    serve.answers = False
    assert only()(x, w, b) is None


def test_every_other_kind_of_call_is_declined(serve: Serve) -> None:
    x, w, b = operands()
    again.remember(x, w, b, serve, relu=True)
    one = only()
    assert one(x, w, b) is not None
    others = {
        "sizes": [operands(17), operands(k=32), operands(n=40), (x, w, torch.ones(1, dtype=x.dtype))],
        "dtypes": [operands(dtype=torch.bfloat16), (x, w, b.float()), (x, w.bfloat16(), b)],
        "strides": [(x.t().contiguous().t(), w, b), (x, torch.ones(24, 32).half().t(), b)],
        "gradients": [(x, w.clone().requires_grad_(), b)],
        "classes": [(torch.nn.Parameter(x, requires_grad=False), w, b), (x.as_subclass(Named), w, b)],
        "views still to be negated": [(torch._neg_view(x), w, b), (x, w, torch._neg_view(b))],
        "devices": [(x.to("meta"), w, b), (x, w, b.to("meta"))],
        "what is no tensor": [(x, w, None), (x, w, 1.0), ([], w, b)],
    }
    count = len(serve.given)
    for what, calls in others.items():
        for given in calls:
            assert one(*given) is None, what
    assert len(serve.given) == count


class Named(torch.Tensor):
    pass


def test_modes_are_declined(serve: Serve) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    x, w, b = operands()
    again.remember(x, w, b, serve, relu=True)
    one = only()
    with torch.autocast("cpu"):
        assert one(x, w, b) is None
    with Watch():
        assert one(x, w, b) is None
    with torch.inference_mode():
        assert one(x, w, b) is None
        again.remember(x, w, b, serve, relu=True)
        assert again.known[True][x.shape][1](x, w, b) is not None
    seen: list[Any] = []
    torch.func.vmap(lambda row: seen.append(one(row, w, b)) or row)(torch.ones(3, 16, 24).half())
    assert seen == [None]
    assert one(x, w, b) is not None


def test_parameters_are_served_while_nothing_learns(serve: Serve) -> None:
    x, w, b = operands()
    w, b = torch.nn.Parameter(w), torch.nn.Parameter(b)
    with torch.no_grad():
        again.remember(x, w, b, serve, relu=False)
        assert only(relu=False)(x, w, b) is not None
    assert only(relu=False)(x, w, b) is None  # a gradient is wanted
    with torch.no_grad():
        assert only(relu=False)(x, w, b) is not None


def test_subclasses_are_not_remembered_and_shapes_do_not_pile_up(serve: Serve) -> None:
    x, w, b = operands()
    again.remember(x.as_subclass(Named), w, b, serve, relu=True)
    assert not again.known[True]
    for n in (32, 40, 48, 56, 64):
        again.remember(*operands(n=n), serve, relu=True)
    assert len(again.known[True][x.shape]) == 4
    for m in range(1, 520):
        again.remember(*operands(m, 8, 8), serve, relu=True)
    assert len(again.known[True]) <= 512


def test_a_torch_without_guards_remembers_nothing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "_guards", object())
    again.remember(*operands(), serve, relu=True)
    assert not again.known[True]


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")


@CUDA
def test_linear_takes_the_short_way_and_only_where_it_holds() -> None:
    x, w, b = (t.cuda() for t in operands(64, 128, 64))
    plain = torch.relu(x.float() @ w.float().t() + b.float()).half()
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(tensor.linear(x, w, b, "relu"), plain)
        assert len(again.known[True][x.shape]) == 1
        for given in ((x.float(), w, b), (x, w.float(), b), (x, w, b[:1]), (x, w[:, :8], b), (x, w.cpu(), b)):
            with pytest.raises(InputError):
                tensor.linear(*given, "relu")
    learned = w.clone().requires_grad_()
    tensor.linear(x, learned, b, "relu").sum().backward()
    assert learned.grad is not None
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert tensor.linear(x, w, b, "relu").dtype == torch.bfloat16
    with torch.inference_mode():
        assert tensor.linear(x, w, b, "relu").is_inference()
    torch.compile(lambda x: tensor.linear(x, w, b, "relu"), backend="eager", fullgraph=True)(x)
