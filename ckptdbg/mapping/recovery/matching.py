"""From lines that were found again to where every element came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.mapping.recovery.fibres import Lines, as_lines, counting, from_lines, kept_axes
from ckptdbg.mapping.recovery.hashing import Hashed, HashedLines, mixed, pieces, slabs

Array = NDArray[Any]
Prefer = Callable[[int, int], float]
"""How likely source tensor ``ordinal`` is line ``line``'s origin by its name, where several hold the same values."""
# Fewer lines found again than this, of those that are not zero, and the tensor is called something else.
_ENOUGH = 0.5


@dataclass(frozen=True)
class Map:
    """Where the elements of one target came from."""

    ordinal: Array
    """In the target's shape; -1 for zeros that come from nowhere, and where nothing was found."""
    index: Array
    """Flat index into that source tensor."""


def match(target: Hashed, sources: Callable[[int], Hashed], lines: Lines, prefer: Prefer) -> Map | None:
    """``sources`` by ordinal; ``lines`` are theirs. None where the target's lines are not found again."""
    best: tuple[float, tuple[int, ...], Array, Array, Array] | None = None
    for kept, sums in zip(kept_axes(target.ndim), target.sums(kept_axes(target.ndim)), strict=True):
        low, high = lines.find(sums)
        alive = sums != 0
        share = float((high > low)[alive].mean()) if alive.any() else 0.0
        if share >= _ENOUGH and (best is None or share > best[0]):
            best = share, kept, low, high, alive
        if best is not None and best[0] == 1.0:
            break
    if best is None:
        return None
    _, kept, low, high, alive = best
    rows = HashedLines(as_lines(target.values, kept))
    chosen = _chosen(lines, low, high, prefer)
    ordinal, index = np.full(rows.shape, -1, lines.ordinals), np.full(rows.shape, -1, lines.counting)
    found = np.flatnonzero(chosen >= 0)
    groups = {(int(lines.tensor[c]), int(lines.axis[c])) for c in chosen[found]}
    for tensor, axis in sorted(groups):
        mine = found[(lines.tensor[chosen[found]] == tensor) & (lines.axis[chosen[found]] == axis)]
        source = _Source(sources(tensor), axis)
        line = lines.line[chosen[mine]]
        position = _positions(rows, mine, source.lines, line)
        waiting = np.flatnonzero((chosen < 0) & alive & (ordinal < 0).all(1))
        others, more = _resembling(rows, waiting, source.lines, position, line)
        mine, line = np.append(mine, waiting[others]), np.append(line, more)
        ordinal[mine] = np.where(position >= 0, tensor, -1)
        for slab in slabs(len(mine), rows.shape[1]):
            index[mine[slab]] = np.where(position >= 0, source.at(line[slab], position), -1)
    shape, first = target.shape, int(ordinal.flat[0]) if ordinal.size else -1
    one = first >= 0 and first == int(ordinal.min()) == int(ordinal.max())
    all_of = np.broadcast_to(np.int32(first), shape) if one else from_lines(ordinal, shape, kept)
    return Map(all_of, from_lines(index, shape, kept))


class _Source:
    """One source tensor as lines along an axis, ``[lines, length]``."""

    def __init__(self, tensor: Hashed, axis: int) -> None:
        self._shape, self._axis = tensor.shape, axis
        self.lines = HashedLines(np.moveaxis(tensor.values, axis, -1).reshape(-1, tensor.shape[axis]))

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
    if not any(ordinal.strides):
        return [i] if (i := int(ordinal.flat[0])) >= 0 else []
    found = np.zeros(int(ordinal.max()) + 2, bool)
    for _, piece in pieces(ordinal):
        found[piece + 1] = True
    return [int(i) for i in np.flatnonzero(found[1:])]


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


def _positions(ours: HashedLines, mine: Array, theirs: HashedLines, line: Array) -> Array:
    """Of every position along the lines of the target the one along the source's; -1 where it is zero or was not found.

    Lines ``mine`` of ``ours`` belong to lines ``line`` of ``theirs``. The same position of every line came from the
    same position of its source line: positions are told by hashes over all lines, each line with a weight of its own.
    """
    some = slabs(len(mine), max(ours.shape[1], theirs.shape[1]))
    same = ours.shape[1] == theirs.shape[1]
    if same and all(np.array_equal(ours[mine[slab]], theirs[line[slab]]) for slab in some):
        return np.arange(ours.shape[1])
    weight = mixed(line.astype(np.uint64) + np.uint64(1))[:, None]

    def keys(lines: HashedLines, which: Array) -> Array:
        total = np.zeros(lines.shape[1], np.uint64)
        for slab in some:
            total += (lines[which[slab]] * weight[slab]).sum(0, dtype=np.uint64)
        return total

    return _same_keys(keys(ours, mine), keys(theirs, line))


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


def _resembling(
    rows: HashedLines, waiting: Array, theirs: HashedLines, position: Array, used: Array
) -> tuple[Array, Array]:
    """Lines with some wrong elements: which of ``waiting`` are mostly equal to a source line that nothing came from,
    and which line that is."""
    free = np.setdiff1d(np.arange(len(theirs)), used)
    there = position >= 0
    ours, lines = [], []
    for i in range(len(waiting)):
        if not len(free) or not there.any():
            break
        row = rows[waiting[i]][there]
        some = slabs(len(free), theirs.shape[1])
        equal = np.concatenate([(theirs[free[slab]][:, position[there]] == row).mean(1) for slab in some])
        if equal.max() >= _ENOUGH:
            ours.append(i)
            lines.append(int(free[equal.argmax()]))
            free = np.delete(free, equal.argmax())
    return np.array(ours, np.int64), np.array(lines, np.int64)


def match_elements(
    target: Hashed, single: Sequence[int], sources: Callable[[int], Hashed], prefer: Prefer
) -> Map | None:
    """The elements of a target one by one among the tensors ``single`` with one axis (parts of a fused bias).

    None where most are in none of them.
    """
    flat = target.all()
    ordinal, index = np.full(flat.size, -1, np.int64), np.full(flat.size, -1, np.int64)
    single = list(single)
    while single and (waiting := np.flatnonzero((ordinal < 0) & (flat != 0))).size:
        shares = {i: (float(np.isin(flat[waiting], sources(i).all()).mean()), prefer(i, 0)) for i in single}
        best = max(single, key=lambda i: shares[i])
        if shares[best][0] * waiting.size < 2:
            break
        position = _same_keys(flat[waiting], sources(best).all())
        ordinal[waiting] = np.where(position >= 0, best, -1)
        index[waiting] = position
        single.remove(best)
    alive = flat != 0
    if not alive.any() or (ordinal[alive] >= 0).mean() < _ENOUGH:
        return None
    return Map(ordinal.reshape(target.shape), index.reshape(target.shape))
