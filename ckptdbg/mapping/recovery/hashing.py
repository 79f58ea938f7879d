"""Hashes of values, computed where they are looked at: eight bytes for every element of a large tensor are not kept.

They are those of the values' bits as float64, so that only equal numbers match, in whatever dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_ODD = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64's, to mix every bit into every other
SLAB = 2**18
"""Elements looked at together, whose copies stay in the cache."""
_HASHED = 2**16  # elements hashed at a time


def mixed(bits: Array) -> Array:
    """splitmix64 (Steele, Lea, Flood 2014) of uint64; 0 stays 0."""
    x = np.array(bits, np.uint64)
    with np.errstate(over="ignore"):  # of a scalar NumPy says that it wraps round, as it is meant to
        x ^= x >> np.uint64(30)
        x *= _ODD[0]
        x ^= x >> np.uint64(27)
        x *= _ODD[1]
    x ^= x >> np.uint64(31)
    return x


def hashed(array: Array) -> Array:
    """One uint64 per value, the same for the same number in whatever dtype; 0 for zero."""
    flat = np.asarray(array).reshape(-1)
    out = np.empty(flat.size, np.uint64)
    for start in range(0, flat.size, _HASHED):
        out[start : start + _HASHED] = mixed((flat[start : start + _HASHED].astype(np.float64) + 0.0).view(np.uint64))
    return out.reshape(np.shape(array))


def slabs(count: int, length: int) -> list[slice]:
    """So many lines of a length, some at a time."""
    some = max(1, SLAB // max(length, 1))
    return [slice(start, start + some) for start in range(0, count, some)]


def pieces(array: Array) -> Iterator[tuple[Any, Array]]:
    """An array along its first axis, some at a time: where each piece is, and the piece."""
    if not array.ndim:
        yield ..., array
        return
    for slab in slabs(len(array), array.size // max(len(array), 1)):
        yield slab, array[slab]


class Hashed:
    """A tensor of which the hashes are asked for."""

    def __init__(self, values: Array) -> None:
        self.values = values
        self.shape, self.size, self.ndim = values.shape, values.size, values.ndim
        self._total: int | None = None

    def total(self) -> int:
        """The sum of all hashes, known once any sums were asked for."""
        if self._total is None:
            self._total = sum(int(hashed(piece).sum(dtype=np.uint64)) for _, piece in pieces(self.values)) % 2**64
        return self._total

    def any(self) -> bool:
        """Whether some value is not zero."""
        return any(bool((piece != 0).any()) for _, piece in pieces(self.values))

    def sums(self, kept: Sequence[tuple[int, ...]]) -> list[Array]:
        """For each choice of axes the hashes summed over all others, flat: gone through once for all of them."""
        found = [np.zeros([self.shape[a] for a in axes], np.uint64) for axes in kept]
        for where, piece in pieces(self.values):
            hashes = hashed(piece)
            for out, axes in zip(found, kept, strict=True):
                over = tuple(a for a in range(self.ndim) if a not in axes)
                sums = hashes.sum(over, dtype=np.uint64)
                if axes and axes[0] == 0:
                    out[where] = sums
                else:
                    out += sums
        for out in found[:1]:
            self._total = int(out.sum(dtype=np.uint64))
        return [out.reshape(-1) for out in found]

    def same(self, other: Hashed) -> bool:
        """Whether both hold equal values one after the other, whatever their shapes."""
        ours, theirs = self.values.reshape(-1), other.values.reshape(-1)
        return ours.size == theirs.size and all(
            np.array_equal(hashed(piece), hashed(theirs[where])) for where, piece in pieces(ours)
        )

    def holds(self, hashes: Array) -> Array:
        """Which of these hashes some value has."""
        found = np.zeros(len(hashes), bool)
        for _, piece in pieces(self.values):
            found |= np.isin(hashes, hashed(piece))
        return found

    def all(self) -> Array:
        """The hashes of all values, flat: for small tensors, and where nothing else helps."""
        return hashed(self.values.reshape(-1))


class HashedLines:
    """The lines of a tensor, ``[lines, length]``, hashed where they are asked for."""

    def __init__(self, values: Array) -> None:
        self._values = values
        self.shape = values.shape

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, which: Any) -> Array:
        return hashed(self._values[which])
