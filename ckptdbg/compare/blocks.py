"""Outputs of whole modules (blocks, the residual stream), for people who step through layers. No verdict rests on them.

Blocks of the two sides correspond when the anchors inside them pair with each other and with no others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.carry import Carried
from ckptdbg.compare.features import Pairing
from ckptdbg.compare.noise import unit_roundoff
from ckptdbg.compare.runs import Runs, SourceRuns
from ckptdbg.compare.sites import Judged, judge
from ckptdbg.compare.views import View
from ckptdbg.models.records import Trace

Array = NDArray[Any]


@dataclass(frozen=True)
class BlockMeasure:
    """One pair of blocks, free-running."""

    name: str
    after: int
    """The last target anchor inside the block."""
    source: Array
    target: Array
    free: Judged


def measure_blocks(
    source: View, target: View, pairing: Pairing, runs: SourceRuns, free: Runs
) -> tuple[list[BlockMeasure], list[tuple[str, str]]]:
    """Paired blocks in the target's order, and the names and reasons of those that cannot be laid over each other."""
    everywhere = _partners(pairing, range(len(target.graph.anchors)))
    theirs = {inside & everywhere: i for i, inside in enumerate(source.graph.block_anchors)}
    found, left = [], []
    for i, (name, inside) in enumerate(zip(target.graph.blocks, target.graph.block_anchors, strict=True)):
        partner = theirs.get(_partners(pairing, inside)) if inside else None
        if not inside:
            left.append((name, "it holds no matrix: judged as part of the region around it"))
        elif partner is None:
            left.append((name, "no block of the source holds the same anchors"))
        elif not _same_features(pairing, max(inside)):
            left.append((name, "its features are in another order or scale than the source's"))
        else:
            measured = _measure(name, max(inside), partner, i, runs, free)
            found += [measured] if measured is not None else []
    return found, left


def _partners(pairing: Pairing, anchors: Iterable[int]) -> frozenset[int]:
    """The source anchors that these target anchors pair with, at either port."""
    maps = (found for t in anchors for _, found in pairing.ports(t) if found is not None)
    return frozenset(s for found in maps for s in found.anchors)


def _same_features(pairing: Pairing, anchor: int) -> bool:
    """Whether what the block's last anchor writes has the source's own order and scale."""
    found = pairing.outputs[anchor]
    if found is None or not (found.scale == 1).all():
        return False
    return all(np.array_equal(index, np.arange(len(index))) for _, index in found.offers)


def _measure(name: str, after: int, theirs: int, ours: int, runs: SourceRuns, free: Runs) -> BlockMeasure | None:
    source, target = runs.free.working.blocks[theirs], free.working.blocks[ours]
    if source.shape != target.shape:
        return None
    mask = np.ones(source.shape, bool)
    mask[runs.padded[runs.padded < len(mask)]] = False

    def carried(trace: Trace) -> Carried:
        values = trace.blocks[theirs]
        return Carried(values if values.dtype.itemsize >= 4 else values.astype(np.float32), mask)

    def own(trace: Trace) -> Array:
        return trace.blocks[ours]

    precisions = (unit_roundoff(source.dtype), unit_roundoff(target.dtype))
    return BlockMeasure(name, after, source, target, judge(carried, own, runs.free, free, precisions))
