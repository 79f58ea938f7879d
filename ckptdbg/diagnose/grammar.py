"""Candidate repairs of one mapping entry: a small grammar of the mistakes that people make.

Nothing here knows a model: patterns run over the axes of the entry's own tensors, with the sizes that the mapping
and the source's config name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, permutations, product, zip_longest
from typing import Any

from ckptdbg.errors import MappingError
from ckptdbg.mapping import BoundEntry
from ckptdbg.mapping import Mapping as TensorMapping
from ckptdbg.mapping.ops import Add, Op, OpError, Rearrange, Scale, Transpose
from ckptdbg.mapping.ops.base import one_line

Shape = tuple[int, ...]
# Orders of more sources than this are not tried: 4 have 24.
_MOST_SOURCES = 4
# Orders within one pattern: three groups of three factors have 216.
_MOST_ORDERS = 216
ROTARY, HEADS, FUSED, TRANSPOSED = "rotary order", "head order", "fused order", "transposition"
SCALE, SHIFT, SUPERFLUOUS = "scale", "shift", "a superfluous op"
EXCHANGE, ORDER, OTHER = "exchanged entries", "order of the sources", "another source"
SIZE, LAYERS = "size in a pattern", "layer order"
_POWERS = ("0.5", "-0.5")
VALUES = (SCALE, SHIFT, SUPERFLUOUS)


@dataclass(frozen=True)
class Edit:
    """Another way to make one entry's tensors: other ops, or other sources."""

    entry: str
    family: str
    text: str
    """What changes, in one line."""
    cost: int
    """How much of the mapping changes: the smaller edit is proposed first."""
    ops: tuple[Op, ...]
    data: tuple[Any, ...]
    """The same ops as they would stand in the mapping file, sizes by name where they have one."""
    sources_of: str | None = None
    """The entry whose sources this one takes, where two are exchanged."""
    order: tuple[int, ...] | None = None
    """The entry's own sources in another order."""
    source: str | None = None
    """Another source tensor."""
    template: str | None = None
    """Another source, with the entry's one placeholder in braces."""

    def applied(self, entry: BoundEntry, others: Mapping[str, Sequence[BoundEntry]]) -> BoundEntry:
        """The bound entry after the edit."""
        if self.sources_of is not None:
            other = next(e for e in others[self.sources_of] if e.layer == entry.layer)
            return replace(entry, sources=other.sources, source_layers=other.source_layers)
        if self.order is not None:
            lanes = range(0, len(entry.sources), len(self.order))
            places = [lane + i for lane in lanes for i in self.order]
            layers = tuple(entry.source_layers[i] for i in places)
            return replace(entry, sources=tuple(entry.sources[i] for i in places), source_layers=layers)
        if self.source is not None:
            return replace(entry, sources=(self.source,))
        if self.template is not None:
            return replace(entry, sources=(re.sub(r"\{\w+\}", entry.layer or "", self.template),))
        return replace(entry, ops=self.ops)

    def written(self, mapping: TensorMapping) -> TensorMapping:
        """The mapping file after the edit."""
        if self.sources_of is not None:
            return mapping.with_source(self.entry, self.taken)
        if self.order is not None:
            old = mapping.source(self.entry)
            return mapping.with_source(self.entry, [old[i] for i in self.order])
        if self.source is not None:
            return mapping.with_source(self.entry, self.source).without_ignored(self.source)
        if self.template is not None:
            return mapping.with_source(self.entry, self.template)
        return mapping.with_ops(self.entry, self.data)

    taken: Any = None
    """As the mapping file spells the sources that are taken."""


def edits(
    entry: BoundEntry, mapping: TensorMapping, sizes: Mapping[str, int], unused: Mapping[str, Shape] | None = None
) -> list[Edit]:
    """All single edits of an entry that keep its shapes. ``sizes`` are numbers by name, ``unused`` the source
    tensors that no entry uses."""
    data = mapping.ops(entry.name)
    found = [*_without(entry, data), *_resized(entry, data, sizes), *_reordered(entry, data)]
    factors = _factors(entry, mapping, sizes)
    found += [*_rescaled(entry, data, factors), *_plain(entry, data, mapping)]
    found += _sources(entry, data, mapping, unused or {})
    for at in _places(entry):
        shape = _shape_before(entry, at)
        for family, op, written in _inserted(shape, sizes, factors):
            ops, new = (*entry.ops[:at], op, *entry.ops[at:]), (*data[:at], written, *data[at:])
            found.append(Edit(entry.name, family, f"add {one_line(written)}", 2, ops, new))
    return [e for e in found if _fits(entry, e.ops)]


