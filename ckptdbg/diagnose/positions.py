"""The first position as evidence: nothing that mixes positions (attention weights, rotary embeddings, masks) can
matter there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.noise import DIVERGENT, Measure
from ckptdbg.diagnose.regions import OUTPUT, Place
from ckptdbg.mapping import BoundEntry

Array = NDArray[Any]
# One run per feeder: a region inside a block has a handful, the residual stream has two per layer.
_MOST_FEEDERS = 12


def exact_first_token(comparison: Comparison, place: Place) -> bool:
    """Whether the place is at noise in the first row of every sequence while it diverges in later ones."""
    found = _tokens(comparison, place)
    if found is None:
        return False
    measured, rows = found
    first = np.isin(rows, first_tokens(comparison))
    divergent = measured.tokens >= DIVERGENT
    return bool(first.any() and divergent.any() and not divergent[first].any())


def narrowed(comparison: Comparison, place: Place) -> tuple[list[BoundEntry], str] | None:
    """Suspects left where the first position is exact, and the sentence that says why; None where it excludes nobody.

    Found by experiment, not by name: each feeder's planted value is disturbed in the first rows only. A feeder whose
    disturbance reaches the region's first rows is seen to be right there; the ones to which those rows are blind
    (they only weigh other values) remain, with the region's own parameters.
    """
    if not exact_first_token(comparison, place) or len(place.feeds) > _MOST_FEEDERS:
        return None
    feeders = sorted(f for f in place.feeds if f in comparison.plants and comparison.plants[f].output is not None)
    blind = [f for f in feeders if not _reaches_first_rows(comparison, place.consumers[0], f)]
    if not blind or len(blind) == len(feeders):
        return None
    target = comparison.target
    seen = [e.name for f in feeders if f not in blind for e in target.labels[f].entries]
    kept = [*(target.labels[f] for f in blind), *(target.met_labels[m] for m in sorted(place.met))]
    note = f"not {', '.join(dict.fromkeys(seen))}: they alone make the first position, and it is exact"
    return [e for label in kept for e in label.entries], note


def _reaches_first_rows(comparison: Comparison, consumer: int, feeder: int) -> bool:
    plant, records = comparison.plants[feeder], comparison.isolated.working.records
    assert plant.output is not None
    first = np.isin(records[feeder].rows, first_tokens(comparison))
    values = np.array(plant.output)
    values[first] += np.std(values) * np.random.default_rng(0).standard_normal(values[first].shape).astype(values.dtype)
    disturbed = comparison.rerun.working({**comparison.plants, feeder: replace(plant, output=values)}).records[consumer]
    before = records[consumer].input
    assert before is not None
    assert disturbed.input is not None
    rows = np.isin(disturbed.rows, first_tokens(comparison))
    return not np.allclose(disturbed.input[rows], before[rows], rtol=1e-3, atol=1e-6 * float(np.std(before)))


def _tokens(comparison: Comparison, place: Place) -> tuple[Measure, Array] | None:
    first = place.consumers[0]
    if first == OUTPUT:
        return None
    site = next((s for s in comparison.sites if s.anchor == first and s.port == place.port), None)
    if site is None:
        return None
    return site.isolated.promoted, comparison.free.working.records[first].rows


def first_tokens(comparison: Comparison) -> Array:
    """Flat index of the first real token of every sequence."""
    inputs = comparison.rerun.inputs
    tokens = inputs.get("input_ids", next(iter(inputs.values())))
    batch, *rest = np.shape(tokens)
    length = rest[0] if rest else 1
    real = ~np.isin(np.arange(batch * length), comparison.source.runs.padded).reshape(batch, length)
    return np.arange(batch) * length + real.argmax(axis=1)
