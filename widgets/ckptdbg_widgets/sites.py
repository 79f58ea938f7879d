"""The compared sites as the widgets show them: rows are layers, columns the sites of a layer in execution order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ckptdbg.report.names import visible
from ckptdbg.report.words import BADGE, MARK, sentence, where
from ckptdbg.result import Isolated, Result, Site, Stats

NONFINITE = "nonfinite"
"""Stands for a ratio that is not finite: JSON has no infinity."""


def sites_of(result: Result) -> dict[str, Any]:
    """What the map and the stepper share, ready for JSON.

    ``sites`` are in execution order, each with its ``row`` and ``column``; a ratio is a number, None where nothing was
    measured or ``"nonfinite"``. What lies outside every layer has a row of its own, where columns count from the left
    and have no heading. ``first`` is the index of the first divergence in ``sites``, ``suspects``
    the entry to look at for each site.
    """
    sites = sorted(result.sites, key=lambda site: site.order)
    rows = list(dict.fromkeys(map(_row, sites)))
    columns = merged([_column(s) for s in sites if s.layer == layer] for layer in _layers(sites))
    outside = {row: merged([[_column(s) for s in sites if _row(s) == row]]) for row in rows if row[0] == "outside"}
    shown = [_site(s, rows.index(_row(s)), outside.get(_row(s), columns).index(_column(s))) for s in sites]
    _tell_apart(shown)
    blamed = _suspects(result)
    suspects = [blamed.get((s.entry, s.port, s.layer), s.entry) for s in sites]
    return {
        "verdict": {"name": result.verdict, "mark": MARK[result.verdict], "badge": BADGE[result.verdict]},
        "sentence": sentence(result),
        "noise": {"suspect": result.noise.suspect, "divergent": result.noise.divergent},
        "rows": [{"kind": kind, "name": visible(name)} for kind, name in rows],
        "columns": [_heading(column) for column in columns],
        "sites": shown,
        "first": _first(sites, result),
        "isolated": any(site.isolated is not None for site in sites),
        "suspects": [name if name is None else visible(name) for name in suspects],
    }


def first_key(result: Result) -> dict[str, Any] | None:
    """``selected`` at the first divergence; None where the models do not part."""
    sites = sorted(result.sites, key=lambda site: site.order)
    first = _first(sites, result)
    return None if first is None else key_of(sites[first])


def key_of(site: Site) -> dict[str, Any]:
    """What a widget's ``selected`` trait holds."""
    return {"site": site.site, "port": site.port, "order": site.order}


def suspect_of(result: Result, site: Site) -> str | None:
    """The entry to look at for a site: the first suspect of a finding about it, else the entry that makes it."""
    return _suspects(result).get((site.entry, site.port, site.layer), site.entry)


def _suspects(result: Result) -> dict[tuple[str | None, str, str | None], str]:
    """The first suspect by entry, port and layer of the sites that findings are about."""
    named = {f"{site.site} {site.port}": site for site in reversed(result.sites)}
    found: dict[tuple[str | None, str, str | None], str] = {}
    for finding in result.findings:
        about = named.get(finding.site)
        if about is not None and finding.entries:
            for layer in (*finding.layers, about.layer):
                found.setdefault((about.entry, about.port, layer), finding.entries[0].name)
    return found


def merged(sequences: Iterable[Sequence[Any]]) -> list[Any]:
    """All items once, in an order that follows every sequence as far as they agree."""
    found: list[Any] = []
    for sequence in sequences:
        at = 0
        for item in sequence:
            if item not in found:
                found.insert(at, item)
            at = max(at, found.index(item) + 1)
    return found


def _layers(sites: Sequence[Site]) -> list[str]:
    return list(dict.fromkeys(site.layer for site in sites if site.layer is not None))


def _row(site: Site) -> tuple[str, str]:
    if site.layer is not None:
        return "layer", site.layer
    return "outside", "output" if site.port == "output" else site.entry or site.site


def _column(site: Site) -> tuple[str, str]:
    """Name and port."""
    return where(site).removesuffix(f" {site.port}"), site.port


def _heading(column: tuple[str, str]) -> dict[str, str]:
    """A column's name in two parts: the group (all before the last dot) and the rest."""
    name, port = column
    if port == "block":
        # The path of a block is long; what follows the layer tells blocks of one layer apart.
        parts = re.split(r"[./]", name.partition("*")[2].strip("./"))
        return {"name": name, "group": "", "leaf": parts[-1] or "layer", "port": port}
    group, _, leaf = name.rpartition(".")
    return {"name": name, "group": group, "leaf": leaf, "port": port}


def _site(site: Site, row: int, column: int) -> dict[str, Any]:
    return {
        **key_of(site),
        "row": row,
        "column": column,
        "layer": site.layer,
        **{key: value for key, value in _heading(_column(site)).items() if key != "port"},
        "label": visible(site.site),
        "entry": None if site.entry is None else visible(site.entry),
        "scope": visible(site.scope),
        "shape": site.shape,
        "source": _stats(site.source),
        "target": _stats(site.target),
        "free": _measured(site, site),
        "alone": None if site.isolated is None else _measured(site, site.isolated),
        "note": None if site.nonfinite is None else visible(site.nonfinite),
    }


def _tell_apart(sites: list[dict[str, Any]]) -> None:
    """Sites of one place (the experts of a layer) become a group of their own, told apart by how their names end."""
    cells = Counter((site["row"], site["column"]) for site in sites)
    for site in sites:
        if cells[site["row"], site["column"]] > 1:
            number = re.search(r"\[[\d, ]+\]$", site["label"])
            site["group"], site["leaf"] = site["name"], number[0] if number else site["label"]


def _measured(site: Site, figures: Site | Isolated) -> dict[str, Any]:
    ratio = _number(figures.ratio)
    if (figures.ratio is not None and ratio is None) or (ratio is None and site.nonfinite):
        ratio = NONFINITE
    return {"error": _number(figures.error), "noise": _number(figures.noise), "ratio": ratio}


def _stats(stats: Stats) -> dict[str, Any]:
    return {key: _number(value) for key, value in stats.model_dump().items()}


def _number(value: float | None) -> float | None:
    return value if value is not None and abs(value) < float("inf") else None


def _first(sites: Sequence[Site], result: Result) -> int | None:
    first = result.first_divergence
    if first is None:
        return None
    # The order of a divergence counts the sites of anchors only, so it is found again by what it is.
    same = [i for i, s in enumerate(sites) if (s.site, s.port, s.layer) == (first.site, first.port, first.layer)]
    exact = [i for i in same if sites[i].ratio == first.ratio]
    return next(iter(exact or same), None)
