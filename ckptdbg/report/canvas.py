"""Drawing as SVG that a page can hold inline: no network, light and dark, selectable text, NaN hatched."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.report.names import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the text colour while drawing; the finished SVG has ``currentColor`` there, which follows the theme."""
THEME = "<style>svg{color:#33363d}@media(prefers-color-scheme:dark){svg{color:#c9ccd3}}</style>"
MARKED = "#ff5a36"


@dataclass(frozen=True)
class Picture:
    """A finished picture: ``uri`` is a ``data:`` address for an ``img``, ``alt`` says in words what it shows."""

    uri: str
    alt: str


@contextmanager
def own_style() -> Iterator[None]:
    """Matplotlib as shipped: a user's style (LaTeX text, a dark background) must not break or recolour a report."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        # Text stays text (selectable, small), and the same result gives the same bytes.
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ckptdbg"})
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    # Figure alone, not pyplot: nothing global, no display, no leak.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def hatch(ax: Axes, mask: NDArray[np.bool_]) -> None:
    """Hatch the cells of ``mask`` ``[rows, columns]``, one rectangle for each run of cells in a row."""
    from matplotlib.patches import Rectangle

    for row, column, width in _runs(mask):
        ax.add_patch(
            Rectangle((column - 0.5, row - 0.5), width, 1, fill=False, hatch="////", edgecolor=INK, linewidth=0)
        )


def outline(ax: Axes, mask: NDArray[np.bool_]) -> None:
    """Draw the border of the cells of ``mask``."""
    from matplotlib.collections import LineCollection

    padded = np.pad(mask, 1)
    across = [((c - 0.5, r - 0.5), (c + 0.5, r - 0.5)) for r, c in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])]
    down = [((c - 0.5, r - 0.5), (c - 0.5, r + 0.5)) for r, c in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])]
    ax.add_collection(LineCollection(across + down, colors=MARKED, linewidths=1.8, clip_on=False), autolim=False)


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Row, first column and length of every run of True."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    starts, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return [(int(r), int(c), int(e - c)) for (r, c), (_, e) in zip(starts, ends, strict=True)]


def ticks(setter: Any, labels: tuple[str, ...], cells: int, limit: int, *, most: int = 48, rotation: int = 0) -> None:
    """Label every cell, or every n-th where they would touch. A shrunk axis is labelled by its groups' first names."""
    if not labels:
        setter([])
        return
    step = max(1, math.ceil(cells / most))
    chosen = range(0, cells, step)
    names = [_short(labels[i if len(labels) <= limit else i * len(labels) // cells]) for i in chosen]
    # Dollar signs would otherwise start a formula, and a hostile name could stop the drawing.
    setter(list(chosen), names, rotation=rotation, fontsize=7, color=INK, parse_math=False)


def label_height(labels: tuple[str, ...]) -> float:
    """Inches that the longest of ``labels`` takes when it stands upright."""
    return 0.075 * max((len(_short(label)) for label in labels), default=0)


def _short(name: str, most: int = 34) -> str:
    name = visible(name)
    return name if len(name) <= most else f"…{name[1 - most :]}"


def strip(ax: Axes) -> None:
    """Leave only the two axes that carry numbers."""
    ax.tick_params(colors=INK, labelsize=8)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


def png(figure: Figure, dpi: int = 100) -> bytes:
    """The figure on white, for where SVG cannot be shown."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def finish(figure: Figure, alt: str) -> Picture:
    """The figure as a picture, on no background."""
    figure.patch.set_alpha(0)
    for ax in figure.axes:
        ax.patch.set_alpha(0)
        ax.tick_params(colors=INK)
        for spine in ax.spines.values():
            spine.set_edgecolor(INK)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue().replace(INK, "currentColor").replace("<defs>", f"{THEME}<defs>", 1)
    data = base64.b64encode(svg.encode()).decode()
    return Picture(uri=f"data:image/svg+xml;base64,{data}", alt=alt)
