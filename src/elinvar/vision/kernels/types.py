"""What the kernels' texts call torch's dtypes."""

from __future__ import annotations

import torch

__all__ = ["FOUR", "ONE"]

ONE = {torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat"}
FOUR = {dtype: f"{name}4" for dtype, name in ONE.items()}
