"""Where the axes of a source tensor go: seen by sending indices through the ops that move elements.

An index along one axis is an array that takes no memory (its other axes have stride 0), and it is looked at along lines
through some places only: a matrix of any size costs little more than a small one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.mapping.entry import BoundEntry
from ckptdbg.mapping.ops import Op, Shape

Array = NDArray[Any]
_FIRST = 2**20  # the label of index 0: what is below it in a result is of another array, or padding
_LINES = 24  # looked at per axis: a carry between digits shows in most of them
_LARGEST = 2**28
"""Elements of arrays that an op may have to copy; larger ones are not looked at."""


@dataclass(frozen=True)
class Flow:
    """Of one source array of an entry: for each axis of more than one index, the axes of results that it runs along."""

    source: int
    shape: Shape
    """Of the source array, for one index of the stacked axes."""
    along: dict[int, frozenset[tuple[int, int]]]
    """Source axis to (result, axis of that result)."""


def flows(bound: BoundEntry) -> list[Flow] | None:
    """One per source array of one index of the stacked axes; None where they are too large to look at."""
    ops = [(op, shapes) for op, shapes in bound.before_each() if not op.elementwise]
    if not ops:
        shapes = bound.before_each()[0][1] if bound.ops else [spec.shape for spec in bound.source_specs[:1]]
        return [_straight(i, shape) for i, shape in enumerate(shapes)]
    if sum(int(np.prod(shape, dtype=np.int64)) for shape in ops[0][1]) > _LARGEST:
        return None
    return [_flow(i, ops[0][1], [op for op, _ in ops]) for i in range(len(ops[0][1]))]


def _straight(source: int, shape: Shape) -> Flow:
    return Flow(source, shape, {a: frozenset([(0, a)]) for a, size in enumerate(shape) if size > 1})


def _flow(source: int, shapes: Sequence[Shape], ops: Sequence[Op]) -> Flow:
    shape = shapes[source]
    along = {}
    for axis in (a for a, size in enumerate(shape) if size > 1):
        labels = [index_along(s, axis) if i == source else nowhere(s) for i, s in enumerate(shapes)]
        results = pushed(labels, ops)
        along[axis] = frozenset((r, t) for r, a in enumerate(results) for t in range(a.ndim) if varies(a, t))
    return Flow(source, shape, along)


def pushed(arrays: Sequence[Array], ops: Sequence[Op]) -> list[Array]:
    """Arrays after some ops."""
    out = list(arrays)
    for op in ops:
        out = op.apply(out)
    return out


def index_along(shape: Shape, axis: int) -> Array:
    """int32: each element's index along one axis, counted from the first label."""
    index = np.arange(_FIRST, _FIRST + shape[axis], dtype=np.int32)
    return np.broadcast_to(index.reshape(-1, *[1] * (len(shape) - axis - 1)), shape)


def nowhere(shape: Shape) -> Array:
    """int32: below every label."""
    return np.broadcast_to(np.int32(0), shape)


def varies(array: Array, axis: int) -> bool:
    """Whether what was marked changes along an axis, on some line through it."""
    moved = np.moveaxis(array, axis, -1)
    if moved.shape[-1] < 2 or not moved.size:
        return False
    for place in places(moved.shape[:-1]):
        line = moved[place]
        line = line[line >= _FIRST]
        if line.size and (line != line[0]).any():
            return True
    return False


def places(shape: Shape) -> list[tuple[int, ...]]:
    """The corners' indices and some between."""
    rng = np.random.default_rng(11)
    drawn = [tuple(int(i) for i in rng.integers(shape)) for _ in range(_LINES)] if shape else []
    return list(dict.fromkeys([tuple(0 for _ in shape), tuple(n - 1 for n in shape), *drawn]))
