"""Where elements came from that no hash finds: zeros, and wrong ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.mapping.recovery.hashing import pieces
from ckptdbg.mapping.recovery.matching import Map, tensors_in
from ckptdbg.mapping.recovery.sources import Originals

Array = NDArray[Any]
_STEPS = 2**16
"""So many steps of a piece tell the usual one."""


def went_on(found: Map, values: Array, originals: Originals) -> tuple[Array, Array]:
    """Zeros have no hash and wrong values no counterpart: where nothing was found the map around goes on, to elements
    of the source that nothing came from. What else was not found is padding."""
    tensors = tensors_in(found.ordinal)
    if len(tensors) != 1 or not any((piece < 0).any() for _, piece in pieces(found.ordinal)):
        return found.ordinal, found.index
    ordinal, index = found.ordinal.copy(), found.index.copy()
    source = originals.values(tensors[0]).reshape(-1)
    unused = np.ones(source.size, bool)
    for where, piece in pieces(ordinal):
        unused[index[where][piece >= 0]] = False
    for axis in range(values.ndim):
        step = _usual_step(ordinal, index, axis)
        if step is None:
            continue
        for of, at, own in _lines(axis, ordinal, index, values):
            for order in (slice(None), slice(None, None, -1)):
                ports = of[..., order], at[..., order], own[..., order]
                _filled(*ports, tensors[0], step * (order.step or 1), source, unused)
    left = ordinal < 0
    if values.size == source.size and not values[left].any() and not source[unused].any():
        ordinal[left], index[left] = tensors[0], np.flatnonzero(unused)  # zeros in no order: the first for the first
    return ordinal, index


def _lines(axis: int, *arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Views of arrays of one shape with the lines along an axis last, some lines at a time."""
    turned = [np.moveaxis(a, axis, -1)[None] if a.ndim == 1 else np.moveaxis(a, axis, -1) for a in arrays]
    for where, _ in pieces(turned[0]):
        yield tuple(a[where] for a in turned)


def _usual_step(ordinal: Array, index: Array, axis: int) -> int | None:
    """From one element of a line to the next; None where no two that are known lie side by side."""
    some = []
    for of, at in _lines(axis, ordinal, index):
        known = (of[..., 1:] >= 0) & (of[..., :-1] >= 0)
        some.append(np.diff(at, axis=-1)[known][:_STEPS])
    steps = np.concatenate(some) if some else np.zeros(0)
    return int(np.median(steps)) if steps.size else None


def _filled(of: Array, at: Array, own: Array, tensor: int, step: int, source: Array, unused: Array) -> None:
    """Go on along lines, in place: what was not found takes what lies as many steps behind the last of ``tensor``."""
    if not (of < 0).any():
        return
    along = np.arange(of.shape[-1])
    last = np.maximum.accumulate(np.where(of >= 0, along, -1), -1)
    ahead = np.where(last >= 0, np.take_along_axis(at, np.maximum(last, 0), -1) + (along - last) * step, -1)
    there = (of < 0) & (ahead >= 0) & (ahead < len(source))
    there[there] = unused[ahead[there]] & ((own[there] != 0) | (source[ahead[there]] == 0))
    of[there], at[there] = tensor, ahead[there]
    unused[ahead[there]] = False
