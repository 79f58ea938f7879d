"""The pictures of a report: ratios over layers and sites, and the values at the first divergence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.report.canvas import INK, Picture, figure, finish, hatch, label_height, outline, own_style, strip, ticks
from ckptdbg.report.grid import Floats, Grid, shrink
from ckptdbg.report.names import number, visible
from ckptdbg.result import Noise, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ckptdbg.compare.comparison import Comparison

LARGEST = (96, 128)
"""Rows and columns drawn at most: beyond that one cell is smaller than a pixel on a page."""


@dataclass(frozen=True)
class Pictures:
    """The values at the first divergence, source carried into the target's layout.

    The arrays are real ``[rows, columns]`` of one shape: tokens by features. Labels may be empty.
    """

    title: str
    source: NDArray[np.generic]
    target: NDArray[np.generic]
    difference: NDArray[np.generic]
    row_labels: tuple[str, ...] = ()
    column_labels: tuple[str, ...] = ()


def pictures_of(comparison: Comparison, result: Result) -> Pictures | None:
    """The values at the first divergence of ``result``; None where the models do not part."""
    first = result.first_divergence
    if first is None:
        return None
    parted = next((site for site in comparison.sites if site.free.divergent), None)
    place = comparison.output if first.port == "output" or parted is None else parted
    source, target = (np.asarray(x, np.float64) for x in (place.source, place.target))
    layer = "" if first.layer is None else f", layer {first.layer}"
    tokens = tuple(str(row) for row in range(len(source)))
    features = tuple(str(column) for column in range(source.shape[1]))
    with np.errstate(invalid="ignore"):
        return Pictures(f"{first.site} {first.port}{layer}", source, target, target - source, tokens, features)


@own_style()
def ratios(grid: Grid, noise: Noise) -> Picture:
    """Free-running and isolated ratios side by side on one log scale, with the two thresholds on it."""
    return finish(ratios_figure(grid, noise), _alt_ratios(grid, noise))


def ratios_figure(grid: Grid, noise: Noise) -> Figure:
    """``ratios`` before it is written, to be drawn under ``own_style``."""
    sheet = figure(
        width=max(7.0, 2.6 + 0.34 * min(len(grid.sites), LARGEST[1])),
        height=1.0 + label_height(grid.sites) + 0.24 * min(len(grid.layers), LARGEST[0]),
    )
    both = np.stack([grid.free, grid.isolated])
    finite = both[np.isfinite(both)]
    top = max(1.25 * math.log10(noise.divergent), math.log10(finite.max()) if finite.size and finite.max() > 0 else 0)
    axes = sheet.subplots(1, 2, sharey=True)
    image = None
    for ax, values, name in zip(axes, both, ("free running", "each piece alone"), strict=True):
        shown = shrink(np.where(np.isinf(values), np.nan, _log10(values)), *LARGEST)
        image = ax.imshow(shown, cmap="viridis", vmin=0, vmax=top, aspect="auto", interpolation="none")
        hatch(ax, shrink(np.isinf(values).astype(float), *LARGEST) > 0)
        outline(ax, shown > math.log10(noise.divergent))
        ax.set_title(name, fontsize=10, color=INK)
        ticks(ax.set_xticks, grid.sites, shown.shape[1], LARGEST[1], rotation=90)
        ticks(ax.set_yticks, grid.layers, shown.shape[0], LARGEST[0])
    axes[0].set_ylabel("layer" if grid.layers != ("",) else "", color=INK)
    assert image is not None
    bar = sheet.colorbar(image, ax=axes, fraction=0.025, pad=0.015)
    for limit in (noise.suspect, noise.divergent):
        bar.ax.axhline(math.log10(limit), color="white", linewidth=2.5)
        bar.ax.axhline(math.log10(limit), color="black", linewidth=1)
    _decades(bar, top, noise)
    return sheet


@own_style()
def course(result: Result) -> Picture:
    """Ratio in execution order: the line leaves noise where the models part."""
    sites = sorted(result.sites, key=lambda site: site.order)
    sheet = figure(width=11, height=2.4)
    ax = sheet.subplots()
    orders = np.arange(len(sites))
    free = np.array([_number(site.ratio) for site in sites])
    alone = np.array([_number(site.isolated.ratio if site.isolated else None) for site in sites])
    for limit, name, side in (
        (result.noise.suspect, "suspect", "top"),
        (result.noise.divergent, "divergent", "bottom"),
    ):
        ax.axhline(limit, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.7)
        ax.annotate(name, (1.002, limit), xycoords=("axes fraction", "data"), color=INK, fontsize=8, va=side)
    ax.plot(orders, free, color="#4f8a8b", linewidth=1.6, label="free running")
    ax.plot(orders, alone, "o", color="#d1603d", markersize=4, label="each piece alone")
    ax.set_yscale("log")
    ax.set_xlim(-0.5, max(0.5, len(sites) - 0.5))
    ax.set_xlabel("sites in execution order", color=INK)
    ax.set_ylabel("times noise", color=INK)
    ax.legend(frameon=False, labelcolor=INK, fontsize=8, loc="upper left", bbox_to_anchor=(0, 1.18), ncols=2)
    strip(ax)
    return finish(sheet, "Ratio of error to rounding noise at every site, in execution order, on a log scale.")


@own_style()
def values(pictures: Pictures) -> Picture:
    """Source, target and their difference, tokens by features; the two models share one scale."""
    return finish(values_figure(pictures), _alt_values(pictures))


def values_figure(pictures: Pictures) -> Figure:
    """``values`` before it is written, to be drawn under ``own_style``."""
    sheet = figure(width=11, height=3.2 + label_height(pictures.column_labels))
    parts = [np.asarray(a, dtype=np.float64) for a in (pictures.source, pictures.target, pictures.difference)]
    small = [shrink(part, *LARGEST) for part in (parts[0], parts[1], np.abs(parts[2]))]
    limit = max((float(np.abs(part[np.isfinite(part)]).max(initial=0)) for part in small[:2]), default=0) or 1.0
    axes = sheet.subplots(1, 3, sharey=True)
    for ax, part, name in zip(axes, small, ("source", "target", "size of the difference"), strict=True):
        bounds: dict[str, float] = {} if name.startswith("size") else {"vmin": -limit, "vmax": limit}
        shown = np.where(np.isfinite(part), part, np.nan)
        cmap = "cividis" if bounds else "viridis"
        image = ax.imshow(shown, cmap=cmap, aspect="auto", interpolation="none", **bounds)
        hatch(ax, ~np.isfinite(part))
        ax.set_title(name, fontsize=10, color=INK)
        ticks(ax.set_xticks, pictures.column_labels, shown.shape[1], LARGEST[1], most=20, rotation=90)
        ticks(ax.set_yticks, pictures.row_labels, shown.shape[0], LARGEST[0], most=20)
        bar = sheet.colorbar(image, ax=ax, fraction=0.046, pad=0.02)
        bar.ax.tick_params(colors=INK, labelsize=7)
        bar.outline.set_visible(False)  # type: ignore[operator]
    axes[0].set_ylabel("tokens", color=INK)
    return sheet


def _alt_values(pictures: Pictures) -> str:
    parts = [np.asarray(a, dtype=np.float64) for a in (pictures.source, pictures.target, pictures.difference)]
    rows, columns = parts[0].shape
    worst = float(np.nanmax(np.abs(parts[2]))) if np.isfinite(parts[2]).any() else math.nan
    bad = sum(int((~np.isfinite(part)).sum()) for part in parts[:2])
    alt = f"{visible(pictures.title)}: {rows} tokens by {columns} features; largest difference {number(worst)}."
    return alt + (f" {bad} values are not finite (hatched)." if bad else "")


def _log10(values: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log10(values), 0)


def _number(value: float | None) -> float:
    return math.nan if value is None or value <= 0 else value


def _decades(bar: Any, top: float, noise: Noise) -> None:
    whole = {float(n) for n in range(math.floor(top) + 1)} | {math.log10(noise.divergent), math.log10(noise.suspect)}
    near = sorted(whole)
    names = {math.log10(noise.suspect): "suspect", math.log10(noise.divergent): "divergent"}
    bar.set_ticks(near, labels=[names.get(n, f"1e{n:g}") for n in near])
    bar.ax.tick_params(colors=INK, labelsize=7)
    bar.set_label("times rounding noise", color=INK, fontsize=8)
    bar.outline.set_visible(False)


def _alt_ratios(grid: Grid, noise: Noise) -> str:
    parts = []
    for name, values in (("free running", grid.free), ("each piece alone", grid.isolated)):
        beyond = int((values > noise.divergent).sum())
        parts.append(f"{name}: {beyond} of {int((~np.isnan(values)).sum())} beyond the divergent threshold")
    return f"Ratio of error to rounding noise for {len(grid.layers)} layers by {len(grid.sites)} sites. " + "; ".join(
        parts
    )
