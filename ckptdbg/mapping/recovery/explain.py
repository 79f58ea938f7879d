"""One target tensor explained by the source: as it is, as a part or a join of several, scaled or shifted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.mapping.recovery.fibres import Lines, hashed, lines_of
from ckptdbg.mapping.recovery.matching import Map, match, match_elements
from ckptdbg.mapping.tracing.numerics import candidates

Array = NDArray[Any]


@dataclass(frozen=True)
class Sources:
    """The source tensors as one dtype rounds them."""

    values: tuple[Array, ...]
    hashes: tuple[Array, ...]
    lines: Lines
    totals: dict[int, list[int]]
    """Sum of all hashes to the tensors that have it."""


@dataclass(frozen=True)
class Found:
    """What explains one target: a map, and the value ops on the way."""

    map: Map
    ops: tuple[Any, ...] = ()
    scale: float = 1.0
    shift: float = 0.0
    ambiguous: bool = False


def rounded_to(raw: list[Array], dtype: str) -> Sources:
    target = as_dtype(dtype)
    lower = target.itemsize < 4 and target.kind not in "iub"
    with np.errstate(over="ignore"):  # what the lower dtype cannot hold is infinite there
        values = tuple(a.astype(target) if lower and a.dtype.itemsize > target.itemsize else a for a in raw)
    hashes = tuple(map(hashed, values))
    return Sources(values, hashes, lines_of(hashes), _totals(hashes))


def _totals(hashes: Iterable[Array]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for i, array in enumerate(hashes):
        found.setdefault(int(array.sum(dtype=np.uint64)), []).append(i)
    return found


def explain(
    values: Array, sources: Sources, names: list[str], name: str, numbers: dict[str, float], raw: list[Array]
) -> Found | None:
    likeness = Likeness(name, names)
    hashes = hashed(values)
    if not hashes.any():
        return _zeros(hashes, sources, likeness)
    twins = sources.totals.get(int(hashes.sum(dtype=np.uint64)), [])
    twins = sorted((i for i in twins if raw[i].size == values.size), key=lambda i: -likeness(i))
    if twins:
        return Found(_whole(hashes, sources.hashes[twins[0]], twins[0]), ambiguous=len(twins) > 1)
    found = match(hashes, sources.hashes, sources.lines, likeness)
    if found is not None:
        return Found(found)
    found = _transformed(values, hashes, raw, names, likeness, numbers)
    if found is not None:
        return found
    parts = match_elements(hashes, sources.hashes, likeness)
    return None if parts is None else Found(parts)


def _zeros(hashes: Array, sources: Sources, likeness: Likeness) -> Found | None:
    """A tensor that holds nothing but zeros (a bias that was never trained): a source tensor of the same size that does
    too. Which way its elements went does not show."""
    alike = [i for i, a in enumerate(sources.hashes) if a.size == hashes.size and not a.any()]
    if not alike:
        return None
    like = max(alike, key=lambda i: (sources.hashes[i].shape == hashes.shape, likeness(i)))
    return Found(_whole(hashes, sources.hashes[like], like), ambiguous=len(alike) > 1)


def _whole(hashes: Array, source: Array, ordinal: int) -> Map:
    """The map of a tensor that holds all the values of one source tensor: by its lines, else value by value."""
    if np.array_equal(hashes.reshape(-1), source.reshape(-1)):
        return Map(np.full(hashes.shape, ordinal), np.arange(hashes.size).reshape(hashes.shape))
    own = match(hashes, [source], lines_of([source]), lambda _, __: 0.0)
    if own is not None and ((own.ordinal >= 0) | (hashes == 0)).all():
        return Map(np.where(own.ordinal >= 0, ordinal, -1), own.index)
    index = np.empty(hashes.size, np.int64)
    index[np.argsort(hashes.reshape(-1), kind="stable")] = np.argsort(source.reshape(-1), kind="stable")
    return Map(np.full(hashes.shape, ordinal), index.reshape(hashes.shape))


def _transformed(
    values: Array, hashes: Array, raw: list[Array], names: list[str], likeness: Likeness, numbers: dict[str, float]
) -> Found | None:
    """A source tensor of the same size, scaled or shifted: proposed from the moments, accepted on equal hashes."""
    total = int(hashes.sum(dtype=np.uint64))
    same = [i for i, a in enumerate(raw) if a.size == values.size and a.size and a.dtype.kind not in "iub"]
    wide = values.astype(np.float64)
    alike = bool((wide == wide.flat[0]).all())
    for i in sorted(same, key=lambda i: -likeness(i)):
        before = raw[i].astype(np.float64)
        for scale, shift in _moments(before, wide):
            for ops, written in candidates(scale, shift, numbers):
                if alike and any(isinstance(op.get("scale", op.get("divide")), float) for op in written):
                    continue  # some factor always makes one number of another
                after = applied(ops, raw[i], values.dtype)
                if int(hashed(after).sum(dtype=np.uint64)) == total:
                    return Found(_whole(hashes, hashed(after), i), tuple(ops), scale, shift)
    return _stacked(values, raw, names, likeness, numbers)


def _stacked(
    values: Array, raw: list[Array], names: list[str], likeness: Likeness, numbers: dict[str, float]
) -> Found | None:
    """Transformed tensors along one axis, each of one source tensor."""
    for axis in range(values.ndim if values.ndim > 1 else 0):
        count = values.shape[axis]
        if count > len(raw) or not any(a.size * count == values.size for a in raw):
            continue
        parts: list[Found] = []
        for i in range(count):
            part = values.take(i, axis)
            found = _transformed(part, hashed(part), raw, names, likeness.at(i), numbers)
            if found is None or (parts and found.ops != parts[0].ops):
                break
            parts.append(found)
        if len(parts) == count:
            joined = Map(*(np.stack([getattr(p.map, n) for p in parts], axis) for n in ("ordinal", "index")))
            return Found(joined, parts[0].ops, parts[0].scale, parts[0].shift)
    return None


def _moments(before: Array, after: Array) -> list[tuple[float, float]]:
    """A scale, or a shift of one, that the second moments, the mean and the largest value agree with."""
    found = []
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return found
    size, most = np.sqrt(np.mean(before**2)), np.abs(before).max()
    scale = float(np.sqrt(np.mean(after**2)) / size) if size else 0.0
    if scale and np.isfinite(scale) and abs(np.abs(after).max() / (scale * most) - 1) < 0.02:
        found.append((scale, 0.0))
    spread = before.std()
    if spread and abs(after.std() / spread - 1) < 0.02 and before.ndim <= 2:
        found += [(1.0, s) for s in (1.0, -1.0) if abs(after.mean() - before.mean() - s) < 0.1]
    return found


def applied(ops: Iterable[Any], values: Array, dtype: np.dtype) -> Array:
    """What the mapping's own arithmetic makes of source values, as the target stores it."""
    out = [values.astype(np.float64 if values.dtype == np.float64 else np.float32)]
    with np.errstate(all="ignore"):
        for op in ops:
            out = op.apply(out)
        return out[0].astype(dtype)


@dataclass(frozen=True)
class Likeness:
    """How much a source tensor's name is like the target's; numbers weigh most."""

    target: str
    names: list[str]
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
