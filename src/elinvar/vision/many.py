"""Many images: pairs of a graph, and sequences that overlap reading, encoding and decoding."""

# torch leaves Tensor.split and Tensor.unflatten without types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import itertools
import operator
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from elinvar.errors import InputError
from elinvar.runtime.pipeline import Pipeline, Stage

from . import graphs
from .images import Prepared
from .network import Network
from .pairs import Pairs
from .result import Clock, PairResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from elinvar.runtime.device import Device

    from .retrieval import RetrievalResult

__all__ = ["Many"]

_PAIRS = {"cpu": 1, "cuda": 8, "mps": 2}  # pairs decoded together
_CHUNK = {"cpu": 1, "cuda": 8, "mps": 1}  # images that go through a pipeline together


class Many:
    """Graphs and sequences of images of an `Engine`, which has the network."""

    device: Device
    prepare: Callable[[Any], Prepared]
    encode_retrieval_batch: Callable[[Iterable[Any]], list[RetrievalResult]]
    compare_retrieval: Callable[[Sequence[RetrievalResult]], NDArray[np.float64]]
    _loaded: Callable[[], Network]
    _run: Callable[..., Any]
    _tokens: Callable[..., list[Tensor]]
    _decode: Callable[..., Any]
    _result: Callable[..., PairResult]

    def infer_batch_pipelined(
        self,
        images: Iterable[Any],
        *,
        compute: bool = False,
        progress: Callable[[int, int | None], object] | None = None,
    ) -> list[PairResult]:
        """Run each image with the next: n images give n - 1 results, each image encoded exactly once.

        Reading and resizing image k + 2 overlaps encoding k + 1 and decoding (k, k + 1).

        Parameters
        ----------
        images
            As `infer` takes them, at least two.
        compute
            Run all heads as well, instead of when they are read.
        progress
            ``progress(done, total)`` per image.

        Raises
        ------
        InputError
            Fewer than two images, or one that cannot be read.
        """
        given = _several("infer_batch_pipelined", images)
        if len(given) < 2:
            raise InputError(f"infer_batch_pipelined: {len(given)} image(s) make no pair; pass at least two.")
        self._loaded()
        most = _even(len(given), _CHUNK[self.device.kind])
        chunks = [given[k : k + most] for k in range(0, len(given), most)]
        last: list[tuple[Prepared, Tensor, float]] = []

        def read(part: list[Any]) -> list[tuple[Prepared, float]]:
            out = []
            for image in part:
                start = time.perf_counter()
                out.append((self.prepare(image), 1e3 * (time.perf_counter() - start)))
            return out

        def step(items: list[tuple[Prepared, float]]) -> list[PairResult]:
            results = self._chained(last, items)
            return [result.compute() for result in results] if compute else results

        def tell(done: int, total: int | None) -> None:
            if progress is not None:
                progress(min(done * most, len(given)), None if total is None else len(given))

        stages = [Stage(read, "read"), Stage(step, "network", device=self.device, compute=True)]
        with Pipeline(stages, in_flight=3, progress=tell) as pipeline:
            return [result for part in pipeline.run(chunks) for result in part]

    def _chained(
        self, last: list[tuple[Prepared, Tensor, float]], items: list[tuple[Prepared, float]]
    ) -> list[PairResult]:
        """Encode some images and decode each with the one before; `last` holds the one before the first."""
        clock = Clock(self.device.torch)
        images = [image for image, _ in items]
        tokens = self._run("vision.encode", self._tokens, images, wait=False)
        line = [*last, *((image, one, took) for (image, took), one in zip(items, tokens, strict=True))]
        last[:] = line[-1:]
        out: list[PairResult] = []
        steps = list(itertools.pairwise(line))
        shapes = [(a[0].array.shape, b[0].array.shape) for a, b in steps]
        for _, group in itertools.groupby(range(len(steps)), lambda k: shapes[k]):
            some = [steps[k] for k in group]
            sides = [torch.cat([pair[side][1] for pair in some]) for side in (0, 1)]
            first = (some[0][0][0], some[0][1][0])
            decoded = self._run("vision.decode", self._decode, sides[0], sides[1], first, wait=False)
            share = clock.stop(len(some))
            out += [self._result(decoded, k, (a[0], b[0]), b[2], share) for k, (a, b) in enumerate(some)]
            clock = Clock(self.device.torch)
        return out

    def infer_pairs(
        self,
        images: Iterable[Any],
        graph: str | Sequence[tuple[int, int]] = "sequence",
        *,
        symmetric: bool = False,
        batch: int | None = None,
        progress: Callable[[int, int | None], object] | None = None,
    ) -> Pairs:
        """Run the pairs of a graph, encoding each image exactly once.

        Parameters
        ----------
        images
            As `infer` takes them.
        graph
            A name as `elinvar.vision.image_pairs` takes it, or the pairs themselves.
        symmetric
            Also run every pair the other way round.
        batch
            Pairs of one shape to decode together; by default 1 on a CPU, more on a GPU. A head runs for its whole
            batch at the first request.
        progress
            ``progress(done, total)`` per pair.

        Raises
        ------
        InputError
            Fewer than two images, an unknown graph, a pair of images that do not exist.
        """
        if batch is not None and (type(batch) is not int or batch < 1):
            raise InputError(f"infer_pairs: batch={batch!r}; pass how many pairs to decode together, or None.")
        self._loaded()
        ready, took = [], []
        for image in _several("infer_pairs", images):
            start = time.perf_counter()
            ready.append(self.prepare(image))
            took.append(1e3 * (time.perf_counter() - start))
        chosen = self._pairs(ready, graph)
        if symmetric:
            chosen = [pair for i, j in chosen for pair in ((i, j), (j, i))]
        uses = [sum(k in pair for pair in chosen) for k in range(len(ready))]
        tokens: dict[int, Tensor] = {}
        results: list[PairResult] = []
        for group in self._groups(chosen, ready, batch or _even(len(chosen), _PAIRS[self.device.kind])):
            results += self._run_group(group, ready, tokens, took)
            for k in (k for pair in group for k in pair):
                uses[k] -= 1
                if uses[k] == 0:
                    del tokens[k]
            if progress is not None:
                progress(len(results), len(chosen))
        return Pairs(chosen, results, ready)

    @staticmethod
    def _groups(chosen: list[tuple[int, int]], ready: list[Prepared], most: int) -> Iterator[list[tuple[int, int]]]:
        """Cut the pairs, in order, into groups of one shape each."""
        group: list[tuple[int, int]] = []
        for pair in chosen:
            shapes = [[ready[k].array.shape for k in some] for some in (group[0] if group else pair, pair)]
            if len(group) == most or shapes[0] != shapes[1]:
                yield group
                group = []
            group.append(pair)
        yield group

    def _run_group(
        self, group: list[tuple[int, int]], ready: list[Prepared], tokens: dict[int, Tensor], took: list[float]
    ) -> list[PairResult]:
        """Run pairs of one shape through the decoder together, encoding what `tokens` lacks.

        What reading an image took counts for the first pair that it is in, and is 0 in `took` from then on.
        """
        clock = Clock(self.device.torch)
        absent = [k for k in dict.fromkeys(k for pair in group for k in pair) if k not in tokens]
        if absent:
            fresh = self._run("vision.encode", self._tokens, [ready[k] for k in absent], wait=False)
            tokens |= dict(zip(absent, fresh, strict=True))
        images = [(ready[i], ready[j]) for i, j in group]
        sides = [torch.cat([tokens[pair[side]] for pair in group]) for side in (0, 1)]
        decoded = self._run("vision.decode", self._decode, sides[0], sides[1], images[0], wait=False)
        share = clock.stop(len(group))
        out = []
        for k, (i, j) in enumerate(group):
            out.append(self._result(decoded, k, images[k], took[i] + took[j], share))
            took[i] = took[j] = 0.0
        return out

    def _pairs(self, ready: list[Prepared], graph: str | Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        if not isinstance(graph, str):
            try:
                chosen = [(operator.index(i), operator.index(j)) for i, j in graph]
            except (TypeError, ValueError) as error:
                raise InputError(f"infer_pairs: graph is {graph!r}; pass a graph's name or pairs (i, j).") from error
            bad = [pair for pair in chosen if pair[0] == pair[1] or not all(0 <= k < len(ready) for k in pair)]
            if bad or not chosen:
                raise InputError(f"infer_pairs: {bad[:3] or 'no pair'} among {len(ready)} images; pass pairs (i, j).")
            return chosen
        similarity = None
        if graph.startswith("retrieval"):
            similarity = self.compare_retrieval(self.encode_retrieval_batch(ready))
        return graphs.image_pairs(len(ready), graph, similarity)


def _several(name: str, images: Any) -> list[Any]:
    """Return images as a list; one path is not many."""
    if isinstance(images, (str, os.PathLike)):
        raise InputError(f"{name}: got one path, {images}; pass a list of pictures, such as sorted(folder.iterdir()).")
    return list(images)


def _even(count: int, most: int) -> int:
    """Return the size of the fewest batches of at most `most` that are as equal as possible: 9 in 8s are 5 and 4."""
    return -(-count // -(-count // most))
