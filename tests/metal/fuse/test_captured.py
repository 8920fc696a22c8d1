"""Numbers outside a fused function's arguments: never those of an earlier call."""

import functools
import math
import sys
import types

import torch

import elinvar
from elinvar.metal.fuse.captured import readers

X = torch.linspace(-1, 1, 6)
RATE = 2.0
SETTINGS = types.SimpleNamespace(deep=types.SimpleNamespace(gain=3.0), use=True)


def helper(x):
    return x * RATE


def test_globals_attributes_and_helpers_are_read_again(monkeypatch):
    fused = elinvar.fuse(lambda x: helper(x) * (SETTINGS.deep.gain if SETTINGS.use else 1.0) + math.pi)
    for name, value in (("RATE", 5.0), ("deep.gain", -1.0), ("use", False)):
        torch.testing.assert_close(fused(X), fused.function(X))
        if name == "RATE":
            monkeypatch.setitem(globals(), "RATE", value)
        else:
            target = SETTINGS.deep if name == "deep.gain" else SETTINGS
            monkeypatch.setattr(target, name.rpartition(".")[2], value)
        torch.testing.assert_close(fused(X), fused.function(X))
    assert "one numba kernel" in fused.explain(X)


def test_closures_in_gradients_compiled_graphs_and_bound_methods():
    gain = 2.0

    def scale(x):
        return (lambda: x * gain)()

    fused = elinvar.fuse(scale)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def compiled(x):
        return fused(x)

    x = X.clone().requires_grad_()
    for gain in (2.0, 3.0, -1.0):
        torch.testing.assert_close(fused(X), X * gain)
        torch.testing.assert_close(torch.autograd.grad(fused(x).sum(), x)[0], torch.full((6,), gain))
        torch.testing.assert_close(compiled(X), X * gain)

    class Holder:
        k = 4

        def times(self, x):
            return x * self.k

    holder = Holder()
    bound = elinvar.fuse(functools.partial(holder.times))
    torch.testing.assert_close(bound(X), X * 4)
    holder.k = 5
    torch.testing.assert_close(bound(X), X * 5)


def test_what_keeps_changing_or_stops_being_a_number_runs_as_torch(monkeypatch):
    monkeypatch.setattr(sys.modules["elinvar.metal.fuse"], "_MOST_RECORDINGS", 3)
    k = 0.0
    fused = elinvar.fuse(lambda x: x + k)
    for k in range(6):
        assert torch.equal(fused(X), X + k)
    assert "keep changing; pass them in" in fused.explain(X)
    flag = elinvar.fuse(lambda x: x * m)
    m = 2.0
    torch.testing.assert_close(flag(X), X * 2)
    m = torch.tensor(3.0)
    torch.testing.assert_close(flag(X), X * 3)


def test_what_is_watched():
    k, inside, unset = 1.0, types.SimpleNamespace(a=1, b=[2]), None
    del unset

    def function(x):
        return x * k + inside.a + inside.b[0] + math.e + len(SETTINGS.deep.__dict__) + unset  # noqa: F821

    assert [read() for read in readers(function)] == [1.0, 1]
    assert readers(torch.nn.functional.gelu) == ()
    assert readers(3) == ()
