"""Definitions that can be read off the two models without trying anything: which rows of a table are used, how many
experts are chosen."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.comparison import Comparison
from ckptdbg.diagnose.definitions.meanings import EXPERTS, POSITIONS, Meaning
from ckptdbg.diagnose.definitions.trials import values_at
from ckptdbg.diagnose.regions import OUTPUT, Place
from ckptdbg.mapping.layout import Layout


@dataclass(frozen=True)
class Rows:
    """Which rows of a table the two sides use: as many, from another start."""

    axis: int
    source: tuple[int, int]
    """First and last."""
    target: tuple[int, int]

    def undone(self, table: NDArray[Any]) -> NDArray[Any]:
        """The target's table with the source's rows where the target looks for them."""
        moved = np.array(table)
        there, here = (
            (slice(None),) * self.axis + (slice(first, last + 1),) for first, last in (self.target, self.source)
        )
        moved[there] = table[here]
        return moved


@dataclass(frozen=True)
class Reading:
    """A definition that is seen to differ."""

    meaning: Meaning
    sentence: str
    """How."""
    rows: Mapping[str, Rows] = field(default_factory=dict)
    """By target tensor, where moving its rows undoes the difference."""


def read_off(comparison: Comparison, places: Sequence[Place], moved: Collection[str] = ()) -> Iterator[Reading]:
    """Definitions that are seen to differ at these places; not those of ``moved`` target tensors."""
    for m in sorted({m for p in places for m in p.met}):
        tensors = comparison.target.met_labels[m].tensors
        if set(tensors) & set(moved):
            continue
        ours = comparison.target.meetings[m]
        theirs = [x for x in comparison.source.view.meetings if x.tensors == ours.tensors and x.opaque is None]
        if ours.opaque is None and ours.tensors and theirs:
            shift = _shifted(theirs[0], ours)
            if shift is not None:
                alike = _row_by_row(comparison, m, shift)
                sentence = _rows_sentence(comparison, m, shift, alike)
                yield Reading(POSITIONS, sentence, dict.fromkeys(tensors, shift) if alike else {})
    for place in places:
        if place.port == "out":
            yield from _moved_lookup(comparison, place)
    for ours, theirs in zip(comparison.target.graph.choices, comparison.source.view.graph.choices, strict=False):
        behind = any(ours.feeds & p.feeds for p in places)
        if behind and ours.chosen != theirs.chosen and ours.options == theirs.options:
            yield Reading(
                EXPERTS,
                f"the target chooses {ours.chosen} of {ours.options} where the source chooses {theirs.chosen}",
            )
            return


def _row_by_row(comparison: Comparison, meeting: int, rows: Rows) -> bool:
    """Whether the rows that the target uses are counted alike in its own table and in the source's, so that they can be
    moved there."""
    target = comparison.target
    own, mapped, tensors = target.own_met[meeting], target.meetings[meeting], target.met_labels[meeting].tensors
    if len(tensors) != 1 or own.opaque is not None or own.scale.role != "constant" or not np.all(own.scale.values == 1):
        return False
    shape = target.specs[tensors[0]].shape
    axes = slice(1, 1 + len(shape))  # what is beyond belongs to tensors with more axes
    counted = list(zip(own.coordinates[axes], mapped.coordinates[axes], strict=False))
    alike = len(counted) == len(shape) and all(np.array_equal(a.values, b.values) for a, b in counted)
    return alike and max(*rows.source, *rows.target) < shape[rows.axis]


def _shifted(theirs: Layout, ours: Layout) -> Rows | None:
    """The rows of one table that each side uses, where they are the same number of rows from another start."""
    for axis, (a, b) in enumerate(zip(theirs.coordinates[1:], ours.coordinates[1:], strict=False)):
        x, y = np.unique(a.values), np.unique(b.values)
        if x.shape == y.shape and len(x) > 1 and x[0] >= 0 and y[0] >= 0:
            steps = np.unique(y - x)
            if len(steps) == 1 and steps[0]:
                return Rows(axis, (int(x[0]), int(x[-1])), (int(y[0]), int(y[-1])))
    return None


def _rows_sentence(comparison: Comparison, meeting: int, rows: Rows, alike: bool) -> str:
    """Rows are the source's: of the target's own table they are called so only where it counts ``alike``."""
    name, (first, last) = " + ".join(comparison.target.met_labels[meeting].tensors), rows.target
    there = f"where the source uses {rows.source[0]} to {rows.source[1]}"
    if alike:
        return f"the target uses rows {first} to {last} of {name} {there}"
    return f"of {name} the target uses what rows {first} to {last} of the source's table became, {there}"


def _moved_lookup(comparison: Comparison, place: Place) -> Iterator[Reading]:
    """A table of positions that is read from another start: a token gets what the source gives to a later one."""
    consumer = place.consumers[0]
    if consumer == OUTPUT or comparison.target.graph.anchors[consumer].kind != "lookup":
        return
    both = values_at(comparison, place, consumer)
    if both is None:
        return
    source, target, _ = both
    inputs = comparison.rerun.inputs
    length = np.shape(inputs.get("input_ids", next(iter(inputs.values()))))[-1]
    if not len(source) or len(source) % length or len(source) != len(target):
        return
    source, target = (x.reshape(-1, length, x.shape[-1]) for x in (source, target))
    for step in (1, 2, -1, -2):
        here = target[:, : length - step] if step > 0 else target[:, -step:]
        there = source[:, step:] if step > 0 else source[:, : length + step]
        if here.size and np.allclose(here, there, rtol=1e-6, atol=0):
            name = comparison.target.labels[consumer].site
            row = f"p {'+' if step > 0 else '-'} {abs(step)}"
            yield Reading(POSITIONS, f"the target looks up row {row} of {name} where the source looks up row p")
            return
