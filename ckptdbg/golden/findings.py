"""What is found with a sketch: wrong tensors, and the first place where the models part."""

from __future__ import annotations

from collections.abc import Sequence

from ckptdbg.compare.labels import Label
from ckptdbg.compare.noise import DIVERGENT
from ckptdbg.diagnose.regions import OUTPUT, Place
from ckptdbg.diagnose.routing import routing_findings
from ckptdbg.diagnose.static import Evidence, static_reason
from ckptdbg.diagnose.suspects import entries_of, layers_of, references
from ckptdbg.diagnose.wrong_tensors import WrongTensors, wrong_tensors
from ckptdbg.golden.comparison import SketchComparison, SketchSite
from ckptdbg.golden.tensors import Odd, odd_findings
from ckptdbg.mapping import BoundMapping
from ckptdbg.result import Finding

CANNOT = (
    "A sketch does not tell a wrong layout from a model that computes something else, and judges nothing after this "
    "place: compare with a full trace, or with the source itself, to have that told and a repair tried."
)


def find_with_sketch(
    comparison: SketchComparison, evidence: Evidence, mapping: BoundMapping, odd: Sequence[Odd] = ()
) -> list[Finding]:
    """Wrong tensors first (``odd`` are those that only projections show), then where the models part, unless that is a
    wrong tensor's own place."""
    place = first_place(comparison)
    found = [_tensors(comparison, wrong) for wrong in wrong_tensors(evidence.tensors, mapping)]
    found += odd_findings(odd, comparison.target)
    if place is not None:
        wrong = {d.tensor for d in evidence.tensors} | {t for each in odd for t in each.entry.targets}
        if not wrong & _own_tensors(comparison, place):
            found.append(_parting(comparison, evidence, place))
    elif not any(s.free.divergent for s in comparison.sites):
        found += [*routing_findings(comparison), *_floors(comparison)]
    return found


def first_place(comparison: SketchComparison) -> Place | None:
    """The first place that diverges, where the output does. Everything before it is at noise, so that what lies
    between is what an isolated pass would have judged."""
    if not comparison.output.free.divergent:
        return None
    first = next((s for s in comparison.sites if s.free.divergent), None)
    graph = comparison.target.graph
    if first is None:
        feeds, met = _region(comparison, graph.output_feeds, graph.output_met)
        return Place("output", (OUTPUT,), feeds, met, comparison.output.free.working.ratio)
    ratio = first.free.working.ratio
    if first.port == "out":
        return Place("out", first.together, frozenset(), frozenset(), ratio)
    anchor = graph.anchors[first.anchor]
    alike = [s.anchor for s in comparison.sites if s.port == "in" and s.free.divergent and _same(comparison, s, first)]
    return Place("in", tuple(alike), *_region(comparison, anchor.feeds, anchor.met), ratio)


def _same(comparison: SketchComparison, site: SketchSite, other: SketchSite) -> bool:
    """Whether two anchors read one region."""
    a, b = (comparison.target.graph.anchors[s.anchor] for s in (site, other))
    return (a.feeds, a.met) == (b.feeds, b.met)


def _region(
    comparison: SketchComparison, feeds: frozenset[int], met: frozenset[int]
) -> tuple[frozenset[int], frozenset[int]]:
    """What lies between a place and the judged places above it."""
    anchors, judged = comparison.target.graph.anchors, {s.anchor for s in comparison.sites if s.port == "out"}
    seen: set[int] = set()
    pending = set(feeds)
    while pending:
        feed = pending.pop()
        seen.add(feed)
        if feed not in judged:
            pending |= anchors[feed].feeds - seen
            met |= anchors[feed].met
    return frozenset(seen), met


def suspected(comparison: SketchComparison, place: Place) -> list[Label]:
    """Labels of all that could be at fault, the strongest suspect first: the region's own parameters, then what feeds
    it and nothing that is healthy, the last to run first, then its one reader."""
    target = comparison.target
    own = [target.labels[c] for c in place.consumers if c != OUTPUT]
    if place.port == "out":
        return own
    anchors = target.graph.anchors
    healthy = [s.anchor for s in comparison.sites if s.port == "in" and not s.free.divergent]
    sound = frozenset().union(*(anchors[a].feeds for a in healthy))
    feeders = sorted(place.feeds - sound or place.feeds, reverse=True)
    region = [target.met_labels[m] for m in sorted(place.met)]
    return [*region, *(target.labels[f] for f in feeders), *(own if len(own) == 1 else [])]


def _own_tensors(comparison: SketchComparison, place: Place) -> set[str]:
    """Tensors whose wrong value would show at this place first."""
    target = comparison.target
    if place.port == "out":
        return {t for c in place.consumers for t in target.labels[c].tensors}
    return {t for m in place.met for t in target.met_labels[m].tensors}


def _parting(comparison: SketchComparison, evidence: Evidence, place: Place) -> Finding:
    target, labels = comparison.target, suspected(comparison, place)
    consumers = [target.labels[c] for c in place.consumers if c != OUTPUT]
    site = f"{consumers[0].site} {place.port}" if consumers else "output"
    reason = static_reason(comparison, evidence, [place])
    known = reason is not None
    several = len(consumers) > 1 and place.port == "out"
    which = " (one row of the source holds all of these: which of them it is, a sketch cannot tell)" if several else ""
    before = f"The models part at {site}{which}; every place before it is at noise"
    return Finding(
        kind="layout" if known else "unknown",
        cause="mapping" if known else "unknown",
        effect="diverges",
        entries=references(reason.entries if reason is not None else entries_of(labels)),
        layers=layers_of(consumers),
        site=site,
        ratio=place.ratio,
        explanation=reason.sentence if reason is not None else f"{before}. {CANNOT}",
        evidence=[f"{before}."] if known else [],
    )


def _tensors(comparison: SketchComparison, wrong: WrongTensors) -> Finding:
    names, target = set(wrong.tensors), comparison.target
    shown = [s for s in comparison.sites if s.free.divergent and names & {*target.labels[s.anchor].tensors}]
    site = f"{target.labels[shown[0].anchor].site} {shown[0].port}" if shown else None
    own = [x for x in (*target.labels, *target.met_labels) if names & set(x.tensors)]
    ratio = max((s.free.working.ratio for s in shown), default=None)
    # What shows inside and not at the output may be a symmetry (v times c with o over c): the verdict cannot tell.
    effect = "none" if shown and not comparison.output.free.divergent else "diverges"
    update = {"layers": layers_of(own), "ratio": ratio, "effect": effect}
    return wrong.finding(site).model_copy(update=update)


def _floors(comparison: SketchComparison) -> list[Finding]:
    """The first place where the target's own casts add far more rounding than the source has; what follows has it
    from there."""
    first = next((s for s in comparison.sites if s.free.own_noise >= DIVERGENT), None)
    if first is None:
        return []
    label, casts = comparison.target.labels[first.anchor], comparison.target.graph.casts
    near = [c for c in casts if c.before <= first.anchor + (first.port == "out")]
    where = f"{near[-1].from_dtype} to {near[-1].to_dtype} at {near[-1].where or 'an unnamed place'}" if near else ""
    return [
        Finding(
            kind="precision",
            cause="model",
            effect="none",
            entries=references(label.entries),
            layers=layers_of([label]),
            site=f"{label.site} {first.port}",
            ratio=first.free.own_noise,
            explanation=(
                f"The target {f'casts {where}' if near else 'works in a lower precision'}: "
                f"{first.free.own_noise:.3g} times the source's rounding, and gone in float64."
            ),
        )
    ]
