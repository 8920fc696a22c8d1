"""Fused operations on torch tensors, with a memory budget that holds.

::

    from elinvar import tensor

    y = tensor.linear(x, w, bias, "relu", residual=x)       # one product, everything after it in one pass
    z = tensor.affine(y, scale, shift, "gelu", out=y)       # in place, rounded once
    results = tensor.batched(model, images, max_batch=64)   # halves the batch when memory runs out

Every operation takes any strides, float32, float64, float16 and bfloat16, records gradients, works under
``torch.compile``, and runs on CPU, CUDA and MPS. Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from elinvar._lazy import lazy

_HOME = {
    "ACTIVATIONS": "activation",
    "Batches": "batching",
    "BatchingQueue": "queue",
    "FusedLinear": "nn",
    "FusedMLP": "nn",
    "add_relu": "elementwise",
    "affine": "elementwise",
    "batch_norm": "norms",
    "batch_sizes": "batching",
    "batched": "batching",
    "binary": "elementwise",
    "cat": "lists",
    "check_finite": "storage",
    "div_relu": "elementwise",
    "explain": "explaining",
    "layer_norm": "norms",
    "linear": "dense",
    "matmul": "dense",
    "mul_relu": "elementwise",
    "register_kernel": "custom",
    "softmax_cross_entropy": "loss",
    "split": "lists",
    "stack": "lists",
    "store": "storage",
    "sub_relu": "elementwise",
    "to_device": "lists",
    "unbind": "lists",
    "unstack": "lists",
}
_MODULES = ("custom", "digits", "nn")

__all__ = [
    "ACTIVATIONS",
    "Batches",
    "BatchingQueue",
    "FusedLinear",
    "FusedMLP",
    "add_relu",
    "affine",
    "batch_norm",
    "batch_sizes",
    "batched",
    "binary",
    "cat",
    "check_finite",
    "custom",
    "digits",
    "div_relu",
    "explain",
    "layer_norm",
    "linear",
    "matmul",
    "mul_relu",
    "nn",
    "register_kernel",
    "softmax_cross_entropy",
    "split",
    "stack",
    "store",
    "sub_relu",
    "to_device",
    "unbind",
    "unstack",
]

if TYPE_CHECKING:
    from . import custom, digits, nn
    from .activation import ACTIVATIONS
    from .batching import Batches, batch_sizes, batched
    from .custom import register_kernel
    from .dense import linear, matmul
    from .elementwise import add_relu, affine, binary, div_relu, mul_relu, sub_relu
    from .explaining import explain
    from .lists import cat, split, stack, to_device, unbind, unstack
    from .loss import softmax_cross_entropy
    from .nn import FusedLinear, FusedMLP
    from .norms import batch_norm, layer_norm
    from .queue import BatchingQueue
    from .storage import check_finite, store

__getattr__, __dir__ = lazy(__name__, _HOME, _MODULES)
