"""Pool buffers: one torch storage each, and the question whether anyone else holds it.

Three ways to hold a lent storage are told apart when it comes back:

* nobody does: the buffer may be lent again;
* only Python names refer to the very tensor object that was lent (a local variable that has not gone out of scope
  yet): the buffer may come back once they are gone;
* anything else, now or possibly later out of sight: a view, autograd, a numpy array, a DLPack capsule, the storage
  object, an operation running in another thread: the buffer is never lent again.

The evidence is torch's own reference counts of the storage and of the tensor, plus Python's of the tensor object. The
two torch counts are private functions, so they are tried once on a small tensor (`holders_visible`); should a future
torch change them, every buffer counts as held, which costs speed and never correctness.
"""

from __future__ import annotations

import math
import operator
import re
import warnings
from collections.abc import Callable, Sequence
from enum import Enum
from sys import getrefcount
from typing import Any

import torch

from elinvar.errors import InputError

__all__ = ["SMALLEST", "Buffer", "Held", "Spec", "class_bytes", "is_out_of_memory", "poison", "spec_for", "torch_empty"]

SMALLEST = 512
"""Bytes of the smallest size class."""

_LARGEST = 1 << 62
_SPECIAL = re.compile(r"torch\.(q\w+|bits\w+|u?int[1-7])")  # quantised, opaque, and smaller than a byte
_MOST_SPECS = 4096
_MOST_VIEWS = 8
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory", "cannot allocate memory")

_storage_count: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)  # noqa: SLF001
_tensor_count: Callable[[torch.Tensor], int] | None = getattr(torch.Tensor, "_use_count", None)


class Held(Enum):
    """Who else holds a buffer's storage."""

    NOBODY = 0
    NAMED = 1
    ELSEWHERE = 2


class Spec:
    """A checked (shape, dtype) with its byte counts."""

    __slots__ = ("class_bytes", "dtype", "nbytes", "shape", "waste")

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, nbytes: int) -> None:
        self.shape = shape
        self.dtype = dtype
        self.nbytes = nbytes
        self.class_bytes = class_bytes(nbytes)
        self.waste = self.class_bytes - nbytes


SPECS: dict[tuple[Any, torch.dtype], Spec] = {}
"""Specs seen before; looked up first, so that a steady state checks nothing twice."""


def class_bytes(nbytes: int) -> int:
    """Return the size class serving `nbytes`: the next power of two, 512 at least."""
    return max(SMALLEST, 1 << (nbytes - 1).bit_length())


def spec_for(shape: int | Sequence[int], dtype: torch.dtype) -> Spec:
    """Check a request and return its spec.

    Raises
    ------
    InputError
        The dtype is not a torch dtype memory can be viewed as, or a dimension is not a whole number from 1.
    """
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"Pool.acquire: dtype {dtype!r} is not a torch dtype; pass for example torch.float32.")
    try:
        dims = tuple(_dimension(n) for n in (shape if isinstance(shape, Sequence) else (shape,)))
    except (TypeError, ValueError, OverflowError):
        dims = (0,)
    if any(n < 1 for n in dims):
        raise InputError(f"Pool.acquire: shape {shape!r} is not accepted; every dimension is a whole number from 1.")
    if _SPECIAL.fullmatch(str(dtype)):
        raise InputError(f"Pool.acquire: {dtype} has no arithmetic of its own; use a plain dtype such as torch.uint8.")
    nbytes = math.prod(dims) * dtype.itemsize
    if nbytes > _LARGEST:
        raise InputError(f"Pool.acquire: shape {shape!r} of {dtype} is {nbytes} bytes, more than any device addresses.")
    spec = Spec(dims, dtype, nbytes)
    if len(SPECS) >= _MOST_SPECS:
        SPECS.clear()  # a caller whose every shape is new must not grow a table for ever
    # Equal keys find one entry, (4,) and [4] and torch.Size([4]) alike.
    SPECS[dims, dtype] = spec
    return spec


def _dimension(n: object) -> int:
    # 4.0 equals 4 and would find its entry in the table: accept it always rather than sometimes.
    if isinstance(n, float) and n.is_integer():
        return int(n)
    return operator.index(n)  # type: ignore[arg-type]  # it raises TypeError for what has no index


def torch_empty(nbytes: int, device: torch.device) -> torch.Tensor:
    """Allocate uninitialised bytes as an ordinary tensor, also inside ``torch.inference_mode()``."""
    with torch.inference_mode(mode=False):
        return torch.empty(nbytes, dtype=torch.uint8, device=device)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether a device's allocator refused; torch raises a plain RuntimeError for the CPU's."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def poison(base: torch.Tensor, dtype: torch.dtype) -> None:
    """Fill a buffer with what stands out: NaN for floats and complex, ``True`` for bool, 0xA5 bytes for integers."""
    if dtype.is_floating_point or dtype.is_complex:
        # All ones is a NaN in every format but the "fnuz" ones (whose only NaN is minus zero) and 4-bit floats.
        base.fill_(0x80 if str(dtype).endswith("fnuz") else 0xFF)
    else:
        base.fill_(1 if dtype == torch.bool else 0xA5)


