"""NVIDIA's cuBLASLt, the one torch has loaded, called with an algorithm that was chosen and not the first it offers.

torch asks the library for one algorithm per product and takes it; the library knows dozens. Everything here is the
documented C interface (the cuBLAS library's manual, chapter "Using the cuBLASLt API") called on torch's stream with
torch's memory.

A product ``y = relu?(x @ w.T + bias)`` of rows is, by columns as the library counts, ``y' = w x'``: w is the left
factor, transposed, x the right one, and the bias belongs to the rows of y'.
"""

from __future__ import annotations

import ctypes
import re
import threading
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from elinvar.errors import ElinvarError
from elinvar.metal.cudacore import stream_here
from elinvar.tensor.again import empty

__all__ = ["Algorithm", "Candidate", "Follows", "Library", "LibraryError", "Problem", "library", "loaded_path"]

Follows = Literal["nothing", "bias", "relu"]
"""What follows a product: relu comes with a bias."""
_NEEDED = 120000  # the release that brought Hopper's algorithms; every structure below is the same since 11.0
_WORKSPACE = 32 << 20  # bytes, as much as torch offers the library on this GPU
_ALIGNED = 16  # bytes that divide every address
_F32, _COMPUTE_F32 = 0, 68  # cudaDataType_t, cublasComputeType_t
_TYPES = {torch.float16: 2, torch.bfloat16: 14}
_TRANSA, _TRANSB, _EPILOGUE, _BIAS = 3, 4, 7, 8  # cublasLtMatmulDescAttributes_t
_EPILOGUES: dict[Follows, int] = {"nothing": 1, "bias": 4, "relu": 6}  # cublasLtEpilogue_t
_MOST_BYTES, _REDUCTIONS, _ALIGNMENTS = 1, 3, (5, 6, 7, 8)  # cublasLtMatmulPreferenceAttributes_t
_IN_FLOAT32 = 2  # cublasLtReductionScheme_t: parts of a sum meet in the compute type, in the workspace
_P, _I, _Z, _U64, _I64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "Create": (_P,),
    "MatmulDescCreate": (_P, _I, _I),
    "MatmulDescDestroy": (_P,),
    "MatmulDescSetAttribute": (_P, _I, _P, _Z),
    "MatrixLayoutCreate": (_P, _I, _U64, _U64, _I64),
    "MatrixLayoutDestroy": (_P,),
    "MatmulPreferenceCreate": (_P,),
    "MatmulPreferenceDestroy": (_P,),
    "MatmulPreferenceSetAttribute": (_P, _I, _P, _Z),
    "MatmulAlgoGetHeuristic": (_P, _P, _P, _P, _P, _P, _P, _I, _P, _P),
    "MatmulAlgoCheck": (_P, _P, _P, _P, _P, _P, _P, _P),
    "Matmul": (_P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _Z, _P),
}


class Algorithm(ctypes.Structure):
    """The library's ``cublasLtMatmulAlgo_t``: which kernel, tile and order; opaque, and valid for one version of it."""

    _fields_ = (("data", ctypes.c_uint64 * 8),)


