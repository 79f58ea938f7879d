"""Differences in units of rounding noise.

The only two constants of the whole comparison live here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Set by measurement: healthy conversions stay below SUSPECT at every site, the smallest planted fault lies far above
# DIVERGENT (see docs/noise.md for the table and the command that makes it).
SUSPECT = 10.0
DIVERGENT = 30.0

METHOD = (
    "largest of: working precision against promoted float64 on either side, constants jittered by one ulp, unit "
    "roundoff times the value; L2 over the whole tensor, per token and per feature (floored by the site's median)"
)


def unit_roundoff(dtype: np.dtype) -> float:
    """Half the distance from 1 to the next number of a floating-point dtype (bfloat16 and float8 included)."""
    return float(ml_dtypes.finfo(dtype).eps) / 2


@dataclass(frozen=True)
class Levels:
    """How large rounding noise is at one site."""

    whole: float
    """L2 norm over the site."""
    tokens: Array
    """``[rows]`` L2 norm per token row, floored by the median; inf where nothing is compared."""
    features: Array
    """``[features]`` likewise per feature."""

    def ratio(self, error: Array) -> float:
        """The largest ratio of an error ``[rows, features]``: of the whole, of a token or of a feature."""
        squares = np.square(np.asarray(error, np.float64))
        squares = np.where(np.isinf(self.tokens)[:, None] | np.isinf(self.features), 0, squares)
        whole = _divide(np.sqrt(squares.sum()), self.whole)
        tokens, features = (
            _divide(np.sqrt(squares.sum(1)), self.tokens),
            _divide(np.sqrt(squares.sum(0)), self.features),
        )
        return max(float(whole), float(tokens.max(initial=0)), float(features.max(initial=0)))


@dataclass(frozen=True)
class Measure:
    """One site's difference against its noise."""

    error: float
    """L2 norm over the site."""
    noise: float
    """L2 norm over the site, the largest component."""
    ratio: float
    """max(whole, worst token, worst feature)"""
    tokens: Array
    """``[rows]`` ratio per token row."""
    features: Array
    """``[features]`` ratio per feature."""
    levels: Levels | None = None
    """The noise behind the ratios; None where there was nothing to measure."""


NOTHING = Measure(0.0, 0.0, 0.0, np.zeros(0), np.zeros(0))


def measure(error: Array, components: Sequence[Array], mask: Array | None = None) -> Measure:
    """Ratio of an error to its noise, all ``[rows, features]``; ``mask`` (bool) says which elements are compared.

    Rows and features are each judged by their own L2 norms, with their noise floored by the median over those
    compared, so that one lucky row does not raise an alarm and one wrong element in a large matrix does.
    """
    if mask is not None:
        error = np.where(mask, error, 0)
        components = [np.where(mask, c, 0) for c in components]
        rows, columns = np.asarray(mask.any(axis=1)), np.asarray(mask.any(axis=0))
    else:
        rows, columns = np.ones(error.shape[0], bool), np.ones(error.shape[1], bool)
    if not error.size or not rows.any():
        return NOTHING
    squared = np.square(np.asarray(error, np.float64))
    squares = [np.square(np.asarray(c, np.float64)) for c in components]
    levels = Levels(
        max(float(np.sqrt(s.sum())) for s in squares),
        _floored([s.sum(1) for s in squares], rows),
        _floored([s.sum(0) for s in squares], columns),
    )
    whole = float(np.sqrt(squared.sum()))
    tokens, features = _ratios(squared.sum(1), levels.tokens), _ratios(squared.sum(0), levels.features)
    worst = max(float(_divide(whole, levels.whole)), float(tokens.max(initial=0)), float(features.max(initial=0)))
    return Measure(whole, levels.whole, worst, tokens, features, levels)


def _floored(noises: Sequence[Array], counted: Array) -> Array:
    noise = np.sqrt(np.max(noises, axis=0))
    return np.where(counted, np.maximum(noise, np.median(noise[counted])), np.inf)


def _ratios(error: Array, noise: Array) -> Array:
    return np.where(np.isinf(noise), 0.0, _divide(np.sqrt(error), noise))


def _divide(error: Array | float, noise: Array | float) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.asarray(error, np.float64) / np.asarray(noise, np.float64)
    # nothing over nothing is no difference; a difference that cannot be measured (NaN, inf) is an infinite one
    return np.where(np.asarray(error) == 0, 0.0, np.where(np.isfinite(ratio), ratio, np.inf))
