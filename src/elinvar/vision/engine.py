"""The engine: weights loaded once, images encoded once, outputs computed when read."""

# torch leaves Tensor.split and Tensor.unflatten without types.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elinvar.errors import InputError, WeightsError
from elinvar.runtime.device import device as find_device
from elinvar.runtime.parallel import cpu_threads, set_threads
from elinvar.runtime.pipeline import Pipeline, Stage
from elinvar.runtime.precision import Precision
from elinvar.runtime.trace import trace
from elinvar.runtime.transfers import to_device

from . import graphs
from .availability import resolve_precision
from .catalogue import Variant
from .catalogue import variant as find_variant
from .checkpoint import Random, Source, State, checked, find_weights, missing, open_weights
from .choices import choose
from .features import FeatureCache, fingerprint
from .heap import give_back
from .images import Prepared, prepared
from .layers import Paths
from .network import Network
from .pairs import Pairs
from .recall import Features
from .replay import Replay
from .result import Decoded, PairResult, synchronised

if TYPE_CHECKING:
    from .retrieval import Retrieval

__all__ = ["Engine"]

_BATCH = {"cpu": 2, "cuda": 8, "mps": 2}  # images encoded together
_PAIRS = {"cpu": 1, "cuda": 8, "mps": 2}  # pairs decoded together
_threads_lock = threading.RLock()


