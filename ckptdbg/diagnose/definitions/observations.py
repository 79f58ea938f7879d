"""What the values at a place say about its cause, by themselves: facts, and the definitions they fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.noise import DIVERGENT
from ckptdbg.diagnose.definitions.meanings import (
    BASE,
    CAUSAL,
    EMBEDDING_SCALE,
    EPSILON,
    FINAL_CAP,
    FRACTION,
    ROPE_TYPE,
    ROUTER_NORM,
    SCALE,
    SCORE_CAP,
    STRETCH,
    WINDOW,
    Meaning,
)
from ckptdbg.diagnose.definitions.trials import values_at
from ckptdbg.diagnose.positions import exact_first_token, first_tokens
from ckptdbg.diagnose.regions import OUTPUT, Place

Array = NDArray[Any]
# Values agree in one factor when what it leaves is rounding: float32 tables leave no more than this.
_EXACT = 1e-6


@dataclass(frozen=True)
class Observation:
    """One fact about a place."""

    text: str
    fits: tuple[Meaning, ...]


def observe(comparison: Comparison, place: Place, sizes: Mapping[str, int]) -> list[Observation]:
    """Facts read off the isolated pass at the first consumer of a place."""
    both = values_at(comparison, place, place.consumers[0])
    if both is None:
        return []
    source, target, mask = both
    kept = mask.all(axis=1)
    found = [*_ratio(source[kept], target[kept], sizes), *_bounds(source[kept], target[kept])]
    if place.consumers[0] != OUTPUT:
        found += _positions(comparison, place)
        found += _looks_ahead(comparison, place)
    return found


def _ratio(source: Array, target: Array, sizes: Mapping[str, int]) -> Iterator[Observation]:
    """One factor for all values, or one for every token."""
    power = float(np.square(source).sum())
    if not power:
        return
    factor = float((source * target).sum()) / power
    size = float(np.linalg.norm(target))
    if factor and np.linalg.norm(target - factor * source) <= _EXACT * size:
        name = _root_of(factor, sizes)
        text = f"the target's values are {factor:.6g}{f' ({name})' if name else ''} times the source's, all of them"
        yield Observation(text, (EMBEDDING_SCALE, SCALE))
        return
    powers = np.square(source).sum(1)
    factors = np.divide((source * target).sum(1), powers, out=np.ones(len(powers)), where=powers > 0)
    if np.linalg.norm(target - factors[:, None] * source) <= _EXACT * size:
        text = f"each token's values differ by a factor of its own, from {factors.min():.8g} to {factors.max():.8g}"
        yield Observation(text, (EPSILON, ROUTER_NORM))


def _root_of(factor: float, sizes: Mapping[str, int]) -> str:
    for name, size in sizes.items():
        for power in (0.5, -0.5, 1.0, -1.0):
            if np.isclose(factor, size**power, rtol=1e-5):
                return f"{name} ** {power:g}"
    return ""


def _bounds(source: Array, target: Array) -> Iterator[Observation]:
    """One side stays far below where the other goes, and small values agree better than large ones."""
    ours, theirs = float(np.abs(target).max(initial=0)), float(np.abs(source).max(initial=0))
    if not ours or not theirs or max(ours, theirs) < 1.05 * min(ours, theirs):
        return
    larger = np.maximum(np.abs(source), np.abs(target))
    low, high = larger < np.quantile(larger, 0.2), larger > np.quantile(larger, 0.9)
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.abs(target - source) / larger
    if np.nanmedian(off[high]) > 5 * np.nanmedian(off[low]):
        side, bound = ("source", theirs) if theirs < ours else ("target", ours)
        yield Observation(
            f"no value of the {side} is beyond {bound:.4g} while the other's reach {max(ours, theirs):.4g}, and small "
            "values differ least",
            (FINAL_CAP,),
        )


def _positions(comparison: Comparison, place: Place) -> Iterator[Observation]:
    """From which position on it is wrong, and whether the error grows."""
    per_position = _error_by_position(comparison, place)
    if per_position is None or not exact_first_token(comparison, place):
        return
    divergent, error = per_position
    first = int(np.argmax(divergent)) if divergent.any() else 0
    if first > 1:
        yield Observation(
            f"exact at the first {first} positions of every sequence, wrong from there on", (WINDOW, STRETCH, ROPE_TYPE)
        )
        return
    quarter = max(len(error) // 4, 1)
    early, late = float(np.median(error[1 : 1 + quarter])), float(np.median(error[-quarter:]))
    if early and late > 2 * early:
        yield Observation(
            f"the error grows with the position, {late / early:.2g} times from the first to the last quarter",
            (BASE, FRACTION, STRETCH, ROPE_TYPE),
        )
    else:
        yield Observation("the error does not grow with the position", (SCALE, SCORE_CAP, FRACTION, BASE))


def _error_by_position(comparison: Comparison, place: Place) -> tuple[Array, Array] | None:
    """Of every position of a sequence: whether it diverges anywhere, and its relative error."""
    site = next((s for s in comparison.sites if s.anchor == place.consumers[0] and s.port == place.port), None)
    both = values_at(comparison, place, place.consumers[0])
    if site is None or both is None or comparison.source.runs.padded.size:
        return None
    source, target, mask = both
    inputs = comparison.rerun.inputs
    length = np.shape(inputs.get("input_ids", next(iter(inputs.values()))))[-1]
    rows = comparison.free.working.records[place.consumers[0]].rows
    if (rows < 0).any():
        return None
    off = np.where(mask, target - source, 0)
    size = np.bincount(rows % length, np.square(np.where(mask, source, 0)).sum(1), length)
    error = np.bincount(rows % length, np.square(off).sum(1), length)
    wrong = np.bincount(rows % length, site.isolated.promoted.tokens >= DIVERGENT, length) > 0
    return wrong, np.sqrt(np.divide(error, size, out=np.zeros(length), where=size > 0))


def _looks_ahead(comparison: Comparison, place: Place) -> Iterator[Observation]:
    """Whether the first tokens change when all later ones are disturbed: in the target, by experiment."""
    feeders = [f for f in place.feeds if f in comparison.plants and comparison.plants[f].output is not None]
    record = comparison.isolated.working.records[place.consumers[0]]
    if not feeders or record.input is None or place.port != "in":
        return
    first, plants = first_tokens(comparison), dict(comparison.plants)
    for feeder in feeders:
        old = np.asarray(plants[feeder].output)
        later = ~np.isin(comparison.isolated.working.records[feeder].rows, first)
        values = np.array(old)
        noise = np.random.default_rng(0).standard_normal(values[later].shape)
        values[later] += (np.std(values) * noise).astype(values.dtype)
        plants[feeder] = replace(plants[feeder], output=values)
    now = comparison.rerun.working(plants).records[place.consumers[0]]
    rows = np.isin(now.rows, first)
    if now.input is None or now.input.shape != record.input.shape or rows.all():
        return
    moved = not np.allclose(now.input[rows], record.input[rows], rtol=1e-4, atol=1e-6 * float(np.std(record.input)))
    if moved:
        yield Observation("in the target the first token changes with later ones: it looks ahead", (CAUSAL,))
    elif not exact_first_token(comparison, place):
        yield Observation("in the target the first token does not depend on later ones", ())
