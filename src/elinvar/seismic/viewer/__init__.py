"""A page to scroll a migrated volume and its gathers in a browser: one file, or a small server for large volumes.

Nothing is loaded from a network. A volume of up to :data:`LARGEST` bytes (one byte per sample) is put into the page
itself; a larger one is served slice by slice from this machine to this machine only.
"""

from __future__ import annotations

from .page import LARGEST, fits, write_page
from .server import Server, serve

__all__ = ["LARGEST", "Server", "fits", "serve", "write_page"]
