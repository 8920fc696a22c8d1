from __future__ import annotations

import pytest
import torch

from elinvar.audio import nn
from elinvar.errors import InputError
from elinvar.runtime import kernels

CASES = [("LSTM", {}), ("LSTM", {"num_layers": 2, "bias": False}), ("GRU", {"num_layers": 3}), ("GRU", {"bias": False})]


@pytest.mark.parametrize("name", ["audio.lstm_step", "audio.gru_step"])
@pytest.mark.parametrize("seed", range(4))
def test_kernels_agree_with_their_references(name: str, seed: int) -> None:
    report = kernels.check(name, "v1", "cpu", seed=seed)
    assert report.ok, report


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_thousand_steps_equal_the_sequence(kind: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    layer = getattr(nn, kind)(7, 24, **options)
    x = torch.randn(1000, 2, 7)
    with torch.no_grad():
        want, state = layer(x)
    stream = layer.stream(batch=2)
    got = torch.stack([stream.step(x[t]).clone() for t in range(1000)])
    assert torch.allclose(got, want, atol=1e-5)
    for mine, theirs in zip(stream.state, state if isinstance(state, tuple) else (state,), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_state_can_be_taken_and_given_back() -> None:
    torch.manual_seed(0)
    layer = nn.LSTM(3, 8, num_layers=2)
    x = torch.randn(6, 1, 3)
    stream = layer.stream()
    for t in range(3):
        stream.step(x[t])
    saved = stream.state
    after = [stream.step(x[t]).clone() for t in range(3, 6)]
    stream.reset()
    assert all(not s.any() for s in stream.state)
    stream.set_state(*saved)
    assert all(torch.equal(stream.step(x[t]), y) for t, y in zip(range(3, 6), after, strict=True))


def test_kinds_of_input_and_out() -> None:
    layer = nn.GRU(3, 5)
    x = torch.randn(1, 3)
    a, b, c = layer.stream(), layer.stream(), layer.stream()
    want = a.step(x).clone()
    assert (b.step(x[0].numpy()) == want.numpy()).all()
    out = torch.zeros(1, 5)
    assert c.step(torch.cat([x, x])[::2], out=out) is out
    assert torch.equal(out, want)
    data = a._layers[-1][0][0]
    assert a.step(x).data_ptr() == data.ctypes.data == a.step(x).data_ptr()  # the stream's own array, each time


def test_nan_is_not_hidden() -> None:
    stream = nn.LSTM(3, 5).stream()
    assert stream.step(torch.full((1, 3), float("nan"))).isnan().all()
    stream.reset()
    assert stream.step(torch.full((1, 3), 1e30)).isfinite().all()


def test_refusals() -> None:
    with pytest.raises(InputError, match="bidirectional"):
        nn.LSTM(3, 5, bidirectional=True).stream()
    with pytest.raises(InputError, match="proj_size"):
        nn.LSTM(3, 5, proj_size=2).stream()
    with pytest.raises(InputError, match="batch"):
        nn.GRU(3, 5).stream(0)
    with pytest.raises(InputError, match=r"\[1, 3\]"):
        nn.GRU(3, 5).stream().step(torch.zeros(1, 4))
