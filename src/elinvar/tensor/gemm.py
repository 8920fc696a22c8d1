"""Matrix products by the fastest call torch has here: which one, and why.

Everything is ``x @ w.T`` with x of shape (m, k) and w of shape (n, k), as in a linear layer; a plain product passes
``b.T``. Nothing here records gradients.

On the machine this was written on (AMD Zen 5, 512-bit vectors), oneDNN multiplies float32 matrices twice as fast as the
BLAS torch calls, from about 110×110×110 up; its call costs some ten microseconds more. Below 160×160×160 the engine's
own kernel (`elinvar.tensor.kernels.small_gemm`) is faster than both. Native float16 products are hundreds of times
slower than float32 ones on processors without float16 arithmetic, so float16 goes through float32 workspaces.
``benchmarks/tensor.py`` measures them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from elinvar.tensor.workspace import Scratch

__all__ = [
    "LEAST_PADDED",
    "LEAST_ROWS",
    "LEAST_SMALL",
    "LEAST_WORK",
    "MINIMUM_SMALL",
    "MOST_SMALL",
    "Route",
    "aligned",
    "choose",
    "keeps_nan",
    "onednn_float32",
    "padded",
    "product",
    "small",
    "small_products",
    "wide_product",
    "zeros",
]

LEAST_ROWS = 32
LEAST_WORK = 1_200_000
LEAST_SMALL = 8
LEAST_PADDED = 2**28  # multiply-adds worth two copies
MINIMUM_SMALL, MOST_SMALL = 40**3, 160**3
_pointwise = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class Route(NamedTuple):
    """How a product is formed.

    Attributes
    ----------
    library
        "registers" (`elinvar.tensor.kernels.small_gemm`), "blas", "onednn" or "device" (the GPU's own library).
    compute
        Dtype the operands are multiplied in; sums are float32 or wider.
    epilogue
        Whether bias and activation need a pass of their own from a float32 result, to be rounded once.
    why
        For people.
    """

    library: str
    compute: torch.dtype
    epilogue: bool
    why: str


def _mkldnn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


@cache
def _amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")[:4000]
    except OSError:
        return False


@cache
def onednn_float32() -> bool:
    """Whether oneDNN is the faster float32 product here: AMD processors, whose vectors torch's BLAS does not fill."""
    return _pointwise is not None and _mkldnn() and _amd()


@cache
def small_products() -> bool:
    """Whether the engine's own kernel serves small float32 products here: where it was measured, and checks out."""
    if not _amd():
        return False
    from elinvar.runtime.kernels import kernel
    from elinvar.tensor.kernels.small_gemm import NAME, cpu

    return cpu.INSTRUCTIONS != "none" and kernel(NAME, "cpu").backend == "cpu"


@cache
def bfloat16_products() -> bool:
    """Whether this CPU multiplies bfloat16 natively, with float32 sums."""
    if _pointwise is None or not _mkldnn():
        return False
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported is not None and supported())


def choose(
    dtype: torch.dtype,
    device: torch.device,
    size: tuple[int, int, int],
    activation: str | None,
    *,
    residual: bool,
    native: bool = False,
    whole: bool = True,
) -> Route:
    """Decide how ``x @ w.T`` and what follows it are computed.

    Parameters
    ----------
    dtype, device
        Of the operands.
    size
        (m, k, n).
    activation, residual
        What follows the product and the bias.
    native
        Multiply 16-bit operands natively even where that is slow.
    whole
        What `aligned` says of the operands.
    """
    m, k, n = size
    half = dtype in (torch.float16, torch.bfloat16)
    # One rounding: a 16-bit product may be followed by relu alone, which changes no digits.
    late = half and (residual or activation not in (None, "relu"))
    if device.type != "cpu":
        split = half and (late or not whole) and device.type == "cuda"
        why = "a float32 product, one more pass" if split else "the device's library with its epilogue"
        return Route("device", dtype, split, why)
    fits = k > 0 and m >= LEAST_ROWS and m * k * n >= LEAST_WORK
    if native and half:
        return Route("blas", dtype, late, f"native {dtype} as asked")
    if dtype == torch.bfloat16 and bfloat16_products() and not late and k > 0:
        return Route("onednn", dtype, False, "this CPU multiplies bfloat16 and sums in float32")
    compute = torch.float32 if half else dtype
    before = f"{dtype} converted to float32, because " if half else ""
    reason = "" if not half else "this CPU has no fast native product of it, or one rounding needs it; "
    if compute == torch.float32 and m >= LEAST_SMALL and MINIMUM_SMALL <= m * k * n <= MOST_SMALL and small_products():
        return Route("registers", compute, half, f"{before}{reason}small enough for the kernel tensor.small_gemm")
    if compute == torch.float32 and fits and onednn_float32():
        return Route("onednn", compute, half, f"{before}{reason}oneDNN fills an AMD processor's vectors")
    return Route("blas", compute, half, f"{before}{reason}torch's BLAS")


