"""Where the elements of a tensor come from, as small pictures: one after each op of a mapping entry.

Random weights look the same before and after a permutation. So what goes through the ops is not the weights but the
place of every source element, once by row and once by column: a transpose turns the picture, an interleave combs it.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.spec import TensorSpec
from ckptdbg.mapping.entry import BoundEntry

Floats = NDArray[np.float32]
SIDE = 56
"""Pixels of a picture at most."""
LARGEST = 2**22
"""Elements of the largest tensor that is drawn unasked: beyond it a picture takes longer than a person waits."""


@dataclass(frozen=True)
class Origin:
    """Two pictures of one tensor, ``[rows, columns]`` in 0 .. 255: by source row and by source column."""

    rows: int
    columns: int
    by_row: str
    """Base64 of the bytes, row by row."""
    by_column: str


def origins(entry: BoundEntry, largest: int = LARGEST) -> list[Origin | None]:
    """One picture for the entry's sources and one after each of its ops; None for ops that move nothing, and for all
    where the tensors have more than ``largest`` elements or lie stacked in the source."""
    lane = _one_lane(entry)
    counts = [math.prod(spec.shape) for spec in lane.source_specs]
    if any(stack.side == "source" for stack in entry.stacks) or not counts or sum(counts) > largest:
        return [None] * (1 + len(entry.ops))
    places = [_places(lane, axis) for axis in (0, 1)]
    found: list[Origin | None] = []
    for done in range(len(entry.ops) + 1):
        # Values are places here: an op that scales or adds would only blur them.
        if done and entry.ops[done - 1].elementwise:
            found.append(None)
            continue
        moved = tuple(op for op in entry.ops[:done] if not op.elementwise)
        part = dataclasses.replace(lane, ops=moved)
        found.append(_origin(*(part.apply(arrays, cast=False)[0] for arrays in places)))
    return found


def _one_lane(entry: BoundEntry) -> BoundEntry:
    """The entry for the first index of what it stacks."""
    stacked = math.prod(stack.size for stack in entry.stacks if stack.side == "target")
    count = len(entry.sources) // stacked
    specs = tuple(TensorSpec(spec.shape, "float32") for spec in entry.source_specs[:count])
    return dataclasses.replace(entry, stacks=(), sources=entry.sources[:count], source_specs=specs)


def _places(entry: BoundEntry, axis: int) -> list[Floats]:
    """For every source, each element's place along ``axis``, from 0 to 1 over all sources."""
    found = []
    for index, spec in enumerate(entry.source_specs):
        shape = spec.shape or (1,)
        # A vector has rows only; its "column" is the place as well.
        along = min(axis, len(shape) - 1)
        line = (np.arange(shape[along], dtype=np.float32) + 0.5) / shape[along]
        if axis == 0:
            line = (index + line) / len(entry.source_specs)
        sizes = [1] * len(shape)
        sizes[along] = shape[along]
        found.append(np.broadcast_to(line.reshape(sizes), shape).reshape(spec.shape))
    return found


def _origin(by_row: Floats, by_column: Floats) -> Origin:
    small = [_small(places) for places in (by_row, by_column)]
    rows, columns = small[0].shape
    return Origin(rows, columns, *(base64.b64encode(part.tobytes()).decode() for part in small))


def _small(places: Floats) -> NDArray[np.uint8]:
    """The tensor as a matrix (first axis by all others), sampled down to a small picture.

    Sampled, not averaged: an average of places is no place. Neighbouring pixels take rows of different parity, so that
    a comb of two (interleaved pairs) stays a comb at any size.
    """
    matrix = places.reshape(places.shape[0] if places.ndim > 1 else 1, -1) if places.ndim else places.reshape(1, 1)
    for axis in (0, 1):
        size = matrix.shape[axis]
        if size > SIDE:
            chosen = np.arange(SIDE) * size // SIDE
            matrix = matrix.take(np.minimum(chosen - chosen % 2 + np.arange(SIDE) % 2, size - 1), axis=axis)
    return np.clip(matrix * 255, 0, 255).astype(np.uint8)
