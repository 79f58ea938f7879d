"""Carrying activations of the source into the target's layout: rows by token, features by what made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.compare.features import FeatureMap, Pairing, Port
from ckptdbg.models.records import Plant, Record

Array = NDArray[Any]


@dataclass(frozen=True)
class Carried:
    """Source values in the place of a target port."""

    values: Array
    """``[rows, features]``, 0 where there is no counterpart."""
    mask: Array | None
    """``[rows, features]`` bool, where there is one; None means everywhere."""

    @property
    def empty(self) -> bool:
        return self.values.size == 0 or (self.mask is not None and not self.mask.any())


def row_keys(rows: Array) -> Array:
    """``[rows, 2]``: the token, and how many earlier rows of this anchor hold the same token."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    start = np.r_[True, ordered[1:] != ordered[:-1]]
    position = np.arange(len(rows))
    occurrence = np.empty(len(rows), np.int64)
    occurrence[order] = position - np.maximum.accumulate(np.where(start, position, 0)) if len(rows) else 0
    return np.stack([rows, occurrence], 1)


def match_rows(target: Array, source: Array) -> Array:
    """For each target row the source row of the same token and occurrence, -1 where there is none."""
    if len(target) == len(source) and np.array_equal(target, source):
        return np.where(source >= 0, np.arange(len(target)), -1)
    keys, among = single_keys(target), single_keys(source)
    order = np.argsort(among, kind="stable")
    place = np.minimum(np.searchsorted(among[order], keys), max(len(source) - 1, 0))
    found = order[place] if len(source) else np.zeros(len(target), np.int64)
    right = (among[found] == keys) if len(source) else np.zeros(len(target), bool)
    return np.where(right & (target >= 0), found, -1)


def single_keys(rows: Array) -> Array:
    """Token and occurrence as one integer; a token occurs far less than 2**24 times in one anchor."""
    keys = row_keys(rows)
    return keys[:, 0] * 2**24 + keys[:, 1]


def carry(feature_map: FeatureMap, rows: Array, records: Sequence[Record], port: Port, gauge: float = 1.0) -> Carried:
    """Source values of one port in the target's layout.

    ``rows`` are the target's row tokens; ``records`` the source's, by anchor. ``gauge`` g moves a uniform scale s
    between the ports: ``in`` is scaled by g, ``out`` by g times the feature map's scale.
    """
    first = _values(records[feature_map.anchors[0]], port)
    shape = (len(rows), len(feature_map.scale))
    factors = feature_map.scale * gauge
    # a factor that single precision cannot hold must not round what is planted in a float64 run
    plain = bool((factors == 1).all())
    values = np.zeros(shape, np.result_type(first.dtype, np.float32) if plain else np.float64)
    mask, scale = np.zeros(shape, bool), factors.astype(values.dtype)
    for s, index in feature_map.offers:
        matched = match_rows(rows, records[s].rows)
        here, features = np.flatnonzero(matched >= 0), np.flatnonzero(index >= 0)
        place = np.ix_(here, features)
        if mask[place].all():
            continue
        found = _values(records[s], port)[np.ix_(matched[here], index[features])].astype(values.dtype) * scale[features]
        values[place] = np.where(mask[place], values[place], found)
        mask[place] = True
    return Carried(values, None if mask.all() else mask)


def _values(record: Record, port: Port) -> Array:
    values = record.input if port == "in" else record.output
    if values is None:
        raise ValueError("a lookup has no floating-point input to carry")
    return values


def plants(
    pairing: Pairing,
    target_rows: Sequence[Array],
    records: Sequence[Record],
    gauges: dict[int, float],
    padded: Array,
) -> dict[int, Plant]:
    """The source's values for every paired port of the target. ``padded`` tokens have none: an expert that only they
    reach, or nobody, is planted as it is, since a grouped matmul takes plants for all of its groups."""
    result = {}
    for t, rows in enumerate(target_rows):
        gauge = gauges.get(t, 1.0)
        ports: dict[str, Array | None] = {}
        for port, found in pairing.ports(t):
            if found is None:
                continue
            carried = carry(found, rows, records, port, gauge)
            if not carried.empty or np.isin(rows, padded).all():
                name = "input" if port == "in" else "output"
                ports[name], ports[f"{name}_mask"] = carried.values, carried.mask
        if ports:
            result[t] = Plant(**ports)
    return result