def aligned(x: torch.Tensor, w: torch.Tensor, *others: torch.Tensor) -> bool:
    """Whether the rows of 16-bit operands and of ``x @ w.T`` begin at multiples of 16 bytes.

    Where they do not, NVIDIA's library has kernels that round a sum to 16 bits before what follows is added, or keep
    parts of a sum in 16 bits: on an H200 up to a hundred times this engine's bound.
    """
    if len(w) % 8 or any(t.data_ptr() & 15 for t in (x, w, *others)):
        return False
    return not any(max(t.stride()) % 8 for t in (x, w))


def product(
    route: Route,
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor | None,
    scratch: Scratch,
) -> torch.Tensor:
    """Return ``x @ w.T + bias`` as a route says, in the dtype its epilogue expects.

    Parameters
    ----------
    x, w
        (m, k) and (n, k), of one dtype and device, any strides.
    bias
        (n,), added before any rounding; None when an epilogue adds it, or there is none.
    out
        Receives the result, None allocates. It must not overlap an operand.
    scratch
        For converted operands.
    """
    if route.compute != x.dtype:
        x, w = scratch.converted(x, route.compute), scratch.converted(w, route.compute)
        bias = None if bias is None else bias.to(route.compute)
    if route.library == "onednn":
        assert _pointwise is not None
        result: torch.Tensor = _pointwise.default(x, w, bias, "none", [], "")
        return result if out is None else out.copy_(result)
    if route.library == "registers" and x.stride(1) == 1 and not (x.is_neg() or w.is_neg()):
        return small(x, w, bias, out, relu=False)
    if route.epilogue and x.is_cuda:
        return _wide(x, w, bias, out)
    if bias is None:
        return torch.mm(x, w.t()) if out is None else torch.mm(x, w.t(), out=out)
    return torch.addmm(bias, x, w.t()) if out is None else torch.addmm(bias, x, w.t(), out=out)


def small(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None, *, relu: bool
) -> torch.Tensor:
    """The engine's own product of small float32 matrices; a row's elements are neighbours in `x` and `out`."""
    from elinvar.tensor.kernels.small_gemm.cpu import product as kernel

    m, k = x.shape
    n = w.shape[0]
    out = x.new_empty((m, n)) if out is None else out  # not torch's default dtype and device
    along_n, along_k = w.stride()
    bias = None if bias is None else bias.resolve_neg().contiguous()
    shift = 0 if bias is None else bias.data_ptr()
    kernel(
        m, n, k, x.data_ptr(), x.stride(0), w.data_ptr(), along_n, along_k, out.data_ptr(), out.stride(0), shift, relu
    )
    return out


def _wide(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None) -> torch.Tensor:
    """A 16-bit product stored in float32 (CUDA)."""
    if not x.shape[1]:
        wide = torch.zeros(x.shape[0], w.shape[0], dtype=torch.float32, device=x.device)
    else:
        wide = wide_product(x, w)
    if bias is not None:
        wide.add_(bias)
    return wide if out is None else out.copy_(wide)


def wide_product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Return ``x @ w.T`` of 16-bit operands in float32 (CUDA), maybe with gaps between its rows.

    The library is slow where rows lie askew, on an H200 92 us for 1001 cubed: large operands are copied to where they
    do not.
    """
    n = len(w)
    if x.numel() * n < LEAST_PADDED or aligned(x, w):
        return torch.mm(x, w.t(), out_dtype=torch.float32)
    x, w = padded(x, 1), padded(w, 8)
    return torch.mm(x, w.t(), out_dtype=torch.float32)[:, :n]


def padded(t: torch.Tensor, multiple: int) -> torch.Tensor:
    """Return a copy of a matrix with zeros below it, to a multiple of rows, and beside it, to one of eight columns."""
    rows, columns = t.shape
    return torch.nn.functional.pad(t, (0, -columns % 8, 0, -rows % multiple)).contiguous()


@cache
def zeros(n: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A bias of zeros, which lets cuBLASLt's epilogue serve a product without one."""
    return torch.zeros(n, dtype=dtype, device=device)


_kept: dict[tuple[Any, ...], bool] = {}
_MOST_KEPT = 1024


def keeps_nan(x: torch.Tensor, w: torch.Tensor, *others: torch.Tensor) -> bool | None:
    """Whether the device's product with a fused relu passes NaN on for operands like these; None if it cannot be asked.

    A library chooses among kernels by size, layout and alignment, and the relu of some makes NaN 0 (cuBLASLt's, where a
    size is no multiple of eight). So it is asked once for every kind of operands, with a bias of NaN: one more product,
    and a wait for it. While a CUDA graph is recorded nothing can be asked, and after a thousand kinds nothing more is.

    Parameters
    ----------
    x, w
        (m, k) and (n, k).
    others
        Bias and result, where they are given: what begins between multiples of 16 bytes is not fused.
    """
    address = x.data_ptr() | w.data_ptr()
    for other in others:
        address |= other.data_ptr()
    if address & 15:
        return False
    key = (x.dtype, x.get_device(), x.shape, x.stride(), w.shape, w.stride())
    found = _kept.get(key)
    if found is None:
        if len(_kept) >= _MOST_KEPT or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
            return None
        bias = x.new_full((len(w),), float("nan"))
        found = _kept[key] = bool(torch.isnan(torch._addmm_activation(bias, x, w.t())).all())  # noqa: SLF001
    return found