class Engine(Features):
    """Two-view reconstruction: points, confidence and descriptors of image pairs.

    Parameters
    ----------
    variant
        ``mast3r_vit_large``, ``dune_vit_small_14``, ``dune_vit_base_14``, or a registered one.
    resolution
        Long side of the network's input in pixels (the published loaders' meaning).
    precision
        ``"auto"``: bfloat16 on CPUs that have it, float16 on GPUs, else float32; or ``"fp32"``, ``"bf16"``, ``"fp16"``.
        Outputs are float32 in any case.
    device
        As `elinvar.device` takes it.
    num_threads
        CPU threads for this engine; None uses as many as the process may.
    cache_bytes
        Bytes of encoded images kept for reuse; 0 keeps none.

    Raises
    ------
    InputError
        Unknown variant or precision, or a resolution below one patch.
    DeviceUnavailable
        The device is not on this machine.

    Notes
    -----
    Calls from several threads are run one after another. `encodes` counts images that went through the encoder.
    """

    def __init__(
        self,
        variant: Any = "mast3r_vit_large",
        resolution: int = 512,
        precision: str | Precision = "auto",
        device: Any = "auto",
        num_threads: int | None = None,
        *,
        cache_bytes: int = 256 << 20,
    ) -> None:
        self.variant: Variant = find_variant(variant)
        if isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < self.variant.patch:
            raise InputError(
                f"vision.Engine: resolution={resolution!r}; pass the long side in pixels, {self.variant.patch} or more."
            )
        if num_threads is not None and (type(num_threads) is not int or num_threads < 1):
            raise InputError(f"vision.Engine: num_threads={num_threads!r}; pass a whole number from 1, or None.")
        self.resolution = resolution
        self.device = find_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.encodes = 0
        self._threads = num_threads
        self._cache = FeatureCache(cache_bytes)
        self._network: Network | None = None
        self._retrieval: Retrieval | None = None
        self._lock = threading.RLock()
        self._weights = "none"
        self._encode_again: Replay | None = None
        self._decode_again: dict[Any, Replay] = {}

    # -- weights ----------------------------------------------------------------------------------------------------

    def load(
        self,
        source: str | os.PathLike[str] | Mapping[str, Tensor] | None = None,
        *,
        paths: Paths | None = None,
        progress: Callable[[int, int | None], object] | None = None,
    ) -> Engine:
        """Load weights, and choose how to compute.

        Parameters
        ----------
        source
            A file or folder in any published layout (``.pth``, safetensors whole or split), a state dict with the
            published names, or None to look in ``ELINVAR_WEIGHTS`` and the cache.
        paths
            How to compute; by default measured once per machine.
        progress
            ``progress(done, total)`` while reading.

        Raises
        ------
        WeightsError
            Missing, damaged, unsafe, or for another variant; the first tensors that do not fit are named.
        """
        kind = self.variant
        if isinstance(source, Mapping):
            found, names = checked(State(_canonical(source, kind)), kind)
        elif source is None:
            found, names = open_weights(find_weights(kind), kind)
        else:
            found, names = open_weights(source, kind)
        self._take(found, names, paths, progress)
        if hasattr(found, "close"):
            found.close()
        return self

    def load_random(self, seed: int = 0, *, paths: Paths | None = None) -> Engine:
        """Fill the network with random numbers: for smoke tests and timing. Its outputs mean nothing."""
        source, names = checked(Random(self.variant, seed), self.variant)
        self._take(source, names, paths, None)
        return self

    def _take(self, source: Source, names: Any, paths: Paths | None, progress: Any) -> None:
        with self._lock, self._environment():
            how = paths or choose(self.device, self.precision.compute_dtype, self._thread_count())
            self._network = Network(
                self.variant,
                source,
                names,
                dtype=self.precision.compute_dtype,
                device=self.device.torch,
                paths=how,
                stacked=self.device.kind != "cpu",
                progress=progress,
            )
            self._weights = source.where
            self._cache.clear()
            self._encode_again = Replay(lambda images: [self._loaded().encode(images)], self.device.torch)
            self._decode_again = {}

    def _loaded(self) -> Network:
        if self._network is None:
            raise WeightsError(missing(self.variant) + " Then call Engine.load(path).")
        return self._network

    def is_ready(self) -> bool:
        """Whether weights are loaded."""
        return self._network is not None

    @property
    def paths(self) -> Paths:
        """How the loaded network computes."""
        return self._loaded().paths

    # -- running ----------------------------------------------------------------------------------------------------

    def _thread_count(self) -> int:
        return self._threads or cpu_threads()

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        """Without gradients, and with this engine's number of threads, which torch keeps per process."""
        with torch.no_grad():
            if self._threads is None:
                yield
                return
            with _threads_lock:
                before, ours = torch.get_num_threads(), set_threads(self._threads)
                torch.set_num_threads(self._threads)
                try:
                    yield
                finally:
                    torch.set_num_threads(before)
                    set_threads(ours)

    def _run(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        with self._lock, self._environment(), trace(name):
            out = work(*arguments)
            synchronised(self.device.torch)
            if self.device.kind == "cpu":
                give_back()  # what one part used, before the next one needs as much
            return out

    def prepare(self, image: Any) -> Prepared:
        """Return an image at network size: as `elinvar.vision.preprocess`, or unchanged when it is there already."""
        return prepared(image, self.resolution, self.variant.patch, self.variant.square)

    def _upload(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Bring uint8 images of one size to the device: a quarter of the bytes of floats, normalised there."""
        host = torch.from_numpy(np.stack(images))
        if self.device.kind == "cuda":
            return to_device(host.pin_memory(), self.device, non_blocking=True)
        return to_device(host, self.device)

    def _tokens(self, images: Sequence[Prepared]) -> list[Tensor]:
        """Return every image's tokens [1, n, width], encoding only those that are not in the cache."""
        network = self._loaded()
        keys = [fingerprint(image.array) for image in images]
        found = {key: tokens for key in set(keys) if (tokens := self._cache.get(key)) is not None}
        waiting: dict[tuple[int, ...], dict[bytes, NDArray[np.uint8]]] = {}
        for key, image in zip(keys, images, strict=True):
            if key not in found:
                waiting.setdefault(image.array.shape, {})[key] = image.array
        most = _BATCH[self.device.kind]
        encode = self._encode_again or (lambda x: [network.encode(x)])
        for group in waiting.values():
            items = list(group.items())
            for start in range(0, len(items), most):
                part = items[start : start + most]
                with trace("vision.encode", images=len(part)):
                    tokens = encode(self._upload([array for _, array in part]))[0]
                self.encodes += len(part)
                for (key, _), one in zip(part, tokens.split(1), strict=True):
                    found[key] = one
                    self._cache.put(key, one)
        return [found[key] for key in keys]

    def _decode(self, first: Tensor, second: Tensor, images: tuple[Prepared, Prepared]) -> Decoded:
        network = self._loaded()
        grids = (network.grid(*images[0].array.shape[:2]), network.grid(*images[1].array.shape[:2]))
        if grids not in self._decode_again:
            self._decode_again[grids] = Replay(
                lambda a, b: [state for line in network.decode(a, b, grids) for state in line], self.device.torch
            )
        states = self._decode_again[grids](first, second)
        return Decoded(network, (states[:4], states[4:]), grids, self._run)

    def _result(
        self, decoded: Decoded, index: int, images: tuple[Prepared, Prepared], times: tuple[float, float]
    ) -> PairResult:
        return PairResult(
            decoded, index, images, preprocess_ms=times[0], compute_ms=times[1], descriptor=self.variant.descriptor
        )

    def _pair(self, images: tuple[Prepared, Prepared]) -> Decoded:
        first, second = self._tokens(images)
        return self._decode(first, second, images)

    def infer(self, img1: Any, img2: Any) -> PairResult:
        """Run a pair: both images encoded (once, if they are in the cache) and decoded; heads run when read.

        Parameters
        ----------
        img1, img2
            Paths, PIL images or arrays. A uint8 array [height, width, 3] at network size is taken as it is; anything
            else is brought to network size by `elinvar.vision.preprocess`. Sizes may differ.

        Raises
        ------
        WeightsError
            No weights are loaded.
        InputError
            An image cannot be read or is no image.
        """
        self._loaded()
        start = time.perf_counter()
        images = (self.prepare(img1), self.prepare(img2))
        between = time.perf_counter()
        decoded = self._run("vision.pair", self._pair, images)
        end = time.perf_counter()
        return self._result(decoded, 0, images, (1e3 * (between - start), 1e3 * (end - between)))

    def encode(self, images: Iterable[Any]) -> list[Tensor]:
        """Return the encoder's tokens of images, each [n, width] on the device."""
        ready = [self.prepare(image) for image in images]
        self._loaded()
        return [tokens[0] for tokens in self._run("vision.encode", self._tokens, ready)]

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
        given = list(images)
        if len(given) < 2:
            raise InputError(f"infer_batch_pipelined: {len(given)} image(s) make no pair; pass at least two.")
        self._loaded()
        last: list[tuple[Prepared, Tensor, float]] = []

        def read(image: Any) -> tuple[Prepared, float]:
            start = time.perf_counter()
            return self.prepare(image), 1e3 * (time.perf_counter() - start)

        def step(item: tuple[Prepared, float]) -> PairResult | None:
            image, took = item
            start = time.perf_counter()
            tokens = self._run("vision.encode", self._tokens, [image])[0]
            previous = last.pop() if last else None
            last.append((image, tokens, took))
            if previous is None:
                return None
            pair = (previous[0], image)
            decoded = self._run("vision.decode", self._decode, previous[1], tokens, pair)
            result = self._result(decoded, 0, pair, (took, 1e3 * (time.perf_counter() - start)))
            return result.compute() if compute else result

        stages = [Stage(read, "read"), Stage(step, "network", device=self.device, compute=True)]
        with Pipeline(stages, in_flight=3, progress=progress) as pipeline:
            return [result for result in pipeline.run(given) if result is not None]

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
        self._loaded()
        ready = [self.prepare(image) for image in images]
        chosen = self._pairs(ready, graph)
        if symmetric:
            chosen = [pair for i, j in chosen for pair in ((i, j), (j, i))]
        uses = [sum(k in pair for pair in chosen) for k in range(len(ready))]
        tokens: dict[int, Tensor] = {}
        results: list[PairResult] = []
        for group in self._groups(chosen, ready, batch or _PAIRS[self.device.kind]):
            results += self._run_group(group, ready, tokens)
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
        self, group: list[tuple[int, int]], ready: list[Prepared], tokens: dict[int, Tensor]
    ) -> list[PairResult]:
        """Run pairs of one shape through the decoder together, encoding what `tokens` lacks."""
        start = time.perf_counter()
        absent = [k for k in dict.fromkeys(k for pair in group for k in pair) if k not in tokens]
        if absent:
            fresh = self._run("vision.encode", self._tokens, [ready[k] for k in absent])
            tokens |= dict(zip(absent, fresh, strict=True))
        images = [(ready[i], ready[j]) for i, j in group]
        sides = [torch.cat([tokens[pair[side]] for pair in group]) for side in (0, 1)]
        decoded = self._run("vision.decode", self._decode, sides[0], sides[1], images[0])
        share = 1e3 * (time.perf_counter() - start) / len(group)
        return [self._result(decoded, k, pair, (0.0, share)) for k, pair in enumerate(images)]

    def _pairs(self, ready: list[Prepared], graph: str | Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        if not isinstance(graph, str):
            chosen = [(int(i), int(j)) for i, j in graph]
            bad = [pair for pair in chosen if pair[0] == pair[1] or not all(0 <= k < len(ready) for k in pair)]
            if bad or not chosen:
                raise InputError(f"infer_pairs: {bad[:3] or 'no pair'} among {len(ready)} images; pass pairs (i, j).")
            return chosen
        similarity = None
        if graph.startswith("retrieval"):
            from .retrieval import similarity as compare

            similarity = compare([item.descriptor for item in self.encode_retrieval_batch(ready)])
        return graphs.image_pairs(len(ready), graph, similarity)

    def warmup(self, num_iterations: int = 3) -> float:
        """Run a made-up pair a few times, heads included; return the last run's milliseconds."""
        side = self.resolution // self.variant.patch * self.variant.patch
        image = np.zeros(
            (max(self.variant.patch, side * 3 // 4 // self.variant.patch * self.variant.patch), side, 3), np.uint8
        )
        took = 0.0
        with self._lock:
            kept, self._cache = self._cache, FeatureCache(0)
            counted = self.encodes
            try:
                for _ in range(max(1, num_iterations)):
                    took = self.infer(image, image).compute().timing.total_ms
            finally:
                self._cache, self.encodes = kept, counted
        return took

    # -- facts ------------------------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Say what runs where: backend, device, variant, precision, memory, and how it computes."""
        stats = self.device.pool.stats()
        network = self._network
        return {
            "backend": f"torch {torch.__version__}",
            "device": str(self.device),
            "device_name": self.device.name,
            "variant": self.variant.name,
            "resolution": self.resolution,
            "precision": str(self.precision),
            "weights": self._weights,
            "weights_bytes": 0 if network is None else network.bytes,
            "recommended_working_set_bytes": self.device.profile.recommended_budget_bytes,
            "pool_count": stats.total_pooled,
            "pool_bytes": stats.bytes_cached,
            "features_cached": len(self._cache),
            "features_bytes": self._cache.bytes,
            "encodes": self.encodes,
            "threads": self._thread_count(),
            "paths": None if network is None else network.paths,
        }

    def clear_cache(self) -> None:
        """Forget encoded images."""
        self._cache.clear()

    def __repr__(self) -> str:
        return f"<vision.Engine {self.variant.name} {self.resolution} {self.precision} on {self.device}>"


def _canonical(state: Mapping[str, Tensor], kind: Any) -> dict[str, Tensor]:
    from .keys import canonical

    names = {name: canonical(name, kind) for name in state}
    return {ours: state[name] for name, ours in names.items() if ours is not None}
