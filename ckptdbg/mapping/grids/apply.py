"""Every op of a mapping file on grids, and a whole entry."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import singledispatch
from itertools import accumulate, pairwise, product

from ckptdbg.mapping.entry import BoundEntry
from ckptdbg.mapping.grids.grid import Grid, joined
from ckptdbg.mapping.ops import (
    Concat,
    Expand,
    Of,
    Op,
    OpError,
    Pad,
    Rearrange,
    Reshape,
    Shape,
    Slice,
    Split,
    Squeeze,
    Stack,
    Take,
    Transpose,
    Unstack,
)
from ckptdbg.mapping.ops.base import positive
from ckptdbg.mapping.stacking import StackAxis

Grids = list[Grid]


@singledispatch
def applied(op: Op, grids: Sequence[Grid]) -> Grids:
    """The grids after an op: what changes values only is noted, what moves axes moves them."""
    if not op.elementwise:
        raise OpError(f"{op.kind} is not known to patterns of indices")
    return [grid.valued(op) for grid in grids]


@applied.register
def _(op: Of, grids: Sequence[Grid]) -> Grids:
    found = list(grids)
    for i in op.arrays:
        found[i] = applied(op.inner, [found[i]])[0]
    return found


@applied.register
def _(op: Transpose, grids: Sequence[Grid]) -> Grids:
    return [g.transposed([positive(a, len(g.shape)) for a in op.axes or range(len(g.shape))[::-1]]) for g in grids]


@applied.register
def _(op: Reshape, grids: Sequence[Grid]) -> Grids:
    return [grid.reshaped(op.shape(grid.shape)) for grid in grids]


@applied.register
def _(op: Squeeze, grids: Sequence[Grid]) -> Grids:
    return [grid.without_axis(positive(op.axis, len(grid.shape))) for grid in grids]


@applied.register
def _(op: Expand, grids: Sequence[Grid]) -> Grids:
    return [grid.with_axis(positive(op.axis, len(grid.shape) + 1), op.size) for grid in grids]


@applied.register
def _(op: Concat, grids: Sequence[Grid]) -> Grids:
    return [joined(grids, positive(op.axis, len(grids[0].shape)))]


@applied.register
def _(op: Split, grids: Sequence[Grid]) -> Grids:
    (grid,) = grids
    axis = positive(op.axis, len(grid.shape))
    ends = [0, *accumulate(shape[axis] for shape in op.shapes([grid.shape]))]
    return [grid.between(axis, a, b) for a, b in pairwise(ends)]


@applied.register
def _(op: Stack, grids: Sequence[Grid]) -> Grids:
    axis = positive(op.axis, len(grids[0].shape) + 1)
    return [joined([grid.with_axis(axis) for grid in grids], axis)]


@applied.register
def _(op: Unstack, grids: Sequence[Grid]) -> Grids:
    (grid,) = grids
    axis = positive(op.axis, len(grid.shape))
    return [grid.between(axis, i, i + 1).without_axis(axis) for i in range(grid.shape[axis])]


@applied.register
def _(op: Slice, grids: Sequence[Grid]) -> Grids:
    found = []
    for grid in grids:
        axis = positive(op.axis, len(grid.shape))
        start, stop, _ = slice(op.start, op.stop).indices(grid.shape[axis])
        found.append(grid.between(axis, start, stop))
    return found


@applied.register
def _(op: Take, grids: Sequence[Grid]) -> Grids:
    def taken(grid: Grid) -> Grid:
        axis = positive(op.axis, len(grid.shape))
        indices = [positive(i, grid.shape[axis]) for i in op.indices]
        return joined([grid.between(axis, i, i + 1) for i in indices], axis)

    return [taken(grid) for grid in grids]


@applied.register
def _(op: Pad, grids: Sequence[Grid]) -> Grids:
    def padded(grid: Grid) -> Grid:
        for axis, after in enumerate(op.shape(grid.shape)):
            before = op.before if after != grid.shape[axis] or op.axis is None else 0
            sizes = before, after - grid.shape[axis] - before
            ends = [Grid.filled((*grid.shape[:axis], n, *grid.shape[axis + 1 :]), op.value) for n in sizes]
            grid = joined([ends[0], grid, ends[1]], axis)
        return grid

    return [padded(grid) for grid in grids]


@applied.register
def _(op: Rearrange, grids: Sequence[Grid]) -> Grids:
    grid = grids[0] if len(grids) == 1 else applied(Stack(0), grids)[0]
    left, right = (_groups(side) for side in op.pattern.split("->"))
    rest = [f"...{i}" for i in range(len(grid.shape) - len(left) + 1)] if ["..."] in left else []
    left, right = (_without_dots(side, rest) for side in (left, right))
    sizes = _solved(left, grid.shape, dict(op.sizes))
    grid = _ungrouped(grid, left, sizes)
    names = [name for group in left for name in group]
    order = [name for group in right for name in group]
    grid = grid.transposed([names.index(name) for name in order])
    return [_regrouped(grid, right)]


def _groups(side: str) -> list[list[str]]:
    """One list of names per axis; an axis of size 1 is an empty one."""
    found = re.findall(r"\(([^()]*)\)|([^\s()]+)", side)
    return [[n for n in (grouped or single).split() if n != "1"] for grouped, single in found]


def _without_dots(groups: list[list[str]], rest: list[str]) -> list[list[str]]:
    return [part for group in groups for part in ([[n] for n in rest] if group == ["..."] else [group])]


def _solved(groups: list[list[str]], shape: Shape, sizes: dict[str, int]) -> dict[str, int]:
    for group, size in zip(groups, shape, strict=True):
        known = math.prod(sizes.get(name, 1) for name in group)
        sizes |= {name: size // known for name in group if name not in sizes}
    return sizes


def _ungrouped(grid: Grid, groups: list[list[str]], sizes: dict[str, int]) -> Grid:
    axis = 0
    for group in groups:
        if not group:
            grid = grid.without_axis(axis)
            continue
        for i in range(1, len(group)):
            grid = grid.parted(axis, math.prod(sizes[name] for name in group[i:]))
            axis += 1
        axis += 1
    return grid


def _regrouped(grid: Grid, groups: list[list[str]]) -> Grid:
    for axis, group in enumerate(groups):
        if not group:
            grid = grid.with_axis(axis)
        for _ in group[1:]:
            grid = grid.merged(axis)
    return grid


def entry_grids(entry: BoundEntry) -> Grids:
    """What an entry makes, one grid per target."""
    sources = [Grid.of(name, spec.shape) for name, spec in zip(entry.sources, entry.source_specs, strict=True)]
    inside, outside = ([s for s in entry.stacks if s.side == side] for side in ("source", "target"))
    per_lane = len(sources) // math.prod(stack.size for stack in outside)
    rows = []
    for start in range(0, len(sources), per_lane):
        lanes = zip(*(_unstacked(grid, inside) for grid in sources[start : start + per_lane]), strict=True)
        rows.append([made for lane in lanes for made in _done(entry.ops, list(lane))])
    return [_stacked(list(column), outside) for column in zip(*rows, strict=True)]


def _done(ops: Sequence[Op], grids: Grids) -> Grids:
    for op in ops:
        grids = applied(op, grids)
    return grids


def _unstacked(grid: Grid, stacks: Sequence[StackAxis]) -> Grids:
    """One grid for every index of the stacked axes, the first of them outermost."""
    axes = [positive(stack.axis, len(grid.shape)) for stack in stacks]

    def at(indices: Sequence[int]) -> Grid:
        found = grid
        for axis, index in zip(axes, indices, strict=True):
            found = found.between(axis, index, index + 1)
        for axis in sorted(axes, reverse=True):
            found = found.without_axis(axis)
        return found

    return [at(indices) for indices in product(*(range(stack.size) for stack in stacks))]


def _stacked(grids: Grids, stacks: Sequence[StackAxis]) -> Grid:
    if not stacks:
        return grids[0]
    rank = len(grids[0].shape) + len(stacks)
    placed = sorted((positive(stack.axis, rank), i) for i, stack in enumerate(stacks))
    pieces = []
    shape: Shape = ()
    for grid, indices in zip(grids, product(*(range(s.size) for s in stacks)), strict=True):
        for axis, i in placed:
            grid = grid.with_axis(axis, stacks[i].size, indices[i], 1)
        pieces += grid.pieces
        shape = grid.shape
    return Grid(shape, tuple(pieces))
