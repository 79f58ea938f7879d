"""Fingerprints of tensors that survive a conversion: sums of hashed values along an axis.

A sum over an axis does not change when that axis is permuted, and padding with zeros adds nothing to it. So a line of a
source tensor (a row of a matrix, say) is found again in a target tensor wherever it went: transposed, split into heads,
stacked, joined with others. Hashes are those of the values' bits, so that only equal numbers match.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_ODD = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64's, to mix every bit into every other

_SLAB = 2**16  # elements hashed at a time: they stay in the cache


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
    for start in range(0, flat.size, _SLAB):
        out[start : start + _SLAB] = mixed((flat[start : start + _SLAB].astype(np.float64) + 0.0).view(np.uint64))
    return out.reshape(np.shape(array))


@dataclass(frozen=True)
class Lines:
    """Every line of some source tensors: which tensor, along which axis, and which (flat index over the other axes)."""

    key: Array
    """uint64, sorted."""
    tensor: Array
    axis: Array
    line: Array
    counting: type[np.signedinteger]
    """Holds every flat index into one of these tensors."""

    def find(self, keys: Array) -> tuple[Array, Array]:
        """Of each key the first and one past the last place in the sorted table."""
        return np.searchsorted(self.key, keys, "left"), np.searchsorted(self.key, keys, "right")


def counting(size: int) -> type[np.signedinteger]:
    """The dtype of indices into so many elements."""
    return np.int32 if size < 2**31 else np.int64


def lines_of(hashes: Iterable[Array]) -> Lines:
    """The lines of hashed tensors, gone through once; those that sum to 0 (zeros) are left out, as they are
    everywhere."""
    keys, tensors, axes, lines, largest = [], [], [], [], 0
    for ordinal, array in enumerate(hashes):
        largest = max(largest, array.size)
        for axis in range(array.ndim):
            sums = array.sum(axis, dtype=np.uint64).reshape(-1)
            keys.append(sums)
            lines.append(np.arange(sums.size))
            tensors.append(np.full(sums.size, ordinal, np.int32))
            axes.append(np.full(sums.size, axis, np.int8))
    key = np.concatenate([np.zeros(0, np.uint64), *keys])
    order = np.argsort(key, kind="stable")
    order = order[key[order] != 0]
    tensor, axis, line = (np.concatenate([np.zeros(0, np.int8), *parts])[order] for parts in (tensors, axes, lines))
    return Lines(key[order], tensor, axis, line, counting(largest))


def kept_axes(ndim: int) -> list[tuple[int, ...]]:
    """Which axes of a target may count lines; the others then run along them. Most axes along the line first."""
    return [kept for count in range(ndim) for kept in combinations(range(ndim), count)]


def as_lines(array: Array, kept: tuple[int, ...]) -> Array:
    """``[lines, length]``: the kept axes in front."""
    rest = tuple(a for a in range(array.ndim) if a not in kept)
    moved = array.transpose(*kept, *rest)
    count = int(np.prod([array.shape[a] for a in kept], dtype=np.int64))
    return moved.reshape(count, -1)


def from_lines(lines: Array, shape: tuple[int, ...], kept: tuple[int, ...]) -> Array:
    """The inverse of ``as_lines`` for an array of this shape."""
    rest = tuple(a for a in range(len(shape)) if a not in kept)
    order = (*kept, *rest)
    return lines.reshape([shape[a] for a in order]).transpose(np.argsort(order))
