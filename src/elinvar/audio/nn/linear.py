"""A linear layer that knows how many rows make a matrix product worth it."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from elinvar.audio.htdemucs_ops import project
from elinvar.errors import InputError

__all__ = ["Linear"]

_CANDIDATES = (2, 4, 8, 16)
_LARGE = 256  # rows from which oneDNN's convolution is worth laying its weights out in every call


class Linear(nn.Linear):
    """``torch.nn.Linear``: a few rows go through compiled matrix-vector products, more through one matrix product.

    Attributes
    ----------
    batch_threshold
        Rows from which on the matrix product is taken; 4 until `tune` measures it.
    """

    batch_threshold: int = 4

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return ``x @ weight.T + bias`` for ``[..., in_features]``, into `out` if given."""
        if x.shape[-1] != self.in_features:
            raise InputError(f"Linear: x has shape {tuple(x.shape)}; give [..., {self.in_features}].")
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            y = super().forward(x)
            return y if out is None else out.copy_(y)
        rows = x.numel() // max(1, self.in_features)
        if rows < self.batch_threshold and self._plain(x) and (out is None or out.is_contiguous()):
            return self._few(x, out)
        y = self._many(x)
        return y if out is None else out.copy_(y)

    def _plain(self, x: Tensor) -> bool:
        return x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32 and self.weight.is_contiguous()

    def _few(self, x: Tensor, out: Tensor | None) -> Tensor:
        from elinvar.audio.kernels.recurrent.cpu import products

        result = x.new_empty(*x.shape[:-1], self.out_features) if out is None else out
        weight = self.weight.detach().numpy()
        bias = weight[:0, 0] if self.bias is None else self.bias.detach().numpy()
        rows = x.detach().contiguous().reshape(-1, self.in_features).numpy()
        products(weight, rows, bias, result.view(-1, self.out_features).numpy())
        return result

    def tune(self, runs: int = 50) -> dict[int, tuple[float, float]]:
        """Set `batch_threshold` to the first of 2, 4, 8, 16 rows from which the matrix product is faster here.

        Returns
        -------
        dict
            Rows to CPU seconds of (matrix-vector products, matrix product).
        """
        table = {}
        for rows in _CANDIDATES:
            x = torch.randn(rows, self.in_features, dtype=torch.float32, device="cpu")
            table[rows] = (
                self._time(lambda x=x: self._few(x, None), runs),
                self._time(lambda x=x: self._many(x), runs),
            )
        slower = [rows for rows, (few, many) in table.items() if many < few]
        self.batch_threshold = min(slower, default=_CANDIDATES[-1] + 1)
        return table

    def _many(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            if self.bias is None or x.numel() < _LARGE * self.in_features:
                return super().forward(x)
            return project(x, self.weight, self.bias)

    @staticmethod
    def _time(run: object, runs: int) -> float:
        best = float("inf")
        for _ in range(3):
            begin = time.thread_time()
            for _ in range(runs):
                run()  # type: ignore[operator]
            best = min(best, (time.thread_time() - begin) / runs)
        return best
