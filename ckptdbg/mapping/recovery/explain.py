"""One target tensor explained by the source: as it is, as a part or a join of several, scaled or shifted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.mapping.recovery.fibres import counting, lines_of
from ckptdbg.mapping.recovery.hashing import Hashed, hashed, pieces
from ckptdbg.mapping.recovery.matching import Map, match, match_elements
from ckptdbg.mapping.recovery.sources import Moments, Originals, Rounded, moments_of
from ckptdbg.mapping.tracing.numerics import candidates

Array = NDArray[Any]


# Elements looked for one by one before lines are, and the share of them that must be there.
_SAMPLED, _ALIKE = 16, 0.5


@dataclass(frozen=True)
class Found:
    """What explains one target: a map, and the value ops on the way."""

    map: Map
    ops: tuple[Any, ...] = ()
    written: tuple[dict[str, Any], ...] = ()
    """The same as they stand in a mapping file."""
    scale: float = 1.0
    shift: float = 0.0
    ambiguous: bool = False


def explain(values: Array, sources: Rounded, name: str, numbers: dict[str, float]) -> Found | None:
    """What makes these values of the source tensors; None where nothing that is tried does."""
    originals = sources.originals
    likeness = Likeness(name, originals.names)
    hashes = Hashed(values)
    if not hashes.any():
        return _zeros(hashes, sources, likeness)
    twins = sources.totals.get(hashes.total(), [])
    twins = sorted((i for i in twins if originals.sizes[i] == values.size), key=lambda i: -likeness(i))
    if twins:
        return Found(_whole(hashes, sources.hashes(twins[0]), twins[0]), ambiguous=len(twins) > 1)
    found = match(hashes, sources.hashes, sources.lines, likeness)
    if found is not None:
        return Found(found)
    found = _transformed(values, hashes, originals, likeness, numbers)
    if found is not None:
        return found
    single = [i for i, shape in enumerate(originals.shapes) if len(shape) == 1]
    alive = sum(int(np.count_nonzero(piece != 0)) for _, piece in pieces(values))
    if 2 * sum(originals.sizes[i] for i in single) < alive:
        return None
    parts = match_elements(hashes, single, sources.hashes, likeness)
    return None if parts is None else Found(parts)


def _zeros(hashes: Hashed, sources: Rounded, likeness: Likeness) -> Found | None:
    """A tensor that holds nothing but zeros (a bias that was never trained): a source tensor of the same size that does
    too. Which way its elements went does not show."""
    alike = [i for i in sources.zeros if sources.originals.sizes[i] == hashes.size]
    if not alike:
        return None
    like = max(alike, key=lambda i: (sources.originals.shapes[i] == hashes.shape, likeness(i)))
    return Found(_whole(hashes, sources.hashes(like), like), ambiguous=len(alike) > 1)


def _whole(hashes: Hashed, source: Hashed, ordinal: int) -> Map:
    """The map of a tensor that holds all the values of one source tensor: by its lines, else value by value."""
    all_of = np.broadcast_to(np.int32(ordinal), hashes.shape)
    if hashes.same(source):
        return Map(all_of, np.arange(hashes.size, dtype=counting(hashes.size)).reshape(hashes.shape))
    own = match(hashes, lambda _: source, lines_of([source]), lambda _, __: 0.0)
    if own is not None and all(((o >= 0) | (hashes.values[w] == 0)).all() for w, o in pieces(own.ordinal)):
        return _named(own, ordinal)
    index = np.empty(hashes.size, counting(hashes.size))
    index[np.argsort(hashes.all(), kind="stable")] = np.argsort(source.all(), kind="stable")
    return Map(all_of, index.reshape(hashes.shape))


def _named(own: Map, ordinal: int) -> Map:
    """A map over one source tensor, under that tensor's ordinal."""
    whole = not any(own.ordinal.strides) and own.ordinal.size and own.ordinal.flat[0] >= 0
    if whole:
        return Map(np.broadcast_to(np.int32(ordinal), own.ordinal.shape), own.index)
    return Map(np.where(own.ordinal >= 0, np.int32(ordinal), np.int32(-1)), own.index)


