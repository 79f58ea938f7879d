"""Measuring a target that ran against a sketch: error, noise and ratio of every place, from projections.

The mean square of 16 projections of a difference estimates its squared length, without bias. Noise is the same as in a
full comparison, its source part as the sketch has it, and half of the step in which projections are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.compare.noise import Measure, measure, unit_roundoff
from ckptdbg.compare.runs import Runs
from ckptdbg.compare.sites import Judged, endless
from ckptdbg.golden.carry import Group, Values, carry_back, compared_rows
from ckptdbg.golden.sketch import Place
from ckptdbg.models.records import Trace

Array = NDArray[Any]
Get = Callable[[Trace], Callable[[int], Values]]
_DOUBLE = unit_roundoff(np.dtype(np.float64))


@dataclass(frozen=True)
class TargetRuns:
    """The target, run freely."""

    free: Runs
    rounded: Trace | None = None
    """In float64 with its weights moved by as much as storing them rounds: where what they were rounded from is not
    at hand."""


@dataclass(frozen=True)
class Judgement:
    """One group of parts, judged."""

    judged: Judged
    rows: int
    """How many rows of the place were compared."""


def judge_group(group: Group, runs: TargetRuns, get: Get, gauge: float = 1.0) -> Judgement | None:
    """Compare one place with what the target has of it; None where no group of rows has all its counterparts."""
    place, free = group.place, runs.free
    whole = complete(place, compared_rows(group, get(free.working)))
    kept = whole[place.groups]
    if not kept.any():
        return None
    traces = [free.working, free.promoted, free.jittered, *([runs.rounded] if runs.rounded is not None else [])]
    carried = [carry_back(group, kept, get(trace), gauge) for trace in traces]
    bad = ~(np.isfinite(carried[0]) & np.isfinite(carried[1]))[kept]
    if bad.any():
        return Judgement(endless(bad), int(kept.sum()))
    return Judgement(_judge(place, whole, carried, _roundoff(group, runs, get)), int(kept.sum()))


def complete(place: Place, rows: Array) -> Array:
    """``[groups]`` bool: the groups of which all ``rows`` (bool) are there."""
    whole = np.ones(len(place.quanta), bool)
    np.logical_and.at(whole, place.groups, rows)
    return whole


def _roundoff(group: Group, runs: TargetRuns, get: Get) -> float:
    """The target's, in working precision."""
    return max(unit_roundoff(get(runs.free.working)(anchor)[1].dtype) for anchor in group.anchors)


def _judge(place: Place, whole: Array, carried: list[Array], theirs: float) -> Judged:
    """As ``compare.sites.judge``, with the source's float64 in place of its working precision: its rounding is among
    the noise."""
    working, promoted, *others = carried
    error, exact = (_lengths(place.projected(v) - place.projections)[whole] for v in (working, promoted))
    rounding, jitter, size = place.sizes[:, whole].astype(np.float64)
    own, theirs_round, theirs_size = (
        place.norms(v)[whole] for v in (others[0] - promoted, working - promoted, working)
    )
    ours = unit_roundoff(as_dtype(place.dtype))
    roundoff, size = max(ours, theirs), np.maximum(size, theirs_size)
    common = [jitter, own, place.step[whole] / 2, *(place.norms(v - promoted)[whole] for v in others[1:])]
    shrink = _DOUBLE / roundoff
    return Judged(
        _measure(error, [rounding, theirs_round, roundoff * size, *common]),
        _measure(exact, [rounding * shrink, theirs_round * shrink, _DOUBLE * size, *common]),
        _measure(theirs_round, [rounding, ours * size]).ratio,
    )


def _lengths(projections: Array) -> Array:
    """``[groups]`` estimated L2 norm of what was projected."""
    return np.sqrt(np.square(projections).mean(1))


def _measure(error: Array, components: list[Array]) -> Measure:
    """Of norms per group: whole and worst group, as everywhere; a sketch has no single features."""
    return measure(error[:, None], [c[:, None] for c in components])
