from __future__ import annotations

import collections
import hashlib
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from elinvar.errors import InputError, WeightsError
from elinvar.runtime import weights
from elinvar.runtime.weights import (
    Inert,
    WeightsSpec,
    check_keys,
    find,
    folders,
    known,
    load,
    load_checkpoint,
    register,
    sha256_of,
    stream,
)


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(3)
    return {
        "conv.weight": torch.randn(3, 2, generator=generator),
        "conv.bias": torch.randn(3, generator=generator),
        "steps": torch.tensor(7),
        "half": torch.randn(4, generator=generator).to(torch.bfloat16),
    }


@pytest.fixture
def registry(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "_specs", {})
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ELINVAR_WEIGHTS", raising=False)
    return tmp_path


def same(a, b):
    assert list(a) == list(b) or sorted(a) == sorted(b)
    for name in b:
        assert a[name].dtype == b[name].dtype
        assert torch.equal(a[name], b[name])


def sharded(folder, state):
    names = sorted(state)
    table = {}
    for number, part in enumerate((names[:2], names[2:])):
        shard = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, folder / shard)
        table.update(dict.fromkeys(part, shard))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    return table


# ------------------------------------------------------------------------------------------------ formats


def test_safetensors_file_and_folder(tmp_path, state):
    save_file(state, tmp_path / "m.safetensors")
    same(load(tmp_path / "m.safetensors"), state)
    same(load(str(tmp_path)), state)
    save_file(state, tmp_path / "m.safetensors", metadata={"format": "pt"})
    same(load(tmp_path), state)
    data = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(data[:-1])
    with pytest.raises(WeightsError, match=f"truncated: {len(data) - 1} of {len(data)} bytes"):
        load(tmp_path)


def test_sharded_index_and_its_folder(tmp_path, state):
    sharded(tmp_path, state)
    same(load(tmp_path), state)
    same(load(tmp_path / "model.safetensors.index.json"), state)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_old_and_new(tmp_path, state, suffix, zipped):
    torch.save(collections.OrderedDict(state), tmp_path / f"m{suffix}", _use_new_zipfile_serialization=zipped)
    same(load(tmp_path / f"m{suffix}"), state)
    same(load(tmp_path), state)


def test_parameters_come_back_as_plain_tensors(tmp_path):
    torch.save({"w": torch.nn.Parameter(torch.ones(2))}, tmp_path / "m.pt")
    (w,) = load(tmp_path / "m.pt").values()
    assert not w.requires_grad


def test_the_state_dict_inside_a_checkpoint_needs_its_key(tmp_path, state):
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "m.pt")
    with pytest.raises(WeightsError, match="key='state_dict'"):
        load(tmp_path / "m.pt")
    same(load(tmp_path / "m.pt", key="state_dict"), state)
    with pytest.raises(WeightsError, match=r"'model'.*state_dict, epoch"):
        load(tmp_path / "m.pt", key="model")
    assert load_checkpoint(tmp_path / "m.pt")["epoch"] == 3


