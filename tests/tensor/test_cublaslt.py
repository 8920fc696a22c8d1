"""The calls into cuBLASLt, against a library of the same interface that computes on the host."""

from __future__ import annotations

import ctypes
import types
from typing import Any

import pytest
import torch

from elinvar.tensor import cublaslt
from elinvar.tensor.cublaslt import Algorithm, Candidate, Library, LibraryError, Problem


def test_structures_have_the_documented_sizes() -> None:
    assert ctypes.sizeof(Algorithm) == 64
    assert ctypes.sizeof(Candidate) == 96
    assert Candidate.workspace.offset == 64


@pytest.mark.parametrize(
    ("maps", "path"),
    [
        ("7f00-7f01 r-xp 0 08:01 7   /usr/lib/libcublas.so.13\n7f02-7f03 r--p 0 08:01 7   /opt/a b/libcublasLt.so.13\n",
         "/opt/a b/libcublasLt.so.13"),
        ("7f00-7f01 r-xp 0 08:01 7   /usr/lib/libcublas.so.13\n", None),
        ("7f02-7f03 r--p 0 08:01 7   /opt/libcublasLt.so.13.1.0.3\n7f02 r--p 0 0 0 [heap]\n",
         "/opt/libcublasLt.so.13.1.0.3"),
    ],
)  # fmt: skip
def test_the_loaded_library_is_found(maps: str, path: str | None) -> None:
    assert cublaslt.loaded_path(maps) == path


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_gpu_is_told_why() -> None:
    assert cublaslt.library() == "torch has no NVIDIA GPU here"


def test_old_or_incomplete_libraries_are_refused() -> None:
    with pytest.raises(LibraryError, match="11500"):
        Library(host(version=11500))
    broken = host()
    del broken.cublasLtMatmul
    with pytest.raises(AttributeError):
        Library(broken)


