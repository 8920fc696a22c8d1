from __future__ import annotations

import hashlib
import json
import pickle
import sys
import types
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from elinvar.audio import htdemucs_weights as hw
from elinvar.audio.htdemucs import HTDemucs
from elinvar.errors import InputError, WeightsError

Make = Callable[..., HTDemucs]


@pytest.fixture(autouse=True)
def no_weights_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ELINVAR_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path / "cache"))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def write_pickle(path: Path, model: HTDemucs, **changes: Any) -> None:
    """A checkpoint as its publisher writes them: it names classes of packages that are not here."""
    package, module = types.ModuleType("demucs"), types.ModuleType("demucs.htdemucs")
    module.HTDemucs = type("HTDemucs", (), {"__module__": "demucs.htdemucs", "__qualname__": "HTDemucs"})  # type: ignore[attr-defined]
    c = model.config
    before = {name: sys.modules.get(name) for name in ("demucs", "demucs.htdemucs")}
    sys.modules.update({"demucs": package, "demucs.htdemucs": module})
    kwargs = {"sources": list(c.sources), "samplerate": c.sample_rate, "segment": Fraction(3, 2), "t_heads": c.heads}
    content = {
        "klass": module.HTDemucs, "args": (), "kwargs": kwargs,
        "state": {k: v.half() for k, v in model.state_dict().items()}, "training_args": {"lr": 3e-4}, **changes,
    }  # fmt: skip
    try:
        torch.save(content, path)
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old


def test_safetensors_round_trip(tiny_htdemucs: HTDemucs, tmp_path: Path) -> None:
    hw.save_model(tiny_htdemucs, tmp_path / "m.safetensors")
    back = hw.load_model(tmp_path / "m.safetensors")
    assert isinstance(back, HTDemucs)
    assert back.config == tiny_htdemucs.config
    assert same(back, tiny_htdemucs)
    assert back.fingerprint == tiny_htdemucs.fingerprint
    assert not any(p.requires_grad for p in back.parameters())
    digest = hashlib.sha256((tmp_path / "m.safetensors").read_bytes()).hexdigest()
    assert same(hw.load_model(tmp_path / "m.safetensors", sha256=digest), tiny_htdemucs)
    with pytest.raises(WeightsError, match="SHA-256"):
        hw.load_model(tmp_path / "m.safetensors", sha256="0" * 64)


def test_pickle_runs_nothing_and_gives_the_same(tiny_htdemucs: HTDemucs, tmp_path: Path) -> None:
    write_pickle(tmp_path / "m.th", tiny_htdemucs)
    back = hw.load_model(tmp_path / "m.th")
    assert isinstance(back, HTDemucs)
    assert "demucs" not in sys.modules
    assert back.config == tiny_htdemucs.config
    for key, value in back.state_dict().items():
        assert torch.equal(value, tiny_htdemucs.state_dict()[key].half().float())


class Malice:
    def __reduce__(self) -> Any:
        return (print, ("executed",))


def test_malicious_pickle(tiny_htdemucs: HTDemucs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pickle(tmp_path / "m.th", tiny_htdemucs, training_args=Malice())
    with pytest.raises(WeightsError, match="print"):
        hw.load_model(tmp_path / "m.th")
    (tmp_path / "old.th").write_bytes(pickle.dumps(Malice()))
    with pytest.raises(WeightsError):
        hw.load_model(tmp_path / "old.th")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"sources": ["../../.profile", "rest"]}, r"profile"),
        ({"sources": ["/etc/passwd", "rest"]}, "passwd"),
        ({"sources": ["..", "rest"]}, "sources"),
        ({"sources": ["voice", "voice"]}, "different names"),
        ({"stride": 0}, "stride"),
        ({"stride": "x"}, "stride"),
        ({"t_heads": 0}, "heads"),
        ({"samplerate": -5}, "sample_rate"),
        ({"samplerate": None}, "samplerate"),
        ({"segment": -1}, "segment"),
        ({"segment": 1e9}, "segment"),
    ],
)
def test_a_checkpoint_cannot_choose_where_stems_go_or_describe_nonsense(
    tiny_htdemucs: HTDemucs, tmp_path: Path, told: dict[str, Any], says: str
) -> None:
    from safetensors.torch import save_file

    c = tiny_htdemucs.config
    kwargs = {"sources": c.sources, "samplerate": c.sample_rate, "t_heads": c.heads, "stride": 4} | told
    tensors = {key: value.contiguous() for key, value in tiny_htdemucs.state_dict().items()}
    save_file(tensors, tmp_path / "odd.safetensors", metadata={"kwargs": json.dumps(kwargs)})
    with pytest.raises(WeightsError, match=says):
        hw.load_model(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(
    "segment", [{"_type": "fraction", "numerator": 1, "denominator": 0}, "nan", {"_type": "fraction"}]
)
def test_a_segment_nobody_can_read_is_the_published_one(segment: object) -> None:
    assert hw._fraction(segment) is None


def test_half_storage_halves_the_bytes(tiny_htdemucs: HTDemucs, tmp_path: Path) -> None:
    hw.save_model(tiny_htdemucs, tmp_path / "m.safetensors")
    small = hw.load_model(tmp_path / "m.safetensors", storage="fp16")
    assert small.memory_bytes <= 0.52 * tiny_htdemucs.memory_bytes
    with pytest.raises(InputError, match="int8"):
        hw.load_model(tmp_path / "m.safetensors", storage="int8")


def test_six_stems_without_a_bottleneck(make_htdemucs: Make, tmp_path: Path) -> None:
    names = ("drums", "bass", "other", "vocals", "guitar", "piano")
    model = make_htdemucs(sources=names, channels=16, bottom_channels=0)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "bare.safetensors")
    back = hw.load_model(tmp_path / "bare.safetensors")  # nothing but tensors: names and rate are the published ones
    assert back.sources == names
    assert back.config.bottom_channels == 0
    assert back.sample_rate == 44100


