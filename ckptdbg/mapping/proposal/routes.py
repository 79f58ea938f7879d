"""How arrays of some shapes can become arrays of others: axes moved, split and merged, arrays joined and parted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]
Groups = tuple[tuple[str, ...], ...]
LETTERS = "abcefgijklmnopqrstuvwxyz"
"""Names of axes; ``h`` and ``d`` are kept for heads and what a head measures."""
# More axes than this are not tried in every order.
_MOST_AXES = 6


@dataclass(frozen=True)
class Pattern:
    """An einops pattern: on each side one group of atoms for every axis, an empty one for an axis of size 1."""

    left: Groups
    right: Groups
    sizes: tuple[tuple[str, int], ...]

    @property
    def plain(self) -> bool:
        """Whether nothing moves and no axis is split or merged."""
        return self.left == self.right

    @property
    def moves(self) -> int:
        """How many pairs of atoms change their order, those of equal sizes counted twice."""
        before, after = ([a for group in side for a in group] for side in (self.left, self.right))
        pairs = [(a, b) for i, a in enumerate(before) for b in before[i + 1 :] if after.index(a) > after.index(b)]
        return sum(2 if self.size(a) == self.size(b) else 1 for a, b in pairs)

    def size(self, atom: str) -> int:
        return dict(self.sizes)[atom]

    def axis_of(self, atom: str) -> int:
        """The axis of the source that holds an atom."""
        return next(i for i, group in enumerate(self.left) if atom in group)

    def renamed(self, names: dict[str, str]) -> Pattern:
        """The same with other names for atoms."""

        def side(groups: Groups) -> Groups:
            return tuple(tuple(names.get(a, a) for a in group) for group in groups)

        return Pattern(side(self.left), side(self.right), tuple((names.get(a, a), n) for a, n in self.sizes))

    def parted(self, atom: str, left: Sequence[tuple[str, int]], right: Sequence[str]) -> Pattern:
        """The same with an atom in several: ``left`` with their sizes as they lie in the source, ``right`` as in the
        target."""

        def side(groups: Groups, names: Sequence[str]) -> Groups:
            return tuple(tuple(n for a in group for n in (names if a == atom else (a,))) for group in groups)

        sizes = tuple(pair for a, n in self.sizes for pair in (left if a == atom else ((a, n),)))
        return Pattern(side(self.left, [n for n, _ in left]), side(self.right, right), sizes)

    def inverted(self) -> Pattern:
        return Pattern(self.right, self.left, self.sizes)

    def __str__(self) -> str:
        return f"{_side(self.left)} -> {_side(self.right)}"


def _side(groups: Groups) -> str:
    return " ".join(group[0] if len(group) == 1 else f"({' '.join(group)})" if group else "1" for group in groups)


@dataclass(frozen=True)
class Join:
    """How several arrays become one, or one several: end to end along an axis, or along a new first axis."""

    kind: str
    """``concat`` or ``stack``; for what is parted ``split``."""
    axis: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Resize:
    """An axis of the result that is cut or padded."""

    axis: int
    before: int
    after: int


@dataclass(frozen=True)
class Route:
    """One way from the sources' shapes to the targets'."""

    pattern: Pattern
    join: Join | None = None
    part: Join | None = None
    resize: Resize | None = None


def routes(sources: Sequence[Shape], targets: Sequence[Shape], resizable: bool = False) -> list[Route]:
    """All ways, within a group of factors in the target's own order. ``resizable``: whether one axis may be cut or
    padded, as that of a vocabulary."""
    found = []
    for join, a in _joined(sources):
        for part, b in _parted(targets):
            found += [Route(p, join, part) for p in patterns(a, b) if not _is_stack(join, p)]
    if not found and resizable and len(sources) == len(targets) == 1:
        found = list(_resized(sources[0], targets[0]))
    return found


def _joined(shapes: Sequence[Shape]) -> Iterator[tuple[Join | None, Shape]]:
    if len(shapes) == 1:
        yield None, shapes[0]
        return
    if len(set(shapes)) == 1:
        yield Join("stack", 0, (len(shapes),)), (len(shapes), *shapes[0])
    for axis, whole in _end_to_end(shapes):
        yield Join("concat", axis, tuple(s[axis] for s in shapes)), whole


def _parted(shapes: Sequence[Shape]) -> Iterator[tuple[Join | None, Shape]]:
    if len(shapes) == 1:
        yield None, shapes[0]
        return
    for axis, whole in _end_to_end(shapes):
        yield Join("split", axis, tuple(s[axis] for s in shapes)), whole


def _end_to_end(shapes: Sequence[Shape]) -> Iterator[tuple[int, Shape]]:
    """Axes along which these shapes can be put together, and what they make."""
    if len({len(s) for s in shapes}) > 1:
        return
    for axis in range(len(shapes[0])):
        if len({(*s[:axis], *s[axis + 1 :]) for s in shapes}) == 1:
            first = shapes[0]
            yield axis, (*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :])


def _is_stack(join: Join | None, pattern: Pattern) -> bool:
    """Whether a concat is parted again, or a stack merged: what the other of the two says more plainly."""
    if join is None:
        return False
    if join.kind == "stack":
        return (pattern.left[0][0],) not in pattern.right
    group = pattern.left[join.axis]
    return len(set(join.sizes)) == 1 and len(group) > 1 and pattern.size(group[0]) == len(join.sizes)


def _resized(source: Shape, target: Shape) -> Iterator[Route]:
    if len(source) != len(target):
        return
    for axis, after in enumerate(target):
        for before in {s for s in source if s not in target} or set(source):
            middle = (*target[:axis], before, *target[axis + 1 :])
            for pattern in patterns(source, middle):
                yield Route(pattern, resize=Resize(axis, before, after))


def patterns(source: Shape, target: Shape) -> list[Pattern]:
    """All patterns from one shape to another that split axes or merge them, not both; those that move least first."""
    if math.prod(source) != math.prod(target) or max(len(source), len(target)) > _MOST_AXES:
        return []
    s, t = ([i for i, n in enumerate(shape) if n != 1] for shape in (source, target))
    small, large = (source, target) if len(t) >= len(s) else (target, source)
    found = [_pattern(small, large, groups) for groups in _splits(small, large)]
    found = found if len(t) >= len(s) else [p.inverted() for p in found]
    return sorted(found, key=lambda p: p.moves)


def _splits(source: Shape, target: Shape) -> Iterator[dict[int, list[int]]]:
    """For every source axis the target axes that it is split into."""
    axes = [i for i, n in enumerate(source) if n != 1]

    def place(rest: list[int], left: dict[int, int], groups: dict[int, list[int]]) -> Iterator[dict[int, list[int]]]:
        if not rest:
            if all(n == 1 for n in left.values()):
                yield {axis: list(group) for axis, group in groups.items()}
            return
        for axis in axes:
            if left[axis] % target[rest[0]] == 0:
                smaller = {**left, axis: left[axis] // target[rest[0]]}
                yield from place(rest[1:], smaller, {**groups, axis: [*groups[axis], rest[0]]})

    wide = [i for i, n in enumerate(target) if n != 1]
    yield from place(wide, {axis: source[axis] for axis in axes}, {axis: [] for axis in axes})


def _pattern(source: Shape, target: Shape, groups: dict[int, list[int]]) -> Pattern:
    letters = iter(LETTERS)
    atoms = {axis: next(letters) for i in range(len(source)) for axis in groups.get(i, [])}
    left = tuple(tuple(atoms[a] for a in groups.get(i, [])) for i in range(len(source)))
    right = tuple((atoms[i],) if i in atoms else () for i in range(len(target)))
    return Pattern(left, right, tuple((name, target[axis]) for axis, name in atoms.items()))
