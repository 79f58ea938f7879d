"""Tensors that no entry accounts for, and those that two make."""

from __future__ import annotations

from collections.abc import Iterator

from ckptdbg.mapping.bind import Tensors
from ckptdbg.mapping.check.records import Remark
from ckptdbg.mapping.check.subject import LISTED, NUMBER, Subject
from ckptdbg.mapping.entry import BoundEntry
from ckptdbg.mapping.expressions import near
from ckptdbg.mapping.parse import Range


def unaccounted(subject: Subject) -> Iterator[Remark]:
    """Source tensors that no entry uses and target tensors that none makes; a family of names is one remark."""
    used, made = subject.bound.entries_of_source, subject.bound.producers
    for tensors, known, verb in ((subject.source, used, "used"), (subject.target, made, "made")):
        claimed = subject.claimed(tensors.side)
        families: dict[str, list[str]] = {}
        for name in tensors.specs:
            if name not in known and not claimed(name):
                families.setdefault(NUMBER.sub("0", name), []).append(name)
        for names in families.values():
            yield _unaccounted(subject, tensors, names, known, verb)


def _unaccounted(
    subject: Subject, tensors: Tensors, names: list[str], known: dict[str, tuple[BoundEntry, ...]], verb: str
) -> Remark:
    spec = tensors.specs[names[0]]
    more = f" and {len(names) - LISTED} more like them" if len(names) > LISTED else ""
    found = f"{tensors.side} tensor {', '.join(names[:LISTED])}{more} {spec.shape} is {verb} by no entry"
    family = [name for name in known if NUMBER.sub("0", name) == NUMBER.sub("0", names[0])]
    if family:  # its siblings are accounted for: some number is left out
        entry = known[family[0]][0]
        where, left_out = _range(subject, entry)
        return Remark(
            level="error",
            topic="layers",
            where=where,
            entry=entry.name,
            found=f"{found}; entry {entry.name} has the rest of its family{left_out}",
            advice="widen the range" if left_out else "check the numbers in the names of the entry",
        )
    similar = near(names[0], known, count=1).removeprefix("did you mean ").removesuffix("?")
    entry = known[similar][0] if similar else None
    return Remark(
        level="error",
        topic="coverage",
        where=entry.where if entry else subject.line("entries"),
        found=found + (f" (entry {entry.name} has {similar})" if entry else ""),
        advice=f"add an entry, or a glob under ignore.{tensors.side}",
    )


def _range(subject: Subject, bound: BoundEntry) -> tuple[str, str]:
    """Where the numbers of an entry are given, and how it says them."""
    entry = next(entry for entry in subject.mapping.entries if entry.name == bound.name)
    ranges = [f"{r.name} {_span(r.values(subject.scope))}" for r in entry.ranges]
    return (entry.ranges[0].where if ranges else entry.where), f" (for {', '.join(ranges)})" if ranges else ""


def _span(values: list[int]) -> str:
    return f"{values[0]} to {values[-1]}" if len(values) > 1 else str(values[0])


def made_twice(subject: Subject) -> Iterator[Remark]:
    """Target tensors with two makers; one remark per pair of entries."""
    seen: dict[tuple[str, str], list[tuple[str, BoundEntry, BoundEntry]]] = {}
    for name, (first, *others) in subject.bound.producers.items():
        for other in others:
            seen.setdefault((first.name, other.name), []).append((name, first, other))
    for twice in seen.values():
        name, first, other = twice[0]
        itself = first.name == other.name
        by = f"layers {first.layer} and {other.layer} of entry {other.name}" if itself else _both(first, other)
        more = f" (and {len(twice) - 1} more like it)" if len(twice) > 1 else ""
        yield Remark(
            level="error",
            topic="twice",
            where=other.where,
            entry=other.name,
            found=f"target tensor {name} is made twice, by {by}{more}",
            advice=_advice(subject, other, itself),
        )
    for entry in subject.mapping.entries:
        yield from (_repeated(entry.name, span, subject) for span in entry.ranges if _repeats(span, subject))


def _both(first: BoundEntry, other: BoundEntry) -> str:
    return f"entry {first.name} ({first.where}) and by entry {other.name}"


def _advice(subject: Subject, bound: BoundEntry, itself: bool) -> str:
    if itself:
        return "put the placeholder in the target's name, or stack over it"
    entry = next(entry for entry in subject.mapping.entries if entry.name == bound.name)
    return "their ranges overlap: give each layer to one of them" if entry.ranges else "keep one of them"


def _repeats(span: Range, subject: Subject) -> bool:
    return len(set(values := span.values(subject.scope))) < len(values)


def _repeated(name: str, span: Range, subject: Subject) -> Remark:
    values = span.values(subject.scope)
    again = next(value for value in values if values.count(value) > 1)
    found = f"for {span.name} has {again} more than once"
    return Remark(level="error", topic="twice", where=span.where, entry=name, found=found, advice="list each once")
