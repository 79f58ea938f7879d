"""An experiment on both sides: with all elements of a norm's scale alike, does the difference go away?

A norm without its scale commutes with a rotation. Where a uniform scale makes the two models agree, they apply the
scale to different things: before the rotation and after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.noise import SUSPECT, measure, unit_roundoff
from ckptdbg.compare.replay import Replay, TargetReplay
from ckptdbg.diagnose.definitions.trials import values_at
from ckptdbg.diagnose.regions import OUTPUT, Place
from ckptdbg.errors import CkptdbgError
from ckptdbg.mapping import BoundEntry
from ckptdbg.models.records import Trace

Array = NDArray[Any]


def agree_when_uniform(
    comparison: Comparison, replay: Replay, places: Sequence[Place]
) -> tuple[list[str], float] | None:
    """The entries of the scales in these regions, and the worst ratio that is left with each of them uniform on both
    sides; None where that is no less than a difference, or cannot be tried."""
    if places[0].port != "in" or places[0].consumers[0] == OUTPUT:
        return None
    alike = _alike(comparison, replay, places)
    if alike is None:
        return None
    try:
        theirs = replay.promoted(alike.source)
        ours = comparison.rerun.promoted(comparison.plants, alike.target)
    except CkptdbgError:
        return None
    ratio = max(ratio_left(comparison, place, theirs, ours) for place in places)
    return (alike.entries, ratio) if ratio < SUSPECT else None


@dataclass(frozen=True)
class Level:
    """A comparison with scales uniform on both sides."""

    entries: list[str]
    """Of the scales."""
    comparison: Comparison
    replay: Replay
    """Runs the source so."""


def without_scales(comparison: Comparison, replay: Replay, places: Sequence[Place]) -> Level | None:
    """The comparison with each of the scales in these regions uniform on both sides; None where there are none, or it
    cannot be run."""
    alike = _alike(comparison, replay, places)
    if alike is None:
        return None
    tensors, read = comparison.rerun.tensors, comparison.rerun.tensors.read_exact
    level = replace(tensors, read_exact=lambda name: alike.target[name] if name in alike.target else read(name))
    rerun = replace(comparison.rerun, tensors=level, parameters=level.exact())
    level_run = replace(replay, exact={**replay.exact, **alike.source})
    try:
        theirs = level_run.runs()
        ours = TargetReplay(rerun, comparison.plants).runs()
    except CkptdbgError:
        return None
    # the working runs have the models' own scales: of no use as a measure of rounding
    theirs, ours = (replace(runs, working=runs.promoted) for runs in (theirs, ours))
    source = replace(comparison.source, runs=replace(comparison.source.runs, isolated=theirs))
    varied = replace(comparison, source=source, rerun=rerun, isolated=ours)
    return Level(alike.entries, varied, replace(level_run, source=source.runs))


@dataclass(frozen=True)
class _Alike:
    """Scales with the same value in all elements."""

    entries: list[str]
    source: dict[str, Array]
    target: dict[str, Array]


def _alike(comparison: Comparison, replay: Replay, places: Sequence[Place]) -> _Alike | None:
    met = sorted({m for place in places for m in place.met})
    entries = [e for m in met for e in comparison.target.met_labels[m].entries]
    if not entries or not all(_one_axis(replay, e) for e in entries):
        return None
    source = {s: _uniform(replay.exact[s]) for e in entries for s in e.sources}
    target: dict[str, Array] = {}
    for entry in entries:
        made = entry.apply([source[s] for s in entry.sources], cast=False)
        target |= dict(zip(entry.targets, made, strict=True))
    return _Alike(list(dict.fromkeys(e.name for e in entries)), source, target)


def _one_axis(replay: Replay, entry: BoundEntry) -> bool:
    named = all(s in replay.exact and replay.exact[s].shape == spec.shape for s, spec in _specs(entry))
    return named and all(len(spec.shape) == 1 for _, spec in _specs(entry))


def _specs(entry: BoundEntry) -> list[tuple[str, Any]]:
    return list(zip(entry.sources, entry.source_specs, strict=True))


def _uniform(values: Array) -> Array:
    return np.full(values.shape, float(np.mean(values)))


def ratio_left(comparison: Comparison, place: Place, theirs: Trace, ours: Trace) -> float:
    """Ratio of what is left in float64 to the noise that the place has in any case."""
    worst, runs, own = 0.0, comparison.source.runs.isolated, comparison.isolated
    for consumer in place.consumers:
        now, before, moved = (values_at(comparison, place, consumer, t) for t in (theirs, runs.promoted, runs.jittered))
        found = ours.records[consumer].input
        exact, jittered = own.promoted.records[consumer].input, own.jittered.records[consumer].input
        if now is None or before is None or moved is None or found is None or exact is None or jittered is None:
            return np.inf
        noise = [moved[0] - before[0], jittered - exact, unit_roundoff(np.dtype(np.float64)) * np.abs(now[0])]
        worst = max(worst, measure(found - now[0], noise, now[2]).ratio)
    return worst
