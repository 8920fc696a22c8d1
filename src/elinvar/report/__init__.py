"""One HTML page that holds its pictures, figures, tables and players, and never touches the network.

`Page` builds it; `bars`, `roofline_plot` and `image_figure` draw what every engine needs.
"""

from __future__ import annotations

from .figures import bars, image_figure, roofline_plot
from .page import Page

__all__ = ["Page", "bars", "image_figure", "roofline_plot"]
