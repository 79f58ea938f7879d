"""Numbers in the order of their digits as text (0, 1, 10, 11, 2) where things are put side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckptdbg.mapping.check.records import Remark
from ckptdbg.mapping.check.subject import NUMBER, Subject
from ckptdbg.mapping.ops import Of, Op, Take


def text_order(subject: Subject) -> Iterator[Remark]:
    """In a range, a list of tensors or a list of rows."""
    for entry in subject.mapping.entries:
        for span in entry.ranges:
            yield from _remark(entry.name, span.where, f"for {span.name}", span.values(subject.scope))
        for templates in (entry.sources, entry.targets):
            for numbers in _columns([template.text for template in templates]):
                yield from _remark(entry.name, templates[0].where, "the list of tensors", numbers)
    for bound in subject.examples:
        for op in map(_inner, bound.ops):
            if isinstance(op, Take):
                yield from _remark(bound.name, op.where, "take", op.indices)


def _inner(op: Op) -> Op:
    return op.inner if isinstance(op, Of) else op


def _columns(names: Sequence[str]) -> list[list[int]]:
    """The numbers at each place of names that differ in nothing else."""
    if len({NUMBER.sub("0", name) for name in names}) > 1:
        return []
    rows = [[int(n) for n in NUMBER.findall(name)] for name in names]
    return [list(column) for column in zip(*rows, strict=True)]


def _remark(entry: str, where: str, what: str, numbers: Sequence[int]) -> Iterator[Remark]:
    distinct = list(dict.fromkeys(numbers))
    if distinct == sorted(distinct) or len(distinct) < 3:
        return
    as_text = distinct == sorted(distinct, key=str)
    listed = ", ".join(map(str, distinct[:6])) + (", ..." if len(distinct) > 6 else "")
    if as_text:
        found = f"{what} has {listed}: sorted as text, not as numbers"
        advice = "10 comes after 9: sort by number, or leave `for` out and the names are taken in numeric order"
        yield Remark(level="error", topic="order", where=where, entry=entry, found=found, advice=advice)
