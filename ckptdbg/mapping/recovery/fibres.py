"""Fingerprints of tensors that survive a conversion: sums of hashed values along an axis.

A sum over an axis does not change when that axis is permuted, and padding with zeros adds nothing to it. So a line of a
source tensor (a row of a matrix, say) is found again in a target tensor wherever it went: transposed, split into heads,
stacked, joined with others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.mapping.recovery.hashing import Hashed

Array = NDArray[Any]


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

    @property
    def ordinals(self) -> type[np.signedinteger]:
        """Holds which tensor, and -1."""
        return np.int16 if self.tensor.max(initial=0) < 2**15 - 1 else np.int32

    def find(self, keys: Array) -> tuple[Array, Array]:
        """Of each key the first and one past the last place in the sorted table."""
        return np.searchsorted(self.key, keys, "left"), np.searchsorted(self.key, keys, "right")


def counting(size: int) -> type[np.signedinteger]:
    """The dtype of indices into so many elements."""
    return np.int32 if size < 2**31 else np.int64


def lines_of(hashed: Iterable[Hashed]) -> Lines:
    """The lines of hashed tensors, gone through once; those that sum to 0 (zeros) are left out, as they are
    everywhere."""
    keys, tensors, axes, lines, largest = [], [], [], [], 0
    for ordinal, array in enumerate(hashed):
        largest = max(largest, array.size)
        others = [tuple(a for a in range(array.ndim) if a != axis) for axis in range(array.ndim)]
        for axis, sums in enumerate(array.sums(others)):
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
