"""Measuring every compared site: error, noise and ratio, free-running and isolated, in working precision and
promoted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.carry import Carried, carry, match_rows
from ckptdbg.compare.features import FeatureMap, Pairing, Port
from ckptdbg.compare.noise import DIVERGENT, NOTHING, Measure, measure, unit_roundoff
from ckptdbg.compare.runs import Runs, SourceRuns
from ckptdbg.models.records import Record, Trace

Array = NDArray[Any]
_DOUBLE = np.dtype(np.float64)


@dataclass(frozen=True)
class Judged:
    """One site under one kind of run."""

    working: Measure
    promoted: Measure
    own_noise: float
    """Target's rounding noise over the source's: what its own casts add."""
    nonfinite: bool = False

    @property
    def divergent(self) -> bool:
        """Rounding shrinks to float64 level in the promoted pair, a fault does not."""
        return self.nonfinite or self.promoted.ratio >= DIVERGENT


@dataclass(frozen=True)
class SiteMeasure:
    """A compared port of a target anchor."""

    anchor: int
    port: Port
    shape: tuple[int, int]
    compared: float
    """Fraction of its elements that have a counterpart."""
    source: Array
    """Source values in the target's layout, working precision, free-running: NaN where there is no counterpart."""
    target: Array
    free: Judged
    isolated: Judged


Getter = Callable[[Trace], Carried]


def measure_sites(
    pairing: Pairing,
    source: SourceRuns,
    free: Runs,
    isolated: Runs,
    gauges: dict[int, float],
    *,
    sharp: bool = True,
) -> list[SiteMeasure]:
    """All paired ports in the target's execution order. ``sharp`` where both sides are planted at the same places."""
    sites = []
    for t, record in enumerate(free.working.records):
        for port, found in pairing.ports(t):
            if found is not None and record.output.size:
                site = _site(t, port, found, source, free, isolated, gauges.get(t, 1.0), sharp)
                if site is not None:
                    sites.append(site)
    return sites


def _site(
    t: int, port: Port, found: FeatureMap, source: SourceRuns, free: Runs, isolated: Runs, gauge: float, sharp: bool
) -> SiteMeasure | None:
    rows = free.working.records[t].rows
    shown = carry(found, rows, source.free.working.records, port, gauge)
    if shown.empty:
        return None
    target = aligned(free.working.records[t], rows, port)
    shape = (int(target.shape[0]), int(target.shape[1]))
    compared = 1.0 if shown.mask is None else float(shown.mask.mean())
    values = shown.values if shown.mask is None else np.where(shown.mask, shown.values, np.nan)
    return SiteMeasure(
        t,
        port,
        shape,
        compared,
        values,
        target,
        judge_port(t, port, found, rows, source.free, free, gauge),
        judge_port(t, port, found, rows, source.isolated, isolated, gauge, sharp=sharp),
    )


def judge_port(
    t: int,
    port: Port,
    found: FeatureMap,
    rows: Array,
    source: Runs,
    target: Runs,
    gauge: float = 1.0,
    *,
    sharp: bool = True,
) -> Judged:
    """Compare one paired port of a target anchor under one kind of runs. ``rows`` are the tokens of its rows."""

    def theirs(trace: Trace) -> Carried:
        return carry(found, rows, trace.records, port, gauge)

    def ours(trace: Trace) -> Array:
        return aligned(trace.records[t], rows, port)

    sources = [source.working.records[s].output.dtype for s in found.anchors]
    precisions = (max(map(unit_roundoff, sources)), unit_roundoff(ours(target.working).dtype))
    return judge(theirs, ours, source, target, precisions, sharp=sharp)


def judge(
    theirs: Getter,
    ours: Callable[[Trace], Array],
    source: Runs,
    target: Runs,
    precisions: tuple[float, float],
    *,
    sharp: bool = True,
) -> Judged:
    """Compare one place of both sides over three runs each. Arrays are ``[rows, features]``, the source's already
    carried.

    ``precisions`` are the unit roundoffs of the source's and the target's working precision at this place. Where the
    runs are not ``sharp``, their float64 pair still differs by planted working values, and by no less than their
    rounding.
    """
    s_w, s_64, s_j = theirs(source.working), theirs(source.promoted), theirs(source.jittered)
    t_w, t_64, t_j = ours(target.working), ours(target.promoted), ours(target.jittered)
    mask = s_w.mask
    if not _finite(s_w.values, t_w, s_64.values, t_64, mask=mask):
        both = _nonfinite(s_w.values, t_w, mask)
        return both if both.nonfinite else _nonfinite(s_64.values, t_64, mask)
    roundoff = max(precisions)
    s_w64, t_w64 = s_w.values.astype(np.float64), t_w.astype(np.float64)
    s_round, t_round = s_w64 - s_64.values, t_w64 - t_64
    s_jitter, t_jitter = s_j.values - s_64.values, t_j - t_64
    size = np.maximum(np.abs(s_w64), np.abs(t_w64))
    working = measure(t_w64 - s_w64, [s_round, t_round, s_jitter, t_jitter, roundoff * size], mask)
    shrink = unit_roundoff(_DOUBLE) / roundoff if sharp else 1.0
    promoted = measure(
        t_64 - s_64.values,
        [s_jitter, t_jitter, s_round * shrink, t_round * shrink, unit_roundoff(_DOUBLE) * size],
        mask,
    )
    floor = measure(t_round, [s_round, precisions[0] * size], mask)
    return Judged(working, promoted, floor.ratio)


def _finite(*arrays: Array, mask: Array | None) -> bool:
    return all(bool(np.isfinite(a if mask is None else a[mask]).all()) for a in arrays)


def _nonfinite(source: Array, target: Array, mask: Array | None) -> Judged:
    """Equal patterns of NaN and inf on both sides are no divergence of the target."""
    same = (
        (np.isfinite(source) == np.isfinite(target))
        if mask is None
        else (np.isfinite(source) == np.isfinite(target))[mask]
    )
    if bool(same.all()):
        return Judged(NOTHING, NOTHING, 0.0)
    return endless(~np.isfinite(target))


def endless(bad: Array) -> Judged:
    """Where one side alone is NaN or infinite; ``bad`` ``[rows, features]`` says at which elements."""
    tokens, features = np.asarray(bad.any(1)), np.asarray(bad.any(0))
    measured = Measure(np.inf, 0.0, np.inf, np.where(tokens, np.inf, 0), np.where(features, np.inf, 0))
    return Judged(measured, measured, 0.0, nonfinite=True)


def aligned(record: Record, rows: Array, port: Port) -> Array:
    values = record.input if port == "in" else record.output
    if values is None:
        raise ValueError("a lookup has no floating-point input")
    if len(record.rows) == len(rows) and np.array_equal(record.rows, rows):
        return values
    matched = match_rows(rows, record.rows)
    if not len(record.rows):
        return np.full((len(rows), values.shape[1]), np.nan)
    return np.where((matched >= 0)[:, None], values[np.maximum(matched, 0)], np.nan)
