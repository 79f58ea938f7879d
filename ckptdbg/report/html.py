"""A result as one page: self-contained, nothing fetched, made to be read from the top."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptdbg.report import pictures as draw
from ckptdbg.report.changes import changes, whose
from ckptdbg.report.coverage import HEADINGS, MEANING, rows_of
from ckptdbg.report.entries import EntryView, view_of
from ckptdbg.report.files import write_text
from ckptdbg.report.grid import layers_by_sites
from ckptdbg.report.names import count, number, op, place, span, visible
from ckptdbg.report.pictures import Picture, Pictures
from ckptdbg.report.words import BADGE, MARK, ratio_of, sentence, title
from ckptdbg.result import EntryRef, Finding, Result, Site

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class LayerView:
    """The sites of one layer, or those outside every layer (``name`` is None)."""

    name: str | None
    sites: tuple[Site, ...]
    worst: float | None
    opened: bool


def render(result: Result, *, pictures: Pictures | None = None, entries: Sequence[EntryView] | None = None) -> str:
    """The page as text. ``pictures`` are the values at the first divergence, ``entries`` the entries to show."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # `finalize` sees every value on its way out, so no name reaches the page with an escape or a direction mark in it.
    environment.finalize = _shown
    environment.filters |= {
        "number": number,
        "span": span,
        "op": op,
        "changes": changes,
        "whose": whose,
        "level": lambda ratio: _level(ratio, result),
    }
    environment.globals |= {"title": title, "place": place, "count": count, "ratio_of": ratio_of}
    return environment.get_template("report.html").render(
        result=result,
        badge=BADGE[result.verdict],
        mark=MARK[result.verdict],
        sentence=sentence(result),
        findings=[(finding, _entries(finding, entries or ())) for finding in result.findings],
        layers=_layers(result),
        sites=sorted(result.sites, key=lambda site: site.order),
        course=draw.course(result) if result.sites else None,
        heatmap=draw.ratios(layers_by_sites(result), result.noise) if result.sites else None,
        coverage=rows_of(result.coverage),
        coverage_headings=HEADINGS,
        coverage_meaning=MEANING,
        values=draw.values(pictures) if pictures is not None else None,
        values_title=pictures.title if pictures is not None else "",
    )


def write(
    result: Result,
    path: str | os.PathLike[str],
    *,
    pictures: Pictures | None = None,
    entries: Sequence[EntryView] | None = None,
) -> Path:
    """Write ``render(...)``. Raises ``CkptdbgError`` when the file cannot be written."""
    return write_text(path, render(result, pictures=pictures, entries=entries))


def _shown(value: Any) -> Any:
    # Markup that the templates make themselves has `__html__`; everything else from outside is plain text.
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _entries(finding: Finding, entries: Sequence[EntryView]) -> list[tuple[EntryRef, EntryView | None]]:
    return [(reference, view_of(reference, entries)) for reference in finding.entries]


def _level(ratio: float | None, result: Result) -> str:
    """CSS class of a ratio."""
    if ratio is None:
        return "none"
    if ratio > result.noise.divergent:
        return "divergent"
    return "suspect" if ratio > result.noise.suspect else "healthy"


def _layers(result: Result) -> list[LayerView]:
    """Layers in execution order; the one where the models part is open."""
    sites = sorted(result.sites, key=lambda site: site.order)
    names = list(dict.fromkeys(site.layer for site in sites))
    first = result.first_divergence
    views = []
    for name in names:
        own = tuple(site for site in sites if site.layer == name)
        known = [ratio for ratio in map(ratio_of, own) if ratio is not None]
        opened = first is not None and first.layer == name
        views.append(LayerView(name, own, max(known, default=None), opened))
    return views


__all__ = ["EntryView", "LayerView", "Picture", "Pictures", "render", "write"]
