from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from elinvar import Pool
from elinvar.audio import nn
from elinvar.errors import InputError
from elinvar.runtime import kernels


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).double().norm() / want.double().norm())


# -- norms ------------------------------------------------------------------------------------------------------------

ALGORITHMS = ["standard", "kahan", "welford", "float64"]


@pytest.mark.parametrize("seed", range(4))
def test_group_norm_kernel_agrees_with_its_reference(seed: int) -> None:
    report = kernels.check("audio.group_norm", "v1", "cpu", seed=seed)
    assert report.ok, report


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("offset", "sd", "most"),
    [
        (0.0, 1.0, {"standard": 2e-6, "kahan": 2e-6, "welford": 2e-6, "float64": 2e-6}),
        (1e3, 1.0, {"standard": 5e-6, "kahan": 1e-6, "welford": 2e-4, "float64": 1e-6}),
        (1e5, 1.0, {"standard": 2e-5, "kahan": 2e-6, "welford": 5e-2, "float64": 2e-6}),
        (3e3, 1e-2, {"standard": 2e-5, "kahan": 2e-6, "welford": 1e-1, "float64": 2e-6}),
    ],
)
def test_group_norm_errors(algorithm: str, offset: float, sd: float, most: dict[str, float]) -> None:
    """Half a million samples of one group, at offsets where careless sums lose everything."""
    x = (offset + sd * np.random.default_rng(0).standard_normal((1, 6, 85995))).astype(np.float32)
    wide = x.astype(np.float64)
    want = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)
    with torch.no_grad():
        got = nn.GroupNorm(1, 6, algorithm=algorithm)(torch.from_numpy(x)).numpy()
    assert np.abs(got - want).max() <= most[algorithm]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_group_norm_is_torchs(algorithm: str) -> None:
    torch.manual_seed(0)
    mine, theirs = nn.GroupNorm(2, 6, algorithm=algorithm), torch.nn.GroupNorm(2, 6)
    theirs.weight.data.normal_()
    theirs.bias.data.normal_()
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 6, 5, 7)
    want = theirs(x)
    with torch.no_grad():
        assert torch.allclose(mine(x), want, atol=2e-6)
        kept = x.clone()
        assert mine(kept, out=kept) is kept
        assert torch.allclose(kept, want, atol=2e-6)
        assert torch.allclose(mine(x.transpose(2, 3)), theirs(x.transpose(2, 3)), atol=2e-6)
        plain = nn.GroupNorm(3, 6, affine=False, algorithm=algorithm)
        assert torch.allclose(plain(x), torch.nn.GroupNorm(3, 6, affine=False)(x), atol=2e-6)
    assert mine(x).requires_grad
    mine.algorithm = "welford"
    with pytest.raises(InputError, match="pairwise"):
        mine.algorithm = "pairwise"
    with pytest.raises(InputError, match="shape"):
        mine(torch.zeros(2, 5))


# -- linear, attention, storage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 4, 17])
def test_linear(bias: bool, rows: int) -> None:
    torch.manual_seed(0)
    mine, theirs = nn.Linear(13, 7, bias=bias), torch.nn.Linear(13, 7, bias=bias)
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(rows, 1, 13)
    want = theirs(x)
    assert torch.equal(mine(x), want)  # with gradients it is torch's
    with torch.no_grad():
        assert torch.allclose(mine(x), want, atol=1e-6)
        out = torch.zeros(rows, 1, 7)
        assert mine(x, out=out) is out
        assert torch.allclose(out, want, atol=1e-6)
    with pytest.raises(InputError, match="13"):
        mine(torch.zeros(2, 12))


def test_linear_threshold_is_measured() -> None:
    layer = nn.Linear(16, 16)
    assert layer.batch_threshold == 4
    table = layer.tune(runs=2)
    assert list(table) == [2, 4, 8, 16]
    assert all(few > 0 and many > 0 for few, many in table.values())
    assert layer.batch_threshold in (2, 4, 8, 16, 17)
    faster = [rows for rows, (few, many) in table.items() if many < few]
    assert layer.batch_threshold == min(faster, default=17)


def test_attention_is_torchs() -> None:
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(24, 3, batch_first=True).eval()
    mine = nn.Attention(24, 3)
    mine.load_state_dict(theirs.state_dict())
    x, y = torch.randn(2, 11, 24), torch.randn(2, 5, 24)
    with torch.no_grad():
        assert torch.allclose(mine(x), theirs(x, x, x, need_weights=False)[0], atol=1e-6)
        assert torch.allclose(mine(x, y), theirs(x, y, y, need_weights=False)[0], atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.nn.Sequential(torch.nn.Conv1d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv1d(8, 2, 1)),
        lambda: torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
        lambda: nn.GRU(16, 8, num_layers=2),
    ],
    ids=["conv", "transformer", "gru"],
)
def test_half_storage_of_any_module(make: Any) -> None:
    torch.manual_seed(0)
    module = make().eval()
    x = torch.randn(2, 3, 16)
    with torch.no_grad():
        want = module(x)
        names, before = list(module.state_dict()), nn.memory_bytes(module)
        assert nn.half_storage(module) is module
        got = module(x)
        again = module(x)
    want, got, again = (y[0] if isinstance(y, tuple) else y for y in (want, got, again))
    assert list(module.state_dict()) == names
    assert nn.memory_bytes(module) <= 0.52 * before
    assert torch.equal(got, again)
    assert 0 < relative(got, want) < 3e-3  # 50 dB
    with pytest.raises(InputError, match="int8"):
        nn.half_storage(module, torch.int8)


