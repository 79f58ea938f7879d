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

from ckptdbg.mapping.tracing.digits import MOST_ELEMENTS, factor, flat
from ckptdbg.mapping.tracing.numerics import Values
from ckptdbg.mapping.tracing.patterns import Ops, ops_of, shortened
from ckptdbg.mapping.tracing.spread import Shape, Spread, together

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

    ordinal: Spread
    """Which source; -1 for a constant."""
    index: tuple[Spread, ...]
    """The flat index there as a sum: of one term, or of one for each axis of the source."""
    scale: Spread
    shift: Spread
    before: tuple[Spread, ...]
    """Random source values, once or several times."""
    after: tuple[Spread, ...]
    """What the function made of each."""

    @classmethod
    def dense(cls, ordinal: Array, index: Array, scale: Array, shift: Array, before: Array, after: Array) -> Places:
        """From arrays of the target's shape; ``index`` is flat."""
        of, at, times, plus, one, other = map(Spread.dense, (ordinal, index, scale, shift, before, after))
        return cls(of, (at,), times, plus, (one,), (other,))

    def map(self, change: Callable[[Spread], Spread]) -> Places:
        """The same after a change of places."""
        index, before, after = (tuple(map(change, s)) for s in (self.index, self.before, self.after))
        return Places(change(self.ordinal), index, change(self.scale), change(self.shift), before, after)

    def pairs(self) -> tuple[Array, Array]:
        """Source values and what became of them, flat."""
        found = [together(pair) for pair in zip(self.before, self.after, strict=True)]
        before, after = (np.concatenate([pair[side].reshape(-1) for pair in found]) for side in (0, 1))
        return before, after

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
        alive = places.ordinal.each(lambda ordinal: ordinal >= 0)
        if alive.base.all():
            return self._full(places)
        return self._padded(places, alive)

    def _padded(self, places: Places, alive: Spread) -> Recipe:
        box = []
        for axis in range(len(places.shape)):
            there = np.flatnonzero(alive.any_along(axis))
            box.append(slice(int(there[0]), int(there[-1]) + 1))
        shift, dead = together([places.shift, alive.each(np.logical_not)])
        values = np.unique(shift[dead])
        if not _boxed(alive, box).base.all() or len(values) > 1:
            raise Unfactored("constants among its elements that are no padding")
        inner = self._level(self._full(places.map(lambda a: _boxed(a, box))))
        pads = [
            {"pad": places.shape[axis], "axis": axis, **({"before": span.start} if span.start else {})}
            | ({"value": float(values[0])} if values[0] else {})
            for axis, span in enumerate(box)
            if span != slice(0, places.shape[axis])
        ]
        return Recipe(inner.sources, (*inner.ops, *pads), (), inner.exact)

    def _full(self, places: Places) -> Recipe:
        varying = [a for a in range(len(places.shape)) if places.ordinal.varies(a)]
        if not varying:
            return self._single(places)
        axis = varying[0]
        if self._stacked(places, axis):
            slices = (places.map(lambda a, i=i: a.taken(i, axis)) for i in range(places.shape[axis]))
            return stack_recipes([self._full(part) for part in slices], axis)
        if len(varying) > 1:
            raise Unfactored("sources that alternate along two axes")
        return self._joined(places, axis)

    def _stacked(self, places: Places, axis: int) -> bool:
        """Whether every source has its elements in one slice along an axis."""
        n = places.shape[axis]
        if len(places.ordinal.values()) < n:
            return False
        slices = [places.ordinal.taken(i, axis).values() for i in range(n)]
        return len(np.unique(np.concatenate(slices))) == sum(map(len, slices))

    def _joined(self, places: Places, axis: int) -> Recipe:
        line = places.ordinal.line(axis)
        period = _period(line)
        if period < len(line):
            inner = self._level(self._full(places.map(lambda a: a.parted(axis, len(line) // period))))
            return Recipe(inner.sources, (*inner.ops, {"reshape": list(places.shape)}), (), inner.exact)
        starts = [0, *(np.flatnonzero(np.diff(line)) + 1).tolist(), len(line)]
        if len(starts) > _MOST_PIECES + 1:
            raise Unfactored("rows of several sources in no order")
        cuts = [slice(a, b) for a, b in itertools.pairwise(starts)]
        parts = [self._level(self._single(places.map(lambda a, c=c: a.cut(axis, c)))) for c in cuts]
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
        ordinal = int(places.ordinal.first)
        moved = self._moved(places.index, self.shapes[ordinal])
        values = self.values(ordinal, places)
        return Recipe((ordinal,), (*moved, *values.ops), (), values.exact)

    def _moved(self, index: Sequence[Spread], source: Shape) -> Ops:
        shape = index[0].shape
        ops = self._pattern(index, source, shape)
        if ops is None and len(shape) != 1 and index[0].size <= MOST_ELEMENTS:
            whole = flat(index)
            row = None if whole is None else Spread.dense(whole.all().reshape(-1))
            ops = None if row is None else self._pattern([row], source, row.shape)
            ops = None if ops is None else shortened([*ops, {"reshape": list(shape)}])
        ops = self._taken(index, source) if ops is None else ops
        if ops is None:
            raise Unfactored("its elements are in no order that axes describe")
        return ops

    def _pattern(self, index: Sequence[Spread], source: Shape, target: Shape) -> Ops | None:
        found = factor(index, source)
        return None if found is None else ops_of(found, source, target, self.names)

    def _taken(self, index: Sequence[Spread], source: Shape) -> Ops | None:
        """An order of rows that is given by a list, then a rearrangement."""
        shape = index[0].shape
        if not source or index[0].size == 0:
            return None
        at = _coordinates(index, source)
        for axis, target in itertools.product(range(len(source)), range(len(shape))):
            line = at[axis].line(target)
            if len(line) < 2 or any(at[axis].varies(other) for other in range(len(shape)) if other != target):
                continue
            rows = (*source[:axis], len(line), *source[axis + 1 :])
            counted = np.arange(len(line)).reshape(-1, *[1] * (len(shape) - target - 1))
            straight = [*at[:axis], Spread(_with_axes(counted, len(shape)), shape), *at[axis + 1 :]]
            strides = _strides(rows)
            terms = [c.each(lambda base, s=s: base * s) for c, s in zip(straight, strides, strict=True)]
            ops = self._pattern(terms, rows, shape)
            if ops is not None:
                return [{"take": axis, "indices": line.tolist()}, *ops]
        return None


def stack_recipes(parts: Sequence[Recipe], axis: int) -> Recipe:
    """One recipe of those of every slice along an axis. Raises Unfactored where they are not made alike."""
    first = parts[0]
    if any(p.ops != first.ops or p.stacks != first.stacks for p in parts):
        raise Unfactored(_unalike(parts, axis))
    stacks = [(axis, len(parts)), *((a + (a >= axis), n) for a, n in first.stacks)]
    order = sorted(range(len(stacks)), key=lambda i: stacks[i])  # the first axis is the outermost level
    grid = np.array([p.sources for p in parts], np.int64).reshape(*(n for _, n in stacks), -1)
    sources = grid.transpose(*order, len(stacks)).reshape(-1).tolist()
    return Recipe(tuple(sources), first.ops, tuple(stacks[i] for i in order), all(p.exact for p in parts))


def _boxed(spread: Spread, box: Sequence[slice]) -> Spread:
    for axis, part in enumerate(box):
        spread = spread.cut(axis, part)
    return spread


def _coordinates(index: Sequence[Spread], source: Shape) -> list[Spread]:
    """The index along every axis of a source."""
    if len(index) == 1:
        return [Spread(np.asarray(c), index[0].shape) for c in np.unravel_index(index[0].base, source)]
    return [term.each(lambda base, s=s: base // s) for term, s in zip(index, _strides(source), strict=False)]


def _strides(shape: Shape) -> list[int]:
    """How many elements a step along each axis passes."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _with_axes(array: Array, ndim: int) -> Array:
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


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
