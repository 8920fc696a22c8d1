"""A small, safe subset of Markdown: everything is escaped first, so text from files and users cannot become markup."""

from __future__ import annotations

import html
import re

__all__ = ["escape", "inline", "render"]

_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[([^\]\n]+)\]\(([^)\s]+)\)")
_STRONG = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*")
_EMPHASIS = re.compile(r"(?<![\w*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![\w*])")
_BULLET = re.compile(r"[-*] ")
_NUMBER = re.compile(r"\d+\. ")
_SAFE = ("https://", "http://", "mailto:", "#", "./", "../")


def escape(text: object) -> str:
    """Escape for HTML text and for double-quoted attributes."""
    return html.escape(str(text), quote=True)


def _link(match: re.Match[str]) -> str:
    label, target = match.group(1), match.group(2)
    if not target.startswith(_SAFE):  # javascript: and data: stay plain text
        return match.group(0)
    return f'<a href="{target}">{label}</a>'


def inline(text: str) -> str:
    """Render code, links, bold and emphasis within one line of text."""
    parts = _CODE.split(text)
    out = []
    for index, part in enumerate(parts):
        if index % 2:
            out.append(f"<code>{escape(part)}</code>")
            continue
        safe = _LINK.sub(_link, escape(part))
        out.append(_EMPHASIS.sub(r"<em>\1</em>", _STRONG.sub(r"<strong>\1</strong>", safe)))
    return "".join(out)


def _list(lines: list[str], marker: re.Pattern[str]) -> str | None:
    """Render lines as list items when the first has the marker and the others have it or are indented."""
    items: list[str] = []
    for line in lines:
        match = marker.match(line)
        if match:
            items.append(line[match.end() :])
        elif items and line.startswith("  "):
            items[-1] += " " + line.strip()
        else:
            return None
    return "".join(f"<li>{inline(item)}</li>" for item in items)


def _block(lines: list[str]) -> str:
    for tag, marker in (("ul", _BULLET), ("ol", _NUMBER)):
        items = _list(lines, marker)
        if items is not None:
            return f"<{tag}>{items}</{tag}>"
    if len(lines) == 1 and lines[0].startswith("### "):
        return f"<h3>{inline(lines[0][4:])}</h3>"
    return f"<p>{inline(' '.join(line.strip() for line in lines))}</p>"


def render(text: str) -> str:
    """Render paragraphs, ``- `` and ``1. `` lists, ``### `` headings and fenced code blocks."""
    out: list[str] = []
    pending: list[str] = []
    code: list[str] | None = None

    def flush() -> None:
        if pending:
            out.append(_block(pending))
            pending.clear()

    for line in text.strip("\n").splitlines():
        if line.lstrip().startswith("```"):
            if code is None:
                flush()
                code = []
            else:
                out.append(f'<pre tabindex="0"><code>{escape(chr(10).join(code))}</code></pre>')
                code = None
        elif code is not None:
            code.append(line)
        elif line.strip():
            pending.append(line)
        else:
            flush()
    flush()
    if code is not None:
        out.append(f'<pre tabindex="0"><code>{escape(chr(10).join(code))}</code></pre>')
    return "\n".join(out)
