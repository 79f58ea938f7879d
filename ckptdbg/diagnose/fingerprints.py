"""Whose values a wrong tensor holds. Of every tensor that could be the one a few sums are taken, which no permutation
changes, and only those whose sums fit are looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.diagnose.elements import SINGLE, agrees, roundoff, slabs
from ckptdbg.mapping import BoundEntry

Array = NDArray[Any]
Lane = tuple[tuple[int, int], ...]
"""Axis and index of each stacked axis."""


@dataclass(frozen=True)
class Piece:
    """A target tensor, or one index of its stacked axes."""

    tensor: str
    lane: Lane = ()

    def of(self, values: Array) -> Array:
        """This piece of the tensor's values."""
        return values[self.index(values.ndim)]

    def index(self, rank: int) -> tuple[slice | int, ...]:
        """What selects it."""
        at = dict(self.lane)
        return tuple(at.get(axis, slice(None)) for axis in range(rank))

    def __str__(self) -> str:
        return self.tensor + (f"[{lane_text(self.lane)}]" if self.lane else "")


def lane_text(lane: Lane) -> str:
    """``:, 3`` for index 3 of axis 1."""
    at = dict(lane)
    return ", ".join(str(at.get(axis, ":")) for axis in range(max(at) + 1))


def pieces(tensor: str, entry: BoundEntry | None, shape: Sequence[int]) -> Iterator[Piece]:
    """The whole tensor, then every index of the axes that its entry stacks."""
    yield Piece(tensor)
    axes = [stack.axis % len(shape) for stack in entry.stacks if stack.side == "target"] if entry else []
    if axes:
        for at in product(*(range(shape[axis]) for axis in axes)):
            yield Piece(tensor, tuple(zip(axes, at, strict=True)))


class Fingerprints:
    """Sums of pieces of the tensors that are due, taken when a piece of their size is looked for.

    Args:
        due: makes a tensor by name.
        entry: the entry that makes it.
        dtype: what it is stored in.
    """

    def __init__(
        self, due: Mapping[str, Array], entry: Callable[[str], BoundEntry | None], dtype: Callable[[str], str]
    ) -> None:
        self._due, self._entry, self._dtype = due, entry, dtype
        self._sums: dict[int, list[tuple[Piece, tuple[float, float]]]] = {}

    def owner(self, piece: Piece, actual: Array, dtype: str) -> tuple[Piece, str] | None:
        """Another piece whose due values these are, and ``""`` or ``" in another order"``; the same shape first."""
        if not np.isfinite(actual).all():
            return None
        near = self._near(piece, actual, dtype)
        parts = ((other, other.of(self._due[other.tensor])) for other in near)
        permuted: Piece | None = None
        for other, part in parts:
            if agrees(part, actual, dtype):
                return other, ""
            ordered = agrees(np.sort(part, axis=None), np.sort(actual, axis=None), dtype)
            permuted = other if permuted is None and ordered else permuted
        return None if permuted is None else (permuted, " in another order")

    def _near(self, piece: Piece, actual: Array, dtype: str) -> list[Piece]:
        mine = _sums(actual, None)
        # a factor that was rounded itself moves all elements, and their squares twice as far
        limit = 8 * roundoff(dtype) / np.sqrt(max(actual.size, 1)) + 2 * SINGLE
        return [
            other
            for other, sums in self._of_size(actual.size)
            if other.tensor != piece.tensor and all(abs(a - b) <= limit * b for a, b in zip(mine, sums, strict=True))
        ]

    def _of_size(self, size: int) -> list[tuple[Piece, tuple[float, float]]]:
        if size not in self._sums:
            self._sums[size] = list(self._summed(size))
        return self._sums[size]

    def _summed(self, size: int) -> Iterator[tuple[Piece, tuple[float, float]]]:
        for tensor in self._due:
            shape = self._shape(tensor)
            wanted = [p for p in pieces(tensor, self._entry(tensor), shape) if _size_of(p, shape) == size]
            values = self._due[tensor] if wanted else None
            yield from ((piece, _sums(piece.of(values), self._dtype(tensor))) for piece in wanted if values is not None)

    def _shape(self, tensor: str) -> Sequence[int]:
        """Known without making it, but for one that no entry makes."""
        entry = self._entry(tensor)
        return self._due[tensor].shape if entry is None else entry.target_specs[entry.targets.index(tensor)].shape


def _size_of(piece: Piece, shape: Sequence[int]) -> int:
    return math.prod(size for axis, size in enumerate(shape) if axis not in dict(piece.lane))


def _sums(values: Array, dtype: str | None) -> tuple[float, float]:
    """Of the magnitudes and of the squares, as stored: independent roundings move neither by more than roundoff over
    the root of their number."""
    magnitudes = squares = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for slab, _ in slabs(values, values):
            held = slab if dtype is None else slab.astype(as_dtype(dtype)).astype(np.float64)
            magnitudes += float(np.abs(held).sum())
            squares += float(np.square(held).sum())
    return magnitudes, squares
