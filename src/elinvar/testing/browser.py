"""Opening a generated page in a real browser, from disk and without network, and saying what is wrong with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elinvar.errors import InputError, MissingDependency

__all__ = ["BROWSERS", "PageReport", "browser_session", "find_browser", "open_page"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

_kept = threading.local()
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio", "--hide-scrollbars")

# One look at the finished page: what is there, and what did not load.
_LOOK = """() => {
  const where = (e) => (e.getAttribute("alt") || e.getAttribute("aria-label") || e.outerHTML.slice(0, 80));
  const images = [...document.images];
  const players = [...document.querySelectorAll("audio, video")];
  const plots = [...document.querySelectorAll(".plot")];
  return {
    title: document.title,
    images: images.length,
    broken_images: images.filter((i) => !(i.complete && i.naturalWidth > 0)).map(where),
    unlabelled: images.filter((i) => !i.getAttribute("alt")).length,
    figures: plots.filter((p) => p.querySelector("svg.main-svg")).length,
    missing_figures: plots.filter((p) => !p.querySelector("svg.main-svg")).map(where),
    players: players.length,
    broken_players: players.filter((p) => p.error || p.readyState < 1).map(where),
    overflow: document.documentElement.scrollWidth > window.innerWidth + 1,
  };
}"""

_SETTLED = """() => document.readyState === "complete"
  && (!document.querySelector(".plot") || document.documentElement.dataset.plots === "done")
  && [...document.querySelectorAll("audio, video")].every((p) => p.error || p.readyState >= 1)"""


@dataclass(frozen=True)
class PageReport:
    """What a browser made of a page.

    Attributes
    ----------
    console_errors
        Errors in the console, uncaught exceptions and policy violations.
    requests
        Addresses the page asked for beyond its own file: must be empty.
    images, broken_images
        How many pictures there are; those that did not load, by their alternative text.
    figures, missing_figures
        How many plotly figures were drawn as SVG; those that were not.
    players, broken_players
        How many audio and video players there are; those without playable data.
    unlabelled
        Pictures without alternative text.
    overflow
        Whether the page is wider than the window.
    title, screenshot
        The window's title; a PNG of the whole page.
    """

    title: str
    console_errors: tuple[str, ...]
    requests: tuple[str, ...]
    images: int
    broken_images: tuple[str, ...]
    unlabelled: int
    figures: int
    missing_figures: tuple[str, ...]
    players: int
    broken_players: tuple[str, ...]
    overflow: bool
    screenshot: bytes

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything wrong, one sentence each; empty for a sound page."""
        lists = {
            "console": self.console_errors,
            "network": self.requests,
            "broken image": self.broken_images,
            "missing figure": self.missing_figures,
            "broken player": self.broken_players,
        }
        found = [f"{kind}: {what}" for kind, entries in lists.items() for what in entries]
        if self.unlabelled:
            found.append(f"{self.unlabelled} pictures have no alternative text")
        if self.overflow:
            found.append("the page is wider than the window")
        return tuple(found)


def find_browser() -> str:
    """Return the path of an installed Chromium or Chrome.

    Raises
    ------
    MissingDependency
        There is none; the message says how to get one.
    """
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    raise MissingDependency("testing.open_page: no chromium here; install it with `sudo apt-get install chromium`.")


@contextlib.contextmanager
def browser_session() -> Iterator[Any]:
    """Yield a running Chromium (playwright's Browser); sessions and :func:`open_page` inside share it.

    Starting a browser takes longer than looking at a page. While it runs, playwright's event loop occupies this thread.

    Raises
    ------
    MissingDependency
        playwright or a browser is missing.
    """
    running = getattr(_kept, "browser", None)
    if running is not None:
        yield running
        return
    path = find_browser()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise MissingDependency("testing.open_page: needs playwright; `pip install 'elinvar[dev]'`.") from error
    with sync_playwright() as driver:
        _kept.browser = driver.chromium.launch(executable_path=path, args=list(_FLAGS), headless=True)
        try:
            yield _kept.browser
        finally:
            browser, _kept.browser = _kept.browser, None
            browser.close()


def _watch(page: Any, errors: list[str], requests: list[str], own: str) -> None:
    """Record console errors and every request that leaves the file."""
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))

    def asked(request: Any) -> None:
        address = str(request.url)
        if not address.startswith(("data:", "blob:")) and address.partition("#")[0] != own:
            requests.append(address)

    page.on("request", asked)


def _settled(page: Any, timeout: float) -> bool:
    from playwright.sync_api import Error

    try:
        page.wait_for_function(_SETTLED, timeout=timeout * 1e3)
    except Error:
        return False
    return True


def _picture(page: Any) -> bytes:
    """Take a picture of the whole page; again when a busy machine's Chromium had no frame to take."""
    from playwright.sync_api import Error

    for _ in range(2):
        with contextlib.suppress(Error):
            return bytes(page.screenshot(full_page=True))
    return bytes(page.screenshot(full_page=True))


def open_page(
    path: str | os.PathLike[str],
    *,
    width: int = 1280,
    height: int = 900,
    dark: bool = False,
    timeout: float = 60.0,
) -> PageReport:
    """Open an HTML file from disk in headless Chromium, offline, wait until it has settled, and report.

    Parameters
    ----------
    path
        The file; opened as ``file://``.
    width, height
        Window, CSS pixels.
    dark
        Ask for the dark colour scheme.
    timeout
        Seconds to wait for figures and players; what is not ready then is reported, not raised.

    Raises
    ------
    InputError
        The file does not exist.
    MissingDependency
        playwright or a browser is missing.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise InputError(f"testing.open_page: there is no file {path}; write the page first.")
    console: list[str] = []
    requests: list[str] = []
    with browser_session() as browser:
        context = browser.new_context(
            viewport={"width": width, "height": height}, offline=True, color_scheme="dark" if dark else "light"
        )
        try:
            page = context.new_page()
            _watch(page, console, requests, file.as_uri())
            page.goto(file.as_uri(), wait_until="load", timeout=timeout * 1e3)
            if not _settled(page, timeout):
                console.append(f"the page did not settle within {timeout:g} s")
            facts: dict[str, Any] = page.evaluate(_LOOK)
            screenshot = _picture(page)
        finally:
            context.close()
    return PageReport(
        title=facts["title"],
        console_errors=tuple(console),
        requests=tuple(requests),
        images=facts["images"],
        broken_images=tuple(facts["broken_images"]),
        unlabelled=facts["unlabelled"],
        figures=facts["figures"],
        missing_figures=tuple(facts["missing_figures"]),
        players=facts["players"],
        broken_players=tuple(facts["broken_players"]),
        overflow=facts["overflow"],
        screenshot=screenshot,
    )
