"""Static evidence on structure: what feeds each paired anchor, and which region parameters it has met, on both
sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ckptdbg.compare.features import Pairing
from ckptdbg.mapping.layout import Along, Layout
from ckptdbg.models.records import Anchor, Graph


@dataclass(frozen=True)
class Difference:
    """What the two graphs, under the pairing, do not have in common at one target anchor. Ordinals of source
    tensors."""

    anchor: int
    only_source: tuple[int, ...]
    only_target: tuple[int, ...]
    what: str
    """``feeders`` or ``region parameters``"""
    common: bool
    """Whether anything is the same. Where nothing is, the odd one out is the anchor, not all that it meets."""


@dataclass(frozen=True)
class Shift:
    """A region parameter whose composite shift differs: ``1 + w`` on one side meets ``w`` on the other."""

    meeting: int
    source: float
    target: float


def feed_differences(
    source: Graph,
    source_layouts: Sequence[Layout],
    source_met: Sequence[Layout],
    target: Graph,
    target_layouts: Sequence[Layout],
    target_met: Sequence[Layout],
    pairing: Pairing,
) -> list[Difference]:
    """Where a paired anchor is fed by other tensors than its partner. Tensors that act as an anchor on one side and
    as a region parameter on the other (a position table) prove nothing and are left out, and so are those that one
    side never meets. Where several matrices are applied in one operation (experts), those of other groups may or may
    not feed a group's rows: they are no difference either way."""
    kinds = [_tensors(x) for x in (source_layouts, target_layouts, source_met, target_met)]
    anchors, regions = kinds[0] & kinds[1], kinds[2] & kinds[3]
    clear_anchors, clear_regions = anchors - kinds[2] - kinds[3], regions - kinds[0] - kinds[1]
    found = []
    for t, anchor in enumerate(target.anchors):
        port = pairing.inputs[t]
        if port is None:
            continue
        partners = [source.anchors[s] for s in port.anchors]
        ours = _fed(target, [anchor], target_layouts, clear_anchors)
        theirs = _fed(source, partners, source_layouts, clear_anchors)
        found += _differ(t, theirs, ours, "feeders")
        met = _of(anchor.met, target_met) & clear_regions
        met_there = _of(frozenset().union(*(p.met for p in partners)), source_met) & clear_regions
        found += _differ(t, (met_there, met_there), (met, met), "region parameters")
    return found


def shift_differences(source_met: Sequence[Layout], target_met: Sequence[Layout]) -> list[Shift]:
    """Region parameters made from the same source tensor whose shifts differ at every use of it in the source."""
    by_tensor: dict[tuple[int, ...], list[float]] = {}
    for layout in source_met:
        shift = _constant(layout.shift)
        if layout.opaque is None and shift is not None:
            by_tensor.setdefault(layout.tensors, []).append(shift)
    found = []
    for m, layout in enumerate(target_met):
        shift = _constant(layout.shift)
        theirs = by_tensor.get(layout.tensors)
        if layout.opaque is None and layout.tensors and shift is not None and theirs and shift not in theirs:
            found.append(Shift(m, theirs[0], shift))
    return found


def _constant(along: Along) -> float | None:
    return float(along.values) if along.role == "constant" else None


def _tensors(layouts: Sequence[Layout]) -> set[int]:
    return {t for layout in layouts for t in layout.tensors}


def _of(indices: frozenset[int], layouts: Sequence[Layout]) -> set[int]:
    return {t for i in indices for t in layouts[i].tensors}


Fed = tuple[set[int], set[int]]
"""Tensors that feed an anchor in any case, and all that may."""


def _fed(graph: Graph, anchors: Sequence[Anchor], layouts: Sequence[Layout], clear: set[int]) -> Fed:
    every = {(a.group, feed) for a in anchors for feed in a.feeds}
    certain = {f for group, f in every if group is None or graph.anchors[f].group in (None, group)}
    return _of(frozenset(certain), layouts) & clear, _of(frozenset(f for _, f in every), layouts) & clear


def _differ(anchor: int, theirs: Fed, ours: Fed, what: str) -> list[Difference]:
    only_source, only_target = theirs[0] - ours[1], ours[0] - theirs[1]
    if not only_source and not only_target:
        return []
    common = bool(ours[1] & theirs[1])
    return [Difference(anchor, tuple(sorted(only_source)), tuple(sorted(only_target)), what, common)]


def mixed_layouts(layouts: Sequence[Layout]) -> list[int]:
    """Operands in which a source axis runs along both axes: a reshape where a transpose belongs."""
    return [i for i, layout in enumerate(layouts) if layout.mixed]


def shifted_layouts(layouts: Sequence[Layout]) -> list[int]:
    """Contraction operands with a constant added to the source's elements, which no activation can carry."""
    return [
        i for i, x in enumerate(layouts) if x.opaque is None and x.tensors and np.any(np.asarray(x.shift.values) != 0)
    ]
