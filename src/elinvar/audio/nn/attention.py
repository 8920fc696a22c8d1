"""Multi-head attention with the parameter names of ``torch.nn.MultiheadAttention``."""

from __future__ import annotations

from elinvar.audio.htdemucs_transformer import Attention

__all__ = ["Attention"]
