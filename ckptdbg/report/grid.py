"""The sites as a picture sees them: layers by sites, and shrinking without losing what matters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ckptdbg.report.words import where
from ckptdbg.result import Result, Site

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Ratios by layer and site, both in execution order.

    ``free`` and ``isolated`` are ``[layers, sites]``: NaN where nothing was compared, infinite where a value was not
    finite. A site outside every layer (an embedding, the output) fills its column. Several sites in one cell (experts,
    groups) show the worst.
    """

    layers: tuple[str, ...]
    sites: tuple[str, ...]
    free: Floats
    isolated: Floats
    outside: frozenset[int] = frozenset()
    """Columns of sites outside every layer."""


def layers_by_sites(result: Result) -> Grid:
    """The grid of a result; without layers it has one row, named by the empty string."""
    sites = sorted(result.sites, key=lambda site: site.order)
    layers = list(dict.fromkeys(site.layer for site in sites if site.layer is not None)) or [""]
    columns = list(dict.fromkeys(where(site) for site in sites))
    free, isolated = (np.full((len(layers), len(columns)), np.nan) for _ in range(2))
    for site in sites:
        row = slice(None) if site.layer is None else layers.index(site.layer)
        column = columns.index(where(site))
        for values, ratio in ((free, _cell(site, site.ratio)), (isolated, _isolated(site))):
            values[row, column] = np.fmax(values[row, column], ratio)
    outside = frozenset(columns.index(where(site)) for site in sites if site.layer is None)
    return Grid(tuple(layers), tuple(columns), free, isolated, outside)


def _cell(site: Site, ratio: float | None) -> float:
    if ratio is None:
        return math.inf if site.nonfinite else math.nan
    return math.inf if math.isnan(ratio) else ratio


def _isolated(site: Site) -> float:
    return math.nan if site.isolated is None else _cell(site, site.isolated.ratio)


def shrink(values: Floats, rows: int, columns: int) -> Floats:
    """``values`` ``[m, n]`` in at most ``[rows, columns]`` cells, each showing its largest magnitude; NaN wins.

    Drawing every n-th cell instead would lose most single bad elements of a large matrix.
    """
    for axis, limit in ((0, rows), (1, columns)):
        size = values.shape[axis]
        if size > limit:
            starts = np.arange(limit) * size // limit
            high, low = (pick.reduceat(values, starts, axis=axis) for pick in (np.maximum, np.minimum))
            values = np.where(high >= -low, high, low)
    return values
