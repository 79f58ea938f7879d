"""Which two edits are tried at once, and in which order: all pairs are too many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product

from ckptdbg.diagnose.edit import VALUES, Edit
from ckptdbg.diagnose.grammar import second_edits
from ckptdbg.mapping import BoundEntry
from ckptdbg.mapping import Mapping as TensorMapping

# Edits that alone leave less than a part of the difference, and how many of them are tried with every edit of another.
_LITTLE = 0.5
_MOST_LEADING = 4


def layouts_last(candidate: tuple[Edit, ...]) -> tuple[bool, int]:
    """Two changes of layout at once are less likely than one beside a change of values."""
    families = {f for e in candidate for f in e.family.split(" and ")}
    return not families & set(VALUES), sum(e.cost for e in candidate)


def led(
    singles: Mapping[str, list[tuple[Edit, ...]]], exchanged: Sequence[tuple[Edit, ...]], left: Mapping[int, float]
) -> list[tuple[Edit, ...]]:
    """The edits and exchanges that alone leave least of the difference, each with every edit of another entry: of a
    wrong order and a wrong scale, the order alone mends most."""
    alone = [c for found in (*singles.values(), exchanged) for c in found if left.get(id(c), 1.0) < _LITTLE]
    first = sorted(alone, key=lambda c: left[id(c)])[:_MOST_LEADING]
    found = _beside(first, singles)
    once = {frozenset(map(id, pair)): pair for pair in found}
    return sorted(once.values(), key=lambda pair: sum(e.cost for e in pair))


def beside_exchanges(
    exchanged: Sequence[tuple[Edit, ...]], singles: Mapping[str, list[tuple[Edit, ...]]]
) -> list[tuple[Edit, ...]]:
    """Two entries exchanged and another edited."""
    return sorted(_beside(exchanged, singles), key=lambda candidate: sum(e.cost for e in candidate))


def _beside(first: Sequence[tuple[Edit, ...]], singles: Mapping[str, list[tuple[Edit, ...]]]) -> list[tuple[Edit, ...]]:
    """Each of the first with every edit of an entry that it leaves as it is."""
    return [
        (*a, *b) for a in first for name, found in singles.items() if name not in {e.entry for e in a} for b in found
    ]


def of_one_family(singles: Sequence[list[tuple[Edit, ...]]]) -> Iterator[tuple[Edit, ...]]:
    """Edits of two entries at once: of the same family, as q and k that both miss their permutation."""
    for first, second in combinations(singles, 2):
        for (a,), (b,) in product(first, second):
            if a.family == b.family:
                yield (a, b)


def of_two_families(singles: Sequence[list[tuple[Edit, ...]]]) -> Iterator[tuple[Edit, ...]]:
    """Edits of two entries at once, of different families: a scale left out here and an order missed there."""
    for first, second in combinations(singles, 2):
        for (a,), (b,) in product(first, second):
            if a.family != b.family:
                yield (a, b)


def twice(
    entry: BoundEntry, singles: Sequence[tuple[Edit, ...]], mapping: TensorMapping, sizes: Mapping[str, int]
) -> Iterator[tuple[Edit, ...]]:
    """Two edits of one entry's ops, of different families."""
    for (first,) in singles:
        if not first.changes_source and first.family not in VALUES:
            yield from ((both,) for both in second_edits(entry, first, mapping, sizes))