def test_what_is_no_state_dict_is_named(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds a list"):
        load(tmp_path / "list.pt")
    torch.save({"w": torch.ones(1), **{f"n{i}": i for i in range(7)}}, tmp_path / "mixed.pt")
    with pytest.raises(WeightsError, match="n0, n1, n2, n3, n4 and 2 more"):
        load(tmp_path / "mixed.pt")


def test_streaming_maps_one_tensor_at_a_time(tmp_path, state):
    save_file(state, tmp_path / "m.safetensors")
    iterator = stream(tmp_path / "m.safetensors")
    name, tensor = next(iterator)
    assert torch.equal(tensor, state[name])
    same(dict([(name, tensor), *iterator]), state)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's smaps")
def test_a_streamed_file_is_mapped_not_read(tmp_path):
    def private():
        with open("/proc/self/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith(("Private_Dirty:", "Anonymous:")))

    save_file({"big": torch.ones(16 << 20)}, tmp_path / "m.safetensors")  # 64 MB
    before = private()
    (tensor,) = load(tmp_path / "m.safetensors").values()
    assert private() - before < 32 << 10  # kB: half the file
    assert tensor[-1] == 1


# ------------------------------------------------------------------------------------------------ hostile files


class Payload:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "function", [os.system, eval, exec, __import__, os.unlink, print, getattr], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("trusted", [False, True])
def test_a_payload_never_runs(tmp_path, function, zipped, trusted, capsys):
    target = tmp_path / "evidence"
    argument = {os.system: f"touch {target}", eval: f"open({str(target)!r}, 'w')", exec: f"open({str(target)!r}, 'w')"}
    victim = tmp_path / "victim"
    victim.touch()
    call = (function, (argument.get(function, str(victim)),))
    torch.save({"w": torch.ones(2), "x": Payload(call)}, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    names = [f"{function.__module__}.{function.__name__}", "builtins." + function.__name__] if trusted else []
    if trusted and function.__module__ == "builtins":
        content = load_checkpoint(tmp_path / "m.pth", inert=names)
        assert isinstance(content["x"], Inert)
        assert content["x"].args == call[1]
    else:  # torch blocks os and posix whatever the caller says
        with pytest.raises(WeightsError, match=function.__name__) as error:
            load_checkpoint(tmp_path / "m.pth", inert=names)
        assert "add_safe_globals" not in str(error.value)
    assert victim.exists()
    assert not target.exists()
    assert capsys.readouterr().out == ""


def test_a_bare_pickle_is_refused(tmp_path):
    target = tmp_path / "evidence"
    (tmp_path / "m.pt").write_bytes(pickle.dumps(Payload((os.system, (f"touch {target}",)))))
    with pytest.raises(WeightsError):
        load(tmp_path / "m.pt")
    assert not target.exists()


class Model:
    """Stands for a class of a package the reader does not have."""

    def __init__(self, *args):
        raise AssertionError("foreign code ran")

    def __setstate__(self, state):
        raise AssertionError("foreign code ran")


def test_inert_records_hold_what_was_pickled_and_run_nothing(tmp_path):
    name = f"{Model.__module__}.Model"
    instance = Model.__new__(Model)
    instance.depth = 4
    trusted = set(torch.serialization.get_safe_globals())
    torch.save({"klass": Model, "model": instance, "state": {"w": torch.ones(1)}}, tmp_path / "m.th")
    with pytest.raises(WeightsError, match=r"inert=\['" + name.replace(".", r"\.")):
        load(tmp_path / "m.th", key="state")
    content = load_checkpoint(tmp_path / "m.th", inert=[name])
    assert content["klass"].name == name
    assert isinstance(content["model"], Inert)
    assert content["model"].state == {"depth": 4} or content["model"].__dict__["depth"] == 4
    assert repr(content["model"]) == f"<inert {name}>"
    assert list(load(tmp_path / "m.th", key="state", inert=[name])) == ["w"]
    assert set(torch.serialization.get_safe_globals()) == trusted


@pytest.mark.parametrize("inert", ["a.b", [3], ["nodots"]])
def test_wrong_inert_names_are_refused(tmp_path, inert):
    torch.save({}, tmp_path / "m.pt")
    with pytest.raises(InputError, match="inert="):
        load_checkpoint(tmp_path / "m.pt", inert=inert)


def test_other_pickle_protocols_do_not_warn_or_crash(tmp_path, state):
    torch.save(state, tmp_path / "m.pt", pickle_protocol=4)
    with pytest.raises(WeightsError, match="safetensors version"):
        load(tmp_path / "m.pt")


def test_torchscript_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/constants.pkl", b"")
        archive.writestr("m/data.pkl", b"")
        archive.writestr("m/code/x.py", b"")
        archive.writestr("m/version", b"3\n")
    with pytest.raises(WeightsError, match="TorchScript"):
        load(tmp_path / "m.pt")


def test_an_index_may_not_leave_its_folder(tmp_path, state):
    save_file(state, tmp_path / "x.safetensors")
    inner = tmp_path / "in"
    inner.mkdir()
    (inner / "m.safetensors.index.json").write_text(json.dumps({"weight_map": {"half": "../x.safetensors"}}))
    with pytest.raises(WeightsError, match="outside its folder"):
        load(inner)


# ------------------------------------------------------------------------------------------------ damage


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    return True


@pytest.mark.parametrize("keep", [0, 4, 8, 60, 0.5, -1])
@pytest.mark.parametrize("name", ["m.safetensors", "m.pth", "old.pth"])
def test_a_truncated_file_is_one_sentence(tmp_path, state, name, keep):
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name == "m.pth")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(WeightsError, match=r"again|safetensors version") as error:
        load(path)
    assert one_sentence(error)
    assert name in str(error.value)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100), b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(50)])