def _transformed(
    values: Array, hashes: Hashed, originals: Originals, likeness: Likeness, numbers: dict[str, float]
) -> Found | None:
    """A source tensor of the same size, scaled or shifted: proposed from the moments, accepted on equal hashes."""
    if not values.size:
        return None
    total, after = hashes.total(), moments_of(values)
    same = [i for i, n in enumerate(originals.sizes) if n == values.size and originals.dtypes[i].kind not in "iub"]
    for i in sorted(same, key=lambda i: -likeness(i)):
        for scale, shift in _proposed(originals.moments(i), after, len(originals.shapes[i])):
            for ops, written in candidates(scale, shift, numbers):
                if after.alike and any(isinstance(op.get("scale", op.get("divide")), float) for op in written):
                    continue  # some factor always makes one number of another
                made = Hashed(applied(ops, originals.values(i), values.dtype))
                if made.total() == total:
                    return Found(_whole(hashes, made, i), tuple(ops), tuple(written), scale, shift)
    return _stacked(values, originals, likeness, numbers) or _nearly(
        hashes, values.dtype, originals, same, after, likeness, numbers
    )


def _nearly(
    hashes: Hashed,
    dtype: np.dtype,
    originals: Originals,
    same: Sequence[int],
    after: Moments,
    likeness: Likeness,
    numbers: dict[str, float],
) -> Found | None:
    """The one of the likest name, scaled or shifted, where most lines are those of it and some elements are wrong."""
    like = max(same, key=likeness, default=None)
    if like is None:
        return None
    some = hashed(hashes.values.reshape(-1)[:: max(hashes.size // _SAMPLED, 1)][:_SAMPLED])
    for scale, shift in _proposed(originals.moments(like), after, len(originals.shapes[like])):
        for ops, written in candidates(scale, shift, numbers):
            if any(isinstance(op.get("scale", op.get("divide")), float) for op in written):
                continue  # an estimate, which the wrong elements have moved
            made = Hashed(applied(ops, originals.values(like), dtype))
            if made.holds(some).mean() < _ALIKE:
                continue
            found = match(hashes, lambda _, made=made: made, lines_of([made]), lambda _, __: 0.0)
            if found is not None:
                return Found(_named(found, like), tuple(ops), tuple(written), scale, shift)
    return None


def _stacked(values: Array, originals: Originals, likeness: Likeness, numbers: dict[str, float]) -> Found | None:
    """Transformed tensors along one axis, each of one source tensor."""
    for axis in range(values.ndim if values.ndim > 1 else 0):
        count = values.shape[axis]
        if count > len(originals.names) or not any(size * count == values.size for size in originals.sizes):
            continue
        parts: list[Found] = []
        for i in range(count):
            part = values.take(i, axis)
            found = _transformed(part, Hashed(part), originals, likeness.at(i), numbers)
            if found is None or (parts and found.ops != parts[0].ops):
                break
            parts.append(found)
        if len(parts) == count:
            joined = Map(*(np.stack([getattr(p.map, n) for p in parts], axis) for n in ("ordinal", "index")))
            return Found(joined, parts[0].ops, parts[0].written, parts[0].scale, parts[0].shift)
    return None


def _proposed(before: Moments, after: Moments, rank: int) -> list[tuple[float, float]]:
    """A scale, or a shift of one, that the second moments, the mean and the largest value agree with."""
    found = []
    if not (before.finite and after.finite):
        return found
    scale = after.size / before.size if before.size else 0.0
    if scale and np.isfinite(scale) and abs(after.most / (scale * before.most) - 1) < 0.02:
        found.append((scale, 0.0))
    if before.spread and abs(after.spread / before.spread - 1) < 0.02 and rank <= 2:
        found += [(1.0, s) for s in (1.0, -1.0) if abs(after.mean - before.mean - s) < 0.1]
    return found


def applied(ops: Iterable[Any], values: Array, dtype: np.dtype) -> Array:
    """What the mapping's own arithmetic makes of source values, as the target stores it."""
    made, given, listed = np.empty(values.shape, dtype), values.dtype, list(ops)
    with np.errstate(all="ignore"):
        for where, piece in pieces(values):
            out = [piece.astype(np.float64 if given == np.float64 else np.float32)]
            for op in listed:
                out = op.apply(out)
            made[where] = out[0].astype(dtype)
    return made


@dataclass(frozen=True)
class Likeness:
    """How much a source tensor's name is like the target's; numbers weigh most."""

    target: str
    names: Sequence[str]
    part: int | None = None

    def at(self, part: int) -> Likeness:
        """For one slice of the target."""
        return Likeness(self.target, self.names, part)

    def __call__(self, ordinal: int, line: int = -1) -> float:
        name = self.names[ordinal]
        there = set(re.findall(r"\d+", name))
        shared = 2 * len(there & set(re.findall(r"\d+", self.target)))
        shared += str(line if self.part is None else self.part) in there
        words = difflib.SequenceMatcher(None, _words(self.target), _words(name), autojunk=False).ratio()
        return shared + words


def _words(name: str) -> list[str]:
    return [w for w in re.split(r"[^a-z]+", name.lower()) if w]
