"""What is said of a place that diverges: where it is, who is under suspicion, what mends it, what was excluded."""

from __future__ import annotations

from ckptdbg.compare.comparison import Comparison
from ckptdbg.diagnose.edit import Edit
from ckptdbg.diagnose.positions import exact_first_token, narrowed
from ckptdbg.diagnose.regions import OUTPUT, Place
from ckptdbg.diagnose.search import Mend, Outcome
from ckptdbg.diagnose.static import Evidence, static_reason
from ckptdbg.diagnose.suspects import entries_of, layers_of, place_labels, references, region_words, site_name
from ckptdbg.mapping import BoundMapping
from ckptdbg.result import Effect, EntryRef, Finding, Repair


def place_finding(
    comparison: Comparison,
    evidence: Evidence,
    mapping: BoundMapping,
    group: list[Place],
    outcome: Outcome | None,
    effect: Effect,
) -> Finding:
    """The finding of the places of one template. ``outcome`` is what the search for a repair gave, None where there
    was none; ``effect`` is that of all places together."""
    first = group[0]  # the first to run, not the worst, which another probe would make another
    consumers = [comparison.target.labels[c] for p in group for c in p.consumers if c != OUTPUT]
    finding = Finding(
        kind="unknown",
        cause="unknown",
        effect=effect,
        entries=[],
        layers=layers_of(consumers),
        site=site_name(comparison, first),
        ratio=max(p.ratio for p in group),
        explanation="",
        evidence=_where(comparison, first),
    )
    reason = static_reason(comparison, evidence, group)
    if outcome is not None and outcome.mend is not None:
        update = _mended(mapping, outcome.mend, reason.sentence if reason else None)
        update["evidence"] = list(outcome.causes.evidence)
        update["layers"] = _layers_of_edits(comparison, group, outcome.mend) or finding.layers
    elif reason is not None and (outcome is None or outcome.causes.proved is None):
        update = {
            "kind": "layout",
            "cause": "mapping",
            "entries": references(reason.entries),
            "explanation": reason.sentence,
        }
    else:
        update = _unmended(comparison, first, outcome)
    notes = [*update.pop("evidence", []), *finding.evidence]
    return finding.model_copy(update={**update, "evidence": notes})


def _layers_of_edits(comparison: Comparison, group: list[Place], mend: Mend) -> list[str]:
    """Where what the edited entries make takes part: a projection shows at the next layer's input."""
    target, names = comparison.target, {e.entry for e in mend.edits}
    anchors = {a for p in group for q in (p, *p.merged) for a in (*q.feeds, *q.consumers) if a != OUTPUT}
    labels = [target.labels[a] for a in sorted(anchors)]
    labels += [target.met_labels[m] for m in sorted({m for p in group for q in (p, *p.merged) for m in q.met})]
    return layers_of([label for label in labels if names & {e.name for e in label.entries}])


def _mended(mapping: BoundMapping, mend: Mend, known: str | None) -> dict:
    refs = _edited(mapping, mend.edits)
    what = "; ".join(f"{e.entry}: {e.text}" for e in mend.edits)
    first, *rest = (_repair(mapping, e, mend) for e in mend.edits)
    also = list(dict.fromkeys("; ".join(f"{e.entry}: {e.text}" for e in other) for other in mend.also))
    return {
        "kind": "layout",
        "cause": "mapping",
        "entries": refs,
        "explanation": f"{known} {what}." if known else f"{_whose(mend)} and this mends it: {what}.",
        "repair": first.model_copy(update={"also": also, "together": rest}),
    }


def _whose(mend: Mend) -> str:
    """A factor may as well belong into the model's code: both are said."""
    if any(e.changes_factor for e in mend.edits):
        return "The mapping has a wrong factor here, or the model's code has one that is not the source's,"
    return "The mapping is wrong here"


def _edited(mapping: BoundMapping, edits: tuple[Edit, ...]) -> list[EntryRef]:
    names = {e.entry for e in edits}
    return references(e for e in mapping.entries if e.name in names)


def _repair(mapping: BoundMapping, edit: Edit, mend: Mend) -> Repair:
    entry = next(e for e in mapping.entries if e.name == edit.entry)
    before = [op.data() for op in entry.ops]
    return Repair(
        entry=edit.entry,
        change=edit.text,
        ops_before=before,
        ops_after=list(edit.data),
        verified=False,
        ratio_before=mend.before,
        ratio_after=mend.after,
    )


def _unmended(comparison: Comparison, place: Place, outcome: Outcome | None) -> dict:
    suspects, notes = entries_of(place_labels(comparison, place)), []
    if place.port != "out" and (kept := narrowed(comparison, place)) is not None:
        suspects, note = kept
        notes.append(note)
    refs = references(suspects)
    if outcome is None:
        return {"entries": refs, "evidence": notes, "explanation": _region_sentence(comparison, place, refs)}
    causes = outcome.causes
    update: dict = {"entries": refs, "evidence": [*causes.evidence, *notes]}
    if causes.proved is not None:
        if place.port != "out":
            update["evidence"] = [f"the place: {region_words(comparison, place)}", *update["evidence"]]
        told = {"explanation": causes.proved, "definition": causes.differs}
        return update | {"kind": "definition", "cause": "model", **told}
    if not outcome.complete:
        cut = f"the search for a repair was cut short after {outcome.tried} runs"
        return update | {
            "evidence": [cut, *update["evidence"]],
            "explanation": _region_sentence(comparison, place, refs) + causes.likeliest,
        }
    return update | {
        "kind": "definition",
        "cause": "model",
        "excluded": [*causes.excluded, *outcome.excluded],
        "explanation": (
            f"{_region_sentence(comparison, place, [])[:-1]}. No edit of {', '.join(r.name for r in refs)} mends it "
            f"({outcome.tried} tried): the two models define something differently here, or several faults meet."
            f"{causes.likeliest}"
        ),
    }


def _region_sentence(comparison: Comparison, place: Place, suspects: list[EntryRef]) -> str:
    if place.port == "out":
        label = comparison.target.labels[place.consumers[0]]
        return (
            f"{label.site} gives another result than its source on the same input, although its values are as mapped: "
            f"look at how this operand is used."
        )
    several = "; every later place on the same stream differs too" if place.merged else ""
    where = region_words(comparison, place)
    return f"What lies {where} computes something else from the same inputs{several}: " + (
        f"look at the layout of {', '.join(r.name for r in suspects)}, or at the model's code there."
        if suspects
        else "see its code."
    )


def _where(comparison: Comparison, place: Place) -> list[str]:
    notes = []
    if place.consumers[0] != OUTPUT:
        anchor = comparison.target.graph.anchors[place.consumers[0]]
        if str(anchor.where):
            notes.append(f"in the target: {anchor.where}")
    if place.port != "out" and exact_first_token(comparison, place):
        notes.append("exact at the first position of every sequence, wrong after it")
    if place.merged:
        notes.append(f"{len(place.merged)} later places on the same stream differ too")
    return notes
