"""Bounds of the KL divergence from the ten likeliest tokens."""

import numpy as np
import pytest

from ckptdbg.compare.logits import compare_logits, log_softmax
from ckptdbg.golden.likely import kl_bounds, likely


def pair(vocabulary, apart, peak=1.0, seed=0):
    rng = np.random.default_rng(seed)
    source = rng.standard_normal((40, vocabulary)) * peak
    return source, source + apart * rng.standard_normal(source.shape)


@pytest.mark.parametrize("apart", [0.0, 1e-3, 0.3, 3.0])
@pytest.mark.parametrize("vocabulary", [7, 10, 11, 300])
@pytest.mark.parametrize("peak", [1.0, 8.0])
def test_the_divergence_lies_between(vocabulary, apart, peak):
    source, target = pair(vocabulary, apart, peak)
    low, high = kl_bounds(likely(source), log_softmax(target))
    p = log_softmax(source)
    exact = (np.exp(p) * (p - log_softmax(target))).sum(1)
    assert (low <= exact + 1e-6).all()
    assert (exact <= high + 1e-6).all()
    assert (low >= 0).all()


def test_the_bounds_are_close_where_ten_tokens_hold_nearly_everything():
    source, target = pair(300, 0.3, peak=12.0)
    low, high = kl_bounds(likely(source), log_softmax(target))
    exact = compare_logits(source[None], target[None]).kl_mean_nats
    assert low.mean() == pytest.approx(exact, rel=0.05)
    assert high.mean() < 5 * exact


def test_a_token_that_the_target_rules_out_has_no_upper_bound():
    source, target = pair(30, 0.1)
    target[0, np.argmin(source[0])] = -np.inf
    target[1, np.argmax(source[1])] = -np.inf
    with np.errstate(invalid="ignore"):
        low, high = kl_bounds(likely(source), log_softmax(target))
    assert high[0] == np.inf
    assert np.isfinite(low[0])
    assert low[1] == np.inf
