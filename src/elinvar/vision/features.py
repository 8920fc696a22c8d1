"""Encoded images, the most recently used ones kept, found again by their pixels."""

from __future__ import annotations

import collections
import hashlib
import threading

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from elinvar.errors import InputError

__all__ = ["FeatureCache", "fingerprint"]


def fingerprint(image: NDArray[np.uint8]) -> bytes:
    """Return a digest of an image's size and pixels."""
    digest = hashlib.sha256(repr(image.shape).encode())  # processors have instructions for it: twice as fast as others
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


class FeatureCache:
    """Least-recently-used tokens, bounded in bytes. Thread-safe.

    Parameters
    ----------
    max_bytes
        0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise InputError(f"FeatureCache: max_bytes={max_bytes} is negative; pass 0 to keep nothing.")
        self.max_bytes = max_bytes
        self.bytes = 0
        self._items: collections.OrderedDict[bytes, Tensor] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Tensor | None:
        """Return an image's tokens [1, n, width], or None."""
        with self._lock:
            found = self._items.get(key)
            if found is not None:
                self._items.move_to_end(key)
            return found

    def put(self, key: bytes, tokens: Tensor) -> None:
        """Keep an image's tokens, letting go of the oldest where needed."""
        size = tokens.numel() * tokens.element_size()
        with self._lock:
            old = self._items.pop(key, None)
            if old is not None:
                self.bytes -= old.numel() * old.element_size()
            if size > self.max_bytes:
                return
            # A slice of a batch would keep the whole batch alive.
            self._items[key] = tokens if tokens.untyped_storage().nbytes() == size else tokens.clone()
            self.bytes += size
            while self.bytes > self.max_bytes:
                _, gone = self._items.popitem(last=False)
                self.bytes -= gone.numel() * gone.element_size()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._items.clear()
            self.bytes = 0

    def __len__(self) -> int:
        return len(self._items)
