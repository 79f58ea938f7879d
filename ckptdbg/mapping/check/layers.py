"""Families of which one layer is missing on both sides: whatever one side alone lacks is no secret."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ckptdbg.mapping.check.records import Remark
from ckptdbg.mapping.check.subject import NUMBER, Subject


def missing_layers(subject: Subject) -> Iterator[Remark]:
    """Names of one family whose numbers go up by one but for one gap; one remark per entry and side."""
    for tensors, users in (
        (subject.source, subject.bound.entries_of_source),
        (subject.target, subject.bound.producers),
    ):
        said: set[str] = set()
        for family, members in _families(tensors.specs).items():
            gap = _gap(set(members))
            first, last = min(members), max(members)
            if gap is None or members[first] not in users or (entry := users[members[first]][0]).name in said:
                continue
            said.add(entry.name)
            yield Remark(
                level="note",
                topic="layers",
                where=entry.where,
                entry=entry.name,
                found=f"the {tensors.side} has {''.join(family)} for {first} to {last}, but not for {gap}",
                advice="either that layer has no such tensor, or it was lost: look at where the checkpoint came from",
            )


def _families(names: Iterable[str]) -> dict[tuple[str, str, str], dict[int, str]]:
    """Names that differ in one number, by what is before and after it (later numbers do not count)."""
    families: dict[tuple[str, str, str], dict[int, str]] = {}
    for name in names:
        for found in NUMBER.finditer(name):
            key = (name[: found.start()], "*", NUMBER.sub("*", name[found.end() :]))
            families.setdefault(key, {}).setdefault(int(found[0]), name)
    return families


def _gap(numbers: set[int]) -> int | None:
    """The one number that is missing among at least three others."""
    missing = set(range(min(numbers), max(numbers) + 1)) - numbers
    return missing.pop() if len(missing) == 1 and len(numbers) > 2 else None
