"""Random chains of mapping ops, for property tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from string import ascii_lowercase

import numpy as np
from hypothesis import strategies as st

from ckptdbg.mapping.ops import (
    Add,
    Array,
    Cast,
    Concat,
    Divide,
    Expand,
    Of,
    Op,
    OpError,
    Pad,
    Rearrange,
    Reshape,
    Scale,
    Shape,
    Slice,
    Split,
    Squeeze,
    Stack,
    Take,
    Transpose,
    Unstack,
)

Shapes = list[Shape]
MOST_ELEMENTS, MOST_AXES = 240, 5
_FACTORS = st.sampled_from([0.5, -2.0, 3.0, 1 / 3, 0.1])


def factored(draw: Callable, size: int) -> list[int]:
    """Whole numbers above 1 with this product, in any order."""
    factors = []
    while size > 1:
        divisors = [n for n in range(2, size + 1) if size % n == 0]
        factors.append(draw(st.sampled_from(divisors)))
        size //= factors[-1]
    return factors


def grouped(draw: Callable, names: Sequence[str]) -> list[list[str]]:
    """These names in a few neighbouring groups; an empty one is an axis of size 1."""
    groups: list[list[str]] = [[]]
    for name in names:
        if len(groups) < MOST_AXES and draw(st.booleans()):
            groups.append([])
        groups[-1].append(name)
    return groups


def side(groups: Sequence[Sequence[str]]) -> str:
    """One side of an einops pattern."""
    return " ".join(group[0] if len(group) == 1 else f"({' '.join(group)})" for group in groups)


def rearrange(draw: Callable, shapes: Shapes) -> Op | None:
    if len(set(shapes)) > 1:
        return None
    shape = shapes[0] if len(shapes) == 1 else (len(shapes), *shapes[0])
    digits = [factored(draw, size) if i or len(shapes) == 1 else [size] for i, size in enumerate(shape)]
    if sum(map(len, digits)) > len(ascii_lowercase):
        return None
    letters = iter(ascii_lowercase)
    names = [[next(letters) for _ in group] for group in digits]
    sizes = {name: size for own, group in zip(names, digits, strict=True) if len(own) > 1
             for name, size in zip(own, group, strict=True)}  # fmt: skip
    moved = draw(st.permutations([name for own in names for name in own]))
    return Rearrange(f"{side(names)} -> {side(grouped(draw, moved))}", sizes)


def transpose(draw: Callable, shapes: Shapes) -> Op | None:
    rank = {len(shape) for shape in shapes}
    return Transpose(tuple(draw(st.permutations(range(rank.pop()))))) if len(rank) == 1 and rank != {0} else None


def reshape(draw: Callable, shapes: Shapes) -> Op | None:
    size = {math.prod(shape) for shape in shapes}
    if len(size) > 1:
        return None
    to = tuple(factored(draw, size.pop()))
    return Reshape(to) if 0 < len(to) <= MOST_AXES else None


def squeeze(draw: Callable, shapes: Shapes) -> Op | None:
    axes = [i for i in range(min(map(len, shapes))) if all(shape[i] == 1 for shape in shapes)]
    return Squeeze(draw(st.sampled_from(axes))) if axes and min(map(len, shapes)) > 1 else None


def expand(draw: Callable, shapes: Shapes) -> Op | None:
    return Expand(draw(st.integers(0, min(map(len, shapes)))), draw(st.integers(1, 3)))


def concat(draw: Callable, shapes: Shapes) -> Op | None:
    rank = min(map(len, shapes))
    found = [op for op in map(Concat, range(rank)) if _fits(op, shapes)] if len(shapes) > 1 else []
    return draw(st.sampled_from(found)) if found else None


def split(draw: Callable, shapes: Shapes) -> Op | None:
    axis = draw(st.integers(0, len(shapes[0]) - 1))
    size = shapes[0][axis]
    if len(shapes) > 1 or size < 2:
        return None
    if draw(st.booleans()):
        return Split(axis, parts=draw(st.sampled_from([n for n in range(2, size + 1) if size % n == 0])))
    first = draw(st.integers(1, size - 1))
    return Split(axis, (first, size - first))


def stack(draw: Callable, shapes: Shapes) -> Op | None:
    return Stack(draw(st.integers(0, len(shapes[0])))) if len(set(shapes)) == 1 else None


def unstack(draw: Callable, shapes: Shapes) -> Op | None:
    return Unstack(draw(st.integers(0, len(shapes[0]) - 1))) if len(shapes) == 1 and len(shapes[0]) > 1 else None


def pad(draw: Callable, shapes: Shapes) -> Op | None:
    axis = draw(st.integers(0, min(map(len, shapes)) - 1))
    before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    return Pad(before + max(shape[axis] for shape in shapes) + after, axis, float(draw(st.integers(-2, 2))), before)


def slice_(draw: Callable, shapes: Shapes) -> Op | None:
    axis = draw(st.integers(0, min(map(len, shapes)) - 1))
    size = min(shape[axis] for shape in shapes)
    start = draw(st.integers(0, size - 1))
    return Slice(axis, start, draw(st.integers(start + 1, size)))


def take(draw: Callable, shapes: Shapes) -> Op | None:
    axis = draw(st.integers(0, min(map(len, shapes)) - 1))
    sizes = {shape[axis] for shape in shapes}
    return Take(axis, tuple(draw(st.permutations(range(sizes.pop()))))) if len(sizes) == 1 else None


OPS: dict[str, Callable[[Callable, Shapes], Op | None]] = {
    "rearrange": rearrange,
    "transpose": transpose,
    "reshape": reshape,
    "squeeze": squeeze,
    "expand": expand,
    "concat": concat,
    "split": split,
    "stack": stack,
    "unstack": unstack,
    "pad": pad,
    "slice": slice_,
    "take": take,
    "scale": lambda draw, _: Scale(draw(_FACTORS)),
    "divide": lambda draw, _: Divide(draw(_FACTORS)),
    "add": lambda draw, _: Add(draw(_FACTORS)),
    "cast": lambda draw, _: Cast(draw(st.sampled_from(["float16", "bfloat16"]))),
}
"""By the name in a mapping file: one that fits arrays of these shapes, or None."""


def _fits(op: Op, shapes: Shapes) -> bool:
    try:
        made = op.shapes(shapes)
    except OpError:
        return False
    return all(math.prod(s) and 0 < len(s) <= MOST_AXES for s in made) and _elements(made) <= MOST_ELEMENTS


def _elements(shapes: Shapes) -> int:
    return sum(map(math.prod, shapes))


@st.composite
def chains(draw: Callable, most: int = 5) -> tuple[Shapes, list[Op]]:
    """Shapes of one to three sources, and ops that fit one after the other. Axes of size 1 and primes occur."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 6]), min_size=1, max_size=3).map(tuple))
    shapes, ops = [shape] * draw(st.integers(1, 3)), []
    first = list(shapes)
    for _ in range(draw(st.integers(1, most))):
        op = draw(st.sampled_from(sorted(OPS)).map(OPS.__getitem__))(draw, shapes)
        if (
            op is not None
            and len(shapes) > 1
            and draw(st.integers(0, 3)) == 0
            and len(op.shapes(shapes)) == len(shapes)
        ):
            op = Of(op, (draw(st.integers(0, len(shapes) - 1)),))
        if op is not None and _fits(op, shapes):
            ops.append(op)
            shapes = op.shapes(shapes)
    return first, ops


def run(ops: Sequence[Op], arrays: Sequence[Array]) -> list[Array]:
    """The arrays after all ops, nothing rounded."""
    out = list(arrays)
    for op in ops:
        out = op.apply(out, rounding=False)
    return out


def undoing(ops: Sequence[Op], shapes: Shapes) -> list[Op]:
    """The ops that undo a chain, in their order. Raises OpError where one of them has no inverse."""
    undone: list[Op] = []
    for op in ops:
        undone = [*op.inverse(shapes), *undone]
        shapes = op.shapes(shapes)
    return undone


def losses(ops: Sequence[Op], shapes: Shapes) -> list[str]:
    """What the ops say that they drop."""
    lost = []
    for op in ops:
        lost += [op.dropped(shapes)] if op.dropped(shapes) else []
        shapes = op.shapes(shapes)
    return lost


def numbered(shapes: Shapes) -> list[Array]:
    """Arrays of these shapes that hold 1, 2, 3, ... through all of them."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    return [
        np.arange(end - math.prod(shape) + 1, end + 1, dtype=np.float64).reshape(shape)
        for shape, end in zip(shapes, ends, strict=True)
    ]
