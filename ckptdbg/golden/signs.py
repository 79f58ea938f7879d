"""Random projections that are the same on every machine and with every version of NumPy.

The signs are bits of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), which is a few lines of integer arithmetic, and
not of a generator whose stream may change. Each row of each place has signs of its own: what one row's vectors happen
to miss, another row's or another place's see.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
VECTORS = 16
"""Vectors of +1 and -1 for each row: bits 0 to 15 of what ``_bits`` gives for a feature."""
SEED = 0x636B7074646267
ALGORITHM = "splitmix64, 16 bits a feature"
"""Written into every sketch. Another way of drawing signs needs another name."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 2**20
"""Elements that are projected at once: 8 MB in float64."""


def mix(x: Array) -> Array:
    """One output of splitmix64 for each state, uint64."""
    z = x + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def project(values: Array, keys: Array, stream: int) -> Array:
    """``[rows, 16]`` float64 projections of ``values`` ``[rows, features]``.

    ``keys`` ``[rows]`` int64 name the rows and ``stream`` the place: the same row of the same place always has the
    same signs, in whatever order and company it comes.
    """
    rows, features = values.shape
    found = np.zeros((rows, VECTORS))
    tall = max(1, _BLOCK // max(features, 1))
    for top in range(0, rows, tall):
        states = _states(keys[top : top + tall], stream)
        for left in range(0, features, _BLOCK):
            block = np.asarray(values[top : top + tall, left : left + _BLOCK], np.float64)
            found[top : top + tall] += _project(block, _bits(states, left, block.shape[1]))
    return found


def _project(block: Array, bits: Array) -> Array:
    whole = block.sum(1)
    negative = [np.einsum("rf,rf->r", block, (bits >> np.uint16(v)) & np.uint16(1)) for v in range(VECTORS)]
    return whole[:, None] - 2 * np.stack(negative, 1)


def _states(keys: Array, stream: int) -> Array:
    """Where each row's stream of splitmix64 begins, uint64."""
    place = mix(np.array([SEED], np.uint64) + np.uint64(stream % 2**64))
    return mix(place ^ np.asarray(keys, np.int64).view(np.uint64))


def _bits(states: Array, left: int, features: int) -> Array:
    """``[rows, features]`` uint16: the signs of features ``left`` and following. One output of splitmix64 serves four
    features, its low bits the first; ``left`` is a multiple of four."""
    words = np.arange(left // 4, -(-(left + features) // 4)).astype(np.uint64)
    drawn = mix(states[:, None] + words * _GOLDEN)
    return drawn.astype("<u8").view("<u2")[:, :features]
