"""Precision floors: rounding that the target's own casts add, and that vanishes when they are promoted. Not faults."""

from __future__ import annotations

from collections import defaultdict

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.noise import DIVERGENT
from ckptdbg.compare.sites import SiteMeasure
from ckptdbg.diagnose.suspects import entries_of, layers_of, references
from ckptdbg.result import Finding


def precision_findings(comparison: Comparison) -> list[Finding]:
    """Sites where the target's own casts add far more rounding than the source has."""
    floors = [s for s in comparison.sites if _is_floor(s)]
    casts = comparison.target.graph.casts
    groups: dict[str, list[SiteMeasure]] = defaultdict(list)
    for site in floors:
        near = [c for c in casts if c.before in (site.anchor, site.anchor + 1)]
        if near:
            groups[f"{near[0].from_dtype} to {near[0].to_dtype} at {near[0].where or 'an unnamed place'}"].append(site)
    return [_precision_finding(comparison, cast, sites) for cast, sites in groups.items()]


def _is_floor(site: SiteMeasure) -> bool:
    judged = site.isolated
    return not judged.divergent and judged.own_noise >= DIVERGENT


def _precision_finding(comparison: Comparison, cast: str, sites: list[SiteMeasure]) -> Finding:
    labels = [comparison.target.labels[s.anchor] for s in sites]
    worst = max(s.isolated.own_noise for s in sites)
    return Finding(
        kind="precision",
        cause="model",
        effect="none",
        entries=references(entries_of(labels)),
        layers=layers_of(labels),
        site=f"{labels[0].site} {sites[0].port}",
        ratio=worst,
        explanation=(
            f"The target casts {cast}: {worst:.3g} times the source's rounding, and gone when the cast is promoted."
        ),
    )
