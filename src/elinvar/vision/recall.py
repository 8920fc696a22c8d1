"""What the engine does with features beyond the two-view network: retrieval and matching."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from elinvar.errors import InputError, WeightsError

from .catalogue import Variant
from .images import Prepared
from .network import Network
from .result import PairResult

if TYPE_CHECKING:
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    from .asmk import Codebook
    from .matching import Matches
    from .retrieval import Retrieval, RetrievalResult

__all__ = ["Features"]


class Features:
    """Retrieval and matching of an `Engine`, which has the network."""

    variant: Variant
    prepare: Callable[[Any], Prepared]
    _network: Network | None
    _retrieval: Retrieval | None
    _codebook: Codebook | None
    _loaded: Callable[[], Network]
    _run: Callable[..., Any]
    _tokens: Callable[..., list[Tensor]]

    def load_retrieval(
        self,
        path: str | os.PathLike[str] | Retrieval,
        codebook: str | os.PathLike[str] | Codebook | None = None,
    ) -> Self:
        """Load whitening weights for `encode_retrieval`; the encoder is shared.

        Parameters
        ----------
        path
            The whitening (`elinvar.vision.retrieval.Retrieval`) or its file.
        codebook
            A codebook (`elinvar.vision.asmk.Codebook`) or its file: ``retrieval`` graphs then compare images by their
            visual words instead of one descriptor each.

        Raises
        ------
        WeightsError
            Missing, damaged, or for another width.
        """
        from .retrieval import Retrieval

        found = path if isinstance(path, Retrieval) else Retrieval.load(path, self.variant.width)
        if codebook is not None:
            from .asmk import Codebook

            codebook = codebook if isinstance(codebook, Codebook) else Codebook.load(codebook)
        self._retrieval, self._codebook = found, codebook
        return self

    def compare_retrieval(self, found: Sequence[RetrievalResult]) -> NDArray[np.float64]:
        """Return how alike images are, [n, n]: by the codebook where one is loaded, else by their descriptors.

        Raises
        ------
        InputError
            No images, or the codebook's width is not that of the whitened features.
        """
        if self._codebook is not None:
            return self._codebook.similarity([result.local()[0] for result in found])
        from .retrieval import similarity

        return similarity([result.descriptor for result in found])

    def is_retrieval_ready(self) -> bool:
        """Whether the encoder and whitening weights are loaded."""
        return self._retrieval is not None and self._network is not None

    def encode_retrieval(self, image: Any) -> RetrievalResult:
        """Return whitened local features, their attention and a global descriptor of an image; encoded at most once."""
        return self.encode_retrieval_batch([image])[0]

    def encode_retrieval_batch(self, images: Iterable[Any]) -> list[RetrievalResult]:
        """Do `encode_retrieval` for several images.

        Raises
        ------
        WeightsError
            Encoder or retrieval weights are not loaded.
        """
        self._loaded()
        if self._retrieval is None:
            raise WeightsError("encode_retrieval: no retrieval weights; call Engine.load_retrieval(path) first.")
        out = []
        for image in images:
            start = time.perf_counter()
            ready = self.prepare(image)
            between = time.perf_counter()
            tokens = self._run("vision.encode", self._tokens, [ready])[0]
            encoded = time.perf_counter()
            times = (1e3 * (between - start), 1e3 * (encoded - between))
            out.append(self._run("vision.whiten", self._whiten, tokens, times))
        return out

    def _whiten(self, tokens: Tensor, times: tuple[float, float]) -> RetrievalResult:
        assert self._retrieval is not None
        return self._retrieval.apply(tokens[0], times)

    def match(
        self,
        result: PairResult,
        top_k: int | None = 512,
        reciprocal: bool = True,
        confidence_threshold: float = 0.0,
        **options: Any,
    ) -> Matches:
        """Match a result's descriptors; see `elinvar.vision.match` for `options` and what comes back.

        Only the descriptor heads run, unless `confidence_threshold` is above 0 (descriptor confidence) or points were
        computed already, which then come with the matches.
        """
        from .matching import match

        if not isinstance(result, PairResult):
            raise InputError(f"Engine.match: got {type(result).__name__}; pass what Engine.infer returned.")
        given: dict[str, Any] = {}
        if confidence_threshold > 0:
            given |= {"conf_1": result.desc_conf_1.torch(), "conf_2": result.desc_conf_2.torch()}
        if {"dense_1", "dense_2"} <= set(result.heads_run):
            given |= {"pts3d_1": result.pts3d_1.torch(), "pts3d_2": result.pts3d_2.torch()}
        return match(
            result.desc_1.torch(),
            result.desc_2.torch(),
            top_k=top_k,
            reciprocal=reciprocal,
            threshold=confidence_threshold,
            **given,
            **options,
        )