def exchanges(entries: Sequence[BoundEntry], mapping: TensorMapping) -> list[tuple[Edit, Edit]]:
    """Pairs of entries of the same source shapes, each taking the other's sources."""
    found = []
    for i, a in enumerate(entries):
        for b in entries[i + 1 :]:
            if [s.shape for s in a.source_specs] == [s.shape for s in b.source_specs] and a.layer == b.layer:
                found.append((_taking(a, b, mapping), _taking(b, a, mapping)))
    return found


def _taking(entry: BoundEntry, other: BoundEntry, mapping: TensorMapping) -> Edit:
    text, data = f"take the source of {other.name}", tuple(mapping.ops(entry.name))
    return Edit(entry.name, EXCHANGE, text, 1, entry.ops, data, other.name, taken=mapping.source(other.name))


def _sources(
    entry: BoundEntry, data: Sequence[Any], mapping: TensorMapping, unused: Mapping[str, Shape]
) -> Iterator[Edit]:
    """The sources in another order, or another tensor that nothing uses."""
    written = mapping.source(entry.name)
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


def _without(entry: BoundEntry, data: Sequence[Any]) -> Iterator[Edit]:
    for i, op in enumerate(entry.ops):
        ops, new = (*entry.ops[:i], *entry.ops[i + 1 :]), (*data[:i], *data[i + 1 :])
        yield Edit(entry.name, SUPERFLUOUS, f"drop {op}", 1, ops, new)


def _reordered(entry: BoundEntry, data: Sequence[Any]) -> Iterator[Edit]:
    """Factors within the groups of a pattern in another order: head-major against dim-major, halves against
    neighbours."""
    for i, op in enumerate(entry.ops):
        if not isinstance(op, Rearrange):
            continue
        pieces = re.split(r"\(([^()]*)\)", op.pattern)  # every second piece is the inside of a group
        orders = [list(permutations(group.split())) for group in pieces[1::2]]
        for chosen in islice(product(*orders), _MOST_ORDERS):
            groups = [f"({' '.join(order)})" for order in chosen]
            pattern = "".join(a + b for a, b in zip_longest(pieces[::2], groups, fillvalue=""))
            if pattern != op.pattern:
                yield _replaced(entry, data, i, HEADS, replace(op, pattern=pattern, written=""), {"rearrange": pattern})


def _resized(entry: BoundEntry, data: Sequence[Any], sizes: Mapping[str, int]) -> Iterator[Edit]:
    """Another number in a pattern: the number of query heads where that of key heads belongs."""
    for i, op in enumerate(entry.ops):
        if isinstance(op, Rearrange):
            for axis, old in dict(op.sizes).items():
                for name, number in _distinct(sizes):
                    if number != old:
                        changed = replace(op, sizes={**dict(op.sizes), axis: number}, written="")
                        yield _replaced(entry, data, i, SIZE, changed, {axis: name})


def _rescaled(entry: BoundEntry, data: Sequence[Any], sizes: Mapping[str, int]) -> Iterator[Edit]:
    """Another factor in a scale: the root where its inverse belongs."""
    for i, op in enumerate(entry.ops):
        if isinstance(op, Scale):
            for name, size in _distinct(sizes):
                for power in _POWERS:
                    written = {"scale": f"{name} ** {power}"}
                    yield _replaced(entry, data, i, SCALE, Scale(size ** float(power)), written)


def _plain(entry: BoundEntry, data: Sequence[Any], mapping: TensorMapping) -> Iterator[Edit]:
    """The placeholder itself where the source computes with it: layers taken from each other."""
    written = mapping.source(entry.name)
    if isinstance(written, str) and entry.layer is not None and len(entry.sources) == 1:
        plain = re.sub(r"\{[^{}]*?([A-Za-z_]\w*)[^{}]*\}", r"{\1}", written)
        if plain != written and plain.count("{") == 1:
            yield Edit(entry.name, LAYERS, f"take {plain}", 1, entry.ops, tuple(data), template=plain)


def _replaced(entry: BoundEntry, data: Sequence[Any], at: int, family: str, op: Op, written: dict[str, Any]) -> Edit:
    new = {**data[at], **written}
    text = f"{entry.ops[at]} becomes {one_line(new)}"
    return Edit(
        entry.name,
        family,
        text,
        1,
        (*entry.ops[:at], op, *entry.ops[at + 1 :]),
        (*data[:at], new, *data[at + 1 :]),
    )


