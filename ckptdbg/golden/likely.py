"""The likeliest tokens of a model's output, and what they say of another model's: bounds of the KL divergence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.logits import CHUNK_ELEMENTS, log_softmax, ranked

Array = NDArray[Any]
KEPT = 10
"""As many as are compared everywhere (``topk_overlap``)."""


@dataclass(frozen=True)
class Likely:
    """The largest logits of every token, read as log-probabilities."""

    ids: Array
    """``[tokens, k]`` int32, largest first."""
    log_p: Array
    """``[tokens, k]`` float32: log-probabilities in nats, the logit less the log of the sum of all exponentials."""


def likely(logits: Array) -> Likely:
    """Of ``[tokens, vocabulary]`` logits."""
    ids, values = [], []
    step = max(1, CHUNK_ELEMENTS // logits.shape[1])
    for start in range(0, len(logits), step):
        log_p = log_softmax(logits[start : start + step])
        first = ranked(log_p, KEPT)
        ids.append(first)
        values.append(np.take_along_axis(log_p, first, 1))
    return Likely(np.concatenate(ids).astype(np.int32), np.concatenate(values).astype(np.float32))


def kl_bounds(known: Likely, log_q: Array) -> tuple[Array, Array]:
    """``[tokens]`` lower and upper bound of KL(source || target) in nats, ``log_q`` ``[tokens, vocabulary]`` being the
    target's log-probabilities.

    Of the tokens that are not kept only their whole probability is known and that none exceeds the least kept. The
    divergence is least where they are spread as the target spreads them (log-sum inequality), and most, being convex,
    where as few as possible hold all of it, those that the target thinks least likely.
    """
    p, log_p = np.exp(known.log_p.astype(np.float64)), known.log_p.astype(np.float64)
    common = (p * (log_p - np.take_along_axis(log_q, known.ids.astype(np.int64), 1))).sum(1)
    every = known.ids.shape[1] == log_q.shape[1]
    rest = np.maximum(1 - p.sum(1), 0) * (not every)
    others = log_q.copy()
    np.put_along_axis(others, known.ids.astype(np.int64), -np.inf, 1)
    least = np.maximum(common + _least(rest, others), 0)  # below 0 by the rounding of what is kept
    return least, np.maximum(common + _most(rest, p.min(1), others, known.ids.shape[1]), least)


def _least(rest: Array, others: Array) -> Array:
    theirs = np.exp(others).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(rest > 0, rest * np.log(rest / theirs), 0.0)


def _most(rest: Array, cap: Array, others: Array, kept: int) -> Array:
    """The kept tokens stand at -inf and come first when sorted."""
    rising = np.sort(others, 1)[:, kept:]
    if not rising.shape[1]:
        return np.zeros(len(rest))
    place = np.arange(rising.shape[1])
    held = np.clip(rest[:, None] - place * cap[:, None], 0, cap[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(held > 0, held * (np.log(held) - rising), 0.0).sum(1)