def test_published_names_are_found_and_checked(
    tiny_htdemucs: HTDemucs, make_htdemucs: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights" / "htdemucs_ft"
    folder.mkdir(parents=True)
    models = [make_htdemucs(seed=i, sources=("drums", "bass", "other", "vocals")) for i in range(4)]
    checkpoints = []
    for i, model in enumerate(models):
        write_pickle(folder / "x.th", model)
        digest = hashlib.sha256((folder / "x.th").read_bytes()).hexdigest()[:8]
        checkpoints.append(hw.Checkpoint(f"s{i}", digest))
        (folder / "x.th").rename(folder / checkpoints[-1].th)
    monkeypatch.setitem(hw.MODELS, "htdemucs_ft", tuple(checkpoints))
    bag = hw.load_model("htdemucs_ft")
    assert isinstance(bag, hw.Bag)
    assert bag.shares == [[float(i == k) for i in range(4)] for k in range(4)]
    assert bag.memory_bytes == sum(m.memory_bytes for m in models)
    assert len({m.fingerprint for m in bag.models} | {bag.fingerprint}) == 5
    assert isinstance(hw.load_model(folder), hw.Bag)
    data = bytearray((folder / checkpoints[2].th).read_bytes())
    data[-1] ^= 1
    (folder / checkpoints[2].th).write_bytes(data)
    with pytest.raises(WeightsError, match="damaged or another file"):
        hw.load_model("htdemucs_ft")


def test_missing_weights_say_where_from(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"92cfc3b6|f7e0c4bc-ba3fe64a\.th.*scientific purposes.*ELINVAR_WEIGHTS"):
        hw.load_model("htdemucs_ft")
    with pytest.raises(WeightsError, match="does not exist"):
        hw.load_model(tmp_path / "nothing.th")


def test_wrong_checkpoints(tiny_htdemucs: HTDemucs, tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(b"RIFF")
    with pytest.raises(WeightsError, match=r"no checkpoint by its name.*\.safetensors"):
        hw.load_model(tmp_path / "song.wav")
    state = {k: v.contiguous() for k, v in tiny_htdemucs.state_dict().items()}
    save_file({**state, "extra": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(WeightsError, match="1 unexpected: extra"):
        hw.load_model(tmp_path / "more.safetensors")
    lost = dict(state)
    del lost["tdecoder.1.rewrite.bias"]
    save_file(lost, tmp_path / "less.safetensors")
    with pytest.raises(WeightsError, match="1 missing: tdecoder"):
        hw.load_model(tmp_path / "less.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="no HTDemucs checkpoint"):
        hw.load_model(tmp_path / "other.safetensors")
    save_file(state, tmp_path / "q.safetensors", metadata={"structure": json.dumps({"a": 1})})
    with pytest.raises(WeightsError, match="quantised"):
        hw.load_model(tmp_path / "q.safetensors")
    torch.save({"state_dict": state}, tmp_path / "m.th")
    with pytest.raises(WeightsError, match="klass"):
        hw.load_model(tmp_path / "m.th")
    (tmp_path / "cut.th").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(WeightsError, match=r"damaged|truncated|no checkpoint"):
        hw.load_model(tmp_path / "cut.th")
