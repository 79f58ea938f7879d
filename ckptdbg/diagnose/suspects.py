"""Mapping entries under suspicion, and how they are named in a finding."""

from __future__ import annotations

from collections.abc import Iterable

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.labels import Label
from ckptdbg.diagnose.positions import narrowed
from ckptdbg.diagnose.regions import OUTPUT, Place
from ckptdbg.diagnose.search import Suspect
from ckptdbg.mapping import BoundEntry
from ckptdbg.result import EntryRef


def place_labels(comparison: Comparison, place: Place) -> list[Label]:
    """Labels of all that could be at fault in a place, strongest suspect first.

    For a region: its own parameters, then the anchors that feed it, the nearest first, without those that feed a
    healthy place as well; then the anchor that consumes it (what several read alike is not their fault). Later places
    that this one explains add nothing.
    """
    target = comparison.target
    consumers = [target.labels[c] for c in place.consumers if c != OUTPUT]
    if place.port == "out":
        return consumers
    region = [target.met_labels[m] for m in sorted(place.met)]
    feeders = [target.labels[f] for f in nearest_feeders(comparison, place)]
    return [*region, *feeders, *(consumers if len(consumers) == 1 else [])]


def nearest_feeders(comparison: Comparison, place: Place) -> list[int]:
    """Target anchors that feed a place and no healthy one, the last to run first; all of them where there is none
    such."""
    doubtful = place.feeds - _sound_feeders(comparison, place)
    return sorted(doubtful or place.feeds, reverse=True)


def region_words(comparison: Comparison, place: Place) -> str:
    """Between which anchors a region lies: ``between A and B``."""
    target = comparison.target
    first = place.consumers[0]
    end = "the model's output" if first == OUTPUT else target.labels[first].site
    if len(place.consumers) > 1:
        end += f" (and {len(place.consumers) - 1} more that read the same)"
    feeders = list(dict.fromkeys(target.labels[f].site for f in nearest_feeders(comparison, place)))
    if not feeders:
        return f"before {end}"
    more = f" (and {len(feeders) - 2} before)" if len(feeders) > 2 else ""
    return f"between {', '.join(feeders[:2])}{more} and {end}"


def suspects_of(comparison: Comparison, place: Place) -> list[Suspect]:
    """Entries whose edits may mend a place, one bound entry each, strongest first.

    A feeder that also feeds a healthy place has the right layout (its scale may still be hidden there by a norm).
    What several consumers read alike is not their own fault. Where the first position is exact, only what it is
    blind to remains.
    """
    target = comparison.target
    found: dict[str, Suspect] = {}

    def add(labels: Iterable[Label], values_only: bool = False) -> None:
        for entry in entries_of(labels):
            found.setdefault(entry.name, Suspect(entry, values_only))

    kept = narrowed(comparison, place)
    if kept is not None:
        return [Suspect(entry) for entry in {e.name: e for e in kept[0]}.values()]
    sound = _sound_feeders(comparison, place)
    consumers = [c for c in place.consumers if c != OUTPUT]
    add(target.met_labels[m] for m in sorted(place.met))
    add(target.labels[f] for f in sorted(place.feeds - sound, reverse=True))
    add(target.labels[c] for c in consumers if len(consumers) == 1)
    add((target.labels[f] for f in sorted(place.feeds & sound, reverse=True)), values_only=True)
    return list(found.values())


def _sound_feeders(comparison: Comparison, place: Place) -> frozenset[int]:
    """Anchors that feed some healthy place as well."""
    anchors = comparison.target.graph.anchors
    healthy = [s.anchor for s in comparison.sites if s.port == "in" and not s.isolated.divergent]
    return frozenset().union(*(anchors[a].feeds for a in healthy)) & place.feeds


def references(entries: Iterable[BoundEntry]) -> list[EntryRef]:
    """Entries as a finding names them: each template once."""
    unique = {(e.name, e.file, e.line): EntryRef(name=e.name, file=e.file, line=e.line) for e in entries}
    return list(unique.values())


def entries_of(labels: Iterable[Label]) -> list[BoundEntry]:
    return [entry for label in labels for entry in label.entries]


def layers_of(labels: Iterable[Label]) -> list[str]:
    """Layers in numeric order, each once."""
    return in_order({label.layer for label in labels if label.layer is not None})


def in_order(layers: Iterable[str]) -> list[str]:
    """Layers as numbers are sorted: 10 after 9."""
    return sorted(layers, key=_numeric)


def _numeric(text: str) -> list[tuple[int, int, str]]:
    parts = text.replace(", ", ".").split(".")
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def site_name(comparison: Comparison, place: Place) -> str:
    first = place.consumers[0]
    return "output" if first == OUTPUT else f"{comparison.target.labels[first].site} {place.port}"
