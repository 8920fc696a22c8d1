"""Tables: rows or columns of plain values to HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from elinvar.errors import InputError

from .markup import escape, inline

__all__ = ["number", "table_html"]

_WORDS = ("better", "worse", "inconclusive")


def number(value: float) -> str:
    """Write a number with four significant digits and thin spaces between thousands: ``12 345``, ``0.01235``."""
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.4g}"


def _cell(value: object, *, numeric: bool) -> str:
    if value is None:
        return '<td class="num">–</td>' if numeric else "<td>–</td>"
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, (int, float)):
        return f'<td class="num">{number(value)}</td>'
    text = str(value)
    style = f' class="{text}"' if text in _WORDS else ""
    return f"<td{style}>{inline(text)}</td>"


def _plain(value: object) -> object:
    """Unwrap numpy and torch scalars."""
    item = getattr(value, "item", None)
    return item() if item is not None and getattr(value, "ndim", None) == 0 else value


def _rows(table: Sequence[Mapping[str, object]] | Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    if not isinstance(table, Mapping):
        return [{name: _plain(value) for name, value in row.items()} for row in table]
    lengths = {len(column) for column in table.values()}
    if len(lengths) > 1:
        sizes = ", ".join(f"{name}: {len(column)}" for name, column in table.items())
        raise InputError(f"Page.table: columns of different length ({sizes}); give each column one value per row.")
    names = list(table)
    return [dict(zip(names, map(_plain, row), strict=True)) for row in zip(*table.values(), strict=True)]


def table_html(
    table: Sequence[Mapping[str, object]] | Mapping[str, Sequence[object]], caption: str | None = None
) -> str:
    """Return a table in a scrollable, focusable region; see `Page.table`."""
    rows = _rows(table)
    names = list(table) if isinstance(table, Mapping) else list(dict.fromkeys(key for row in rows for key in row))
    if not names:
        raise InputError("Page.table: no columns; pass rows with at least one entry, or named columns.")
    numeric = {
        name
        for name in names
        if rows
        and all(isinstance(row.get(name), (int, float, type(None))) for row in rows)
        and not any(isinstance(row.get(name), bool) for row in rows)
    }
    head = "".join(
        f'<th scope="col"{" class=num" if name in numeric else ""}>{inline(str(name))}</th>' for name in names
    )
    body = "".join(
        f"<tr>{''.join(_cell(row.get(name), numeric=name in numeric) for name in names)}</tr>" for row in rows
    )
    below = f"<caption>{inline(caption)}</caption>" if caption else ""
    label = escape(caption or "Table")
    return (
        f'<div class="table" role="region" tabindex="0" aria-label="{label}"><table>{below}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
