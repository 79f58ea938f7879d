"""The target's values in the source's layout, which is where a sketch has its projections.

The opposite of ``compare.carry``: a projection is of a whole row of the source, so that every feature of the row has
to come from somewhere in the target, from one anchor or, where the source fuses what the target splits, from several.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.carry import match_rows
from ckptdbg.compare.features import Pairing, Port
from ckptdbg.golden.sketch import Place
from ckptdbg.models.records import Trace

Array = NDArray[Any]
Values = tuple[Array, Array]
"""The tokens of the rows ``[rows]``, and ``[rows, features]``."""


@dataclass(frozen=True)
class Part:
    """What one anchor of the target has of one place of the source."""

    anchor: int
    features: Array
    """Which of its own features, ``[n]``."""
    places: Array
    """Where they stand in the source's row, ``[n]``."""
    scale: Array
    """``[n]`` float64, target value over source value."""


@dataclass(frozen=True)
class Group:
    """Parts that make up whole rows of a place."""

    place: Place
    parts: tuple[Part, ...]

    @property
    def anchors(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(part.anchor for part in self.parts))


def parts_by_source(pairing: Pairing, port: Port) -> dict[int, list[Part]]:
    """For every source anchor, what the target has of its port, in the target's execution order."""
    found: dict[int, list[Part]] = defaultdict(list)
    for t, feature_map in enumerate(pairing.inputs if port == "in" else pairing.outputs):
        if feature_map is None:
            continue
        for s, index in feature_map.offers:
            features = np.flatnonzero((index >= 0) & (feature_map.scale != 0))
            found[s].append(Part(t, features, index[features], feature_map.scale[features]))
    return found


def groups_of(place: Place, parts: Sequence[Part]) -> tuple[list[Group], list[int]]:
    """The groups that parts form, and the anchors that are left: their features are only some of the row."""
    groups, waiting, covered = [], [], np.zeros(place.features, bool)
    for part in parts:
        if len(np.unique(part.places)) == place.features:
            groups.append(Group(place, (part,)))
            continue
        waiting.append(part)
        covered[part.places] = True
        if covered.all():
            groups.append(Group(place, tuple(waiting)))
            waiting, covered = [], np.zeros(place.features, bool)
    return groups, [part.anchor for part in waiting]


def compared_rows(group: Group, values: Callable[[int], Values]) -> Array:
    """``[rows]`` bool: which rows of the place every part has. ``values`` are the target's, by anchor."""
    matched = [match_rows(group.place.rows, values(anchor)[0]) >= 0 for anchor in group.anchors]
    return np.logical_and.reduce(matched)


def carry_back(group: Group, kept: Array, values: Callable[[int], Values], gauge: float) -> Array:
    """``[rows, features]`` of the source's rows, float64, from the target's values; 0 in rows that are not ``kept``.
    ``gauge`` g is what all values are divided by besides their scale."""
    found = np.zeros((len(kept), group.place.features))
    for part in group.parts:
        rows, own = values(part.anchor)
        matched = match_rows(group.place.rows, rows)[kept]
        chosen = np.asarray(own[np.ix_(matched, part.features)], np.float64)
        found[np.ix_(kept, part.places)] = chosen / (part.scale * gauge)
    return found


def port_values(trace: Trace, port: Port) -> Callable[[int], Values]:
    """The target's values at one port, by anchor."""

    def values(anchor: int) -> Values:
        record = trace.records[anchor]
        found = record.input if port == "in" else record.output
        assert found is not None, "a lookup's ids are paired with nothing"
        return record.rows, found

    return values


def output_values(trace: Trace) -> Callable[[int], Values]:
    """The target's output, whatever anchor is asked for."""
    return lambda _: (np.arange(len(trace.output)), trace.output)
