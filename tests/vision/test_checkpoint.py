"""Every published layout of the same weights loads to the same network; everything else is refused by name."""

from __future__ import annotations

import argparse
import pickle

import pytest
import torch
from safetensors.torch import save_file

from elinvar.errors import InputError, WeightsError
from elinvar.vision.catalogue import variant
from elinvar.vision.checkpoint import Random, State, checked, find_weights, open_weights
from elinvar.vision.keys import canonical, expected

from .conftest import MICRO, MICRO_DINO


def official_dune(state):
    """The names of DUNE's own checkpoint."""
    out = {}
    for name, t in state.items():
        if name.startswith("encoder."):
            name = name.replace("encoder.blocks.", "encoder.blocks.0.").replace("encoder.", "dune_backbone.")
        elif not name.startswith("norm."):
            name = f"mast3r.{name}"
        out[name] = t
    width = state["norm.weight"].shape[0]
    return out | {
        "dune_backbone.norm.weight": torch.zeros(width),
        "dune_backbone.norm.bias": torch.zeros(width),
        "mast3r.mask_token": torch.zeros(1, 1, 4),
        "mast3r.enc_norm.weight": torch.zeros(3),
        "projectors.a.weight": torch.zeros(3),
        "imagenet_mean": torch.zeros(1, 3, 1, 1),
    }


def same(path, kind, state, atol=0.0):
    source, names = open_weights(path, kind)
    got = source.get(names)
    for name in names:
        assert torch.allclose(got[name].float(), state[name], atol=atol, rtol=atol), name


def with_aliases(state):
    out = dict(state)
    for view in (1, 2):
        for k in range(4):
            scratch = f"downstream_head{view}.dpt.scratch"
            out[f"{scratch}.layer_rn.{k}.weight"] = state[f"{scratch}.layer{k + 1}_rn.weight"]
    return out


def test_official_pth(tmp_path, weights):
    state = weights(MICRO)
    path = tmp_path / "official.pth"
    full = with_aliases(state) | {"mask_token": torch.zeros(1, 1, 64)}
    torch.save({"args": argparse.Namespace(model="AsymmetricMASt3R(...)"), "model": full, "epoch": 3}, path)
    same(path, MICRO, state)


def test_hub_safetensors_with_either_alias(tmp_path, weights):
    state = weights(MICRO)
    other = {name.replace("layer1_rn", "layer_rn.0"): t for name, t in state.items()}
    save_file(other, tmp_path / "model.safetensors")
    same(tmp_path / "model.safetensors", MICRO, state)
    same(tmp_path, MICRO, state)


def test_half_precision_and_mixtures(tmp_path, weights):
    state = weights(MICRO)
    kinds = (torch.float16, torch.bfloat16, torch.float32)
    mixed = {name: t.to(kinds[k % 3]) for k, (name, t) in enumerate(state.items())}
    save_file(mixed, tmp_path / "unified.safetensors")
    save_file({"prewhiten.m": torch.zeros(1)}, tmp_path / "retrieval.safetensors")
    same(tmp_path, MICRO, state, atol=2e-2)


def test_split_dune_and_its_pth(tmp_path, weights):
    state = weights(MICRO_DINO)
    official = official_dune(state)
    folder = tmp_path / "micro_dino"
    folder.mkdir()
    encoder = {n.replace("dune_backbone", "encoder"): t for n, t in official.items() if n.startswith("dune_backbone")}
    save_file(encoder, folder / "encoder.safetensors")
    rest = {n: t for n, t in official.items() if n.startswith(("mast3r.", "norm."))}
    save_file(rest, folder / "decoder.safetensors")
    same(folder, MICRO_DINO, state)
    same(tmp_path, MICRO_DINO, state)  # the folder above, by the variant's name
    torch.save({"dune_backbone_name": "vit_small", "mast3r_model_str": "x", "model": official}, tmp_path / "dune.pth")
    same(tmp_path / "dune.pth", MICRO_DINO, state)