def test_half_storage_survives_an_error() -> None:
    module = nn.half_storage(torch.nn.Linear(4, 4))
    with pytest.raises(RuntimeError):
        module(torch.zeros(2, 5))
    assert module.weight.dtype == torch.float16


# -- convolutions -----------------------------------------------------------------------------------------------------

LAYERS = [
    (nn.Conv1d, torch.nn.Conv1d, {"kernel_size": 3, "padding": 2, "dilation": 2}, (2, 4, 50)),
    (nn.Conv1d, torch.nn.Conv1d, {"kernel_size": 1, "bias": False}, (1, 4, 9)),
    (nn.Conv1d, torch.nn.Conv1d, {"kernel_size": 8, "stride": 4}, (2, 4, 50)),
    (nn.Conv1d, torch.nn.Conv1d, {"kernel_size": 3, "padding": "same", "groups": 2}, (2, 4, 50)),
    (nn.ConvTranspose1d, torch.nn.ConvTranspose1d, {"kernel_size": 8, "stride": 4}, (2, 4, 12)),
    (nn.Conv2d, torch.nn.Conv2d, {"kernel_size": 3, "padding": 1}, (2, 4, 9, 7)),
]


@pytest.mark.parametrize(("mine", "theirs", "options", "shape"), LAYERS)
def test_convolutions_are_torchs_and_reuse_their_outputs(
    mine: Any, theirs: Any, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    a, b = mine(4, 6, **options), theirs(4, 6, **options)
    a.load_state_dict(b.state_dict())
    x = torch.randn(shape)
    assert torch.equal(a(x), b(x))
    pool = Pool("cpu")
    a.reuse_outputs(2, pool)
    with torch.no_grad():
        first = a(x)
        assert torch.allclose(first, b(x), atol=1e-6)
        where, leased = first.data_ptr(), pool.stats().allocation_count
        for _ in range(3):
            again = a(-x)
        assert again.data_ptr() == where
        assert pool.stats().allocation_count == leased
        assert torch.allclose(again, b(-x), atol=1e-6)
        out = torch.empty_like(first)
        assert a(x, out=out) is out
        assert torch.allclose(out, b(x), atol=1e-6)
    assert a(x).requires_grad  # gradients need results of their own


def test_reused_outputs_are_bounded() -> None:
    pool = Pool("cpu")
    layer = nn.Conv1d(2, 2, 3, padding=1).reuse_outputs(3, pool)
    with torch.no_grad():
        for n in range(10, 60):
            layer(torch.zeros(1, 2, n))
    assert pool.live <= 6
    assert 0 < layer.reused_bytes < 60 * 2 * 4 * 10
    layer.reuse_outputs(0)
    assert pool.live == 0
    assert layer.reused_bytes == 0
    with pytest.raises(InputError, match="at least 1"):
        layer.reuse_outputs(-1)


# -- sequences --------------------------------------------------------------------------------------------------------


def ten_layers() -> list[torch.nn.Module]:
    layers: list[torch.nn.Module] = []
    for _ in range(5):
        layers += [nn.Linear(32, 32), torch.nn.Tanh()]
    return layers


def test_ten_equal_layers_share_two_buffers() -> None:
    torch.manual_seed(0)
    pool = Pool("cpu")
    plain = torch.nn.Sequential(*ten_layers())
    mine = nn.Sequential(*plain).build((4, 32), pool=pool)
    assert str(mine.buffer_stats) == "10 layers, 2 buffers (80 % memory saved)"
    x = torch.randn(4, 32)
    with torch.no_grad():
        want = plain(x)
        y = mine(x)
        assert torch.allclose(y, want, atol=1e-6)
        with pool.frozen():
            assert mine(x).data_ptr() == y.data_ptr()
        assert torch.allclose(mine(torch.ones(3, 32)), plain(torch.ones(3, 32)), atol=1e-6)  # another shape: torch's
    assert mine(x).requires_grad
    mine.release()
    assert mine.buffer_bytes == 0
    with pytest.raises(InputError, match="build"):
        _ = mine.buffer_stats


def test_mixed_layers() -> None:
    torch.manual_seed(0)
    layers = [
        nn.Conv1d(3, 8, 5, padding=2), torch.nn.ReLU(), nn.GroupNorm(2, 8), torch.nn.SiLU(), torch.nn.GELU(),
        torch.nn.Conv1d(8, 4, 3), torch.nn.Sigmoid(), torch.nn.Softmax(1), torch.nn.Flatten(),
    ]  # fmt: skip
    plain = torch.nn.Sequential(*layers)
    mine = nn.Sequential(*layers).build((2, 3, 40))
    x = torch.randn(2, 3, 40)
    with torch.no_grad():
        want = plain(x)
        for _ in range(2):
            assert torch.allclose(mine(x), want, atol=1e-6)
    assert mine.buffer_stats.saved > 0.5


def test_layers_that_do_not_fit_are_named() -> None:
    with pytest.raises(InputError, match=r"layer 1 \(Linear\).*\(2, 8\)"):
        nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(9, 2)).build((2, 4))
    with pytest.raises(InputError, match="GRU"):
        nn.Sequential(nn.GRU(4, 8)).build((2, 4))


