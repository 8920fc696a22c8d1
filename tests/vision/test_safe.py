"""What is wrong on a device is found and done on the CPU: a made-up device stands for one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from elinvar.vision import choices, match, safe
from elinvar.vision.checkpoint import State, checked
from elinvar.vision.layers import Paths
from elinvar.vision.network import Network

from .conftest import MICRO, relative

CPU = torch.device("cpu")


class Device(TorchFunctionMode):
    """Spoils the results of some functions, but not where `safe` has moved them to the CPU."""

    def __init__(self, monkeypatch, risk):
        super().__init__()
        self.functions = next(r.functions for r in safe.RISKS if r.name == risk)
        self.away, self.moves = False, 0
        moved = safe._moved

        def tell(x, place):
            if place == "cpu":
                self.away, self.moves = True, self.moves + 1
            elif isinstance(place, torch.device):
                self.away = False
            return moved(x, place)

        monkeypatch.setattr(safe, "_moved", tell)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func not in self.functions or self.away:
            return out
        return out.flip(0) if out.dtype == torch.int64 else out + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nothing_is_wrong_here(dtype):
    assert safe.wrong(CPU, dtype) == ()


@pytest.mark.parametrize("how", ["values", "not a number", "shape", "absent"])
def test_each_fault_is_found_alone(how):
    def there(risk, run, inputs, device):
        out = run(*inputs)
        if risk.name != name:
            return out
        if how == "absent":
            raise NotImplementedError("not implemented for this device")
        if how == "shape":
            return out[..., 1:]
        out = out.clone()
        out.view(-1)[-1] = float("nan") if how == "not a number" else 50.0
        return out

    for name in (risk.name for risk in safe.RISKS):
        assert safe.wrong(CPU, torch.float32, there) == (name,)


def test_the_reason_is_logged(caplog):
    def there(risk, run, inputs, device):
        raise RuntimeError("no such kernel")

    assert len(safe.wrong(CPU, torch.float16, there)) == len(safe.RISKS)
    assert "done on the CPU instead: attention, linear" in caplog.text


def test_what_is_wrong_decides_how_a_metal_device_computes(monkeypatch):
    device = type("Device", (), {"kind": "mps", "torch": torch.device("mps")})()
    monkeypatch.setattr(choices, "tested", lambda *_: ())
    assert choices.choose(device, torch.float16, 2) == Paths(attention="sdpa")
    monkeypatch.setattr(choices, "tested", lambda *_: ("attention", "convolution"))
    assert choices.choose(device, torch.float16, 2) == Paths(attention=4, on_cpu=("convolution",))


def test_only_metal_is_tested(monkeypatch):
    calls = []
    monkeypatch.setattr(safe, "wrong", lambda *given: (calls.append(given), ("gelu",))[1])
    safe.tested.cache_clear()
    assert safe.tested(CPU, torch.float32) == safe.tested(torch.device("cuda", 0), torch.float16) == ()
    for _ in range(2):
        assert safe.tested(torch.device("mps"), torch.float16) == ("gelu",)
    safe.tested.cache_clear()
    assert calls == [(torch.device("mps"), torch.float16)]


@pytest.fixture(scope="module")
def network(weights):
    source, names = checked(State(weights(MICRO)), MICRO)
    return Network(MICRO, source, names, paths=Paths(attention=2), stacked=True)


def outputs(network):
    make = np.random.default_rng(0)
    images = [torch.from_numpy(make.integers(0, 256, (1, 48, 80, 3), np.uint8)) for _ in range(2)]
    with torch.inference_mode():
        grid = network.grid(48, 80)
        states = network.decode(*(network.encode(x) for x in images), (grid, grid))
        return torch.cat(
            [network.dense(2, states[1], grid)[0].flatten(), network.local(1, states[0], grid)[0].flatten()]
        )


USED = [risk.name for risk in safe.RISKS if risk.name not in ("attention", "order")]


@pytest.mark.parametrize("name", USED)
def test_a_network_is_right_on_a_device_that_is_not(network, monkeypatch, name):
    want = outputs(network)
    with monkeypatch.context() as patch:
        with Device(patch, name) as device:
            assert relative(outputs(network), want) > 1e-3
            assert device.moves == 0
            patch.setattr(network, "paths", dataclasses.replace(network.paths, on_cpu=(name,)))
            assert relative(outputs(network), want) < 1e-6
            assert device.moves > 0


def test_matches_are_right_on_a_device_that_is_not(monkeypatch):
    from elinvar.vision import matching

    make = torch.Generator().manual_seed(0)
    one, two = (torch.nn.functional.normalize(torch.randn(9, 8, 12, generator=make), dim=-1) for _ in "ab")
    want = match(one, two)
    with Device(monkeypatch, "order"):
        monkeypatch.setattr(matching, "tested", lambda *_: ("order",))
        got = match(one, two)
    assert got.idx_1.tolist() == want.idx_1.tolist()
    assert got.idx_2.tolist() == want.idx_2.tolist()
