"""Arrays that are constant along most of their axes, kept without those axes: what index maps of large tensors are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Spread:
    """An array of ``shape``. ``base`` has as many axes, of size 1 where the array is constant along them."""

    base: Array
    shape: Shape

    @classmethod
    def dense(cls, array: Array) -> Spread:
        """An array as it is."""
        return cls(array, array.shape)

    @property
    def size(self) -> int:
        """The number of elements of the whole array."""
        return math.prod(self.shape)

    @property
    def first(self) -> Any:
        """The element at index 0 of every axis."""
        return self.base.reshape(-1)[0]

    def all(self) -> Array:
        """The whole array; it takes no memory where it is constant, and is not to be written to."""
        return np.broadcast_to(self.base, self.shape)

    def values(self) -> Array:
        """The different elements, sorted."""
        return np.unique(self.base) if self.size else self.base.reshape(-1)[:0]

    def each(self, change: Callable[[Array], Array]) -> Spread:
        """The same places with every element changed."""
        return Spread(change(self.base), self.shape)

    def varies(self, axis: int) -> bool:
        """Whether elements differ along an axis."""
        return self.base.shape[axis] > 1 and bool((self.base != self.base.take([0], axis)).any())

    def line(self, axis: int) -> Array:
        """The elements along one axis, at index 0 of all others."""
        corner = self.base[tuple(slice(None) if a == axis else 0 for a in range(self.base.ndim))]
        return np.broadcast_to(corner, (self.shape[axis],))

    def any_along(self, axis: int) -> Array:
        """For every index of an axis whether some element there is true."""
        found = self.base.any(axis=tuple(a for a in range(self.base.ndim) if a != axis))
        return np.broadcast_to(found, (self.shape[axis],))

    def taken(self, index: int, axis: int) -> Spread:
        """One slice, without its axis."""
        at = index if self.base.shape[axis] > 1 else 0
        return Spread(self.base.take(at, axis), (*self.shape[:axis], *self.shape[axis + 1 :]))

    def cut(self, axis: int, part: slice) -> Spread:
        """Some indices of one axis, in a row."""
        size = len(range(*part.indices(self.shape[axis])))
        base = self.base[(slice(None),) * axis + (part,)] if self.base.shape[axis] > 1 else self.base
        return Spread(base, (*self.shape[:axis], size, *self.shape[axis + 1 :]))

    def parted(self, axis: int, outer: int) -> Spread:
        """One axis as two, the outer one of this size."""
        sizes = (outer, self.shape[axis] // outer)
        kept = sizes if self.base.shape[axis] > 1 else (1, 1)
        before, after = slice(None, axis), slice(axis + 1, None)
        base = self.base.reshape((*self.base.shape[before], *kept, *self.base.shape[after]))
        return Spread(base, (*self.shape[before], *sizes, *self.shape[after]))


def together(spreads: Sequence[Spread]) -> list[Array]:
    """Elements that belong together as arrays of one shape, each pair as often as the least common base needs."""
    return list(np.broadcast_arrays(*(s.base for s in spreads)))
