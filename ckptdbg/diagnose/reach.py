"""How strongly a change of a weight would show: known in closed form where the weight meets a recorded activation.

A change d of element (f, c) of an operand changes feature f of the anchor's ``out`` by d times column c of its ``in``.
Both ends are recorded in the isolated pass, and so is the noise there: nothing is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.comparison import Comparison
from ckptdbg.compare.noise import Levels
from ckptdbg.mapping.layout import Along, Layout

Array = NDArray[Any]


@dataclass
class Reach:
    """How strongly one target tensor shows."""

    elements: Array
    """In the tensor's shape: the ratio that a change of 1 of this element alone would reach; 0 where no compared place
    depends on it."""
    measured: Array
    """In the tensor's shape, bool: whether that was found out."""
    whole: float = 0.0
    """The ratio that doubling the whole tensor would reach, to first order."""

    def merge(self, index: Any, values: Array) -> None:
        """More places that these elements show at: the one that shows most counts."""
        self.elements[index] = np.maximum(self.elements[index], values)
        self.measured[index] = True


def blank(shape: tuple[int, ...]) -> Reach:
    """Nothing measured yet."""
    return Reach(np.zeros(shape), np.zeros(shape, bool))


def out_levels(comparison: Comparison) -> dict[int, Levels]:
    """Noise at the compared ``out`` of each anchor."""
    found = ((s.anchor, s.isolated.working.levels) for s in comparison.sites if s.port == "out")
    return {anchor: levels for anchor, levels in found if levels is not None}


def add_anchors(comparison: Comparison, reaches: dict[str, Reach]) -> None:
    """Everything that is known in closed form: operands of anchors whose ``out`` is compared, and those that no token
    reached."""
    levels, names = out_levels(comparison), list(comparison.target.specs)
    operands = _LookedUp(comparison)
    for t, anchor in enumerate(comparison.target.graph.anchors):
        own, record = comparison.target.own[t], comparison.free.working.records[t]
        if own.opaque is not None or np.any(np.asarray(own.shift.values) != 0):
            continue
        if not record.output.size:  # no token came here: an expert nobody chose
            shown = np.zeros(own.shape)
        elif t not in levels:
            continue
        elif anchor.kind == "lookup":
            shown = _shown(*_looked_up(operands.columns(t), own.shape[1], levels[t]), levels[t])
        else:
            shown = _shown(*contracted(_input(comparison, t), levels[t]), levels[t])
        for ordinal in own.tensors:
            reach = reaches[names[ordinal]]
            for index, values in scattered(own, ordinal, shown, reach.elements.ndim):
                reach.merge(index, values)
            if record.output.size:
                reach.whole = max(reach.whole, _whole(comparison, t, ordinal, levels[t]))


def contracted(values: Array, levels: Levels) -> tuple[Array, Array]:
    """Of every column: its norm over the compared rows, and its largest share in one row's noise."""
    size = np.where(np.isinf(levels.tokens)[:, None], 0, np.abs(values.astype(np.float64)))
    return np.sqrt(np.square(size).sum(0)), (size / levels.tokens[:, None]).max(0)


def _looked_up(columns: Array, count: int, levels: Levels) -> tuple[Array, Array]:
    """The same for a lookup, whose ``in`` is one at the column of each row's id and zero elsewhere."""
    rows = np.flatnonzero((columns >= 0) & np.isfinite(levels.tokens))
    norm, share = np.zeros(count), np.zeros(count)
    np.add.at(norm, columns[rows], 1.0)
    np.maximum.at(share, columns[rows], 1 / levels.tokens[rows])
    return np.sqrt(norm), share


def _shown(norm: Array, share: Array, levels: Levels) -> Array:
    """``[features, contraction]``: the ratio that a change of 1 of an operand's element would reach."""
    counted = np.isfinite(levels.features)
    steep = np.where(counted, np.maximum(1 / levels.whole, 1 / levels.features), 0)
    return np.maximum(steep[:, None] * norm, counted[:, None] * share)


def _input(comparison: Comparison, t: int) -> Array:
    """What the anchor works on in the isolated pass: the source's values where they are planted."""
    own, plant = comparison.free.working.records[t].input, comparison.plants.get(t)
    assert own is not None
    if plant is None or plant.input is None:
        return own
    return plant.input if plant.input_mask is None else np.where(plant.input_mask, plant.input, own)


def _whole(comparison: Comparison, t: int, ordinal: int, levels: Levels) -> float:
    """The ratio that doubling one tensor's share of an operand would reach. Where several share one feature, each is
    held to have given it an equal part."""
    values, which = comparison.isolated.working.records[t].output, comparison.target.own[t].coordinates[0]
    if which.role in ("constant", "feature"):
        return levels.ratio(np.where(which.over_features(values.shape[1]) == ordinal, values, 0))
    return levels.ratio(values) / len(comparison.target.own[t].tensors)


class _LookedUp:
    """Which column of its table each row of a lookup read: found by the values, in float64, where they are equal bit
    for bit."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._operands: Any = None

    def columns(self, t: int) -> Array:
        """``[rows]`` int64, -1 where it cannot be told."""
        rerun = self._comparison.rerun
        if self._operands is None:
            rerun.side.graph(rerun.inputs)  # another session may have asked for that of other tokens since
            self._operands = rerun.side.operands(rerun.parameters).anchors
        place = {column.tobytes(): i for i, column in reversed(list(enumerate(self._operands[t].T + 0.0)))}
        rows = self._comparison.isolated.promoted.records[t].output.astype(np.float64) + 0.0
        return np.asarray([place.get(row.tobytes(), -1) for row in rows], np.int64)


def scattered(layout: Layout, ordinal: int, shown: Array, rank: int) -> Iterator[tuple[Any, Array]]:
    """Where in a tensor the elements of an operand lie, with what is known of them."""
    rows, columns = (np.arange(size) for size in layout.shape)
    which = layout.coordinates[0]
    if which.role == "feature":
        rows = np.flatnonzero(which.values == ordinal)
    elif which.role == "contraction":
        columns = np.flatnonzero(which.values == ordinal)
    shape = (len(rows), len(columns))
    grids = [_part(along, rows, columns).astype(np.int64) for along in layout.coordinates[1 : 1 + rank]]
    values = shown[np.ix_(rows, columns)] * np.abs(_part(layout.scale, rows, columns))
    if which.role == "mixed" or any((grid < 0).any() for grid in grids):
        real = np.broadcast_to(_part(which, rows, columns) == ordinal, shape).copy()
        for grid in grids:
            real &= np.broadcast_to(grid >= 0, shape)
        yield tuple(np.broadcast_to(grid, shape)[real] for grid in grids), np.broadcast_to(values, shape)[real]
    else:
        yield tuple(np.broadcast_to(grid, shape) for grid in grids), np.broadcast_to(values, shape)


def _part(along: Along, rows: Array, columns: Array) -> Array:
    """One quantity over some rows and columns of an operand, as small as broadcasting allows."""
    values = np.asarray(along.values)
    if along.role == "feature":
        return values[rows][:, None]
    if along.role == "contraction":
        return values[columns][None, :]
    return values[np.ix_(rows, columns)] if along.role == "mixed" else values.reshape(1, 1)
