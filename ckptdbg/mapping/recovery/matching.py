"""From lines that were found again to where every element came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.mapping.recovery.fibres import Lines, as_lines, counting, from_lines, kept_axes, mixed

Array = NDArray[Any]
Prefer = Callable[[int, int], float]
"""How likely source tensor ``ordinal`` is line ``line``'s origin by its name, where several hold the same values."""
# Fewer lines found again than this, of those that are not zero, and the tensor is called something else.
_ENOUGH = 0.5
_SLAB = 2**18  # elements looked at together: of whole tensors no copy is made


@dataclass(frozen=True)
class Map:
    """Where the elements of one target came from."""

    ordinal: Array
    """int64, in the target's shape; -1 for zeros that come from nowhere, and where nothing was found."""
    index: Array
    """Flat index into that source tensor."""


def match(target: Array, sources: Callable[[int], Array], lines: Lines, prefer: Prefer) -> Map | None:
    """``target`` and ``sources`` (by ordinal) are hashed; ``lines`` are the sources'. None where the lines are not
    found again."""
    best: tuple[float, tuple[int, ...], Array, Array] | None = None
    for kept in kept_axes(target.ndim):
        sums = as_lines(target, kept).sum(1, dtype=np.uint64)
        low, high = lines.find(sums)
        alive = sums != 0
        share = float((high > low)[alive].mean()) if alive.any() else 0.0
        if share >= _ENOUGH and (best is None or share > best[0]):
            best = share, kept, low, high
        if best is not None and best[0] == 1.0:
            break
    if best is None:
        return None
    _, kept, low, high = best
    rows = as_lines(target, kept)
    chosen = _chosen(lines, low, high, prefer)
    ordinal, index = np.full(rows.shape, -1, np.int32), np.full(rows.shape, -1, lines.counting)
    found = np.flatnonzero(chosen >= 0)
    groups = {(int(lines.tensor[c]), int(lines.axis[c])) for c in chosen[found]}
    alive = rows.any(1)
    for tensor, axis in sorted(groups):
        mine = found[(lines.tensor[chosen[found]] == tensor) & (lines.axis[chosen[found]] == axis)]
        source = _Source(sources(tensor), axis)
        line = lines.line[chosen[mine]]
        position = _positions(rows, mine, source.lines, line)
        waiting = np.flatnonzero((chosen < 0) & alive & (ordinal < 0).all(1))
        others, more = _resembling(rows[waiting], source.lines, position, line)
        mine, line = np.append(mine, waiting[others]), np.append(line, more)
        ordinal[mine] = np.where(position >= 0, np.int32(tensor), np.int32(-1))
        for slab in _slabs(len(mine), rows.shape[1]):
            index[mine[slab]] = np.where(position >= 0, source.at(line[slab], position), -1)
    shape = target.shape
    return Map(from_lines(ordinal, shape, kept), from_lines(index, shape, kept))


class _Source:
    """One source tensor as lines along an axis, ``[lines, length]``, hashed."""

    def __init__(self, hashes: Array, axis: int) -> None:
        self._shape, self._axis = hashes.shape, axis
        self.lines = np.moveaxis(hashes, axis, -1).reshape(-1, hashes.shape[axis])

    def at(self, line: Array, position: Array) -> Array:
        """``[lines, positions]``: flat indices of the elements."""
        others = [size for axis, size in enumerate(self._shape) if axis != self._axis]
        places = list(np.unravel_index(line, others)) if others else []
        places.insert(self._axis, np.zeros(len(line), np.int64))
        first = np.ravel_multi_index(places, self._shape)
        step = int(np.prod(self._shape[self._axis + 1 :], dtype=np.int64))
        kind = counting(int(np.prod(self._shape, dtype=np.int64)))
        return first.astype(kind)[:, None] + (position * step).astype(kind)[None, :]


def tensors_in(ordinal: Array) -> list[int]:
    """The tensors that elements come from, in order."""
    if not ordinal.size:
        return []
    if (first := int(ordinal.min())) == int(ordinal.max()):
        return [first] if first >= 0 else []
    return [int(i) for i in np.flatnonzero(np.bincount(ordinal.reshape(-1) + 1)[1:])]


