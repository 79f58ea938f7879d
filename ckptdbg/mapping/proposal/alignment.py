"""How the numbers in a target's names answer to those in its sources': number to number, stacked, or in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from ckptdbg.mapping.proposal.families import Shape, Slot


@dataclass(frozen=True)
class Block:
    """Layers in blocks: the source's ``period * block + inner``, the blocks stacked, ``inner`` in the target's name."""

    source: int
    target: int
    axis: int
    period: int


@dataclass(frozen=True)
class Alignment:
    """Indices of slots; axes are those of the stacked tensor."""

    pairs: tuple[tuple[int, int], ...] = ()
    """Target slot, source slot."""
    stacks: tuple[tuple[int, int], ...] = ()
    """Source slot, axis of the target."""
    blocks: tuple[Block, ...] = ()
    unstacks: tuple[tuple[int, int], ...] = ()
    """Target slot, axis of the source."""
    cost: int = field(default=0, compare=False)

    @property
    def target_axes(self) -> tuple[int, ...]:
        """Axes of the target that run over names of the source."""
        return (*(axis for _, axis in self.stacks), *(b.axis for b in self.blocks))

    @property
    def source_axes(self) -> tuple[int, ...]:
        return tuple(axis for _, axis in self.unstacks)

    def lanes(self, source: Shape, target: Shape) -> tuple[Shape, Shape]:
        """The shapes without the stacked axes."""
        return _without(source, self.source_axes), _without(target, self.target_axes)


def _without(shape: Shape, axes: Sequence[int]) -> Shape:
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def alignments(
    source: Sequence[Slot], source_shape: Shape, target: Sequence[Slot], target_shape: Shape
) -> list[Alignment]:
    """All ways to give every slot of both sides its counterpart, the plainest first."""
    found = list(_placed(source, source_shape, target, target_shape, 0, Alignment()))
    return sorted(found, key=lambda a: (a.cost, a.target_axes, a.source_axes))


def _placed(
    source: Sequence[Slot], source_shape: Shape, target: Sequence[Slot], target_shape: Shape, at: int, so_far: Alignment
) -> Iterator[Alignment]:
    if at == len(source):
        yield from _unstacked(source_shape, target, so_far)
        return
    slot, taken = source[at], {t for t, _ in so_far.pairs} | {b.target for b in so_far.blocks}
    for option in _options(slot, at, target, target_shape, taken, so_far):
        yield from _placed(source, source_shape, target, target_shape, at + 1, option)


def _options(
    slot: Slot, at: int, target: Sequence[Slot], shape: Shape, taken: set[int], so_far: Alignment
) -> Iterator[Alignment]:
    free = [t for t in range(len(target)) if t not in taken]
    axes = [axis for axis in range(len(shape)) if axis not in so_far.target_axes]
    for t in free:
        if target[t].size == slot.size and _counts_alike(target[t].values, slot.values):
            cost = so_far.cost + (target[t].name != slot.name) + (target[t].values != slot.values)
            yield replace(so_far, pairs=(*so_far.pairs, (t, at)), cost=cost)
    for axis in axes:
        if shape[axis] == slot.size:
            yield replace(so_far, stacks=(*so_far.stacks, (at, axis)), cost=so_far.cost + 2)
        for t in free:
            period = target[t].size
            if (
                period * shape[axis] == slot.size
                and 1 < period < slot.size
                and target[t].values == tuple(range(period))
            ):
                block = Block(at, t, axis, period)
                yield replace(so_far, blocks=(*so_far.blocks, block), cost=so_far.cost + 3)


def _counts_alike(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether one number follows from the other: 30, 31, 32 from 0, 1, 2."""
    steps = [{y - x for x, y in pairwise(values)} for values in (a, b)]
    return a == b or all(len(step) <= 1 for step in steps)


def _unstacked(shape: Shape, target: Sequence[Slot], so_far: Alignment) -> Iterator[Alignment]:
    """Slots of the target that are left run over axes of a stacked source."""
    taken = {t for t, _ in (*so_far.pairs, *so_far.unstacks)} | {b.target for b in so_far.blocks}
    free = [t for t in range(len(target)) if t not in taken]
    if not free:
        yield so_far
        return
    for axis in range(len(shape)):
        if axis not in so_far.source_axes and shape[axis] == target[free[0]].size:
            unstacks = (*so_far.unstacks, (free[0], axis))
            yield from _unstacked(shape, target, replace(so_far, unstacks=unstacks, cost=so_far.cost + 2))
