"""From divergent sites to places: what is at fault lies in an anchor's own operand, or in the region before an
``in``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.sites import SiteMeasure
from ckptdbg.models.records import Plant

OUTPUT = -1
"""Stands for the model's output where a consumer's anchor index is asked for."""


@dataclass(frozen=True)
class Place:
    """Somewhere the isolated pass found a difference, with what could have caused it there."""

    port: str
    """``out``: the anchor's own operand. ``in`` or ``output``: the region between planted values."""
    consumers: tuple[int, ...]
    """Target anchors whose ``out`` or ``in`` differs (several may read one activation)."""
    feeds: frozenset[int]
    met: frozenset[int]
    ratio: float
    """Worst isolated ratio among them, working precision."""
    merged: tuple[Place, ...] = ()
    """Later places explained by this one: whatever is wrong travels on along the residual stream."""


def with_merged(places: Sequence[Place]) -> list[Place]:
    """Places, each with the later ones on its stream."""
    return [q for p in places for q in (p, *p.merged)]


def find_places(comparison: Comparison) -> list[Place]:
    """Places of the isolated pass that diverge, in execution order, each cause once."""
    sites = [s for s in comparison.sites if s.isolated.divergent]
    outs = [Place("out", (s.anchor,), frozenset(), frozenset(), _ratio(s)) for s in sites if s.port == "out"]
    regions = _regions(comparison, [s for s in sites if s.port == "in"])
    if comparison.output.isolated.divergent:
        regions.append(_output_place(comparison))
    regions = merged(comparison, regions)
    return sorted([*outs, *regions], key=lambda p: turn(comparison, p))


def turn(comparison: Comparison, place: Place) -> tuple[int, bool]:
    """When a place is reached, as something to sort by."""
    first = place.consumers[0]
    return len(comparison.target.graph.anchors) if first == OUTPUT else first, place.port == "out"


def sound_places(comparison: Comparison) -> list[Place]:
    """Regions of the isolated pass at whose end both sides agree, the model's output among them."""
    places = _regions(comparison, [s for s in comparison.sites if s.port == "in" and not s.isolated.divergent])
    if not comparison.output.isolated.divergent:
        places.append(_output_place(comparison))
    return places


def _output_place(comparison: Comparison) -> Place:
    graph = comparison.target.graph
    feeds, met = upstream(comparison, graph.output_feeds, graph.output_met)
    return Place("output", (OUTPUT,), feeds, met, comparison.output.isolated.working.ratio)


def goes_on(comparison: Comparison, places: Sequence[Place]) -> bool:
    """Whether what is wrong at these places is still wrong after the last of them, in the free run: not undone by a
    symmetry. The output alone does not say so, since it may not read the tokens that are wrong."""
    last = max(((c, p.port == "out") for p in places for c in p.consumers if c != OUTPUT), default=(-1, True))
    after = (s for s in comparison.sites if (s.anchor, s.port == "out") > last)
    return comparison.output.free.divergent or any(s.free.divergent for s in after)


def upstream(
    comparison: Comparison, feeds: frozenset[int], met: frozenset[int]
) -> tuple[frozenset[int], frozenset[int]]:
    """All that lies between a place and the planted values above it: a region runs on through an anchor without a
    partner."""
    anchors, seen = comparison.target.graph.anchors, set()
    pending = set(feeds)
    while pending:
        feed = pending.pop()
        seen.add(feed)
        if comparison.pairing.outputs[feed] is None or comparison.plants.get(feed, Plant()).output is None:
            pending |= anchors[feed].feeds - seen
            met |= anchors[feed].met
    return frozenset(seen), met


def _ratio(site: SiteMeasure) -> float:
    return site.isolated.working.ratio


def _regions(comparison: Comparison, sites: Sequence[SiteMeasure]) -> list[Place]:
    """Anchors that read the same region (q, k and v after one norm) make one place."""
    found: dict[tuple[frozenset[int], frozenset[int]], Place] = {}
    for site in sites:
        anchor = comparison.target.graph.anchors[site.anchor]
        key = upstream(comparison, anchor.feeds, anchor.met)
        place = found.get(key)
        if place is None:
            found[key] = Place("in", (site.anchor,), *key, _ratio(site))
        else:
            found[key] = replace(place, consumers=(*place.consumers, site.anchor), ratio=max(place.ratio, _ratio(site)))
    return list(found.values())


def merged(comparison: Comparison, regions: Sequence[Place]) -> list[Place]:
    """Merge into a place the later ones it explains: those fed by all that feeds it, if *every* such region diverges.

    One healthy region downstream on the same stream shows that the stream is sound, and then each place stands by
    itself.
    """
    kept: list[Place] = []
    for place in regions:
        owner = next((k for k in kept if k.feeds and place.feeds > k.feeds and _stream_is_bad(comparison, k)), None)
        if owner is None:
            kept.append(place)
        else:
            kept[kept.index(owner)] = replace(owner, merged=(*owner.merged, place), ratio=max(owner.ratio, place.ratio))
    return kept


def _stream_is_bad(comparison: Comparison, place: Place) -> bool:
    graph = comparison.target.graph
    later = [
        s.isolated.divergent for s in comparison.sites if s.port == "in" and graph.anchors[s.anchor].feeds > place.feeds
    ]
    if graph.output_feeds > place.feeds:
        later.append(comparison.output.isolated.divergent)
    return bool(later) and all(later)
