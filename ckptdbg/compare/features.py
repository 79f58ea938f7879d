"""Pairing features of two sides through what their effective operands were made from.

Two ``out`` features pair when their operand rows carry the same source rows, summed over the same source columns;
two ``in`` features pair likewise by columns. Nothing is matched by name, by position in the model, or by value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ckptdbg.mapping.layout import Layout
from ckptdbg.models.records import Anchor

Array = NDArray[Any]
Port = Literal["in", "out"]


@dataclass(frozen=True)
class FeatureMap:
    """For one port of a target anchor: the source anchor and feature behind each of its features."""

    offers: tuple[tuple[int, Array], ...]
    """Source anchors that take part, each with ``[features]`` int64: its feature behind each target feature, -1
    where none. Several may offer the same feature (q, k and v read one activation); the first one that has a row
    gives it."""
    scale: Array
    """``[features]`` float64, target value over source value."""
    uniform: float | None = None
    """The scale, where it is one number for the whole operand, not 1, and could as well sit at the other port."""

    @property
    def anchors(self) -> tuple[int, ...]:
        return tuple(s for s, _ in self.offers)

    @property
    def paired(self) -> Array:
        """``[features]`` bool."""
        return np.any([found >= 0 for _, found in self.offers], axis=0)


@dataclass(frozen=True)
class Pairing:
    """Feature maps of every target anchor, ``None`` where a port pairs nowhere."""

    inputs: tuple[FeatureMap | None, ...]
    outputs: tuple[FeatureMap | None, ...]

    def offered(self) -> tuple[frozenset[int], frozenset[int]]:
        """Source anchors whose ``in``, and whose ``out``, some target anchor pairs with."""
        ins, outs = (
            frozenset(s for found in maps if found is not None for s in found.anchors)
            for maps in (self.inputs, self.outputs)
        )
        return ins, outs

    def ports(self, anchor: int) -> tuple[tuple[Port, FeatureMap | None], ...]:
        """Both ports of a target anchor, in execution order."""
        return ("in", self.inputs[anchor]), ("out", self.outputs[anchor])


@dataclass(frozen=True)
class SourceIndex:
    """What pairing asks of the source's layouts again and again."""

    uses: list[int]
    by_tensor: dict[int, list[int]]
    """The anchors that a source tensor takes part in, by its ordinal."""


def index_source(layouts: Sequence[Layout]) -> SourceIndex:
    """The index of all the source's layouts."""
    by_tensor: dict[int, list[int]] = defaultdict(list)
    for i, layout in enumerate(layouts):
        for ordinal in layout.tensors:
            by_tensor[ordinal].append(i)
    return SourceIndex(count_uses(layouts), dict(by_tensor))


def pair(
    source: Sequence[Anchor],
    source_layouts: Sequence[Layout],
    target: Sequence[Anchor],
    target_layouts: Sequence[Layout],
    uses: Sequence[int] | None = None,
    index: SourceIndex | None = None,
) -> Pairing:
    """Pair the ports of all target anchors with source anchors. ``uses`` says of each target anchor which use of its
    operand it is, where ``target`` is not the whole model; ``index`` is that of the source's layouts, where they are
    paired many times."""
    index = index_source(source_layouts) if index is None else index
    source_uses, by_tensor = index.uses, index.by_tensor
    target_uses = count_uses(target_layouts) if uses is None else uses

    inputs: list[FeatureMap | None] = []
    outputs: list[FeatureMap | None] = []
    for t, layout in enumerate(target_layouts):
        candidates = sorted({s for ordinal in layout.tensors for s in by_tensor.get(ordinal, ())})
        same_use = [s for s in candidates if source_uses[s] == target_uses[t]] or candidates
        near = [(s, source_layouts[s]) for s in same_use if _overlap(layout, source_layouts[s])]
        outputs.append(_pair_outputs(layout, near))
        lookup = target[t].kind == "lookup"
        inputs.append(None if lookup else _pair_inputs(layout, [(s, x) for s, x in near if source[s].kind != "lookup"]))
    return Pairing(tuple(inputs), tuple(outputs))


def count_uses(layouts: Sequence[Layout]) -> list[int]:
    """How many earlier anchors used exactly the same operand (a tied table, a layer called twice)."""
    seen: dict[tuple, int] = defaultdict(int)
    counts = []
    for layout in layouts:
        key = (layout.shape, *((c.role, np.asarray(c.values).tobytes()) for c in layout.coordinates))
        counts.append(seen[key])
        seen[key] += 1
    return counts


