"""Findings: evidence before running and places that diverge, put together, each fault once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from ckptdbg.compare.comparison import Comparison
from ckptdbg.diagnose.places import place_finding
from ckptdbg.diagnose.precision import precision_findings
from ckptdbg.diagnose.regions import OUTPUT, Place, find_places, goes_on, turn
from ckptdbg.diagnose.routing import routing_findings
from ckptdbg.diagnose.search import Outcome
from ckptdbg.diagnose.static import Evidence
from ckptdbg.diagnose.suspects import in_order, layers_of, site_name
from ckptdbg.diagnose.wrong_tensors import WrongTensors, wrong_tensors
from ckptdbg.mapping import BoundEntry, BoundMapping
from ckptdbg.result import Effect, Finding

Solved = tuple[list[Place], Outcome | None]
"""Places that have one cause; None where no repair was looked for."""
Solve = Callable[[list[Place]], list[Solved]]
"""Looks for repairs of the places of one template: all of them in one, or apart where their causes are not the same."""


def find(
    comparison: Comparison,
    evidence: Evidence,
    mapping: BoundMapping,
    solve: Solve = lambda places: [(places, None)],
    told: Callable[[str, Sequence[Place]], None] = lambda site, places: None,
) -> list[Finding]:
    """All findings, tensor faults first, then by execution order. A fault in every layer of a template is one
    finding. ``told`` is given all places of wrong tensors, with the site of their finding."""
    places = find_places(comparison)
    wrong = {d.tensor for d in evidence.tensors}
    explained = [p for p in places if wrong & _suspected_tensors(comparison, p)]
    effect: Effect = "diverges" if goes_on(comparison, places) else "none"
    findings = []
    for each in wrong_tensors(evidence.tensors, mapping):
        shown = [p for p in explained if set(each.tensors) & _suspected_tensors(comparison, p)]
        finding = _tensor_finding(comparison, each, shown, effect)
        told(finding.site, shown)
        findings.append(finding)
    groups = by_template(comparison, [place for place in places if place not in explained])
    # most layers first: what is proved of them is known where one of them has another fault besides
    solved = [each for group in sorted(groups, key=len, reverse=True) for each in solve(group)]
    findings += _merged(
        [
            place_finding(comparison, evidence, mapping, part, outcome, effect)
            for part, outcome in sorted(solved, key=lambda each: turn(comparison, each[0][0]))
        ]
    )
    return [*findings, *routing_findings(comparison), *precision_findings(comparison)]


def _merged(findings: list[Finding]) -> list[Finding]:
    """A fault of layout that shows at several places (an exchanged layer: where it lies and where it should) is one."""
    kept: dict[tuple, Finding] = {}
    for finding in findings:
        same = finding.kind == "layout" and tuple(e.name for e in finding.entries)
        key = (same,) if same else (len(kept), "alone")
        first = kept.get(key)
        if first is None:
            kept[key] = finding
        else:
            layers = in_order({*first.layers, *finding.layers})
            also = f"also at {finding.site}: {finding.explanation}"
            kept[key] = first.model_copy(update={"layers": layers, "evidence": [*first.evidence, also]})
    return list(kept.values())


def each_definition_once(findings: Sequence[Finding]) -> list[Finding]:
    """What the models define differently with the same two values, at however many places, is one finding: told of the
    first, with all layers, entries and evidence."""
    kept: dict[tuple, Finding] = {}
    for finding in findings:
        key = _defined(finding) or (len(kept),)
        first = kept.setdefault(key, finding)
        if first is not finding:
            layers = in_order({*first.layers, *finding.layers})
            entries = [*first.entries, *(e for e in finding.entries if e not in first.entries)]
            ratio = max((f.ratio for f in (first, finding) if f.ratio is not None), default=None)
            also = f"so too at {finding.site}" + (f" (ratio {finding.ratio:.3g})" if finding.ratio else "")
            evidence = [*first.evidence, also, *(e for e in finding.evidence if e not in first.evidence)]
            update = {"layers": layers, "entries": entries, "ratio": ratio, "evidence": evidence}
            kept[key] = first.model_copy(update=update)
    return list(kept.values())


def _defined(finding: Finding) -> tuple:
    """The same for one thing that differs in the same way; empty where that is not known. An order has no values: the
    scales that it is about say which it is."""
    definition = finding.definition
    if definition is None or finding.repair is not None:
        return ()
    values = definition.source, definition.target
    about = tuple(e.name for e in finding.entries) if values == (None, None) else ()
    return finding.effect, definition.name, *values, *about


def _suspected_tensors(comparison: Comparison, place: Place) -> set[str]:
    """Tensors whose wrong value would show at this place: its own operands and region parameters, and those of anchors
    that lie inside the region as they have no partner; not what feeds it."""
    target = comparison.target
    if place.port == "out":
        return {t for c in place.consumers for t in target.labels[c].tensors}
    every = (place, *place.merged)
    met = {t for p in every for m in p.met for t in target.met_labels[m].tensors}
    inside = {f for p in every for f in p.feeds if comparison.pairing.outputs[f] is None}
    return met | {t for f in inside for t in target.labels[f].tensors}


def template(comparison: Comparison, place: Place) -> tuple:
    """Places of the same template in different layers share this key."""
    target = comparison.target
    consumers = {e.name for c in place.consumers if c != OUTPUT for e in target.labels[c].entries}
    met = {e.name for m in place.met for e in target.met_labels[m].entries}
    return place.port, frozenset(consumers), frozenset(met)


def by_template(comparison: Comparison, places: Sequence[Place]) -> list[list[Place]]:
    """Places of one template together."""
    groups: dict[tuple, list[Place]] = defaultdict(list)
    for place in places:
        groups[template(comparison, place)].append(place)
    return list(groups.values())


def _tensor_finding(comparison: Comparison, wrong: WrongTensors, places: Sequence[Place], effect: Effect) -> Finding:
    finding = wrong.finding(site_name(comparison, places[0]) if places else None)
    layers = _entry_layers(comparison, wrong.tensors, wrong.entries)
    ratio = max((p.ratio for p in places), default=None)
    effect = effect if places else "diverges"
    return finding.model_copy(update={"effect": effect, "layers": layers, "ratio": ratio})


def _entry_layers(comparison: Comparison, tensors: Sequence[str], entries: Sequence[BoundEntry]) -> list[str]:
    target = comparison.target
    own = [x for x in (*target.labels, *target.met_labels) if set(x.tensors) & set(tensors)]
    stacked = any(len(e.sources) > 1 for e in entries)
    if own and not stacked:
        return layers_of(own)
    divergent = {s.anchor for s in comparison.sites if s.port == "out" and s.isolated.divergent}
    return layers_of([target.labels[t] for t in divergent if set(target.labels[t].tensors) & set(tensors)] or own)
