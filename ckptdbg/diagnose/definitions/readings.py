"""Definitions that can be read off the two models without trying anything: which rows of a table are used, how many
experts are chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ckptdbg.compare.comparison import Comparison
from ckptdbg.diagnose.definitions.meanings import EXPERTS, POSITIONS, Meaning
from ckptdbg.diagnose.definitions.trials import values_at
from ckptdbg.diagnose.regions import OUTPUT, Place
from ckptdbg.mapping.layout import Layout


def read_off(comparison: Comparison, places: Sequence[Place]) -> Iterator[tuple[Meaning, str]]:
    """Definitions that are seen to differ at these places, each with the sentence that says how."""
    for m in sorted({m for p in places for m in p.met}):
        ours = comparison.target.meetings[m]
        theirs = [x for x in comparison.source.view.meetings if x.tensors == ours.tensors and x.opaque is None]
        if ours.opaque is None and ours.tensors and theirs:
            shift = _shifted(theirs[0], ours)
            if shift is not None:
                yield POSITIONS, _rows_sentence(comparison, m, *shift)
    for place in places:
        if place.port == "out":
            yield from _moved_lookup(comparison, place)
    for ours, theirs in zip(comparison.target.graph.choices, comparison.source.view.graph.choices, strict=False):
        behind = any(ours.feeds & p.feeds for p in places)
        if behind and ours.chosen != theirs.chosen and ours.options == theirs.options:
            yield (
                EXPERTS,
                f"the target chooses {ours.chosen} of {ours.options} where the source chooses {theirs.chosen}",
            )
            return


def _shifted(theirs: Layout, ours: Layout) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The rows of one table that each side uses, where they are the same number of rows from another start."""
    for a, b in zip(theirs.coordinates[1:], ours.coordinates[1:], strict=False):
        x, y = np.unique(a.values), np.unique(b.values)
        if x.shape == y.shape and len(x) > 1 and x[0] >= 0 and y[0] >= 0:
            steps = np.unique(y - x)
            if len(steps) == 1 and steps[0]:
                return (int(x[0]), int(x[-1])), (int(y[0]), int(y[-1]))
    return None


def _rows_sentence(comparison: Comparison, meeting: int, theirs: tuple[int, int], ours: tuple[int, int]) -> str:
    name = " + ".join(comparison.target.met_labels[meeting].tensors)
    return f"the target uses rows {ours[0]} to {ours[1]} of {name} where the source uses {theirs[0]} to {theirs[1]}"


def _moved_lookup(comparison: Comparison, place: Place) -> Iterator[tuple[Meaning, str]]:
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
            yield POSITIONS, f"the target looks up row {row} of {name} where the source looks up row p"
            return
