from __future__ import annotations

import pytest
import torch

from elinvar.runtime.device import DeviceProfile
from elinvar.runtime.tuning import save_tuned, tuned
from elinvar.vision import choices
from elinvar.vision.layers import Conv, Linear, Paths, attend, packed_available


class Place:
    kind = "cpu"
    torch = torch.device("cpu")

    def __init__(self):
        self.profile = DeviceProfile.fake(name="choices test")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path))
    return Place()


def test_measured_once_then_remembered(place, monkeypatch):
    calls = []
    monkeypatch.setattr(choices, "measure", lambda dtype: (calls.append(dtype), (Paths(attention=2), {}))[1])
    assert choices.choose(place, torch.float32, 2) == Paths(attention=2)
    assert choices.choose(place, torch.float32, 2) == Paths(attention=2)
    assert choices.choose(place, torch.bfloat16, 2) == Paths(attention=2)
    assert calls == [torch.float32, torch.bfloat16]


def test_nonsense_in_the_store_is_measured_again(place, monkeypatch):
    monkeypatch.setattr(choices, "measure", lambda _dtype: (Paths(), {}))
    choices.choose(place, torch.float32, 2)
    (key,) = tuned(place.profile).options
    for bad in ({"linear": "magic"}, {"unknown": 1}, {"attention": 77}):
        save_tuned(place.profile, f"option.{key}", bad)
        assert choices.choose(place, torch.float32, 2) == Paths()


def test_the_fastest_right_way_wins():
    truth = torch.ones(3)
    clock = {"first": 3.0, "wrong": 1.0, "fast": 2.0}

    def ways():
        return {"first": lambda: truth, "wrong": lambda: truth * 2, "fast": lambda: truth, "broken": lambda: 1 / 0}

    with pytest.MonkeyPatch.context() as patch:
        made = ways()
        made.pop("broken")
        names = {id(call): name for name, call in made.items()}
        patch.setattr(choices, "_seconds", lambda call: clock[names[id(call)]])
        assert choices._fastest(made, torch.float32, "first")[0] == "fast"
        clock["fast"] = 2.95  # not by enough
        assert choices._fastest(made, torch.float32, "first")[0] == "first"


def test_measuring_gives_something_that_runs(monkeypatch):
    monkeypatch.setattr(choices, "_seconds", lambda call: (call(), 1.0)[1])
    paths, times = choices.measure(torch.float32)
    assert paths == Paths(channels_last=True)  # all equally fast: torch's own
    assert set(times) == {"linear", "attention", "rotate"}
    assert "sdpa" in times["attention"]


@pytest.mark.parametrize("path", ["torch", "conv", *(["packed"] if packed_available() else [])])
def test_linear_layers_agree(path):
    make = torch.Generator().manual_seed(0)
    x, add = (torch.randn(2, 7, n, generator=make) for n in (12, 9))
    weight, bias = torch.randn(9, 12, generator=make), torch.randn(9, generator=make)
    layer, want = Linear(weight, bias, path), torch.nn.functional.linear(x, weight, bias)
    assert torch.allclose(layer(x), want, atol=1e-5)
    assert torch.allclose(layer(x, gelu=True), torch.nn.functional.gelu(want), atol=1e-5)
    assert torch.allclose(layer(x, add=add), want + add, atol=1e-5)


@pytest.mark.parametrize("path", ["torch", *(["packed"] if packed_available() else [])])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_agree(path, stride):
    make = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 9, 7, generator=make).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(6, 4, 3, 3, generator=make), torch.randn(6, generator=make)
    want = torch.nn.functional.conv2d(x, weight, bias, stride, 1)
    conv = Conv(weight, bias, Paths(path, channels_last=True), stride=stride)
    add = torch.randn(want.shape, generator=make).contiguous(memory_format=torch.channels_last)
    assert torch.allclose(conv(x), want, atol=1e-5)
    assert torch.allclose(conv(x, relu=True), want.relu(), atol=1e-5)
    assert torch.allclose(conv(x, add=add), want + add, atol=1e-5)
    assert torch.allclose(conv(x, add=add, relu=True), (want + add).relu(), atol=1e-5)
    bare = torch.nn.functional.conv2d(x, weight, None, 1, 1)
    assert torch.allclose(Conv(weight, None, Paths(path))(x.contiguous()), bare, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_attention_in_chunks_agrees(chunk):
    q, k, v = (torch.randn(2, 3, n, 8) for n in (5, 6, 6))
    assert torch.allclose(attend(q, k, v, chunk), attend(q, k, v, "sdpa"), atol=1e-5)


def test_turning_in_numba_is_bit_equal():
    from elinvar.vision import rotate
    from elinvar.vision.layers import Rotary

    for channels, dtype in ((64, torch.float32), (64, torch.bfloat16), (48, torch.bfloat16)):
        x = torch.randn(2, 12, 3, channels).to(dtype).transpose(1, 2)
        tables = Rotary(channels, torch.device("cpu"))(3, 4)
        one, two = (rotate.apply(x, *tables, 0.125, how) for how in ("torch", "numba"))
        assert torch.equal(one, two)
        assert one.is_contiguous()