@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
def test_garbage_is_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError) as error:
        load(tmp_path / name)
    assert one_sentence(error)


@pytest.mark.parametrize("header", [b"[]", b'{"a": 3}', b'{"a": {"data_offsets": 5}}', b"\xff\xfe"])
def test_a_wrong_header_is_one_sentence(tmp_path, header):
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(WeightsError) as error:
        load(tmp_path / "m.safetensors")
    assert one_sentence(error)


def test_a_flipped_type_is_one_sentence(tmp_path, state):
    path = tmp_path / "m.safetensors"
    save_file(state, path)
    path.write_bytes(path.read_bytes().replace(b'"BF16"', b'"XX16"'))
    with pytest.raises(WeightsError, match="damaged") as error:
        load(path)
    assert one_sentence(error)


def test_missing_shards_and_lying_indexes(tmp_path, state):
    table = sharded(tmp_path, state)
    first = table["conv.bias"]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {**table, "extra": first}}))
    with pytest.raises(WeightsError, match="lacks tensor 'extra'"):
        load(tmp_path)
    (tmp_path / first).unlink()
    with pytest.raises(WeightsError, match=f"1 files.*{first}"):
        load(tmp_path)
    for text in ("", "{}", "[]", '{"weight_map": 3}'):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(WeightsError, match="no weight_map"):
            load(tmp_path)


def test_folders_without_one_checkpoint(tmp_path, state):
    with pytest.raises(WeightsError, match="holds no checkpoint"):
        load(tmp_path)
    save_file(state, tmp_path / "a.safetensors")
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=r"2 checkpoints \(a\.safetensors, b\.safetensors\)"):
        load(tmp_path)


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        load(tmp_path / "nowhere.pt")


# ------------------------------------------------------------------------------------------------ digests and names


