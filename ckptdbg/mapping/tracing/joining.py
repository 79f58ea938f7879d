"""From the origin of every element to sources and ops: which tensors, each rearranged how, joined along what."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.mapping.tracing.digits import Shape, factor
from ckptdbg.mapping.tracing.numerics import Values
from ckptdbg.mapping.tracing.patterns import Ops, ops_of, shortened

Array = NDArray[Any]
# A tensor that would be cut into more pieces than this is a permutation of rows, not a concatenation.
_MOST_PIECES = 64


@dataclass(frozen=True)
class Recipe:
    """How one target tensor is made: source ordinals in order, and ops. ``stacks``: axes of the finished tensor that
    run over the sources, outermost first, with their sizes; the ops are then those of one slice."""

    sources: tuple[int, ...]
    ops: tuple[dict[str, Any], ...] = ()
    stacks: tuple[tuple[int, int], ...] = ()
    exact: bool = True


class Unfactored(Exception):
    """No ops of a mapping file say it."""


@dataclass(frozen=True)
class Places:
    """What the elements of a target, or of a part of it, are: arrays of one shape."""

    ordinal: Array
    index: Array
    scale: Array
    shift: Array
    before: Array
    """Random source values."""
    after: Array
    """What the function made of them."""

    def map(self, change: Callable[[Array], Array]) -> Places:
        """The same after a change of places."""
        return Places(*(change(getattr(self, name)) for name in self.__dataclass_fields__))

    @property
    def shape(self) -> Shape:
        return self.ordinal.shape


@dataclass(frozen=True)
class Joiner:
    """Finds recipes. ``shapes`` are the sources', by ordinal; ``names`` give axis sizes a name."""

    shapes: Sequence[Shape]
    names: Mapping[int, str]
    values: Callable[[int, Places], Values]
    """The value ops of a part with one source."""

    def recipe(self, places: Places) -> Recipe:
        """Raises Unfactored."""
        alive = places.ordinal >= 0
        if alive.all():
            return self._full(places)
        return self._padded(places, alive)

    def _padded(self, places: Places, alive: Array) -> Recipe:
        spans = []
        for axis in range(alive.ndim):
            there = np.flatnonzero(alive.any(axis=tuple(a for a in range(alive.ndim) if a != axis)))
            spans.append(slice(int(there[0]), int(there[-1]) + 1))
        box = tuple(spans)
        values = np.unique(places.shift[~alive])
        if not alive[box].all() or len(values) > 1:
            raise Unfactored("constants among its elements that are no padding")
        inner = self._level(self._full(places.map(lambda a: a[box])))
        pads = [
            {"pad": places.shape[axis], "axis": axis, **({"before": span.start} if span.start else {})}
            | ({"value": float(values[0])} if values[0] else {})
            for axis, span in enumerate(box)
            if span != slice(0, places.shape[axis])
        ]
        return Recipe(inner.sources, (*inner.ops, *pads), (), inner.exact)

    def _full(self, places: Places) -> Recipe:
        varying = [a for a in range(places.ordinal.ndim) if (places.ordinal != places.ordinal.take([0], a)).any()]
        if not varying:
            return self._single(places)
        axis = varying[0]
        slices = (
            [places.map(lambda a, i=i: a.take(i, axis)) for i in range(places.shape[axis])]
            if self._stacked(places, axis)
            else []
        )
        if slices:
            return self._stack([self._full(part) for part in slices], axis)
        if len(varying) > 1:
            raise Unfactored("sources that alternate along two axes")
        return self._joined(places, axis)

    def _stacked(self, places: Places, axis: int) -> bool:
        """Whether every source has its elements in one slice along an axis."""
        n = places.shape[axis]
        if len(np.unique(places.ordinal)) < n:
            return False
        slices = [np.unique(places.ordinal.take(i, axis)) for i in range(n)]
        return len(np.unique(np.concatenate(slices))) == sum(map(len, slices))

    def _stack(self, parts: list[Recipe], axis: int) -> Recipe:
        first = parts[0]
        if any(p.ops != first.ops or p.stacks != first.stacks for p in parts):
            raise Unfactored(_unalike(parts, axis))
        inner = tuple((a + (a >= axis), n) for a, n in first.stacks)
        sources = tuple(s for p in parts for s in p.sources)
        return Recipe(sources, first.ops, ((axis, len(parts)), *inner), all(p.exact for p in parts))

    def _joined(self, places: Places, axis: int) -> Recipe:
        rest = tuple(slice(None) if a == axis else 0 for a in range(places.ordinal.ndim))
        line = places.ordinal[rest]
        if (places.ordinal != line.reshape(-1, *[1] * (places.ordinal.ndim - axis - 1))).any():
            raise Unfactored("sources that alternate along two axes")
        period = _period(line)
        if period < len(line):
            shape = (*places.shape[:axis], len(line) // period, period, *places.shape[axis + 1 :])
            inner = self._level(self._full(places.map(lambda a: a.reshape(shape))))
            return Recipe(inner.sources, (*inner.ops, {"reshape": list(places.shape)}), (), inner.exact)
        starts = [0, *(np.flatnonzero(np.diff(line)) + 1).tolist(), len(line)]
        if len(starts) > _MOST_PIECES + 1:
            raise Unfactored("rows of several sources in no order")
        cuts = [slice(a, b) for a, b in itertools.pairwise(starts)]
        parts = [self._level(self._single(places.map(lambda a, c=c: a[(slice(None),) * axis + (c,)]))) for c in cuts]
        return Recipe(
            tuple(s for p in parts for s in p.sources),
            (*_together([p.ops for p in parts]), {"concat": axis}),
            (),
            all(p.exact for p in parts),
        )

    def _level(self, recipe: Recipe) -> Recipe:
        """Stacks as ops, where more ops follow."""
        if not recipe.stacks:
            return recipe
        sizes = [size for _, size in recipe.stacks]
        if math.prod(sizes) != len(recipe.sources) or len(sizes) > 1:
            raise Unfactored("stacks within a joined tensor")
        ops = _together([recipe.ops] * len(recipe.sources))
        return Recipe(recipe.sources, (*ops, {"stack": recipe.stacks[0][0]}), (), recipe.exact)

    def _single(self, places: Places) -> Recipe:
        ordinal = int(places.ordinal.flat[0])
        source = self.shapes[ordinal]
        moved = self._moved(places.index, source)
        values = self.values(ordinal, places)
        return Recipe((ordinal,), (*moved, *values.ops), (), values.exact)

    def _moved(self, index: Array, source: Shape) -> Ops:
        for target in dict.fromkeys([index.shape, (index.size,)]):
            found = factor(index.reshape(target), source)
            ops = ops_of(found, source, target, self.names) if found is not None else None
            if ops is not None:
                return ops if target == index.shape else shortened([*ops, {"reshape": list(index.shape)}])
        taken = self._taken(index, source)
        if taken is None:
            raise Unfactored("its elements are in no order that axes describe")
        return taken

    def _taken(self, index: Array, source: Shape) -> Ops | None:
        """An order of rows that is given by a list, then a rearrangement."""
        if not source or index.size == 0:
            return None
        at = np.stack(np.unravel_index(index, source))
        for axis in range(len(source)):
            for target in range(index.ndim):
                line = at[axis][tuple(slice(None) if a == target else 0 for a in range(index.ndim))]
                along = line.reshape(-1, *[1] * (index.ndim - target - 1))
                if (at[axis] != along).any() or len(line) < 2:
                    continue
                counted = at.copy()
                counted[axis] = np.arange(len(line)).reshape(along.shape)
                shape = (*source[:axis], len(line), *source[axis + 1 :])
                straight = np.ravel_multi_index(tuple(counted), shape)
                found = factor(np.asarray(straight), shape)
                ops = ops_of(found, shape, index.shape, self.names) if found is not None else None
                if ops is not None:
                    return [{"take": axis, "indices": line.tolist()}, *ops]
        return None


def _unalike(parts: Sequence[Recipe], axis: int) -> str:
    """Why slices cannot be stacked; which they are, where most are made in one way."""
    ways = [repr((p.ops, p.stacks)) for p in parts]
    common, count = Counter(ways).most_common(1)[0]
    if 2 * count <= len(parts):
        return "slices that are made in different ways"
    odd = [i for i, way in enumerate(ways) if way != common]
    listed = ", ".join(map(str, odd[:3])) + (f" and {len(odd) - 3} more" if odd[3:] else "")
    kinds = ", ".join(next(iter(op)) for op in parts[odd[0]].ops) or "as it is"
    return f"slices that are made in different ways: {listed} of axis {axis} ({kinds}) otherwise than the rest"


def _period(line: Array) -> int:
    """The least p such that the line repeats its first p elements; its length where it repeats nothing."""
    n = len(line)
    again = np.flatnonzero(line == line[0])
    for p in again[1:]:
        if n % p == 0 and (line.reshape(-1, p) == line[:p]).all():
            return int(p)
    return n


def _together(parts: list[tuple[dict[str, Any], ...]]) -> list[dict[str, Any]]:
    """Ops of several sources as one list: those all share as they are, others with ``of`` the sources they are for."""
    if all(p == parts[0] for p in parts):
        every = list(range(len(parts)))  # a rearrange of several tensors would take them as one
        return [{**op, "of": every} if "rearrange" in op and len(parts) > 1 else op for op in parts[0]]
    shared = 0  # the last ops, where all have them in common and they are done to each anyway
    while all(p[-1 - shared :] == parts[0][-1 - shared :] and len(p) > shared for p in parts):
        if "rearrange" in parts[0][-1 - shared]:
            break
        shared += 1
    last = list(parts[0][len(parts[0]) - shared :])
    parts = [p[: len(p) - shared] for p in parts]
    merged: list[dict[str, Any]] = []
    for ops in dict.fromkeys(_key(p) for p in parts):
        of = [i for i, p in enumerate(parts) if _key(p) == ops]
        merged += [{**op, "of": of} for op in parts[of[0]]]
    return merged + last


def _key(ops: Sequence[dict[str, Any]]) -> str:
    return repr(ops)