class Buffer:
    """One storage of the pool: its class, cached typed views, and the tensor lent at present."""

    __slots__ = (
        "base",
        "cdata",
        "dtype",
        "events",
        "generation",
        "home",
        "kept",
        "lent",
        "nbytes",
        "owners",
        "storage",
        "storage_refs",
        "stream",
        "tick",
        "views",
        "waste",
    )

    def __init__(self, base: torch.Tensor) -> None:
        self.base = base
        self.nbytes = base.numel()
        self.storage = base.untyped_storage()
        self.cdata: int = self.storage._cdata  # noqa: SLF001
        self.storage_refs = getrefcount(self.storage)
        self.owners = _storage_count(self.cdata) if _storage_count is not None else 0
        """Storage references that are ours: the base, its Python storage object, each cached view."""
        self.views: dict[Spec, torch.Tensor] = {}
        self.lent: torch.Tensor | None = None
        self.dtype = torch.uint8
        self.generation = 0
        """Odd while lent; a lease remembers the value it was given."""
        self.tick = 0
        self.waste = 0
        self.home: Any = None
        """Stream the memory was allocated on."""
        self.stream: Any = None
        """Stream of the present or last lease."""
        self.events: dict[Any, Any] = {}
        """Per stream, the event that ends the last lease's work."""
        self.kept: set[Any] = set()
        """Streams torch's allocator knows about, besides `home`."""

    def lend(self, spec: Spec) -> None:
        """Make a fresh tensor over the storage and put it into `lent`.

        ``detach`` costs a quarter of ``torch.empty``. The tensor is not a view in autograd's sense, so what a user
        records on it never reaches the next user's; the version counter is the storage's, so autograd would still
        notice if anything wrote behind its back.
        """
        view = self.views.get(spec)
        if view is None:
            view = self._view(spec)
        self.lent = view.detach()
        self.dtype = spec.dtype

    def _view(self, spec: Spec) -> torch.Tensor:
        if len(self.views) >= _MOST_VIEWS:
            self.owners -= len(self.views)
            self.views.clear()
        with torch.inference_mode(mode=False), torch.no_grad():
            # Detached, it refers to the storage alone: a view would keep the tensors it was made from.
            view = self.base[: spec.nbytes].view(spec.dtype).view(spec.shape).detach()
        self.views[spec] = view
        self.owners += 1
        return view

    def held(self) -> Held:
        """Say who holds the storage besides this buffer. `lent` must hold the tensor, and the caller no other name."""
        if self.lent is None:  # never lent: its device could not view it as asked
            return Held.NOBODY
        if _storage_count is None or _tensor_count is None or not holders_visible():
            return Held.ELSEWHERE
        if (
            _storage_count(self.cdata) != self.owners + 1
            or getrefcount(self.storage) != self.storage_refs
            or _tensor_count(self.lent) != 1
            or self.storage.nbytes() != self.nbytes  # resized by its user: no longer what the class says
        ):
            return Held.ELSEWHERE
        if getrefcount(self.lent) == 2:
            return Held.NOBODY
        # A numpy array may hold the tensor object itself; torch marks the storage of one that was ever exported.
        return Held.NAMED if self.storage.resizable() else Held.ELSEWHERE


_visible: bool | None = None


def holders_visible() -> bool:
    """Say whether this torch lets us see who holds a storage; found out once."""
    global _visible
    if _visible is None:
        _visible = True  # `held` asks us
        _visible = _try_holders()
        if not _visible:
            warnings.warn(
                f"torch {torch.__version__} does not show who holds a tensor's memory: pools will lend every buffer "
                "only once; use a version of torch that elinvar was tested with.",
                RuntimeWarning,
                stacklevel=2,
            )
    return _visible


def _try_holders() -> bool:
    """Lend a small buffer and see whether names, views, autograd, numpy and the storage object are all noticed."""
    spec = Spec((2, 64), torch.float32, 512)

    def seen(hold: Callable[[torch.Tensor], object]) -> Held:
        buffer = Buffer(torch_empty(512, torch.device("cpu")))
        buffer.lend(spec)
        kept = hold(buffer.lent)  # type: ignore[arg-type]
        verdict = buffer.held()
        del kept
        return verdict

    def graph(t: torch.Tensor) -> object:
        with torch.inference_mode(mode=False), torch.enable_grad():
            return torch.ones(2, 64, dtype=torch.float32, device="cpu", requires_grad=True) * t

    try:
        return (
            seen(lambda _: None) is Held.NOBODY
            and seen(lambda t: t) is Held.NAMED
            and all(
                seen(hold) is Held.ELSEWHERE
                for hold in (graph, lambda t: t[0], lambda t: t.numpy(), lambda t: t.untyped_storage())
            )
        )
    except (RuntimeError, TypeError, AttributeError):
        return False
