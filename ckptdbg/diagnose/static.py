"""What was found before anything ran, and which divergent places it explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.labels import Label
from ckptdbg.diagnose.compared import Compared
from ckptdbg.diagnose.regions import OUTPUT, Place
from ckptdbg.diagnose.structure import Difference, Shift
from ckptdbg.diagnose.suspects import entries_of, references
from ckptdbg.diagnose.tensors import TensorDifference
from ckptdbg.mapping import BoundEntry, BoundMapping


@dataclass(frozen=True)
class Evidence:
    """What was found before anything ran."""

    tensors: Sequence[TensorDifference]
    feeds: Sequence[Difference]
    shifts: Sequence[Shift]
    mixed: Sequence[int]
    """Target anchors in which a source axis runs along both axes of the operand."""
    shifted: Sequence[int]
    """Target anchors with a constant added to the source's elements."""


@dataclass(frozen=True)
class Reason:
    """A fault of the layout that is plain before anything runs."""

    entries: list[BoundEntry]
    sentence: str


def static_reason(comparison: Compared, evidence: Evidence, group: Sequence[Place]) -> Reason | None:
    """The reason for places of one template that diverge, where the evidence before running already gives it."""
    consumers = {c for p in group for c in p.consumers}
    return (
        _shift(comparison, evidence, group)
        or _operand(comparison, evidence, group, consumers)
        or _exchange(comparison, evidence, consumers)
    )


def exchange_partners(
    comparison: Comparison, evidence: Evidence, mapping: BoundMapping, group: Sequence[Place]
) -> list[BoundEntry]:
    """Entries that hold what the places of a template meet in the source but not in the target, of the first place's
    layer."""
    first = group[0]
    names = list(comparison.source.view.specs)
    missing = {names[i] for d in evidence.feeds if d.anchor in first.consumers for i in d.only_source}
    found = [e for e in mapping.entries if missing & set(e.sources)]
    return list({e.name: e for e in found}.values())


def _shift(comparison: Compared, evidence: Evidence, group: Sequence[Place]) -> Reason | None:
    met = {m for p in group for x in (p, *p.merged) for m in x.met}
    shifts = [s for s in evidence.shifts if s.meeting in met]
    if not shifts:
        return None
    entries = [e for s in shifts for e in comparison.target.met_labels[s.meeting].entries]
    first = shifts[0]
    return Reason(
        entries,
        f"{references(entries)[0].name} is shifted: the source uses w {first.source:+g} where the target uses "
        f"w {first.target:+g}; the entry should add {first.source - first.target:+g}.",
    )


def _operand(comparison: Compared, evidence: Evidence, group: Sequence[Place], consumers: set[int]) -> Reason | None:
    for numbers, sentence in (
        (evidence.mixed, "mixes input and output axes: a reshape where a transpose belongs"),
        (evidence.shifted, "adds a constant to a matrix, which no other tensor can undo"),
    ):
        hit = [n for n in numbers if n in consumers or any(n in p.feeds for p in group)]
        if hit:
            entries = entries_of(comparison.target.labels[n] for n in hit)
            return Reason(entries, f"{references(entries)[0].name} {sentence}.")
    return None


def _exchange(comparison: Compared, evidence: Evidence, consumers: set[int]) -> Reason | None:
    feeds = [d for d in evidence.feeds if d.anchor in consumers]
    if not feeds:
        return None
    target, names, first = comparison.target, list(comparison.source.view.specs), feeds[0]
    ours, theirs = [names[i] for i in first.only_target], [names[i] for i in first.only_source]
    among = target.met_labels if first.what == "region parameters" else target.labels
    own = entries_of(target.labels[c] for c in consumers if c != OUTPUT)
    odd = first.what == "feeders" and not first.common and len(ours) > 1
    entries = own if odd else _made_from(among, ours) or own
    return Reason(
        entries,
        f"{target.labels[first.anchor].site} meets other tensors than in the source ({first.what}): "
        f"{_few(ours) or 'nothing'} here, {_few(theirs) or 'nothing'} there; two entries or layers are exchanged.",
    )


def _made_from(labels: Sequence[Label], names: list[str]) -> list[BoundEntry]:
    return [e for x in labels for e in x.entries if set(e.sources) & set(names)]


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