def test_registers_grid_and_layer_scale_come_from_the_file(weights):
    state = {n: t for n, t in weights(MICRO_DINO).items() if ".ls" not in n and "register" not in n}
    state["encoder.pos_embed"] = torch.zeros(1, 10, 64)
    _, names = checked(State(state), MICRO_DINO)
    assert names["encoder.pos_embed"].shape == (1, 10, 64)
    assert not any("register" in n or ".ls" in n for n in names)
    with pytest.raises(WeightsError, match="not a square"):
        checked(State(state | {"encoder.pos_embed": torch.zeros(1, 12, 64)}), MICRO_DINO)


def test_one_decoder_serves_both_branches(weights):
    state = {n: t for n, t in weights(MICRO).items() if "dec_blocks2" not in n}
    source, names = checked(State(state), MICRO)
    got = source.get(["dec_blocks2.1.norm1.weight", "dec_blocks.1.norm1.weight", "enc_norm.bias"])
    assert torch.equal(got["dec_blocks2.1.norm1.weight"], got["dec_blocks.1.norm1.weight"])
    assert "dec_blocks2.3.mlp.fc2.bias" in names


def test_missing_unexpected_and_misshapen_are_named(weights):
    state = dict(weights(MICRO))
    del state["enc_norm.bias"]
    state["surprise"] = torch.zeros(1)
    state["dec_norm.bias"] = torch.zeros(7)
    with pytest.raises(WeightsError, match=r"1 missing: enc_norm.bias; 1 unexpected: surprise.*dec_norm.bias \(7,\)"):
        checked(State(state), MICRO)


def test_another_networks_weights_are_refused(weights):
    with pytest.raises(WeightsError, match="mast3r_tiny"):
        checked(State(weights(MICRO)), variant("mast3r_tiny"))


def test_bad_files(tmp_path, weights):
    with pytest.raises(WeightsError, match="Three ways"):
        open_weights(tmp_path / "nothing", variant("mast3r"))
    with pytest.raises(InputError, match="weights are int"):
        open_weights(3, variant("mast3r"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="no checkpoint"):
        open_weights(tmp_path / "empty", MICRO)
    save_file({"a": torch.zeros(100)}, tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-40])
    with pytest.raises(WeightsError, match="truncated"):
        open_weights(tmp_path / "cut.safetensors", MICRO)
    torch.save({"epoch": 3}, tmp_path / "no.pth")
    with pytest.raises(WeightsError, match="no tensors"):
        open_weights(tmp_path / "no.pth", MICRO)


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch owned",)


def test_a_malicious_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Evil()}))
    torch.save({"model": Evil()}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(WeightsError):
            open_weights(tmp_path / name, MICRO)
    assert not (tmp_path / "owned").exists()


def test_weights_are_found_by_variant(tmp_path, monkeypatch):
    monkeypatch.setenv("ELINVAR_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match="MASt3R_ViTLarge"):
        find_weights(variant("mast3r"))
    (tmp_path / "mast3r_vit_large.safetensors").write_bytes(b"x")
    assert find_weights(variant("mast3r")) == tmp_path / "mast3r_vit_large.safetensors"


def test_random_weights_depend_on_name_and_seed():
    one, two, other = Random(MICRO, 1), Random(MICRO, 1), Random(MICRO, 2)
    name = "enc_blocks.0.mlp.fc1.weight"
    alone = one.get([name])[name]
    among = two.get(["enc_norm.bias", name])[name]
    assert torch.equal(alone, among)
    assert not torch.equal(alone, other.get([name])[name])
    assert set(one.shapes) == set(expected(MICRO))


def test_names():
    dune = variant("dune-small")
    assert canonical("dune_backbone.blocks.0.3.attn.qkv.weight", dune) == "encoder.blocks.3.attn.qkv.weight"
    assert canonical("mast3r.dec_norm.bias", dune) == "dec_norm.bias"
    assert canonical("mast3r.patch_embed.proj.bias", dune) is None
    assert canonical("encoder.blocks.3.attn.qkv.weight", dune) == "encoder.blocks.3.attn.qkv.weight"
    assert canonical("mask_token", variant("mast3r")) is None
    rn = "downstream_head1.dpt.scratch.layer_rn.2.weight"
    assert canonical(rn, MICRO) == "downstream_head1.dpt.scratch.layer3_rn.weight"
