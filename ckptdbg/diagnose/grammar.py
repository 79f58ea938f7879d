"""Candidate repairs of one mapping entry: a small grammar of the mistakes that people make.

Nothing here knows a model: patterns run over the axes of the entry's own tensors, with the sizes that the mapping
and the source's config name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, permutations, product, zip_longest
from typing import Any

from ckptdbg.diagnose.edit import FUSED, HEADS, ROTARY, SCALE, SHIFT, SIZE, SUPERFLUOUS, TRANSPOSED, Edit
from ckptdbg.diagnose.orders import listed_orders
from ckptdbg.diagnose.sources import other_sources
from ckptdbg.errors import MappingError
from ckptdbg.mapping import BoundEntry
from ckptdbg.mapping import Mapping as TensorMapping
from ckptdbg.mapping.ops import Add, Op, OpError, Rearrange, Scale, Transpose
from ckptdbg.mapping.ops.base import one_line

Shape = tuple[int, ...]
# Orders within one pattern: three groups of three factors have 216.
_MOST_ORDERS = 216
_POWERS = ("0.5", "-0.5")


def edits(
    entry: BoundEntry, mapping: TensorMapping, sizes: Mapping[str, int], unused: Mapping[str, Shape] | None = None
) -> list[Edit]:
    """All single edits of an entry that keep its shapes. ``sizes`` are numbers by name, ``unused`` the source
    tensors that no entry uses."""
    if entry.opaque is not None:  # nobody knows what the function makes of other sources
        return []
    data = mapping.ops(entry.name)
    found = _op_edits(entry, data, sizes, _factors(entry, mapping, sizes))
    return [*found, *other_sources(entry, data, mapping, unused or {})]


def second_edits(entry: BoundEntry, first: Edit, mapping: TensorMapping, sizes: Mapping[str, int]) -> list[Edit]:
    """Both edits as one: what can be done besides to an entry whose ops are already as in ``first``."""
    changed = replace(entry, ops=first.ops)
    return [
        replace(e, family=f"{first.family} and {e.family}", text=f"{first.text}; {e.text}", cost=first.cost + e.cost)
        for e in _op_edits(changed, first.data, sizes, _factors(entry, mapping, sizes))
        if e.family != first.family and e.ops != entry.ops
    ]


def _op_edits(
    entry: BoundEntry, data: Sequence[Any], sizes: Mapping[str, int], factors: Mapping[str, int]
) -> list[Edit]:
    found = [*_without(entry, data), *_reordered(entry, data), *_resized(entry, data, sizes)]
    found += _rescaled(entry, data, factors)
    for at in _places(entry):
        shape = _shape_before(entry, at)
        if shape is None:
            continue
        for family, ops, written in [*_inserted(shape, sizes, factors), *listed_orders(shape, sizes)]:
            text = "add " + ", ".join(one_line(w) for w in written)
            new = (*data[:at], *written, *data[at:])
            found.append(Edit(entry.name, family, text, 2, (*entry.ops[:at], *ops, *entry.ops[at:]), new))
    return [e for e in found if _fits(entry, e.ops)]


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
    shape: Shape, sizes: Mapping[str, int], factors: Mapping[str, int]
) -> Iterator[tuple[str, tuple[Op, ...], list[Any]]]:
    names = "abcdefg"[: len(shape)]
    for axis, size in enumerate(shape):
        for family, left, right, given in _splits(size, sizes):
            sides = [" ".join(f"({side})" if i == axis else n for i, n in enumerate(names)) for side in (left, right)]
            pattern = " -> ".join(sides)
            numbers = {k: sizes[v] if isinstance(v, str) else int(v) for k, v in given.items()}
            yield family, (Rearrange(pattern, numbers),), [{"rearrange": pattern, **given}]
    for i in range(len(shape)):
        for j in range(i + 1, len(shape)):
            if shape[i] == shape[j] > 1:
                axes = list(range(len(shape)))
                axes[i], axes[j] = j, i
                yield TRANSPOSED, (Transpose(tuple(axes)),), [{"transpose": axes}]
    for name, size in _distinct(factors):
        for power in _POWERS:
            yield SCALE, (Scale(size ** float(power)),), [{"scale": f"{name} ** {power}"}]
    if len(shape) == 1:
        for value in (1, -1):
            yield SHIFT, (Add(value),), [{"add": value}]


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
        for other, _ in _counts(size // count, sizes):  # groups of heads, repeated or tiled: (k g d) and (g k d)
            if isinstance(name, str) and isinstance(other, str):
                yield HEADS, "a b d", "b a d", {"a": other, "d": name}
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
