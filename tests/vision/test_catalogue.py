from __future__ import annotations

import subprocess
import sys

import pytest

from elinvar.errors import InputError
from elinvar.vision import Variant, register_variant, variants
from elinvar.vision.catalogue import variant


def test_names_and_aliases():
    assert variant("mast3r").name == "mast3r_vit_large"
    assert variant("dune-small").heads == 6
    assert variant(variant("dune-base")).width == 768
    assert {"mast3r_vit_large", "dune_vit_small_14", "dune_vit_base_14", "mast3r_tiny", "dune_tiny"} <= {
        v.name for v in variants()
    }
    with pytest.raises(InputError, match="no variant"):
        variant("mast4r")


def test_registering():
    one = Variant("test_registering", "croco", 16, 64, 1)
    assert register_variant(one) == register_variant(Variant("test_registering", "croco", 16, 64, 1))
    assert variant("test_registering") == one
    with pytest.raises(InputError, match="taken"):
        register_variant(Variant("test_registering", "croco", 16, 64, 2))
    for bad in ({"encoder": "resnet"}, {"width": 6}, {"depth": 0}):
        with pytest.raises(InputError, match="Variant"):
            Variant(**{"name": "x", "encoder": "croco", "patch": 16, "width": 64, "depth": 1, **bad})


@pytest.mark.parametrize(
    ("name", "size", "gflop"),
    # Counted by torch's flop counter on the published code: encoder (of DUNE without attention), decoder, heads.
    [("mast3r", (384, 512), (1046.1, 437.3, 553.8)), ("dune-small", (448, 448), (None, 619.7, 575.5)),
     ("dune-base", (336, 336), (None, 311.2, 350.7))],
)  # fmt: skip
def test_flops(name, size, gflop):
    found = variant(name).flops(*size)
    for part, want in zip(("encoder", "decoder", "heads"), gflop, strict=True):
        assert want is None or found[part] / 1e9 == pytest.approx(want, rel=2e-3), part


def test_importing_the_package_is_cheap():
    code = "import sys, elinvar.vision as v; v.__dir__(); assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_exists():
    from elinvar import vision

    for name in vision.__all__:
        assert getattr(vision, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = vision.nothing