def test_a_digest_is_checked_before_anything_is_parsed(tmp_path, state):
    path = tmp_path / "m.safetensors"
    save_file(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert sha256_of(path) == digest
    same(load(path, sha256=digest.upper()), state)
    evil = tmp_path / "m.pth"
    torch.save(Payload((os.system, ("true",))), evil)
    with pytest.raises(WeightsError, match=r"SHA-256.*expected"):
        load(evil, sha256=digest)


def test_digests_of_a_folder_cover_every_file_read(tmp_path, state):
    sharded(tmp_path, state)
    digests = {file.name: sha256_of(file) for file in tmp_path.iterdir()}
    same(load(tmp_path, sha256=digests), state)
    with pytest.raises(InputError, match="mapping"):
        load(tmp_path, sha256="00")
    for name in digests:
        partial = {k: v for k, v in digests.items() if k != name}
        with pytest.raises(WeightsError, match=f"{name}, whose SHA-256"):
            load(tmp_path, sha256=partial)
        with pytest.raises(WeightsError, match="damaged or another"):
            load(tmp_path, sha256={**digests, name: "0" * 64})
    with pytest.raises(WeightsError, match="missing"):
        load(tmp_path, sha256={**digests, "more.safetensors": "0" * 64})


def spec(path, **changes):
    base = {
        "name": "net",
        "file": path.name,
        "where": "the NET project's release page",
        "sha256": sha256_of(path),
        "licence": "CC-BY-4.0",
        "size_bytes": path.stat().st_size,
    }
    return WeightsSpec(**{**base, **changes})


def test_registered_weights_are_found_offline_and_verified(registry, monkeypatch, state, caplog):
    source = registry / "net.safetensors"
    save_file(state, source)
    description = register(spec(source))
    assert known() == (description,)
    with pytest.raises(WeightsError) as error:
        load("net")
    text = str(error.value)
    assert "NET project" in text
    assert str(registry / "cache" / "weights") in text
    assert "ELINVAR_WEIGHTS" in text
    assert "pass the path" in text
    assert "CC-BY-4.0" in text
    assert one_sentence(error)

    shelf = registry / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("ELINVAR_WEIGHTS", os.pathsep.join([str(registry / "none"), str(shelf)]))
    assert folders() == (registry / "none", shelf, registry / "cache" / "weights")
    (shelf / "net.safetensors").write_bytes(source.read_bytes())
    assert find("net") == shelf / "net.safetensors"
    with caplog.at_level("INFO", "elinvar"):
        same(load("net"), state)
    assert "CC-BY-4.0" in caplog.text

    (shelf / "net.safetensors").write_bytes(source.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="incomplete"):
        load("net")
    damaged = bytearray(source.read_bytes())
    damaged[-1] ^= 1
    (shelf / "net.safetensors").write_bytes(damaged)
    with pytest.raises(WeightsError, match="SHA-256"):
        load("net")


def test_a_folder_named_after_the_weights_works_too(registry, state):
    source = registry / "net.safetensors"
    save_file(state, source)
    register(spec(source))
    home = registry / "cache" / "weights" / "net"
    home.mkdir(parents=True)
    source.rename(home / "net.safetensors")
    same(load("net"), state)


def test_unknown_and_conflicting_names(registry, state):
    path = registry / "m.safetensors"
    save_file(state, path)
    with pytest.raises(WeightsError, match="known: none"):
        load("nosuch")
    register(spec(path))
    register(spec(path))
    with pytest.raises(InputError, match="different description"):
        register(spec(path, licence="MIT"))
    with pytest.raises(InputError, match="plain file name"):
        register(spec(path, name="other", file="../m.safetensors"))
    with pytest.raises(WeightsError, match="known: net"):
        find("nosuch")


# ------------------------------------------------------------------------------------------------ keys


def test_keys_that_fit_pass(state):
    check_keys(state, state)
    check_keys(list(state), iter(state))


def test_missing_and_unexpected_keys_are_counted_and_five_are_named():
    with pytest.raises(WeightsError) as error:
        check_keys([f"m{i}" for i in range(7)] + ["ok"], ["ok", "u1"], where="net.pt")
    text = str(error.value)
    assert "net.pt" in text
    assert "7 missing: m0, m1, m2, m3, m4 and 2 more" in text
    assert "1 unexpected: u1" in text
    assert "m5" not in text
    with pytest.raises(WeightsError, match=r"5 missing: m0, m1, m2, m3, m4\. Get"):
        check_keys([f"m{i}" for i in range(5)], [])


def test_names_alone_are_enough(state):
    check_keys(state, list(state))
    with pytest.raises(WeightsError, match="1 missing: half"):
        check_keys(state, [name for name in state if name != "half"])


def test_shapes_are_compared_even_when_not_strict(tmp_path, state):
    save_file(state, tmp_path / "m.safetensors")
    model = {**state, "conv.bias": torch.zeros(4)}
    with pytest.raises(WeightsError, match=r"conv\.bias \(3,\) instead of \(4,\)"):
        load(tmp_path / "m.safetensors", expect=model, strict=False)
    with pytest.raises(WeightsError, match="1 missing: new"):
        load(tmp_path / "m.safetensors", expect=[*state, "new"])
    same(load(tmp_path / "m.safetensors", expect=[*state, "new"], strict=False), state)


def test_streaming_some_names_reads_no_others(tmp_path):
    from safetensors.torch import save_file

    state = {name: torch.full((3,), float(k)) for k, name in enumerate("abc")}
    save_file(state, tmp_path / "m.safetensors")
    torch.save(state, tmp_path / "m.pth")
    for name in ("m.safetensors", "m.pth"):
        found = dict(weights.stream(tmp_path / name, names=["c", "a"]))
        assert list(found) == ["c", "a"]
        assert torch.equal(found["c"], state["c"])
