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
from elinvar.runtime.precision import Precision
from elinvar.runtime.trace import trace
from elinvar.runtime.transfers import to_device

from .availability import resolve_precision
from .catalogue import Variant
from .catalogue import variant as find_variant
from .checkpoint import Random, Source, State, checked, find_weights, open_weights
from .choices import choose
from .features import FeatureCache, fingerprint
from .heap import give_back
from .images import Prepared, prepared
from .layers import Paths
from .many import Many
from .network import Network
from .recall import Features
from .result import Clock, Decoded, PairResult, synchronised
from .runner import Runner

if TYPE_CHECKING:
    from .asmk import Codebook
    from .retrieval import Retrieval

__all__ = ["Engine"]

_BATCH = {"cpu": 2, "cuda": 16, "mps": 2}  # images encoded together
_threads_lock = threading.RLock()


class Engine(Features, Many):
    """Two-view reconstruction: points, confidence and descriptors of image pairs.

    Parameters
    ----------
    variant
        ``mast3r_vit_large``, ``dune_vit_small_14``, ``dune_vit_base_14``, ``elinvar_free``, or a registered one.
    resolution
        Long side of the network's input in pixels (the published loaders' meaning); None takes the side the network
        was trained on.
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
        resolution: int | None = None,
        precision: str | Precision = "auto",
        device: Any = "auto",
        num_threads: int | None = None,
        *,
        cache_bytes: int = 256 << 20,
    ) -> None:
        self.variant: Variant = find_variant(variant)
        resolution = self.variant.side if resolution is None else resolution
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
        self._codebook: Codebook | None = None
        self._lock = threading.RLock()
        self._weights = "none"
        self._made: Runner | None = None

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
            published names, or None to look in ``ELINVAR_WEIGHTS``, the cache and elinvar itself.
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
            synchronised(self.device.torch)  # any stream may use the weights, and none the recordings before them
            self._weights = source.where
            self._cache.clear()
            self._made = None

    def _loaded(self) -> Network:
        if self._network is None:
            path = find_weights(self.variant)  # or the error that says the three ways
            raise WeightsError(f"vision.Engine: the weights in {path} are not loaded; call Engine.load() first.")
        return self._network

    def _runner(self) -> Runner:
        network = self._loaded()
        if self._made is None or self._made.network is not network:
            self._made = Runner(network, self.device.torch)
        return self._made

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

    def _run(self, name: str, work: Callable[..., Any], *arguments: Any, wait: bool = True) -> Any:
        with self._lock, self._environment(), trace(name):
            out = work(*arguments)
            if wait or self.device.kind != "cuda":
                synchronised(self.device.torch)
            if self.device.kind == "cpu":
                give_back()  # what one part used, before the next one needs as much
            return out

    def prepare(self, image: Any) -> Prepared:
        """Return an image at network size: as `elinvar.vision.preprocess`, or unchanged when it is there already."""
        return prepared(image, self.resolution, self.variant.patch, self.variant.square)

    def _upload(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Bring uint8 images of one size to the device: a quarter of the bytes of floats, normalised there."""
        cuda = self.device.kind == "cuda"
        host = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, pin_memory=cuda)
        for row, image in zip(host.numpy(), images, strict=True):
            row[...] = image
        return to_device(host, self.device, non_blocking=True) if cuda else to_device(host, self.device)

    def _tokens(self, images: Sequence[Prepared]) -> list[Tensor]:
        """Return every image's tokens [1, n, width], encoding only those that are not in the cache."""
        runner = self._runner()
        keys: list[Any] = [id(image.array) for image in images]
        found: dict[Any, Tensor] = {}
        if self._cache.max_bytes:
            keys = [fingerprint(image.array) for image in images]
            known = {key: tokens for key in set(keys) if (tokens := self._cache.get(key)) is not None}
            found = {key: runner.follow(tokens) for key, tokens in known.items()}
        waiting: dict[tuple[int, ...], dict[Any, NDArray[np.uint8]]] = {}
        for key, image in zip(keys, images, strict=True):
            if key not in found:
                waiting.setdefault(image.array.shape, {})[key] = image.array
        most = _BATCH[self.device.kind]
        for group in waiting.values():
            items = list(group.items())
            for start in range(0, len(items), most):
                part = items[start : start + most]
                with trace("vision.encode", images=len(part)):
                    tokens = runner.encode(self._upload([array for _, array in part]))
                self.encodes += len(part)
                for (key, _), one in zip(part, tokens.split(1), strict=True):
                    found[key] = one
                    if self._cache.max_bytes:
                        self._cache.put(key, one)
        return [found[key] for key in keys]

    def _decode(self, first: Tensor, second: Tensor, images: tuple[Prepared, Prepared]) -> Decoded:
        runner = self._runner()
        network = runner.network
        grids = (network.grid(*images[0].array.shape[:2]), network.grid(*images[1].array.shape[:2]))
        return Decoded(runner, runner.decode(first, second, grids), grids, self._run)

    def _result(
        self,
        decoded: Decoded,
        index: int,
        images: tuple[Prepared, Prepared],
        preprocess_ms: float,
        compute_ms: Callable[[], float],
    ) -> PairResult:
        return PairResult(
            decoded,
            index,
            images,
            preprocess_ms=preprocess_ms,
            compute_ms=compute_ms,
            descriptor=self.variant.descriptor,
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
        clock = Clock(self.device.torch)
        decoded = self._run("vision.pair", self._pair, images, wait=False)
        return self._result(decoded, 0, images, 1e3 * (between - start), clock.stop())

    def encode(self, images: Iterable[Any]) -> list[Tensor]:
        """Return the encoder's tokens of images, each [n, width] on the device."""
        ready = [self.prepare(image) for image in images]
        self._loaded()
        return [tokens[0] for tokens in self._run("vision.encode", self._tokens, ready)]

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
