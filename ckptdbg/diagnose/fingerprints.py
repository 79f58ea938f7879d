"""Whose values a wrong tensor holds. Tensors pass by one at a time; of each a few sums stay, which no permutation
changes, and only those whose sums fit are made again and looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.diagnose.elements import agrees, roundoff, slabs
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
    """Sums of every piece that passed by."""

    def __init__(self) -> None:
        self._sums: dict[int, list[tuple[Piece, tuple[float, float]]]] = {}

    def note(self, tensor: str, values: Array, entry: BoundEntry | None, dtype: str) -> None:
        """Remember a tensor as it would be stored."""
        for piece in pieces(tensor, entry, values.shape):
            part = piece.of(values)
            self._sums.setdefault(part.size, []).append((piece, _sums(part, dtype)))

    def owner(self, piece: Piece, actual: Array, due: Mapping[str, Array], dtype: str) -> tuple[Piece, str] | None:
        """Another piece whose due values these are, and ``""`` or ``" in another order"``; the same shape first.

        ``due`` makes a tensor again; only those that may fit are asked for.
        """
        if not np.isfinite(actual).all():
            return None
        near = self._near(piece, actual, dtype)
        parts = ((other, other.of(due[other.tensor])) for other in near)
        permuted: Piece | None = None
        for other, part in parts:
            if agrees(part, actual, dtype):
                return other, ""
            ordered = agrees(np.sort(part, axis=None), np.sort(actual, axis=None), dtype)
            permuted = other if permuted is None and ordered else permuted
        return None if permuted is None else (permuted, " in another order")

    def _near(self, piece: Piece, actual: Array, dtype: str) -> list[Piece]:
        mine = _sums(actual, None)
        limit = 8 * (roundoff(dtype) / np.sqrt(max(actual.size, 1)) + 1e-12)
        return [
            other
            for other, sums in self._sums.get(actual.size, [])
            if other.tensor != piece.tensor and all(abs(a - b) <= limit * b for a, b in zip(mine, sums, strict=True))
        ]


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
