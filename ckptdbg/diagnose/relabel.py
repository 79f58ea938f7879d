"""The layout that an operand would have under other mapping entries, without running or compiling anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.compare.views import TargetView
from ckptdbg.mapping import BoundEntry, BoundMapping
from ckptdbg.mapping.layout import Layout, labels, layout_of

Array = NDArray[Any]
# Pushed tensors are kept while they are small: one of 30,000 x 400 elements takes 600 MB in six pushes.
_MOST_BYTES = 256 * 2**20
Changed = Mapping[str, BoundEntry]
"""Target tensor name to the entry that would make it."""


class Relabel:
    """Layouts of target operands under changed entries."""

    def __init__(self, view: TargetView, mapping: BoundMapping, source: dict[str, TensorSpec]) -> None:
        self._view, self._mapping = view, mapping
        self._names = list(view.specs)
        self._labels = labels(source)
        self._cache: dict[tuple, list[Array]] = {}

    def layout(self, anchor: int, changed: Changed) -> Layout | None:
        """The composed layout of one anchor's operand; None where its own layout is no index map."""
        own = self._view.own[anchor]
        if own.opaque is not None or own.mixed or np.any(np.asarray(own.shift.values) != 0):
            return None
        tensors = {t: self._pushed(self._names[t], changed) for t in own.tensors}
        if any(pushed is None for pushed in tensors.values()):
            return None
        return layout_of([_gather(own, {t: p[i] for t, p in tensors.items() if p}) for i in range(len(self._labels))])

    def _pushed(self, name: str, changed: Changed) -> list[Array] | None:
        """A target tensor as each label makes it; None for one that no entry makes, or that has no index map."""
        entry = changed.get(name) or self._mapping.entry_of_target.get(name)
        if entry is None or entry.opaque is not None:
            return None
        key = (entry.ops, entry.sources, name)
        if key not in self._cache:
            if sum(p.nbytes for pushed in self._cache.values() for p in pushed) > _MOST_BYTES:
                self._cache.clear()
            at = entry.targets.index(name)
            self._cache[key] = [entry.apply([read(s) for s in entry.sources], cast=False)[at] for read in self._labels]
        return self._cache[key]


def _gather(own: Layout, tensors: dict[int, Array]) -> Array:
    """The operand that these tensors give: each element picked by its own layout."""
    features, contraction = own.shape
    grids = [
        np.broadcast_to(c.values[:, None] if c.role == "feature" else c.values, own.shape) for c in own.coordinates
    ]
    scale = np.asarray(own.scale.values)
    scale = np.broadcast_to(scale[:, None] if own.scale.role == "feature" else scale, own.shape)
    out = np.zeros((features, contraction))
    for ordinal, tensor in tensors.items():
        here = grids[0] == ordinal
        index = tuple(grid[here].astype(np.int64) for grid in grids[1 : 1 + tensor.ndim])
        out[here] = tensor[index] * scale[here]
    return out
