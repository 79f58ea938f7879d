"""Pictures of what the widgets show, for where no widget runs."""

from __future__ import annotations

from ckptdbg.report.canvas import own_style, png
from ckptdbg.report.grid import Grid
from ckptdbg.report.pictures import Pictures, ratios_figure, values_figure
from ckptdbg.result import Noise


@own_style()
def ratios_png(grid: Grid, noise: Noise) -> bytes:
    """Free-running and isolated ratios side by side."""
    return png(ratios_figure(grid, noise), dpi=80)


@own_style()
def values_png(pictures: Pictures) -> bytes:
    """Source, target and difference side by side."""
    return png(values_figure(pictures), dpi=80)
