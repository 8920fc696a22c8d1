"""The fast network against the published network's own outputs, and against the plain rendition."""

from __future__ import annotations

import importlib.util
import json
import warnings

import numpy as np
import pytest
import torch

from elinvar.vision import plain
from elinvar.vision.catalogue import variant
from elinvar.vision.checkpoint import State, checked
from elinvar.vision.keys import canonical
from elinvar.vision.layers import Paths, packed_available
from elinvar.vision.network import Network

from .conftest import MICRO, MICRO_DINO, relative

BAR = 3e-5
NEAR = 1e-5  # noise is 1.2e-6; the subtlest mistake, another epsilon, 2.9e-5
WAYS = {
    "torch": (Paths(), False),
    "conv": (Paths("conv", "sdpa", channels_last=True), False),
    "stacked": (Paths("torch", 2, channels_last=True, rotate="numba"), True),
    "fused": (Paths(channels_last=True, fused=True), True),
}
if packed_available():
    WAYS["packed"] = (Paths("packed", 2, channels_last=True, rotate="numba"), False)


def run(network, one, two):
    with torch.no_grad():
        images = [torch.from_numpy(np.ascontiguousarray(x))[None] for x in (one, two)]
        tokens = [network.encode(x) for x in images]
        grids = tuple(network.grid(*x.shape[1:3]) for x in images)
        states = network.decode(tokens[0], tokens[1], grids)
        out = {f"enc_{k + 1}": tokens[k][0] for k in (0, 1)}
        for view in (1, 2):
            dense = network.dense(view, states[view - 1], grids[view - 1])
            local = network.local(view, states[view - 1], grids[view - 1])
            values = dict(zip(("pts3d", "conf", "desc", "desc_conf"), (*dense, *local), strict=True))
            out |= {f"{name}_{view}": x[0] for name, x in values.items()}
    return out


def built(kind, state, way):
    paths, stacked = WAYS[way]
    source, names = checked(State(state), kind)
    return Network(kind, source, names, paths=paths, stacked=stacked)


def fixture_state(reference_data, stem):
    path = reference_data("vision/seeded.py")
    spec = importlib.util.spec_from_file_location("seeded", path)
    seeded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seeded)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its file open
        return seeded.state(reference_data(f"vision/keys_{stem}.json"))


@pytest.fixture(scope="module")
def vectors(request):
    """``vectors(stem, reference_data)``: the network of a fixture file and its cases, kept for the module."""
    kept = {}

    def get(stem, name, reference_data):
        if stem not in kept:
            kind = variant(name)
            stored = fixture_state(reference_data, stem)
            state = {ours: t for n, t in stored.items() if (ours := canonical(n, kind)) is not None}
            kept[stem] = (kind, state, {})
        return kept[stem]

    return get


CASES = [("tiny", "mast3r_tiny", case) for case in ("landscape", "portrait", "square", "wide", "mixed")]
CASES += [("dune_tiny", "dune_tiny", case) for case in ("landscape", "portrait", "square", "wide")]


@pytest.mark.parametrize(("stem", "name", "case"), CASES, ids=str)
def test_every_output_equals_the_published_networks(stem, name, case, vectors, reference_data):
    kind, state, networks = vectors(stem, name, reference_data)
    given, want = (np.load(reference_data(f"vision/{stem}_{part}.npz")) for part in ("cases", "outputs"))
    ways = ["packed" if "packed" in WAYS else "torch"]
    if case in ("landscape", "mixed"):
        ways += ["stacked", "fused"]
    for way in ways:
        if way not in networks:
            networks[way] = built(kind, state, way)
        out = run(networks[way], given[f"{case}/img1"], given[f"{case}/img2"])
        for output, value in out.items():
            step = value[::4] if output.startswith("enc") else value[::4, ::4]
            assert relative(step, want[f"{case}/{output}@4"]) <= BAR, (way, output)


def test_a_mixed_dune_pair_equals_the_plain_rendition(weights):
    # The published code cannot run one, so there is no vector.
    make = np.random.default_rng(0)
    one, two = make.integers(0, 256, (42, 56, 3), np.uint8), make.integers(0, 256, (56, 42, 3), np.uint8)
    want = plain.infer(weights(MICRO_DINO), MICRO_DINO, torch.from_numpy(one), torch.from_numpy(two))
    for name, value in run(built(MICRO_DINO, weights(MICRO_DINO), "torch"), one, two).items():
        assert relative(value, want[name]) <= NEAR, name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [MICRO, MICRO_DINO], ids=lambda k: k.name)
def test_every_way_equals_the_plain_rendition_in_float64(kind, way, weights):
    p = kind.patch
    make = np.random.default_rng(1)
    one, two = (make.integers(0, 256, (3 * p, 5 * p, 3), np.uint8) for _ in range(2))
    wide = {name: t.double() for name, t in weights(kind).items()}
    want = plain.infer(wide, kind, torch.from_numpy(one), torch.from_numpy(two))
    for name, value in run(built(kind, weights(kind), way), one, two).items():
        assert relative(value, want[name]) <= NEAR, name
        assert value.dtype == torch.float32


def test_outputs_mean_what_they_say(weights):
    make = np.random.default_rng(2)
    one, two = (make.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(2))
    out = run(built(MICRO, weights(MICRO), "torch"), one, two)
    assert out["pts3d_1"].shape == (48, 64, 3)
    assert out["conf_2"].min() >= 1
    assert out["desc_conf_1"].min() > 0
    assert torch.allclose(out["desc_2"].norm(dim=-1), torch.ones(48, 64), atol=1e-5)
    assert out["desc_1"].shape == (48, 64, 24)


def test_half_precision_stays_near(weights):
    make = np.random.default_rng(3)
    one, two = (make.integers(0, 256, (32, 48, 3), np.uint8) for _ in range(2))
    source, names = checked(State(weights(MICRO)), MICRO)
    want = run(Network(MICRO, source, names), one, two)
    paths = Paths("packed" if packed_available() else "torch", 2, channels_last=True, rotate="numba")
    for name, value in run(Network(MICRO, source, names, dtype=torch.bfloat16, paths=paths), one, two).items():
        assert relative(value.float(), want[name]) < 0.06, name
        assert name.startswith("enc") or value.dtype == torch.float32


def test_key_files_are_what_we_expect(reference_data):
    from elinvar.vision.keys import derive, expected, optional

    for stem, name in (
        ("large", "mast3r_vit_large"),
        ("dune_small", "dune_vit_small_14"),
        ("dune_base", "dune_vit_base_14"),
    ):
        kind = variant(name)
        spec = json.loads(reference_data(f"vision/keys_{stem}.json").read_text())
        given = {}
        for stored, entry in spec.items():
            ours = canonical(stored, kind)
            if ours is not None and "shape" in entry:
                given[ours] = torch.empty(entry["shape"], device="meta")
        wanted = expected(kind, **derive(kind, given))
        assert set(wanted) == set(given), name
        assert all(wanted[n].shape == tuple(t.shape) for n, t in given.items())
        assert any(optional(n) for n in wanted)
