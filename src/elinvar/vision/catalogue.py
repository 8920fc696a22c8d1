"""Which networks there are: sizes, patch, encoder family. Others can be registered.

Sizes follow the published model descriptions: MASt3R (Leroy, Cabon and Revaud, 2024), DUNE (Sariyildiz et al., 2025).
"""

from __future__ import annotations

import dataclasses
import threading

from elinvar.errors import InputError

__all__ = ["Variant", "register_variant", "variant", "variants"]

HEAD_WIDTH = 64
"""Channels of one attention head, in every variant."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """Sizes of one two-view network.

    Attributes
    ----------
    name
        What `Engine` takes.
    encoder
        ``"croco"`` (rotary positions, its own final norm) or ``"dino"`` (learned positions, class and register tokens).
    patch
        Side of a patch, pixels; network sizes are multiples of it.
    width, depth
        Encoder channels and blocks; heads have 64 channels.
    decoder_width, decoder_depth
        The same of each of the two decoder branches.
    descriptor
        Channels of a local descriptor.
    decoder_head
        Channels of one attention head in the decoder.
    grid
        Side of the table of learned positions ("dino"); the checkpoint may have another one.
    square
        Whether a square image stays square; otherwise it is cropped to 4:3.
    dense, features
        Channels of the dense head's four maps, and of all of them once they are brought together.
    local
        Hidden channels of the descriptor head; 0 stands for four times those it reads.
    side
        Long side of the images it was trained on, pixels.
    licence
        Of the published weights.
    where
        Where a user gets them.
    caution
        One sentence about weights that come with elinvar: what not to expect of them.
    """

    name: str
    encoder: str
    patch: int
    width: int
    depth: int
    decoder_width: int = 768
    decoder_depth: int = 12
    descriptor: int = 24
    decoder_head: int = 64
    grid: int = 0
    square: bool = False
    licence: str = ""
    where: str = ""
    dense: tuple[int, int, int, int] = (96, 192, 384, 768)
    features: int = 256
    local: int = 0
    side: int = 512
    caution: str = ""

    def __post_init__(self) -> None:
        if self.encoder not in ("croco", "dino"):
            raise InputError(f"Variant: encoder {self.encoder!r} is unknown; use 'croco' or 'dino'.")
        for field in ("width", "decoder_width"):
            if getattr(self, field) < HEAD_WIDTH // 2 or getattr(self, field) % 4:
                raise InputError(f"Variant: {field}={getattr(self, field)} is too small or no multiple of 4.")
        if min(self.patch, self.depth, self.decoder_depth, self.descriptor) < 1:
            raise InputError("Variant: patch, depth, decoder_depth and descriptor are counts from 1.")

    @property
    def heads(self) -> int:
        """Attention heads of the encoder."""
        return max(1, self.width // HEAD_WIDTH)

    @property
    def decoder_heads(self) -> int:
        """Attention heads of a decoder branch."""
        return self.decoder_width // self.decoder_head

    @property
    def hooks(self) -> tuple[int, int, int, int]:
        """Which states feed the dense head: 0 is the encoder, k the output of decoder block k."""
        d = self.decoder_depth
        return (0, d // 2, 3 * d // 4, d)

    @property
    def local_width(self) -> int:
        """Hidden channels of the descriptor head."""
        return self.local or 4 * (self.width + self.decoder_width)

    def flops(self, height: int, width: int) -> dict[str, float]:
        """Floating-point operations of a pair at a network size, by part (two per multiply-add)."""
        h, w, p = height // self.patch, width // self.patch, self.patch
        n, d, e = h * w, self.width, self.decoder_width
        encoder = self.depth * (24 * n * d * d + 4 * n * n * d) + 6 * n * d * p**2
        decoder = self.decoder_depth * (32 * n * e * e + 8 * n * n * e) + 2 * n * d * e
        local = 2 * n * self.local_width * (d + e + (self.descriptor + 1) * p**2)

        def conv(pixels: int, inner: int, outer: int, side: int = 1) -> int:
            return 2 * pixels * inner * outer * side * side

        quarter = -(-h // 2) * -(-w // 2)
        one, two, three, four = self.dense
        f = self.features
        dense = conv(n, d, one) + conv(n, e, two) + conv(n, e, three) + conv(n, e, four)
        dense += conv(n, one, one, 4) + conv(n, two, two, 2) + conv(quarter, four, four, 3)
        dense += conv(16 * n, one, f, 3) + conv(4 * n, two, f, 3) + conv(n, three, f, 3) + conv(quarter, four, f, 3)
        dense += 2 * conv(quarter, f, f, 3) + 4 * conv(21 * n, f, f, 3)
        dense += conv(4 * quarter + 84 * n, f, f)  # where the published code has them, after the enlargements
        last = f // 2
        dense += conv(64 * n, f, last, 3) + conv(n * p * p, last, last, 3) + conv(n * p * p, last, 4)
        return {"encoder": 2.0 * encoder, "decoder": 2.0 * decoder, "heads": 2.0 * (dense + local)}


_known: dict[str, Variant] = {}
_lock = threading.Lock()
_ALIASES = {
    "free": "elinvar_free",
    "mast3r": "mast3r_vit_large",
    "dune-small": "dune_vit_small_14",
    "dune-base": "dune_vit_base_14",
    "dune_vit_small_448": "dune_vit_small_14",
    "dune_vit_base_448": "dune_vit_base_14",
}


def register_variant(new: Variant) -> Variant:
    """Make a network known by its name; the same description twice is fine, another one is an InputError."""
    with _lock:
        if _known.setdefault(new.name, new) != new:
            raise InputError(f"register_variant: {new.name!r} is taken by another description; choose another name.")
    return new


def variants() -> tuple[Variant, ...]:
    """Return every known network, by name."""
    return tuple(_known[name] for name in sorted(_known))


def variant(name: str | Variant) -> Variant:
    """Return a network by its name or alias.

    Raises
    ------
    InputError
        No network has that name.
    """
    if isinstance(name, Variant):
        return name
    found = _known.get(_ALIASES.get(name, name))
    if found is None:
        raise InputError(f"vision: no variant is called {name!r}; known are {', '.join(sorted(_known))}.")
    return found


_NC = "CC BY-NC-SA 4.0 (non-commercial), see the publisher's page"
for _item in (
    Variant(
        "mast3r_vit_large",
        "croco",
        16,
        1024,
        24,
        licence=_NC,
        where="huggingface.co/naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric or github.com/naver/mast3r",
    ),
    Variant("mast3r_tiny", "croco", 16, 128, 3, 96, decoder_head=48, licence="none: test sizes, random weights only"),
    Variant(
        "elinvar_free",
        "croco",
        8,
        192,
        5,
        128,
        4,
        descriptor=16,
        decoder_head=32,
        dense=(24, 32, 48, 48),
        features=48,
        local=96,
        side=256,
        licence="Apache-2.0: elinvar's own training on made-up rooms",
        where="elinvar itself (src/elinvar/vision/data/elinvar_free.safetensors)",
        caution="elinvar_free: small, trained on made-up rooms alone; weak on photographs, and without true size.",
    ),
    Variant(
        "dune_vit_small_14",
        "dino",
        14,
        384,
        12,
        grid=32,
        square=True,
        licence=_NC,
        where="github.com/naver/dune",
    ),
    Variant(
        "dune_vit_base_14",
        "dino",
        14,
        768,
        12,
        grid=32,
        square=True,
        licence=_NC,
        where="github.com/naver/dune",
    ),
    Variant("dune_tiny", "dino", 14, 192, 12, 96, decoder_head=48, grid=32, square=True, licence="none: test sizes"),
):
    register_variant(_item)
