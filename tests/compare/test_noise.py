"""The ratio sees one wrong row or feature in a large site and stays quiet on rounding."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ckptdbg.compare.noise import DIVERGENT, SUSPECT, measure, unit_roundoff

RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal((64, 512)) * 1e-7


def test_rounding_is_at_noise():
    assert measure(RNG.standard_normal((64, 512)) * 1e-7, [NOISE]).ratio < SUSPECT / 3


@pytest.mark.parametrize("place", [(3, slice(None)), (slice(None), 100)], ids=["token", "feature"])
def test_one_wrong_row_or_feature_is_seen_where_the_whole_is_blind(place):
    error = np.zeros_like(NOISE)
    error[place] = 1e-5
    found = measure(error, [NOISE])
    assert found.ratio > DIVERGENT
    assert found.error / found.noise < DIVERGENT


def test_a_silent_feature_raises_no_alarm():
    quiet = NOISE.copy()
    quiet[:, 7] = 0
    error = NOISE.copy()
    assert measure(error, [quiet]).ratio < 2


def test_the_largest_component_counts_and_masked_elements_do_not():
    mask = np.ones(NOISE.shape, bool)
    mask[5] = False
    error = NOISE.copy()
    error[5] = 1.0
    assert measure(error, [NOISE * 1e-3, NOISE], mask).ratio < 2
    assert measure(error, [NOISE * 1e-3, NOISE]).ratio > 1e5


def test_a_difference_without_any_noise_is_infinite_and_no_difference_is_zero():
    nothing = np.zeros((4, 5))
    assert measure(nothing, [nothing]).ratio == 0
    assert measure(nothing + 1, [nothing]).ratio == np.inf


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(np.float32, 2**-24), (np.float64, 2**-53), (ml_dtypes.bfloat16, 2**-8), (np.float16, 2**-11)],
)
def test_unit_roundoff(dtype, expected):
    assert unit_roundoff(np.dtype(dtype)) == expected