def _places(entry: BoundEntry) -> list[int]:
    """Where an op may be put in: before all others (behind what joins several sources), and after them."""
    first = 0 if len(entry.sources) == 1 or entry.stacks else 1
    return sorted({min(first, len(entry.ops)), len(entry.ops)})


def _shape_before(entry: BoundEntry, at: int) -> Shape | None:
    """Shape of the one array that op number ``at`` would get; None where there are several."""
    if at == 0:
        return entry.source_specs[0].shape
    trace = [shapes for text, shapes in entry.steps() if not text.startswith(("stack", "unstack"))]
    shapes = trace[at - 1] if at - 1 < len(trace) else []
    return shapes[0] if len(shapes) == 1 else None


def _factors(entry: BoundEntry, mapping: TensorMapping, sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes whose roots may scale an entry: those of its axes, and those that the mapping names. Any other number that
    happens to fit would be a coincidence."""
    axes = {n for spec in (*entry.source_specs, *entry.target_specs) for n in spec.shape}
    named = {v.name for v in mapping.variables}
    return {name: size for name, size in sizes.items() if size in axes or name in named}


def _inserted(
    shape: Shape | None, sizes: Mapping[str, int], factors: Mapping[str, int]
) -> Iterator[tuple[str, Op, Any]]:
    if shape is None:
        return
    names = "abcdefg"[: len(shape)]
    for axis, size in enumerate(shape):
        for family, left, right, given in _splits(size, sizes):
            sides = [" ".join(f"({side})" if i == axis else n for i, n in enumerate(names)) for side in (left, right)]
            pattern = " -> ".join(sides)
            numbers = {k: sizes[v] if isinstance(v, str) else int(v) for k, v in given.items()}
            yield family, Rearrange(pattern, numbers), {"rearrange": pattern, **given}
    for i in range(len(shape)):
        for j in range(i + 1, len(shape)):
            if shape[i] == shape[j] > 1:
                axes = list(range(len(shape)))
                axes[i], axes[j] = j, i
                yield TRANSPOSED, Transpose(tuple(axes)), {"transpose": axes}
    for name, size in _distinct(factors):
        for power in _POWERS:
            yield SCALE, Scale(size ** float(power)), {"scale": f"{name} ** {power}"}
    if len(shape) == 1:
        for value in (1, -1):
            yield SHIFT, Add(value), {"add": value}


def _splits(size: int, sizes: Mapping[str, int]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Reorderings of one axis: family, factors before, factors after, and their sizes."""
    if size % 2 == 0 and size > 2:
        yield ROTARY, "two d", "d two", {"two": 2}
        yield ROTARY, "d two", "two d", {"two": 2}
    for name, count in _counts(size, sizes):
        yield HEADS, "h d", "d h", {"h": name}
        yield HEADS, "d h", "h d", {"h": name}
        if (size // count) % 2 == 0 and size // count > 2:
            yield ROTARY, "h two d", "h d two", {"h": name, "two": 2}
            yield ROTARY, "h d two", "h two d", {"h": name, "two": 2}
        for parts in (2, 3):
            if size % (count * parts) == 0:
                yield FUSED, "h p d", "p h d", {"h": name, "p": parts}
                yield FUSED, "p h d", "h p d", {"h": name, "p": parts}


def _counts(size: int, sizes: Mapping[str, int]) -> list[tuple[str | int, int]]:
    """How many heads an axis may hold: each number that divides it, by name, or the axis over that number."""
    counts: dict[int, str | int] = {}
    for name, number in _distinct(sizes):
        if 1 < number < size and size % number == 0:
            counts[number] = name
            counts.setdefault(size // number, size // number)
    return [(name, count) for count, name in counts.items()]


def _distinct(sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    """One name per number, the first."""
    seen: dict[int, str] = {}
    for name, size in sizes.items():
        seen.setdefault(size, name)
    return [(name, size) for size, name in seen.items()]


def _fits(entry: BoundEntry, ops: tuple[Op, ...]) -> bool:
    """Whether the entry still makes its targets' shapes."""
    try:
        replace(entry, ops=ops).check()
    except (MappingError, OpError, ValueError, KeyError, IndexError, RuntimeError):  # einops and NumPy have their own
        return False
    return True