def _overlap(target: Layout, source: Layout) -> bool:
    """Whether the two operands share source elements, judged per coordinate."""
    for a, b in zip(target.coordinates, source.coordinates, strict=True):
        if a.role == b.role == "constant":
            if a.values != b.values:
                return False
        elif not np.isin(a.values, b.values).any():
            return False
    return True


def _varying(layout: Layout, role: str) -> frozenset[int]:
    return frozenset(i for i, c in enumerate(layout.coordinates) if c.role in (role, "mixed"))


def _columns(layout: Layout, which: Sequence[int], axis: int) -> Array:
    """The coordinates ``which`` as rows of integers along one axis of the operand, ``[size, len(which)]``."""
    size = layout.shape[axis]
    return np.stack([np.broadcast_to(layout.coordinates[i].values, (size,)) for i in which], 1).astype(np.int64)


def _lookup(keys: Array, among: Array) -> Array:
    """Position of each row of ``keys`` in ``among`` (the first), -1 where it is not there or is padding."""
    if len(keys) == len(among) and np.array_equal(keys, among):
        found = np.arange(len(keys))
    else:
        _, inverse = np.unique(np.concatenate([among, keys]), axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        first = np.full(inverse.max(initial=-1) + 1, -1)
        first[inverse[: len(among)][::-1]] = np.arange(len(among))[::-1]
        found = first[inverse[len(among) :]]
    return np.where((keys < 0).any(axis=1), -1, found)


def _pair_outputs(layout: Layout, near: list[tuple[int, Layout]]) -> FeatureMap | None:
    size = layout.shape[0]
    result = _Building(size)
    summed = _varying(layout, "contraction")
    for s, source in near:
        if source.mixed or layout.mixed or summed != _varying(source, "contraction"):
            continue
        columns = sorted(summed)
        if columns and not _same_set(_columns(layout, columns, 1), _columns(source, columns, 1)):
            continue
        rows = [i for i in range(len(layout.coordinates)) if i not in summed]
        found = _lookup(_columns(layout, rows, 0), _columns(source, rows, 0))
        result.add(s, found, _ratio(layout, source, found))
    return result.finish(_uniform(layout, near))


def _pair_inputs(layout: Layout, near: list[tuple[int, Layout]]) -> FeatureMap | None:
    size = layout.shape[1]
    result = _Building(size)
    for s, source in near:
        keys = sorted(_varying(layout, "contraction") | _varying(source, "contraction"))
        across = _varying(layout, "feature") | _varying(source, "feature")
        if layout.mixed or source.mixed or any(k in across for k in keys):
            continue
        if not keys:  # one column on both sides
            found = np.where(np.full(size, size == source.shape[1] == 1), 0, -1)
        else:
            found = _lookup(_columns(layout, keys, 1), _columns(source, keys, 1))
        result.add(s, found, np.ones(size))
    return result.finish(_uniform(layout, near))


def _same_set(a: Array, b: Array) -> bool:
    a, b = (np.unique(x[(x >= 0).all(axis=1)], axis=0) for x in (a, b))
    return a.shape == b.shape and bool((a == b).all())


def _ratio(layout: Layout, source: Layout, found: Array) -> Array:
    """Scale of each target feature over its source feature; 1 where a scale varies along the contraction."""
    size = layout.shape[0]
    if layout.scale.role in ("contraction", "mixed") or source.scale.role in ("contraction", "mixed"):
        return np.ones(size)
    ours = layout.scale.over_features(size)
    theirs = source.scale.over_features(source.shape[0])[np.maximum(found, 0)]
    return np.where(found >= 0, ours / np.where(theirs == 0, 1, theirs), 1.0)


def _uniform(layout: Layout, near: list[tuple[int, Layout]]) -> float | None:
    scales = {float(x.scale.values) for _, x in near if x.scale.role == "constant"}
    if layout.scale.role != "constant" or len(scales) != 1 or any(x.scale.role != "constant" for _, x in near):
        return None
    ratio = float(layout.scale.values) / scales.pop()
    return None if ratio == 1.0 else ratio


class _Building:
    """A feature map as it fills up."""

    def __init__(self, size: int) -> None:
        self.scale = np.ones(size)
        self.taken = np.zeros(size, bool)
        self.offers: list[tuple[int, Array]] = []

    def add(self, anchor: int, found: Array, scale: Array) -> None:
        offered = found >= 0
        if not offered.any():
            return
        self.offers.append((anchor, found))
        self.scale = np.where(offered & ~self.taken, scale, self.scale)
        self.taken |= offered

    def finish(self, uniform: float | None) -> FeatureMap | None:
        return FeatureMap(tuple(self.offers), self.scale, uniform) if self.offers else None
