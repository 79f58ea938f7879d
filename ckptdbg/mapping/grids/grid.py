"""An array of any size as pieces, each a box in which source coordinates follow digits, and the moves of its axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ckptdbg.mapping.grids.digits import Base, Digit, Digits, TooManyPieces, cut, length, parted
from ckptdbg.mapping.ops import Op, Shape

# Rows that are kept one by one where no digits describe them together; real mappings need some hundreds (heads).
MOST_PIECES = 20_000


@dataclass(frozen=True)
class Piece:
    """A box of the array, from one source tensor or of one constant."""

    start: tuple[int, ...]
    digits: tuple[Digits, ...]
    """Per axis."""
    source: str
    """Empty for a constant."""
    base: Base
    """Source coordinates of the first element."""
    constant: float = 0.0
    values: tuple[Op, ...] = ()
    """What is done to the elements, in this order."""

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(map(length, self.digits))

    def along(self, axis: int, start: int, digits: Digits, base: Base) -> Piece:
        """The piece with another stretch along one axis."""
        starts = (*self.start[:axis], start, *self.start[axis + 1 :])
        return replace(self, start=starts, digits=(*self.digits[:axis], digits, *self.digits[axis + 1 :]), base=base)

    def between(self, axis: int, start: int, stop: int) -> Iterator[Piece]:
        """What of the piece lies from ``start`` to ``stop`` along an axis of the array, where it lies there."""
        own = self.start[axis]
        first, last = max(start, own), min(stop, own + length(self.digits[axis]))
        for run in cut(self.digits[axis], self.base, first - own, last - own):
            yield self.along(axis, first + run.offset, run.digits, run.base)


@dataclass(frozen=True)
class Grid:
    """A whole array."""

    shape: Shape
    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, name: str, shape: Shape) -> Grid:
        """A source tensor as it is."""
        digits = tuple(_counted(size, axis) for axis, size in enumerate(shape))
        return cls(shape, (Piece((0,) * len(shape), digits, name, (0,) * len(shape)),))

    @classmethod
    def filled(cls, shape: Shape, value: float) -> Grid:
        """One value everywhere."""
        digits = tuple(_counted(size, -1) for size in shape)
        return cls(shape, (Piece((0,) * len(shape), digits, "", (), value),) if math.prod(shape) else ())

    def each(self, change: Callable[[Piece], Iterable[Piece]], shape: Shape) -> Grid:
        """Every piece changed."""
        pieces: list[Piece] = []
        for piece in self.pieces:
            pieces += change(piece)
            if len(pieces) > MOST_PIECES:
                raise TooManyPieces(f"more than {MOST_PIECES} pieces")
        return Grid(shape, tuple(pieces))

    def transposed(self, axes: Sequence[int]) -> Grid:
        def move(piece: Piece) -> Iterator[Piece]:
            start, digits = (tuple(x[a] for a in axes) for x in (piece.start, piece.digits))
            yield replace(piece, start=start, digits=digits)

        return self.each(move, tuple(self.shape[a] for a in axes))

    def with_axis(self, axis: int, size: int = 1, start: int = 0, length: int | None = None) -> Grid:
        """One axis more, along which elements repeat: ``length`` of ``size`` from ``start`` on."""
        length = size if length is None else length

        def move(piece: Piece) -> Iterator[Piece]:
            starts = (*piece.start[:axis], start, *piece.start[axis:])
            yield replace(
                piece, start=starts, digits=(*piece.digits[:axis], _counted(length, -1), *piece.digits[axis:])
            )

        return self.each(move, (*self.shape[:axis], size, *self.shape[axis:]))

    def without_axis(self, axis: int) -> Grid:
        """One axis of size 1 less."""

        def move(piece: Piece) -> Iterator[Piece]:
            start, digits = ((*x[:axis], *x[axis + 1 :]) for x in (piece.start, piece.digits))
            yield replace(piece, start=start, digits=digits)

        return self.each(move, (*self.shape[:axis], *self.shape[axis + 1 :]))

    def between(self, axis: int, start: int, stop: int) -> Grid:
        """A slice."""

        def move(piece: Piece) -> Iterator[Piece]:
            for part in piece.between(axis, start, stop):
                yield part.along(axis, part.start[axis] - start, part.digits[axis], part.base)

        return self.each(move, (*self.shape[:axis], stop - start, *self.shape[axis + 1 :]))

    def shifted(self, axis: int, by: int, size: int) -> Grid:
        """The same within a longer axis; what is around it is left open."""

        def move(piece: Piece) -> Iterator[Piece]:
            yield piece.along(axis, piece.start[axis] + by, piece.digits[axis], piece.base)

        return self.each(move, (*self.shape[:axis], size, *self.shape[axis + 1 :]))

    def parted(self, axis: int, inner: int) -> Grid:
        """An axis in two, the second of size ``inner``."""

        def move(piece: Piece) -> Iterator[Piece]:
            at, stop = piece.start[axis], piece.start[axis] + length(piece.digits[axis])
            middle = (-(-at // inner) * inner, stop // inner * inner)
            for part in _stretches(piece, axis, (at, *middle, stop) if middle[0] <= middle[1] else (at, stop)):
                yield from _in_two(part, axis, inner)

        shape = (*self.shape[:axis], self.shape[axis] // inner if inner else 0, inner, *self.shape[axis + 1 :])
        return self.each(move, shape)

    def merged(self, axis: int) -> Grid:
        """An axis and the next as one."""
        inner = self.shape[axis + 1]

        def move(piece: Piece) -> Iterator[Piece]:
            whole = length(piece.digits[axis + 1]) == inner
            rows = [piece] if whole or length(piece.digits[axis]) == 1 else _rows(piece, axis)
            for row in rows:
                start = row.start[axis] * inner + row.start[axis + 1]
                starts = (*row.start[:axis], start, *row.start[axis + 2 :])
                both = (*row.digits[axis], *row.digits[axis + 1])
                yield replace(row, start=starts, digits=(*row.digits[:axis], both, *row.digits[axis + 2 :]))

        return self.each(move, (*self.shape[:axis], self.shape[axis] * inner, *self.shape[axis + 2 :]))

    def reshaped(self, shape: Shape) -> Grid:
        """Other axes for the same elements in the same order."""
        flat = self if self.shape else self.with_axis(0)
        while len(flat.shape) > 1:
            flat = flat.merged(len(flat.shape) - 2)
        for i in range(len(shape) - 1):
            flat = flat.parted(i, math.prod(shape[i + 1 :]))
        return flat if shape else flat.without_axis(0)

    def valued(self, op: Op) -> Grid:
        """What an op does to every element."""
        return self.each(lambda piece: (replace(piece, values=(*piece.values, op)),), self.shape)


def joined(grids: Sequence[Grid], axis: int) -> Grid:
    """Arrays end to end."""
    size, at, pieces = sum(g.shape[axis] for g in grids), 0, []
    for grid in grids:
        pieces += grid.shifted(axis, at, size).pieces
        at += grid.shape[axis]
    return Grid((*grids[0].shape[:axis], size, *grids[0].shape[axis + 1 :]), tuple(pieces))


def _counted(size: int, axis: int) -> Digits:
    return (Digit(size, axis, 1 if axis >= 0 else 0),) if size != 1 else ()


def _stretches(piece: Piece, axis: int, ends: Sequence[int]) -> Iterator[Piece]:
    for start, stop in pairwise(ends):
        yield from piece.between(axis, start, stop)


def _in_two(piece: Piece, axis: int, inner: int) -> Iterator[Piece]:
    """A piece that lies in one row of the parted axis, or covers whole rows."""
    start, size = piece.start[axis], length(piece.digits[axis])
    found = ((), piece.digits[axis]) if start % inner + size <= inner else parted(piece.digits[axis], inner)
    if found is None or (size > inner and (start % inner or size % inner)):
        for row in range(start // inner, (start + size - 1) // inner + 1):
            for part in piece.between(axis, row * inner, (row + 1) * inner):
                yield from _in_two(part, axis, inner)
        return
    starts = (*piece.start[:axis], start // inner, start % inner, *piece.start[axis + 1 :])
    yield replace(piece, start=starts, digits=(*piece.digits[:axis], *found, *piece.digits[axis + 1 :]))


def _rows(piece: Piece, axis: int) -> Iterator[Piece]:
    size = length(piece.digits[axis])
    if size > MOST_PIECES:
        raise TooManyPieces(f"{size} rows")
    for at in range(piece.start[axis], piece.start[axis] + size):
        yield from piece.between(axis, at, at + 1)