class Candidate(ctypes.Structure):
    """The library's ``cublasLtMatmulHeuristicResult_t``."""

    _fields_ = (
        ("algorithm", Algorithm),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


class LibraryError(ElinvarError):
    """The library refused a call; whoever sees this takes torch's own way."""


def loaded_path(maps: str) -> str | None:
    """Return the path of the cuBLASLt among a process's mapped files, None where there is none."""
    found = re.search(r"\s(/\S.*?libcublasLt\.so[.\d]*)$", maps, re.MULTILINE)
    return None if found is None else found[1]


@cache
def library() -> Library | str:
    """Return torch's cuBLASLt, or why it cannot be called."""
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return "torch has no NVIDIA GPU here"
    try:
        path = loaded_path(Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        path = None
    if path is None:
        return "torch's cuBLASLt is not among this process's libraries"
    try:
        return Library(ctypes.CDLL(path))
    except (OSError, AttributeError, LibraryError) as error:
        return f"torch's cuBLASLt cannot be called: {error}"


class Library:
    """The functions of a loaded cuBLASLt.

    Parameters
    ----------
    loaded
        From `ctypes.CDLL`, or anything whose attributes are the library's functions.

    Raises
    ------
    AttributeError
        A function is missing.
    LibraryError
        The release is older than 12.0.
    """

    def __init__(self, loaded: Any) -> None:
        loaded.cublasLtGetVersion.restype = ctypes.c_size_t
        self.version = int(loaded.cublasLtGetVersion())
        if self.version < _NEEDED:
            raise LibraryError(f"cuBLASLt is release {self.version}; {_NEEDED} or newer is needed")
        self._functions: dict[str, Callable[..., int]] = {}
        for name, types in _SIGNATURES.items():
            function = getattr(loaded, f"cublasLt{name}")
            function.argtypes, function.restype = list(types), _I
            self._functions[name] = function
        self.matmul = self._functions["Matmul"]
        self._handles: dict[int, int] = {}
        self._lock = threading.Lock()

    def call(self, name: str, *args: Any) -> None:
        """Call a function by its name without ``cublasLt``.

        Raises
        ------
        LibraryError
            It answered with an error.
        """
        status = self._functions[name](*args)
        if status:
            raise LibraryError(f"cublasLt{name} answered {status}")

    def made(self, name: str, *args: Any) -> int:
        """Return the handle that a function makes."""
        found = ctypes.c_void_p()
        self.call(name, ctypes.addressof(found), *args)
        return found.value or 0

    def handle(self, index: int) -> int:
        """Return the library's context on a CUDA device, which any thread may use."""
        with self._lock:
            if index not in self._handles:
                with torch.cuda.device(index):
                    self._handles[index] = self.made("Create")
            return self._handles[index]


class _Slot:
    """A description of the product that one call uses at a time: the bias's address is part of it."""

    __slots__ = ("_address", "_call", "bias", "desc")

    def __init__(self, call: Callable[..., None], desc: int) -> None:
        self._call, self.desc, self.bias = call, desc, 0
        self._address = ctypes.c_uint64(0)

    def point(self, bias: int) -> None:
        self._address.value = bias
        self._call("MatmulDescSetAttribute", self.desc, _BIAS, ctypes.addressof(self._address), 8)
        self.bias = bias


class Problem:
    """Layers of one size: ``relu?(x @ w.T + bias?)`` for contiguous operands whose addresses 16 divides.

    Parameters
    ----------
    lib
        What computes it.
    index
        The CUDA device's number.
    dtype
        float16 or bfloat16; sums are float32.
    size
        (m, n, k): x is (m, k), w (n, k).
    follows
        What is added, and whether negative results become 0.

    Raises
    ------
    LibraryError
        The library does not know such a product.
    """

    def __init__(
        self, lib: Library, index: int, dtype: torch.dtype, size: tuple[int, int, int], follows: Follows
    ) -> None:
        m, n, k = size
        self.lib, self.index, self.dtype, self.size, self.follows = lib, index, dtype, size, follows
        self.device = torch.device("cuda", index)
        self._handle = lib.handle(index)
        kind = _TYPES[dtype]
        self._made: list[tuple[str, int]] = []
        weakref.finalize(self, _destroy, lib, self._made).atexit = False
        self._w = self._layout(kind, k, n)
        self._x = self._layout(kind, k, m)
        self._y = self._layout(kind, n, m)
        self._one, self._zero = ctypes.c_float(1.0), ctypes.c_float(0.0)
        self._free: list[_Slot] = []
        self._kept: list[Candidate] = []

    def _layout(self, kind: int, rows: int, columns: int) -> int:
        found = self.lib.made("MatrixLayoutCreate", kind, rows, columns, rows)
        self._made.append(("MatrixLayoutDestroy", found))
        return found

    def _set(self, desc: int, attribute: int, value: int) -> None:
        number = ctypes.c_uint32(value)
        self.lib.call("MatmulDescSetAttribute", desc, attribute, ctypes.addressof(number), 4)

    def _slot(self, follows: Follows | None = None) -> _Slot:
        desc = self.lib.made("MatmulDescCreate", _COMPUTE_F32, _F32)
        self._made.append(("MatmulDescDestroy", desc))
        self._set(desc, _TRANSA, 1)
        self._set(desc, _TRANSB, 0)
        self._set(desc, _EPILOGUE, _EPILOGUES[follows or self.follows])
        return _Slot(self.lib.call, desc)

    def candidates(self, most: int, bias: int) -> list[Candidate]:
        """Return algorithms for this size: the library's favourites first, then those that need no workspace.

        Last come favourites for the bare product, of which the library thinks differently than of one with a bias.

        Parameters
        ----------
        most
            Of each of the three at most so many.
        bias
            An address of a bias, which the library looks at for its alignment.
        """
        found = self._asked(self.follows, _WORKSPACE, most, bias) + self._asked(self.follows, 0, most, bias)
        plain = [self.knows(one.algorithm, bias) for one in self._asked("nothing", _WORKSPACE, most, bias)]
        found += [one for one in plain if one is not None]
        return list({bytes(one.algorithm): one for one in reversed(found)}.values())[::-1]

    def _asked(self, follows: Follows, room: int, most: int, bias: int) -> list[Candidate]:
        slot = self._slot(follows)
        slot.point(bias)
        wish = self.lib.made("MatmulPreferenceCreate")
        try:
            numbers = [(_MOST_BYTES, ctypes.c_uint64(room)), (_REDUCTIONS, ctypes.c_uint32(_IN_FLOAT32))]
            numbers += [(which, ctypes.c_uint32(_ALIGNED)) for which in _ALIGNMENTS]
            for which, number in numbers:
                size = ctypes.sizeof(number)
                self.lib.call("MatmulPreferenceSetAttribute", wish, which, ctypes.addressof(number), size)
            found, count = (Candidate * most)(), ctypes.c_int(0)
            at = ctypes.addressof(found), ctypes.addressof(count)
            layouts = (self._w, self._x, self._y, self._y)
            try:
                self.lib.call("MatmulAlgoGetHeuristic", self._handle, slot.desc, *layouts, wish, most, *at)
            except LibraryError:  # it has none
                return []
        finally:
            self.lib.call("MatmulPreferenceDestroy", wish)
        return [Candidate.from_buffer_copy(one) for one in found[: count.value] if not one.state]

    def knows(self, algorithm: Algorithm, bias: int) -> Candidate | None:
        """Return an algorithm with what it needs, None where this library cannot run it for this size."""
        try:
            slot = self._free.pop()
        except IndexError:
            slot = self._slot()
        slot.point(bias)
        found = Candidate()
        at = ctypes.addressof(algorithm), ctypes.addressof(found)
        try:
            self.lib.call("MatmulAlgoCheck", self._handle, slot.desc, self._w, self._x, self._y, self._y, *at)
        except LibraryError:
            return None
        finally:
            self._free.append(slot)
        found.algorithm = algorithm
        return found if not found.state and found.workspace <= _WORKSPACE else None

    def runner(self, one: Candidate) -> Callable[[int, int, int, int], bool]:
        """Return launches of an algorithm: addresses of x, w, bias (or 0) and y to whether the library took it.

        They run on torch's current stream. Nothing is launched where another device than this problem's is the current
        one.
        """
        here = stream_here(self.index)
        handle, matmul, free = self._handle, self.lib.matmul, self._free
        w_, x_, y_ = self._w, self._x, self._y
        self._kept.append(one)  # its memory is what the calls point to
        need = int(one.workspace)
        alpha, beta, how = (ctypes.addressof(c) for c in (self._one, self._zero, one.algorithm))
        make = self._slot  # which keeps this problem

        def run(x: int, w: int, bias: int, y: int) -> bool:
            stream = here()
            if stream is None:
                return False
            try:
                slot = free.pop()
            except IndexError:
                slot = make()
            if slot.bias != bias:
                slot.point(bias)
            room, at = _room(need) if need else (None, 0)
            status = matmul(handle, slot.desc, alpha, w, w_, x, x_, beta, y, y_, y, y_, how, at, need, stream)
            free.append(slot)
            del room  # torch gives it to what follows on this stream
            return status == 0

        return run


def _destroy(lib: Library, made: list[tuple[str, int]]) -> None:
    for name, handle in made:
        lib.call(name, handle)


def _room(size: int) -> tuple[torch.Tensor, int]:
    """Return memory on the current device."""
    made = torch.empty(size, dtype=torch.uint8, device="cuda") if empty is None else empty((size,), (1,), torch.uint8)
    return made, made.data_ptr()