@pytest.fixture
def lib(monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setattr(cublaslt, "stream_here", lambda index: lambda: 77)
    monkeypatch.setattr(torch.cuda, "device", lambda index: torch.no_grad())
    return Library(host())


def operands(m: int, n: int, k: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    make = torch.Generator().manual_seed(m)
    return tuple(torch.randn(s, generator=make).to(dtype) for s in ((m, k), (n, k), (n,)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("follows", ["nothing", "bias", "relu"])
def test_rows_and_columns_come_out_right(
    lib: Library, dtype: torch.dtype, follows: cublaslt.Follows, monkeypatch: pytest.MonkeyPatch
) -> None:
    m, n, k = 5, 24, 16
    x, w, b = operands(m, n, k, dtype)
    problem = Problem(lib, 0, dtype, (m, n, k), follows)
    found = problem.candidates(3, b.data_ptr())
    numbers, rooms = ([11, 12], [0, 512]) if follows == "nothing" else ([1, 2, 11, 12], [0, 512, 0, 0])
    assert [one.algorithm.data[0] for one in found] == numbers  # of the host's three, one is not for this size
    assert [one.workspace for one in found] == rooms
    room = torch.empty(512, dtype=torch.uint8)
    monkeypatch.setattr(cublaslt, "_room", lambda size: (room, room.data_ptr()))
    for one in found:
        run = problem.runner(one)
        for bias in (b, 2 * b, b):
            y = torch.empty(m, n, dtype=dtype)
            shift = 0 if follows == "nothing" else bias.data_ptr()
            assert run(x.data_ptr(), w.data_ptr(), shift, y.data_ptr())
            exact = x.double() @ w.double().t() + (bias.double() if shift else 0.0)
            torch.testing.assert_close(y, (exact.relu() if follows == "relu" else exact).to(dtype))
    assert len(problem._free) == 1  # one description served all calls


def test_calls_at_the_same_time_have_descriptions_of_their_own(lib: Library) -> None:
    x, w, b = operands(4, 8, 8, torch.float16)
    problem = Problem(lib, 0, torch.float16, (4, 8, 8), "relu")
    (one, *_) = problem.candidates(3, b.data_ptr())
    run = problem.runner(one)
    held = problem._free.pop()  # as another thread does
    y = torch.empty(4, 8, dtype=torch.float16)
    assert run(x.data_ptr(), w.data_ptr(), b.data_ptr(), y.data_ptr())
    assert problem._free
    assert problem._free[0] is not held


def test_an_algorithm_is_known_again(lib: Library) -> None:
    problem = Problem(lib, 0, torch.float16, (4, 8, 8), "relu")
    (one, *_) = problem.candidates(3, 16)
    again = problem.knows(Algorithm.from_buffer_copy(bytes(one.algorithm)), 16)
    assert again is not None
    assert bytes(again.algorithm) == bytes(one.algorithm)
    assert problem.knows(Algorithm((ctypes.c_uint64 * 8)(99)), 16) is None


def test_what_the_library_refuses_is_an_answer(lib: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(lib, 0, torch.float16, (4, 8, 8), "relu")
    x, w, b = operands(4, 8, 8, torch.float16)
    (one, *_) = problem.candidates(3, b.data_ptr())
    other = Problem(lib, 0, torch.float16, (4, 8, 16), "relu")
    bad = Candidate()
    bad.algorithm.data[0] = 99
    assert not other.runner(bad)(x.data_ptr(), w.data_ptr(), b.data_ptr(), b.data_ptr())
    monkeypatch.setattr(cublaslt, "stream_here", lambda index: lambda: None)  # another device is the current one
    assert not problem.runner(one)(x.data_ptr(), w.data_ptr(), b.data_ptr(), b.data_ptr())
    with pytest.raises(LibraryError, match="cublasLtMatrixLayoutCreate answered 7"):
        Problem(lib, 0, torch.float16, (4, 0, 8), "relu")


def test_descriptions_are_given_back() -> None:
    loaded = host()
    lib = Library(loaded)
    lib._handles[0] = 1
    problem = Problem(lib, 0, torch.float16, (4, 8, 8), "relu")
    problem.candidates(3, 16)
    assert loaded.alive
    del problem
    assert not loaded.alive


TYPES = {2: torch.float16, 14: torch.bfloat16}


def matrix(address: int, layout: list[int]) -> torch.Tensor:
    """A matrix of columns in the host's memory, as (rows, columns)."""
    kind, rows, columns, step = layout
    raw = (ctypes.c_uint16 * (step * columns)).from_address(address)
    return torch.frombuffer(raw, dtype=TYPES[kind]).view(columns, step)[:, :rows].t()


class Host(types.SimpleNamespace):
    """Objects of a library: what its handles stand for."""

    alive: dict[int, Any]

    def make(self, at: int, value: Any) -> int:
        handle = 1000 + len(self.alive) + self.count
        self.count += 1
        self.alive[handle] = value
        ctypes.c_void_p.from_address(at).value = handle
        return 0

    def drop(self, handle: int) -> int:
        del self.alive[handle]
        return 0

    def set(self, handle: int, attribute: int, at: int, size: int) -> int:
        kind = {4: ctypes.c_uint32, 8: ctypes.c_uint64}[size]
        self.alive[handle][attribute] = kind.from_address(at).value
        return 0

    def layout(self, at: int, kind: int, rows: int, columns: int, step: int) -> int:
        return 7 if not rows * columns else self.make(at, [kind, rows, columns, step])

    def heuristic(self, handle: int, desc: int, *rest: int) -> int:
        *_, wish, most, at, count = rest
        assert self.alive[desc][8]
        room = self.alive[wish].pop(1)
        assert self.alive[wish] == {3: 2, 5: 16, 6: 16, 7: 16, 8: 16}
        if not room:
            return 15
        bare = self.alive[desc][7] == 1
        for i in range(most):
            one = Candidate.from_address(at + 96 * i)
            one.algorithm.data[0], one.workspace, one.state = i + 1 + 10 * bare, 512 * i, 15 if i == 2 else 0
        ctypes.c_int.from_address(count).value = most
        return 0

    def check(self, handle: int, desc: int, a: int, b: int, c: int, d: int, algorithm: int, at: int) -> int:
        number = Algorithm.from_address(algorithm).data[0]
        Candidate.from_address(at).workspace = 0
        return 0 if number in (1, 2, 11, 12) else 15

    def matmul(self, handle: int, desc: int, *rest: Any) -> int:
        alpha, a, a_, b, b_, beta, c, c_, d, d_, algorithm, room, size, stream = rest
        number = Algorithm.from_address(algorithm).data[0]
        if number not in (1, 2, 11, 12):
            return 15
        assert stream == 77
        assert (ctypes.c_float.from_address(alpha).value, ctypes.c_float.from_address(beta).value) == (1.0, 0.0)
        assert (c, c_) == (d, d_)
        assert bool(room) == bool(size)
        given = self.alive[desc]
        assert (given[3], given[4]) == (1, 0)
        result = matrix(d, self.alive[d_])
        y = matrix(a, self.alive[a_]).double().t() @ matrix(b, self.alive[b_]).double()
        if given[7] & 4:
            y += matrix(given[8], [self.alive[d_][0], len(result), 1, len(result)]).double()
        result.copy_({6: y.relu(), 4: y, 1: y}[given[7]])
        return 0


def host(version: int = 130000) -> Host:
    """A library of cuBLASLt's interface whose products are computed from the host's memory."""
    it = Host(alive={}, count=0)

    def named(one: Any) -> Any:
        def function(*args: Any) -> Any:  # which takes argtypes
            return one(*args)

        return function

    found = {
        "GetVersion": lambda: version,
        "Create": lambda at: it.make(at, "context"),
        "MatmulDescCreate": lambda at, compute, scale: it.make(at, {}) if (compute, scale) == (68, 0) else 7,
        "MatmulDescDestroy": it.drop,
        "MatmulDescSetAttribute": it.set,
        "MatrixLayoutCreate": it.layout,
        "MatrixLayoutDestroy": it.drop,
        "MatmulPreferenceCreate": lambda at: it.make(at, {}),
        "MatmulPreferenceDestroy": it.drop,
        "MatmulPreferenceSetAttribute": it.set,
        "MatmulAlgoGetHeuristic": it.heuristic,
        "MatmulAlgoCheck": it.check,
        "Matmul": it.matmul,
    }
    for name, one in found.items():
        setattr(it, f"cublasLt{name}", named(one))
    return it