# -- chunks and sessions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 60, 64, 65, 1000])
@pytest.mark.parametrize("overlap", [0, 16, 32])
def test_chunks_of_a_copy_are_the_input(n: int, overlap: int) -> None:
    x = torch.randn(2, n)
    chunks = nn.ChunkedInference(lambda c: c, chunk=64, overlap=overlap)
    assert torch.allclose(chunks(x), x, atol=1e-6)
    parts = [chunks.process(part) for part in x.split(37, dim=-1)]
    assert torch.allclose(torch.cat([*parts, chunks.flush()], dim=-1), x, atol=1e-6)


def test_chunks_cross_fade() -> None:
    values = iter([0.0, 1.0, 1.0, 1.0])
    out = nn.ChunkedInference(lambda c: torch.full_like(c, next(values)), chunk=64, overlap=16)(torch.zeros(150))
    assert out[:48].eq(0).all()
    assert out[64:].eq(1).all()
    assert (out[48:64].diff() > 0).all()
    assert out[55] + out[56] == pytest.approx(1.0)
    with pytest.raises(InputError, match="half"):
        nn.ChunkedInference(lambda c: c, 10, 6)
    with pytest.raises(InputError, match="keep"):
        nn.ChunkedInference(lambda c: c[:-1], 10, 2)(torch.zeros(30))


def test_session_allocates_once() -> None:
    torch.manual_seed(0)
    pool = Pool("cpu")
    module = nn.Sequential(nn.Linear(8, 16), torch.nn.Tanh(), nn.Linear(16, 4))
    answers = [False, True]
    session = nn.InferenceSession(module, (2, 8), pool=pool, on_pressure=lambda change: answers.pop(0))
    x = torch.randn(2, 8)
    with torch.no_grad():
        want = torch.nn.Sequential(*module)(x)
    with pool.frozen():
        y = session.run(x)
        assert session.run(x).data_ptr() == y.data_ptr()
    assert torch.allclose(y, want, atol=1e-6)
    held = session.workspace_bytes
    assert held == 4 * (2 * 8 + 2 * 4) + module.buffer_bytes > 0
    assert session.pressure("warning") == 0  # the callback said no
    assert session.workspace_bytes == held
    del y
    assert session.pressure("critical") == held
    assert (session.workspace_bytes, pool.live, pool.stats().bytes_cached) == (0, 0, 0)
    assert torch.allclose(session.run(x), want, atol=1e-6)
    assert session.preparations == 2
    session.run(x)
    assert session.preparations == 2
    with pytest.raises(InputError, match="takes"):
        session.run(torch.zeros(3, 8))


def test_session_that_is_busy_says_so() -> None:
    inside, leave = threading.Event(), threading.Event()

    class Slow(torch.nn.Module):
        slow = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.slow:
                inside.set()
                assert leave.wait(10)
            return x + 1

    module = Slow()
    session = nn.InferenceSession(module, (3,))
    module.slow = True
    thread = threading.Thread(target=lambda: session.run(torch.zeros(3)))
    thread.start()
    assert inside.wait(10)
    assert session.try_run(torch.zeros(3)) is None
    leave.set()
    thread.join()
    got = session.try_run(torch.ones(3))
    assert got is not None
    assert got.tolist() == [2.0, 2.0, 2.0]


def test_session_listens_to_a_monitor() -> None:
    from elinvar.runtime.pressure import Monitor, Sensor

    level = [0.0]
    sensor = Sensor(name="m", kind="memory", read=lambda: level[0], warning=0.8, critical=0.9, unit="")
    session = nn.InferenceSession(torch.nn.Identity(), (3,), on_pressure=lambda change: True)
    monitor = Monitor(sensors=[sensor])
    forget = session.attend(monitor)
    monitor.sample()
    assert session.workspace_bytes > 0
    level[0] = 0.95
    monitor.sample()
    assert session.workspace_bytes == 0
    forget()
