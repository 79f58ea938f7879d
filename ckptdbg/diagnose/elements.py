"""Which elements of a tensor its stored dtype does not explain. Tensors are read in slabs along their first axis, so
that nothing of their size is made but what is handed out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.compare.noise import unit_roundoff

Array = NDArray[Any]

# A mapping may be applied op by op in the stored precision; four roundings cover its longest chains.
_ROUNDINGS = 4
# A factor computed in single precision (a root of a size) is off by this much at most.
SINGLE = 4 * 2.0**-24
# Elements in a slab: one that stays in the cache is three times as fast as one of 16 MB (measured on 8 million).
_SLAB = 2**18


@dataclass(frozen=True)
class Deviation:
    """One tensor against what it should be."""

    wrong: int
    """Elements that rounding to the stored dtype does not explain."""
    size: int
    equal: bool
    """Whether no element differs at all."""
    worst: tuple[int, ...]
    """Index of the element that is farthest off, among the wrong ones where there are some."""
    found: float
    """What it is."""
    expected: float
    """What it should be."""


def deviation(expected: Array, actual: Array, dtype: str) -> Deviation:
    """Compare ``expected`` (float64) with ``actual`` (any dtype), both of one shape; ``dtype`` is the stored one."""
    spread, wrong, equal, far = _spread(expected), 0, True, (False, -1.0, 0)
    begin = 0
    for due, found in slabs(expected, actual):
        mask, off = _wrong(due, found, dtype, spread)
        count = int(mask.sum())
        wrong += count
        equal = equal and not off.any()
        ranked = np.where(mask, off, -1.0) if count else off
        if ranked.size:
            at = int(np.argmax(ranked))
            far = max(far, (count > 0, float(ranked.flat[at]), begin + at), key=lambda item: item[:2])
        begin += due.size
    if not wrong and _biased(expected, actual, dtype):
        wrong = expected.size
    if not expected.size:
        return Deviation(wrong, 0, equal, (), 0.0, 0.0)
    worst = tuple(int(i) for i in np.unravel_index(far[2], expected.shape))
    return Deviation(wrong, expected.size, equal, worst, float(actual[worst]), float(expected[worst]))


def rounding(expected: Array, actual: Array) -> Deviation:
    """The same for a tensor that is known to differ by nothing but rounding."""
    begin, worst, most = 0, 0, 0.0
    for due, found in slabs(expected, actual):
        with np.errstate(invalid="ignore"):
            off = np.nan_to_num(np.abs(found - due), nan=0.0, posinf=np.inf)
        if off.size and (far := float(off.max())) > most:
            worst, most = begin + int(np.argmax(off)), far
        begin += off.size
    at = tuple(int(i) for i in np.unravel_index(worst, expected.shape)) if expected.size else ()
    first, other = (float(actual[at]), float(expected[at])) if expected.size else (0.0, 0.0)
    return Deviation(0, expected.size, most == 0, at, first, other)


def same_bits(expected: Array, actual: Array) -> bool:
    """Whether two tensors are the same in shape, dtype and every bit."""
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return False
    bits = f"u{expected.dtype.itemsize}" if expected.dtype.itemsize <= 8 else expected.dtype
    return all(
        bool((due == found).all()) for due, found in slabs(expected.view(bits), actual.view(bits), as_they_are=True)
    )


def wrong_elements(expected: Array, actual: Array, dtype: str) -> Array:
    """Boolean mask of the elements that rounding to ``dtype`` does not explain."""
    spread = _spread(expected)
    masks = [_wrong(due, found, dtype, spread)[0] for due, found in slabs(expected, actual)]
    wrong = np.concatenate(masks).reshape(expected.shape) if masks else np.zeros(expected.shape, bool)
    return ~wrong if not wrong.any() and _biased(expected, actual, dtype) else wrong


def agrees(expected: Array, actual: Array, dtype: str) -> bool:
    """Whether ``actual`` is ``expected`` to within rounding of ``dtype``."""
    return expected.shape == actual.shape and not deviation(expected, actual, dtype).wrong


def roundoff(dtype: str) -> float:
    """Unit roundoff of a stored dtype; 0 for integers, which are stored exactly."""
    kind = as_dtype(dtype)
    return 0.0 if kind.kind in "iub" else unit_roundoff(kind)


def _wrong(expected: Array, actual: Array, dtype: str, spread: float) -> tuple[Array, Array]:
    """The mask of wrong elements, and how far each is off: 0 where both are NaN, inf where one is."""
    with np.errstate(invalid="ignore"):
        same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
        off = np.where(same, 0.0, np.abs(actual - expected))
    off = np.where(np.isnan(off), np.inf, off)
    close = off <= _ROUNDINGS * roundoff(dtype) * np.maximum(np.abs(np.nan_to_num(expected)), spread)
    return ~(same | (close & np.isfinite(off))), off


def _biased(expected: Array, actual: Array, dtype: str) -> bool:
    """Whether all elements are off by one common factor, too little for any one of them to show it: independent
    roundings of n elements move their common factor by about roundoff over the root of n."""
    if expected.size < 2 or as_dtype(dtype).kind in "iub":
        return False
    power = product = 0.0
    for due, found in slabs(expected, actual):
        if not (np.isfinite(found).all() and np.isfinite(due).all()):
            return False
        power += float(np.square(due).sum())
        product += float((found * due).sum())
    limit = 2 * roundoff(dtype) * _ROUNDINGS / np.sqrt(expected.size) + SINGLE
    return power > 0 and abs(product / power - 1) > limit


def _spread(expected: Array) -> float:
    """Root of the mean square: what an element near zero may be off by is measured against its neighbours."""
    total = sum(float(np.square(due[np.isfinite(due)]).sum()) for due, _ in slabs(expected, expected))
    return float(np.sqrt(total / expected.size)) if expected.size else 0.0


def slabs(expected: Array, actual: Array, as_they_are: bool = False) -> Iterator[tuple[Array, Array]]:
    """Both tensors in float64, or in their own dtypes, some rows at a time."""
    expected, actual = np.atleast_1d(expected), np.atleast_1d(actual)
    rows = max(1, _SLAB * len(expected) // max(expected.size, 1))
    for start in range(0, len(expected), rows):
        pair = expected[start : start + rows], actual[start : start + rows]
        yield pair if as_they_are else (pair[0].astype(np.float64, copy=False), pair[1].astype(np.float64))
