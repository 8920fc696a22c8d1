"""The page with slices on demand: a server for one volume, for this machine only."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.seismic.volume import Source, Volume

from .page import html
from .samples import Bytes, Codec, describe, encode

__all__ = ["Server", "serve"]

_KEPT = 64 << 20  # bytes of slices kept
_READABLE = 1 << 31  # bytes of a volume from which a time slice is read whole
_HOSTS = ("127.0.0.1", "localhost")


class _Unavailable(Exception):
    """A slice cannot be made; the message is shown in its place."""


class Slices:
    """Slices of a volume as bytes, read once and kept a while; safe to use from several threads."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.codec = Codec.of(volume)
        self.panels = None if volume.gathers is None else Codec.of(volume, gathers=True)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, ...], Bytes] = OrderedDict()
        self._coarse: tuple[NDArray[np.float32], tuple[int, int, int], int] | None = None
        self._looked = False

    def get(self, *path: str) -> Bytes:
        """Return the slice at ``slice/inline/3`` or ``gather/3/7`` as bytes (columns, rows).

        Raises
        ------
        KeyError
            There is no such slice.
        _Unavailable
            It would take too long.
        """
        with self._lock:
            found = self._kept.get(path)
            if found is None:
                found = np.ascontiguousarray(self._read(*path))
                self._kept[path] = found
                while sum(a.nbytes for a in self._kept.values()) > _KEPT and len(self._kept) > 1:
                    self._kept.popitem(last=False)
            else:
                self._kept.move_to_end(path)
            return found

    def _read(self, *path: str) -> Bytes:
        nx, ny, nt = self.volume.shape
        if len(path) != 3 or path[0] not in {"slice", "gather"}:
            raise KeyError(path)
        if path[0] == "gather":
            i, j = _index(path[1], nx), _index(path[2], ny)
            if self.volume.gathers is None or self.panels is None:
                raise KeyError(path)
            return encode(self.volume.gathers[i, j].values, self.panels)
        size = {"inline": nx, "crossline": ny, "time": nt}.get(path[1])
        if size is None:
            raise KeyError(path)
        at = _index(path[2], size)
        image = self.volume.image
        if path[1] == "inline":
            return encode(image[at].values, self.codec)
        if path[1] == "crossline":
            return encode(image[:, at].values, self.codec)
        return encode(self._level(at).T, self.codec)

    def _level(self, k: int) -> NDArray[np.float32]:
        """Return a time slice (nx, ny): of the volume, or of its pyramid, each of its bins shown as several."""
        if not self._looked:
            self._coarse, self._looked = self.volume.overview(), True
        if self._coarse is not None:
            values, (fx, fy, ft), _ = self._coarse
            level = values[:, :, min(k // ft, values.shape[2] - 1)]
            nx, ny, _ = self.volume.shape
            return np.repeat(np.repeat(level, fx, axis=0)[:nx], fy, axis=1)[:, :ny]
        if self.volume.image.size * 4 > _READABLE:
            raise _Unavailable(
                "A time slice of this volume is read from all of it: run `elinvar seismic pyramid` first."
            )
        return np.asarray(self.volume.image[:, :, k].values, np.float32)


def _index(text: str, size: int) -> int:
    if not text.isdecimal() or int(text) >= size:
        raise KeyError(text)
    return int(text)


class _Listener(ThreadingHTTPServer):
    """Listens; a browser that no longer wants its answer is not an error."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what went wrong in a request, but not that the other side went away."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Server:
    """A viewer on ``http://127.0.0.1``, in a thread of its own.

    Parameters
    ----------
    source
        An Image, its Dataset, or its Zarr folder.
    port
        0 takes a free one.

    Attributes
    ----------
    url
        Where the page is.

    Raises
    ------
    InputError
        The port is taken.
    """

    def __init__(self, source: Source, port: int = 0) -> None:
        self._volume = Volume.open(source)
        try:
            slices = Slices(self._volume)
            known = describe(self._volume, slices.codec, slices.panels, mode="server", gather_step=1)
            page = html(known).encode("utf-8")
            self._server = _Listener((_HOSTS[0], port), _handler(page, slices.get))
        except OSError as error:
            self._volume.close()
            raise InputError(
                f"viewer: port {port} cannot be used ({error.strerror or error}); give another one, or 0 for any."
            ) from error
        except BaseException:
            self._volume.close()
            raise
        self.port = int(self._server.server_address[1])
        self.url = f"http://{_HOSTS[0]}:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="elinvar-viewer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Server:  # noqa: PYI034 - final in practice
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering and close the volume."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._volume.close()

    def wait(self) -> None:
        """Wait until interrupted."""
        while self._thread.is_alive():
            self._thread.join(0.5)


def serve(source: Source, port: int = 0) -> Server:
    """Start a viewer of a volume of any size and return it; close it when done. See :class:`Server`."""
    return Server(source, port)


def _handler(page: bytes, slices: Callable[..., Bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers GET for the page and its slices, and nothing else."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Answer one request."""
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            if host not in _HOSTS:  # another site whose name was pointed at this machine must not read the data
                self._answer(HTTPStatus.FORBIDDEN, b"This viewer answers to 127.0.0.1 only.")
                return
            path = self.path.partition("?")[0].strip("/")
            if not path:
                self._answer(HTTPStatus.OK, page, "text/html; charset=utf-8")
                return
            try:
                found = slices(*path.split("/"))
            except KeyError:
                self._answer(HTTPStatus.NOT_FOUND, b"There is no such slice.")
            except _Unavailable as error:
                self._answer(HTTPStatus.CONFLICT, str(error).encode("utf-8"))
            else:
                shape = {"X-Width": str(found.shape[0]), "X-Height": str(found.shape[1])}
                self._answer(HTTPStatus.OK, found.tobytes(), "application/octet-stream", shape)

        def _answer(
            self,
            status: HTTPStatus,
            body: bytes,
            kind: str = "text/plain; charset=utf-8",
            more: dict[str, str] | None = None,
        ) -> None:
            self.send_response(status)
            headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
            for name, value in {**headers, "X-Content-Type-Options": "nosniff", **(more or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Keep quiet: the terminal belongs to the command."""

    return Handler
