"""Fused functions called by name, with flags, from several threads, and as methods."""

import copy
import pickle
import threading

import pytest
import torch

import elinvar
from elinvar.errors import InputError
from elinvar.metal.fuse import binding

X = torch.linspace(-2, 2, 12).reshape(3, 4)


@elinvar.fuse
def scaled(x, scale=2.0, *, shift=0.5, mode="relu"):
    y = x * scale + shift
    return torch.relu(y) if mode == "relu" else torch.tanh(y)


def test_names_defaults_and_text():
    for args, named in (
        ((X,), {}),
        ((X, 3.0), {}),
        ((X,), {"scale": 3.0}),
        ((X,), {"shift": torch.ones(4), "mode": "tanh"}),
        ((X, 1.5), {"mode": "tanh", "shift": 0.25}),
        ((), {"scale": X, "x": X}),
    ):
        torch.testing.assert_close(scaled(*args, **named), scaled.function(*args, **named))
        assert "one numba kernel" in scaled.explain(*args, **named)
    assert "tanh" in scaled.source(X, mode="tanh")
    with pytest.raises(TypeError, match="unexpected keyword"):
        scaled(X, other=1)


def test_flags_and_none_choose():
    @elinvar.fuse
    def step(x, bias=None, flag=False):
        y = x * 2 if bias is None else x * 2 + bias
        return y.square() if flag else y

    for args in ((X,), (X, None), (X, X), (X, X, True), (X, None, False), (X, 0.5, True)):
        torch.testing.assert_close(step(*args), step.function(*args))
        assert "one numba kernel" in step.explain(*args)
    given = torch.empty_like(X)
    assert step(X, None, True, out=given) is given
    torch.testing.assert_close(given, (X * 2).square())
    x = X.clone().requires_grad_()
    step(x, bias=x, flag=True).sum().backward()
    torch.testing.assert_close(x.grad, 18 * X)


def test_names_and_flags_inside_torch_compile():
    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(x):
        return scaled(x, 3.0, mode="tanh") + scaled(x, shift=1.0)

    torch.testing.assert_close(step(X), scaled(X, 3.0, mode="tanh") + scaled(X, shift=1.0))
    many = torch.func.vmap(lambda x: scaled(x, mode="tanh"))(X)
    torch.testing.assert_close(many, scaled(X, mode="tanh"))


class Layer(torch.nn.Module):
    power = 2

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(4) * 0.5)
        self.shift = 0.25
        self.kind = "relu"
        self.steps = [1.0, 2.0]

    def bend(self, x):
        return torch.relu(x) if self.kind == "relu" else torch.tanh(x)

    @property
    def offset(self):
        return self.shift * 2

    @elinvar.fuse
    def forward(self, x, scale=1.0):
        """Say what it does."""
        return self.bend(x * self.gain * scale + self.offset) ** self.power

    @elinvar.fuse
    def chosen(self, x, mode="none", bias=None):
        y = x * self.offset if mode == "none" else x * self.gain
        return y if bias is None else y + bias

    @elinvar.fuse
    def listed(self, x):
        return x * self.steps[1]

    @elinvar.fuse
    def counting(self, x):
        self.calls = 1
        return x * self.missing if x is None else x * 2


def _plain(layer, x, scale=1.0):
    return Layer.forward.function(layer, x, scale)


def test_methods_take_what_their_object_has_now():
    layer, other = Layer(), Layer()
    assert "one numba kernel over (3, 4), 2 input(s)" in layer.forward.explain(X)
    assert "def kernel" in layer.forward.source(X)
    assert layer.forward.__doc__ == "Say what it does."
    torch.testing.assert_close(layer(X), _plain(layer, X))
    other.shift, other.kind, layer.power = 1.5, "tanh", 3
    layer.gain.data.mul_(4)
    for each in (layer, other):
        torch.testing.assert_close(each(X), _plain(each, X))
        torch.testing.assert_close(each(X, scale=2.0), _plain(each, X, 2.0))
    layer(X).sum().backward()
    found, layer.gain.grad = layer.gain.grad, None
    _plain(layer, X).sum().backward()
    torch.testing.assert_close(found, layer.gain.grad)
    with torch.no_grad():
        out = torch.empty_like(X)
        assert layer.forward(X, out=out) is out


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12), reason="torch before 2.12 graph-breaks at such methods"
)
def test_a_module_whose_method_is_fused_compiles_whole():
    layer = Layer()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), layer(X))


def test_flags_of_methods_choose(caplog):
    layer = Layer()
    for args, named in (((X,), {}), ((X, "gain"), {}), ((X, "none", None), {}), ((X,), {"bias": X, "mode": "gain"})):
        torch.testing.assert_close(layer.chosen(*args, **named), Layer.chosen.function(layer, *args, **named))
    assert "one numba kernel" in layer.chosen.explain(X, "gain")
    assert caplog.text == ""


def test_methods_that_cannot_be_fused_run_on_their_object(caplog):
    layer = Layer()
    torch.testing.assert_close(layer.listed(X), X * 2)
    assert "self.steps, a list" in layer.listed.explain(X)
    assert "self.steps, a list" in caplog.text
    torch.testing.assert_close(layer.counting(X), X * 2)
    assert layer.calls == 1
    assert "assigning to self.calls" in layer.counting.explain(X)
    del layer.shift
    with pytest.raises(AttributeError, match="shift"):
        layer(X)


def test_an_object_that_keeps_changing_runs_as_torch(caplog, monkeypatch):
    monkeypatch.setattr(binding, "_MOST_STATES", 2)
    layer = Layer()
    for power in range(1, 5):
        layer.power = power
        torch.testing.assert_close(layer(X), _plain(layer, X))
    assert caplog.text.count("that keep changing; make them arguments") == 1


def test_copies_and_pickles_are_those_of_functions():
    assert copy.deepcopy(scaled) is scaled
    assert pickle.loads(pickle.dumps(scaled)) is scaled
    layer = copy.deepcopy(Layer())
    torch.testing.assert_close(pickle.loads(pickle.dumps(layer))(X), layer(X))
    inner = torch.nn.Module()
    inner.act = elinvar.fuse(torch.nn.functional.relu, like=0)
    found = pickle.loads(pickle.dumps(inner)).act
    assert found.like == 0
    torch.testing.assert_close(found(X), torch.relu(X))
    assert repr(scaled) == "<fuse(scaled)>"


def test_refusals_of_methods():
    layer = Layer()
    with pytest.raises(InputError, match="out= was given inside a transform"):
        torch.func.vmap(lambda x: layer.forward(x, out=X))(X)
    with pytest.raises(InputError, match="out= was given while an input requires grad"):
        layer.forward(X, out=torch.empty_like(X))


def test_eight_threads_meet_a_new_function_at_once():
    fused = elinvar.fuse(lambda x, flag=None, k=1.0: torch.tanh(x * k) if flag else x * k - 1)
    results, barrier = {}, threading.Barrier(8)

    def call(n):
        x = X + n
        barrier.wait()
        results[n] = [fused(x, bool(n % 2), k=float(n)) for _ in range(20)][-1]

    threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for n in range(8):
        torch.testing.assert_close(results[n], fused.function(X + n, bool(n % 2), k=float(n)))