def _chosen(lines: Lines, low: Array, high: Array, prefer: Prefer) -> Array:
    """For every line of the target the place in the table that it came from; -1 where there is none. Where several
    source lines hold the same values the tensor that most other lines came from wins, then the likelier name."""
    chosen = np.where(high > low, low, -1)
    single = chosen[(high - low) == 1]
    counts = np.bincount(lines.tensor[single], minlength=int(lines.tensor.max(initial=0)) + 1)
    taken: set[int] = set(single.tolist())
    for i in np.flatnonzero(high - low > 1):
        places = range(int(low[i]), int(high[i]))
        ranked = sorted(
            places,
            key=lambda p: (p in taken, -counts[lines.tensor[p]], -prefer(int(lines.tensor[p]), int(i)), p),
        )
        chosen[i] = ranked[0]
        taken.add(ranked[0])
    return chosen


def _positions(ours: Array, mine: Array, theirs: Array, line: Array) -> Array:
    """Of every position along the lines of the target the one along the source's; -1 where it is zero or was not found.

    Lines ``mine`` of ``ours`` belong to lines ``line`` of ``theirs``. The same position of every line came from the
    same position of its source line: positions are told by hashes over all lines, each line with a weight of its own.
    """
    slabs = _slabs(len(mine), max(ours.shape[1], theirs.shape[1]))
    same = ours.shape[1] == theirs.shape[1]
    if same and all(np.array_equal(ours[mine[slab]], theirs[line[slab]]) for slab in slabs):
        return np.arange(ours.shape[1])
    weight = mixed(line.astype(np.uint64) + np.uint64(1))[:, None]

    def keys(lines: Array, which: Array) -> Array:
        total = np.zeros(lines.shape[1], np.uint64)
        for slab in slabs:
            total += (lines[which[slab]] * weight[slab]).sum(0, dtype=np.uint64)
        return total

    return _same_keys(keys(ours, mine), keys(theirs, line))


def _slabs(lines: int, length: int) -> list[slice]:
    """So many lines of a length, some at a time."""
    some = max(1, _SLAB // max(length, 1))
    return [slice(start, start + some) for start in range(0, lines, some)]


def _same_keys(ours: Array, theirs: Array) -> Array:
    """Of each key the place of the same key in ``theirs``, equal keys in order; -1 for 0 and where there is none."""
    position = np.full(len(ours), -1, np.int64)
    free: dict[int, list[int]] = {}
    for j, key in reversed(list(enumerate(theirs.tolist()))):
        free.setdefault(key, []).append(j)
    for p, key in enumerate(ours.tolist()):
        if key and free.get(key):
            position[p] = free[key].pop()
    return position


def _resembling(waiting: Array, theirs: Array, position: Array, used: Array) -> tuple[Array, Array]:
    """Lines with some wrong elements: which of ``waiting`` are mostly equal to a source line that nothing came from,
    and which line that is."""
    free = np.setdiff1d(np.arange(len(theirs)), used)
    there = position >= 0
    ours, lines = [], []
    for i, row in enumerate(waiting):
        if not len(free) or not there.any():
            break
        equal = (theirs[free][:, position[there]] == row[there]).mean(1)
        if equal.max() >= _ENOUGH:
            ours.append(i)
            lines.append(int(free[equal.argmax()]))
            free = np.delete(free, equal.argmax())
    return np.array(ours, np.int64), np.array(lines, np.int64)


def match_elements(target: Array, single: Sequence[int], sources: Callable[[int], Array], prefer: Prefer) -> Map | None:
    """The elements of a target one by one among the tensors ``single`` with one axis (parts of a fused bias); hashed.
    None where most are in none of them."""
    flat = target.reshape(-1)
    ordinal, index = np.full(flat.size, -1, np.int64), np.full(flat.size, -1, np.int64)
    single = list(single)
    while single and (waiting := np.flatnonzero((ordinal < 0) & (flat != 0))).size:
        shares = {i: (float(np.isin(flat[waiting], sources(i)).mean()), prefer(i, 0)) for i in single}
        best = max(single, key=lambda i: shares[i])
        if shares[best][0] * waiting.size < 2:
            break
        position = _same_keys(flat[waiting], sources(best))
        ordinal[waiting] = np.where(position >= 0, best, -1)
        index[waiting] = position
        single.remove(best)
    alive = flat != 0
    if not alive.any() or (ordinal[alive] >= 0).mean() < _ENOUGH:
        return None
    return Map(ordinal.reshape(target.shape), index.reshape(target.shape))
