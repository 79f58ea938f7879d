"""Layers of a source that the target keeps in two places: scanned blocks, and the layers that fill no block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ckptdbg.mapping.proposal.families import Family


def shared_out(sources: Sequence[Family], targets: Sequence[Family]) -> list[Family]:
    """The source's families, those of too many layers for any one target family in two: the layers in whole blocks, and
    the rest."""
    whole = {slot.size for f in targets for slot in f.slots} | {n for f in targets for n in f.shape}
    found: list[Family] = []
    for family in sources:
        count = family.slots[0].size if family.slots else 0
        ends = [] if count in whole else list(_block_ends(count, targets))
        found += _split(family, ends[0]) if ends else [family]
    return found


def _block_ends(count: int, targets: Sequence[Family]) -> Iterator[int]:
    """How many layers lie in whole blocks, where a target family holds these and another exactly the rest."""
    sizes = {f.slots[0].size for f in targets if f.slots}
    for family in targets:
        if family.slots:
            for blocks in family.shape:
                end = blocks * family.slots[0].size
                if blocks > 1 and 0 < count - end < count and count - end in sizes:
                    yield end


def _split(family: Family, end: int) -> list[Family]:
    first, *rest = family.slots
    parts = first.values[:end], first.values[end:]
    return [replace(family, slots=(replace(first, values=values), *rest)) for values in parts]
