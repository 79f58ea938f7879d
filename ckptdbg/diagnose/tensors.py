"""Static evidence on values: every target tensor against what the mapping makes of the source, within its stored
dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.noise import unit_roundoff

Array = NDArray[Any]

# A mapping may be applied op by op in the stored precision; four roundings cover its longest chains.
_ROUNDINGS = 4
# A factor computed in single precision (a root of a size) is off by this much at most.
_SINGLE = 4 * 2.0**-24


@dataclass(frozen=True)
class TensorDifference:
    """A target tensor that is not what the mapping says it should be."""

    tensor: str
    wrong: int
    """Elements outside rounding of the stored dtype."""
    size: int
    first: tuple[int, ...]
    """Index of the worst element."""
    found: float
    expected: float
    how: str
    """One phrase: what the tensor is instead, as far as its own values tell."""


def compare_tensors(
    expected: Mapping[str, Array], read: Callable[[str], Array], stored: Mapping[str, str]
) -> list[TensorDifference]:
    """Differences between ``expected`` (float64) and what ``read`` gives; ``stored`` names each tensor's stored
    dtype."""
    found = []
    for name, wanted in expected.items():
        actual = np.asarray(read(name)).astype(np.float64)
        difference = _compare(name, np.asarray(wanted, np.float64), actual, stored[name])
        if difference is not None:
            other = _whose(name, actual, expected, stored[name])
            found.append(difference if other is None else replace(difference, how=f"it holds what {other} should"))
    return found


def wrong_elements(expected: Array, actual: Array, dtype: str) -> Array:
    """Boolean mask of the elements that rounding to ``dtype`` does not explain."""
    kind = _kind(dtype)
    if kind.kind in "iub":
        return expected != actual
    scale = np.maximum(np.abs(expected), np.sqrt(np.mean(np.square(expected))) if expected.size else 0.0)
    with np.errstate(invalid="ignore"):
        close = np.abs(actual - expected) <= _ROUNDINGS * unit_roundoff(kind) * scale
    wrong = ~(close | (expected == actual) | (np.isnan(expected) & np.isnan(actual)))
    if not wrong.any() and _biased(expected, actual, unit_roundoff(kind)):
        return np.ones(expected.shape, bool)
    return wrong


def _kind(dtype: str) -> np.dtype:
    return np.dtype(dtype) if dtype in np.sctypeDict else np.dtype(getattr(ml_dtypes, dtype))


def _biased(expected: Array, actual: Array, roundoff: float) -> bool:
    """Whether all elements are off by one common factor, too little for any one of them to show it: independent
    roundings of n elements move their common factor by about roundoff over the root of n."""
    power = float(np.square(expected).sum())
    if expected.size < 2 or not power or not np.isfinite(actual).all():
        return False
    factor = float((actual * expected).sum()) / power
    return abs(factor - 1) > 2 * roundoff * _ROUNDINGS / np.sqrt(expected.size) + _SINGLE


def _compare(name: str, expected: Array, actual: Array, dtype: str) -> TensorDifference | None:
    wrong = wrong_elements(expected, actual, dtype)
    count = int(wrong.sum())
    if not count:
        return None
    worst = np.unravel_index(int(np.argmax(np.where(wrong, np.abs(np.nan_to_num(actual) - expected), -1))), wrong.shape)
    first = tuple(int(i) for i in worst)
    whole = _kind(dtype).kind in "iub" and not np.array_equal(expected, np.round(expected))
    how = f"stored as {dtype}, which cannot hold it" if whole else _how(expected, actual, wrong, count)
    return TensorDifference(name, count, wrong.size, first, float(actual[first]), float(expected[first]), how)


def _how(expected: Array, actual: Array, wrong: Array, count: int) -> str:
    if not np.isfinite(actual).all():
        return f"{int((~np.isfinite(actual)).sum())} of {actual.size} elements are NaN or infinite"
    if not actual.any():
        return "all zeros: never loaded?"
    if expected.ndim == 2 and expected.shape[0] == expected.shape[1] and np.allclose(actual, expected.T, rtol=1e-6):
        return "the transpose of what the mapping makes"
    for name in ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"):
        with np.errstate(over="ignore"):  # too large for this dtype: not what happened here
            rounded = expected.astype(np.float32).astype(getattr(ml_dtypes, name, name)).astype(np.float64)
        if np.array_equal(rounded, actual):
            return f"rounded to {name}"
    ratio, shift = _affine(expected, actual)
    if ratio is not None:
        return f"every element times {ratio:.6g}"
    if shift is not None:
        return f"every element plus {shift:.6g}"
    if np.array_equal(np.sort(expected, axis=None), np.sort(actual, axis=None)):
        return "the same values in another order"
    if count <= max(8, expected.size // 100):
        where = ", ".join(str(tuple(int(i) for i in x)) for x in np.argwhere(wrong)[:3])
        return f"{count} of {expected.size} elements differ, at {where}{', ...' if count > 3 else ''}"
    return f"{count} of {expected.size} elements differ"


def _affine(expected: Array, actual: Array) -> tuple[float | None, float | None]:
    """The one factor, or the one term, that explains all elements within single precision."""
    alive = expected != 0
    if alive.any():
        ratio = float(np.median(actual[alive] / expected[alive]))
        if np.allclose(expected * ratio, actual, rtol=1e-5, atol=0):
            return ratio, None
    shift = float(np.median(actual - expected))
    if np.allclose(expected + shift, actual, rtol=1e-5, atol=1e-6 * abs(shift)):
        return None, shift
    return None, None


def _whose(name: str, actual: Array, expected: Mapping[str, Array], dtype: str) -> str | None:
    """Another target tensor whose due value is exactly what stands here, if there is one."""
    alike = (n for n, wanted in expected.items() if n != name and wanted.shape == actual.shape)
    return next(
        (n for n in alike if not wrong_elements(np.asarray(expected[n], np.float64), actual, dtype).any()), None
    )
