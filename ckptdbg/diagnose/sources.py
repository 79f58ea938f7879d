"""Candidate repairs that take other source tensors: exchanged, in another order, left over, of another layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

from ckptdbg.diagnose.edit import EXCHANGE, LAYERS, ORDER, OTHER, Edit
from ckptdbg.mapping import BoundEntry
from ckptdbg.mapping import Mapping as TensorMapping

Shape = tuple[int, ...]
# Orders of more sources than this are not tried: 4 have 24.
_MOST_SOURCES = 4


def other_sources(
    entry: BoundEntry, data: Sequence[Any], mapping: TensorMapping, unused: Mapping[str, Shape]
) -> Iterator[Edit]:
    """All edits of an entry's source alone."""
    written = mapping.source(entry.name)
    yield from _plain(entry, data, written)
    yield from _in_sequence(entry, data, written)
    yield from _sources(entry, data, written, unused)


def exchanges(entries: Sequence[BoundEntry], mapping: TensorMapping) -> list[tuple[Edit, Edit]]:
    """Pairs of entries of the same source shapes, each taking the other's sources."""
    found = []
    known = [entry for entry in entries if entry.opaque is None]
    for i, a in enumerate(known):
        for b in known[i + 1 :]:
            if [s.shape for s in a.source_specs] == [s.shape for s in b.source_specs] and a.layer == b.layer:
                found.append((_taking(a, b, mapping), _taking(b, a, mapping)))
    return found


def _taking(entry: BoundEntry, other: BoundEntry, mapping: TensorMapping) -> Edit:
    text, data = f"take the source of {other.name}", tuple(mapping.ops(entry.name))
    return Edit(entry.name, EXCHANGE, text, 1, entry.ops, data, other.name, taken=mapping.source(other.name))


def _sources(entry: BoundEntry, data: Sequence[Any], written: Any, unused: Mapping[str, Shape]) -> Iterator[Edit]:
    """The sources in another order, or another tensor that nothing uses."""
    if isinstance(written, list) and 1 < len(written) <= _MOST_SOURCES:
        for order in permutations(range(len(written))):
            if order != tuple(range(len(written))) and _alike(entry, order):
                text = "sources in the order " + ", ".join(written[i] for i in order)
                yield Edit(entry.name, ORDER, text, 1, entry.ops, tuple(data), order=order)
    if len(entry.sources) == 1:
        for name, shape in unused.items():
            if shape == entry.source_specs[0].shape:
                yield Edit(entry.name, OTHER, f"take {name}", 1, entry.ops, tuple(data), source=name)


def _alike(entry: BoundEntry, order: Sequence[int]) -> bool:
    """Whether tensors change places with tensors of their own shape only."""
    return all(entry.source_specs[i].shape == entry.source_specs[j].shape for i, j in enumerate(order))


def _plain(entry: BoundEntry, data: Sequence[Any], written: Any) -> Iterator[Edit]:
    """The placeholder itself where the source computes with it: layers taken from each other."""
    if isinstance(written, str) and entry.layer is not None and len(entry.sources) == 1:
        plain = re.sub(r"\{[^{}]*?([A-Za-z_]\w*)[^{}]*\}", r"{\1}", written)
        if plain != written and plain.count("{") == 1:
            yield Edit(entry.name, LAYERS, f"take {plain}", 1, entry.ops, tuple(data), template=plain)


def _in_sequence(entry: BoundEntry, data: Sequence[Any], written: Any) -> Iterator[Edit]:
    """What is stacked in the order of its numbers: layers taken from each other, experts sorted as text."""
    stacks = [stack for stack in entry.stacks if stack.side == "target"]
    if len(stacks) != 1:
        return
    over, lanes = stacks[0].over, stacks[0].size
    each = len(entry.sources) // lanes
    plain = _with_plain(written, over)
    numbers = _varying([entry.source_layers[i] for i in range(0, len(entry.sources), each)])
    order = tuple(sorted(range(lanes), key=lambda lane: numbers[lane])) if numbers else ()
    if plain is None or order == tuple(range(lanes)) or not order:
        return
    text = f"stack {over} in the order of its numbers, {', '.join(str(numbers[i]) for i in order[:3])}, ..."
    given = (over, [numbers[i] for i in order])
    yield Edit(entry.name, LAYERS, text, 1, entry.ops, tuple(data), lanes=order, taken=plain, numbers=given)


def _with_plain(written: Any, name: str) -> Any:
    """The sources with ``{name}`` alone where they compute with it; None where other placeholders take part there."""
    if isinstance(written, list):
        parts = [_with_plain(part, name) for part in written]
        return None if None in parts else parts
    braces = re.findall(r"\{([^{}]*)\}", written)
    mixed = [b for b in braces if name in (found := re.findall(r"[A-Za-z_]\w*", b)) and {*found} != {name}]
    return None if mixed else re.sub(rf"\{{[^{{}}]*\b{name}\b[^{{}}]*\}}", f"{{{name}}}", written)


def _varying(layers: Sequence[str | None]) -> list[int]:
    """The one number that differs among these names' numbers; nothing where several do, or none."""
    rows = [[int(n) for n in (layer or "").split(".") if n] for layer in layers]
    if len({len(row) for row in rows}) != 1:
        return []
    columns = [column for column in zip(*rows, strict=True) if len(set(column)) > 1]
    return list(columns[0]) if len(columns) == 1 else []
