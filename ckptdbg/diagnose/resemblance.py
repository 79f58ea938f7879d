"""What a wrong tensor is instead of what it should be, as far as its own values tell: one phrase."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.diagnose.elements import roundoff
from ckptdbg.diagnose.order import order_of

Array = NDArray[Any]
Lane = tuple[tuple[int, int], ...]
_FEW = 8
# Two unrelated tensors of n elements have a correlation of about 1 over the root of n.
_UNRELATED = 5


def how(
    expected: Array, actual: Array, wrong: Array, dtype: str, names: Mapping[int, str], sizes: Mapping[str, int]
) -> str:
    """A phrase. ``names`` says of stacked axes what they run over, ``sizes`` which numbers a factor may come from."""
    if as_dtype(dtype).kind in "iub" and not np.array_equal(expected, np.round(expected)):
        return f"stored as {dtype}, which cannot hold it"
    if not np.isfinite(actual).all():
        return f"{int((~np.isfinite(actual)).sum())} of {actual.size} elements are NaN or infinite"
    if not actual.any():
        return "all zeros: never loaded?"
    held = _rounded(expected, dtype)
    return (
        _transposed(held, actual)
        or _narrower(expected, actual, dtype)
        or _affine(expected, actual, dtype, sizes)
        or order_of(held, actual, names)
        or _count(expected, actual, wrong)
    )


def confined(wrong: Array) -> Lane:
    """Axes of which only one index holds wrong elements, with that index; empty where the wrong ones are few."""
    if not is_many(wrong):
        return ()
    lane = []
    for axis, size in enumerate(wrong.shape):
        hit = np.flatnonzero(wrong.any(axis=tuple(a for a in range(wrong.ndim) if a != axis)))
        if len(hit) == 1 and size > 1:
            lane.append((axis, int(hit[0])))
    return tuple(lane)


def is_many(wrong: Array) -> bool:
    """Whether the wrong elements are too many to be told one by one."""
    return int(wrong.sum()) > max(_FEW, wrong.size // 100)


def _transposed(expected: Array, actual: Array) -> str | None:
    square = expected.ndim == 2 and expected.shape[0] == expected.shape[1]
    same = square and np.allclose(actual, expected.T, rtol=1e-6)
    return "the transpose of what the mapping makes" if same else None


def _narrower(expected: Array, actual: Array, dtype: str) -> str | None:
    """Rounded to a dtype with fewer bits than the one it is stored in."""
    for name in ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"):
        if 0 < roundoff(dtype) < roundoff(name):
            with np.errstate(over="ignore"):  # too large for this dtype: not what happened here
                if np.array_equal(_rounded(expected.astype(np.float32), name), actual):
                    return f"rounded to {name}"
    return None


def _affine(expected: Array, actual: Array, dtype: str, sizes: Mapping[str, int]) -> str | None:
    """The one factor, or the one term, that explains all elements within the stored precision."""
    within = 8 * roundoff(dtype) + 1e-6
    alive = expected != 0
    if alive.any():
        ratio = float(np.median(actual[alive] / expected[alive]))
        if ratio and np.allclose(expected * ratio, actual, rtol=within, atol=0):
            return f"every element times {ratio:.6g}{_factor(ratio, within, sizes)}"
    shift = float(np.median(actual - expected))
    if shift and np.allclose(expected + shift, actual, rtol=within, atol=within * abs(shift)):
        return f"every element plus {shift:.6g}"
    return None


def _factor(ratio: float, within: float, sizes: Mapping[str, int]) -> str:
    """Which size the factor is a power of, where it is one."""
    if math.log2(abs(ratio)).is_integer():  # told best as it is: too many sizes have it as a root
        return ""
    for power in ("0.5", "-0.5", "1", "-1"):
        for name, size in sizes.items():
            if abs(ratio / size ** float(power) - 1) <= within:
                return f" ({name} ** {power})"
    return ""


def _count(expected: Array, actual: Array, wrong: Array) -> str:
    count = int(wrong.sum())
    if is_many(wrong):
        return f"{count} of {expected.size} elements differ{_unrelated(expected, actual)}"
    where = ", ".join(str(tuple(int(i) for i in x)) for x in np.argwhere(wrong)[:3])
    return f"{count} of {expected.size} elements differ, at {where}{', ...' if count > 3 else ''}"


def _unrelated(expected: Array, actual: Array) -> str:
    due, found = expected - expected.mean(), actual - actual.mean()
    power = float(np.sqrt(np.square(due).sum() * np.square(found).sum()))
    correlation = float((due * found).sum()) / power if power else 0.0
    loose = abs(correlation) < _UNRELATED / np.sqrt(expected.size) and expected.size > _UNRELATED**2
    return f", with no relation to what is due (correlation {correlation:.2g}): never loaded?" if loose else ""


def _rounded(values: Array, dtype: str) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(as_dtype(dtype)).astype(np.float64)
