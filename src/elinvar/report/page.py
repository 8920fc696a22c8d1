"""One HTML file that holds everything: text, tables, pictures, figures, players. No network, ever."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from elinvar.errors import InputError, MissingDependency
from elinvar.runtime.files import write_text

from . import png
from .markup import escape, inline, render
from .tables import table_html
from .wav import encode as encode_wav

__all__ = ["Page"]

_HERE = Path(__file__).parent

# Whatever ends up in the page, the browser may load nothing that is not in the file itself.
_POLICY = (
    "default-src 'none'; img-src data: blob:; media-src data: blob:; font-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def _data(kind: str, body: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(body).decode('ascii')}"


def _slug(title: str, taken: set[str]) -> str:
    base = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
    slug, number = base, 2
    while slug in taken:
        slug, number = f"{base}-{number}", number + 1
    return slug


def _bytes(data: bytes | bytearray | str | os.PathLike[str], what: str) -> bytes:
    if isinstance(data, (bytes, bytearray)):
        return bytes(data)
    try:
        return Path(data).read_bytes()
    except OSError as error:
        raise InputError(f"Page.{what}: cannot read {data} ({error.strerror or error}); check the path.") from error


class Page:
    """A self-contained HTML page, built block by block and written whole or not at all.

    Light and dark by the reader's system, printable, readable on a phone, without network. plotly.js (4.8 MB) is
    included once, and only when `figure` was used.

    Parameters
    ----------
    title
        The heading and the window's title.
    subtitle
        One or two sentences under it, in the markup of `text`.
    footer
        Small print at the end, in the markup of `text`: the machine, the version.

    Examples
    --------
    >>> page = Page("A survey, migrated")
    >>> page.section("Image", "What the data say about the ground.")
    >>> page.text("Focus error **0.3 m**.")
    >>> "Focus error <strong>0.3 m</strong>" in page.html_text()
    True
    """

    def __init__(self, title: str, subtitle: str | None = None, footer: str | None = None) -> None:
        self.title = title
        self.subtitle = subtitle
        self.footer = footer
        self._sections: list[tuple[str, str]] = []
        self._body: list[str] = []
        self._target = self._body
        self._plots = 0
        self._own_scripts: dict[str, None] = {}
        self._open = False

    def section(self, title: str, intro: str | None = None) -> None:
        """Start a section; it gets an entry in the navigation when there are at least three."""
        slug = _slug(title, {known for known, _ in self._sections})
        self._sections.append((slug, title))
        self._close()
        self._body.append(f'<section id="{slug}" aria-labelledby="{slug}-title">')
        self._body.append(f'<h2 id="{slug}-title">{inline(title)}</h2>')
        if intro:
            self._body.append(f'<p class="intro">{inline(intro)}</p>')
        self._open = True

    def _close(self) -> None:
        if self._open:
            self._body.append("</section>")
        self._open = False

    def text(self, text: str) -> None:
        """Add text: paragraphs, ``- `` lists, ``### `` headings, ``**bold**``, ``*italic*``, ```code```, links.

        Everything else is shown as it is; HTML in it is escaped.
        """
        self._target.append(render(text))

    def note(self, text: str) -> None:
        """Add a paragraph set apart: what to be careful about."""
        self._target.append(f'<div class="note" role="note">{render(text)}</div>')

    def html(self, markup: str) -> None:
        """Add raw HTML. It is not checked or escaped: never pass text that came from a file or a user."""
        self._target.append(markup)

    def script(self, script: str) -> None:
        """Add JavaScript to the end of the page, once however often it is given; like `html`, it is not checked."""
        self._own_scripts.setdefault(script)

    def facts(self, facts: Sequence[tuple[object, str]]) -> None:
        """Add a row of large numbers, each ``(value, what it is)``."""
        tiles = "".join(f"<div><dt>{inline(label)}</dt><dd>{escape(value)}</dd></div>" for value, label in facts)
        self._target.append(f'<dl class="facts">{tiles}</dl>')

    @contextlib.contextmanager
    def row(self) -> Iterator[None]:
        """Set what is added inside the block side by side, as many as fit the screen."""
        outer = self._target
        inner: list[str] = []
        self._target = inner
        try:
            yield
        finally:
            self._target = outer
            outer.append(f'<div class="row">{"".join(inner)}</div>')

    def _figure(self, content: str, caption: str | None) -> None:
        below = f"<figcaption>{inline(caption)}</figcaption>" if caption else ""
        self._target.append(f"<figure>{content}{below}</figure>")

    def image(
        self,
        image: Any,
        caption: str,
        alt: str | None = None,
        *,
        colours: str = "gray",
        limits: tuple[float, float] | None = None,
        aspect: float | None = None,
    ) -> None:
        """Add a picture.

        Parameters
        ----------
        image
            PNG bytes; or an array: uint8 (height, width), (height, width, 3) or (…, 4); floats in [0, 1] with three or
            four channels; or (height, width) of any other real dtype, coloured by `colours` between `limits`.
        caption
            Shown below, in the markup of `text`.
        alt
            What a reader who cannot see the picture should know; default: the caption.
        colours, limits
            See `elinvar.report.png.colour`: "gray", "gray_r", "seismic", "viridis", "heat".
        aspect
            Width over height on the page, when samples are not square.
        """
        if isinstance(image, (bytes, bytearray)):
            body = bytes(image)
        else:
            import numpy as np

            data = np.asarray(image)
            plain = data.dtype in (np.uint8, np.bool_) or data.ndim == 3
            body = png.encode(data) if plain else png.colour(data, colours, limits)
        width, height = png.size(body)
        classes = [name for name, wanted in (("pixels", width < 320), ("stretch", aspect is not None)) if wanted]
        attributes = f' class="{" ".join(classes)}"' if classes else ""
        if aspect is not None:
            attributes += f' style="aspect-ratio:{aspect:g}"'
        described = escape(alt if alt is not None else re.sub(r"[`*]", "", caption))
        source = _data("image/png", body)
        self._figure(f'<img src="{source}" width="{width}" height="{height}" alt="{described}"{attributes}>', caption)

    def figure(self, figure: Any, caption: str | None = None, alt: str | None = None) -> None:
        """Add an interactive plotly figure (or its dict); it takes the page's fonts and colours.

        `alt` describes it to a reader who cannot see it; default: the caption.
        """
        layout, body = _plot_json(figure)
        self._plots += 1
        name = f"plot-{self._plots}"
        described = escape(alt or re.sub(r"[`*]", "", caption or "Figure"))
        height = int(layout.get("height") or 420)
        self._figure(
            f'<div class="plot" id="{name}" role="img" aria-label="{described}" style="height:{height}px"></div>'
            f'<script type="application/json" id="{name}-data">{body}</script>'
            "<noscript><p>This figure needs JavaScript.</p></noscript>",
            caption,
        )

    def table(
        self, rows: Sequence[Mapping[str, object]] | Mapping[str, Sequence[object]], caption: str | None = None
    ) -> None:
        """Add a table from a list of rows (dicts; the first one's keys are the columns) or from columns.

        Numbers are right-aligned and written with four digits; None is a dash; cells that say better, worse or
        inconclusive are coloured.
        """
        self._target.append(table_html(rows, caption))

    def audio(
        self, audio: Any, caption: str, *, rate: int | None = None, mime: str = "audio/wav", alt: str | None = None
    ) -> None:
        """Add an audio player.

        Parameters
        ----------
        audio
            Bytes or the path of an encoded file of type `mime`; or samples in [-1, 1], shape (n,) or (channels, n),
            with `rate`: stored as 16-bit WAV, clipped.
        rate
            Samples per second; required for an array.
        """
        if isinstance(audio, (bytes, bytearray, str, os.PathLike)):
            body = _bytes(audio, "audio")
        elif rate is None:
            raise InputError("Page.audio: an array of samples needs rate=, the samples per second.")
        else:
            body, mime = encode_wav(audio, rate), "audio/wav"
        label = escape(alt or caption)
        self._figure(f'<audio controls preload="auto" aria-label="{label}" src="{_data(mime, body)}"></audio>', caption)

    def video(
        self,
        video: bytes | str | os.PathLike[str],
        caption: str,
        *,
        mime: str = "video/mp4",
        poster: Any = None,
        alt: str | None = None,
    ) -> None:
        """Add a video player for encoded bytes or a file; `poster` is a PNG or uint8 array shown before it starts."""
        still = ""
        if poster is not None:
            shown = bytes(poster) if isinstance(poster, (bytes, bytearray)) else png.encode(poster)
            still = f' poster="{_data("image/png", shown)}"'
        source = _data(mime, _bytes(video, "video"))
        label = escape(alt or caption)
        self._figure(
            f'<video controls playsinline preload="auto" aria-label="{label}" src="{source}"{still}></video>', caption
        )

    def _navigation(self) -> str:
        if len(self._sections) < 3:
            return ""
        links = "".join(f'<li><a href="#{slug}">{inline(title)}</a></li>' for slug, title in self._sections)
        return f'<nav aria-label="Sections"><ul>{links}</ul></nav>'

    def _scripts(self) -> str:
        own = [f"<script>{script}</script>" for script in self._own_scripts]
        if not self._plots:
            return "\n".join(own)
        try:
            from plotly.offline import get_plotlyjs
        except ImportError as error:
            raise MissingDependency("report: figures need plotly; install it with `pip install plotly`.") from error
        draw = (_HERE / "plots.js").read_text(encoding="utf-8")
        return "\n".join([f"<script>{get_plotlyjs()}</script>", f"<script>{draw}</script>", *own])

    def html_text(self) -> str:
        """Return the whole page."""
        style = (_HERE / "style.css").read_text(encoding="utf-8")
        subtitle = f'<div class="subtitle">{render(self.subtitle)}</div>' if self.subtitle else ""
        footer = f"<footer>{render(self.footer)}</footer>" if self.footer else ""
        body = "\n".join([*self._body, *(["</section>"] if self._open else [])])
        return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(self.title)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>{escape(self.title)}</h1>
{subtitle}
</header>
{self._navigation()}
<main id="content">
{body}
</main>
{footer}
{self._scripts()}
</body>
</html>
"""

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to `path`, whole or not at all, creating its folder; return the path."""
        write_text(path, self.html_text())
        return Path(path)


def _plot_json(figure: Any) -> tuple[dict[str, Any], str]:
    """Return (layout, JSON safe inside a script element) of a plotly figure, dressed for the page."""
    try:
        import plotly.io
    except ImportError as error:
        raise MissingDependency("report: figures need plotly; install it with `pip install plotly`.") from error
    if not (isinstance(figure, Mapping) or hasattr(figure, "to_plotly_json")):
        raise InputError(f"Page.figure: got a {type(figure).__name__}; pass a plotly figure or its dict.")
    plain = json.loads(str(plotly.io.to_json(figure, validate=False)))
    layout = plain.setdefault("layout", {})
    # plotly's default template has its own colours; the page's follow the reader's system instead.
    layout.pop("template", None)
    base: dict[str, Any] = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": ["#2f7fc1", "#e0792b", "#2e9e77", "#c8578f", "#8a6fd1", "#b08f1f"],
        "margin": {"l": 60, "r": 24, "t": 56 if layout.get("title") else 28, "b": 52},
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', Arial, sans-serif", "size": 13},
    }
    for key, value in base.items():
        layout[key] = {**value, **layout.get(key, {})} if isinstance(value, dict) else layout.get(key, value)
    for axis in {"xaxis", "yaxis", *(key for key in layout if re.fullmatch(r"[xy]axis\d*", key))}:
        given = layout.get(axis, {})
        title = given.get("title", {})
        title = {"text": title} if isinstance(title, str) else title
        layout[axis] = {"automargin": True, **given, "title": {"font": {"size": 13}, "standoff": 10, **title}}
    return layout, json.dumps({"data": plain["data"], "layout": layout}).replace("<", "\\u003c")
