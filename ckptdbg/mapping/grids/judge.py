"""Whether two bound mappings compute the same, tensor by tensor, at any size and with no array made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from ckptdbg.mapping.bound import BoundMapping
from ckptdbg.mapping.entry import BoundEntry
from ckptdbg.mapping.grids.apply import entry_grids
from ckptdbg.mapping.grids.digits import TooManyPieces, normal
from ckptdbg.mapping.grids.grid import MOST_PIECES, Grid, Piece
from ckptdbg.mapping.judge import Judged, Judgement
from ckptdbg.mapping.ops import OpError

# Cuts of one array may cut the other anew, where digits end elsewhere.
_MOST_CUTS = 8


def judge_bound(first: BoundMapping, second: BoundMapping) -> Judgement:
    """Compare two mappings that are bound to the same tensors. Where a target is made by several entries of one mapping
    (reversed ties), the first counts."""
    made = [_grids(mapping) for mapping in (first, second)]
    found = [_judged(target, grid, made[1].get(target)) for target, grid in made[0].items()]
    return Judgement((*found, *(Judged(target, "extra") for target in made[1] if target not in made[0])))


def _grids(mapping: BoundMapping) -> dict[str, Grid | str]:
    """What a mapping makes; a text where that cannot be kept as patterns."""
    found: dict[str, Grid | str] = {}
    for entry in mapping.entries:
        for target, grid in zip(entry.targets, _entry(entry), strict=True):
            found.setdefault(target, grid)
    return found


def _entry(entry: BoundEntry) -> Sequence[Grid | str]:
    try:
        return entry_grids(entry)
    except (TooManyPieces, OpError) as cause:
        return [str(cause)] * len(entry.targets)


def _judged(target: str, a: Grid | str, b: Grid | str | None) -> Judged:
    if b is None:
        return Judged(target, "missing")
    if isinstance(a, str) or isinstance(b, str):
        return Judged(target, "unread", a if isinstance(a, str) else str(b))
    if a.shape != b.shape:
        return Judged(target, "shape", f"{a.shape} and {b.shape}")
    ours, theirs = ({p.source for p in g.pieces if p.source} for g in (a, b))
    if ours != theirs:
        return Judged(target, "sources", f"{_listed(ours - theirs)} and {_listed(theirs - ours)}")
    try:
        pairs = _pairs(a, b)
    except TooManyPieces as cause:
        return Judged(target, "unread", str(cause))
    moved = [p for p, q in pairs if _place(p) != _place(q)]
    if moved:
        return Judged(target, "layout", f"from {list(moved[0].start)} on")
    valued = next(((p, q) for p, q in pairs if not _same_values(p, q)), None)
    if valued is not None:
        return Judged(target, "values", f"{_ops(valued[0])} and {_ops(valued[1])}")
    return Judged(target, "same")


def _listed(names: set[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "") or "nothing else"


def _pairs(a: Grid, b: Grid) -> list[tuple[Piece, Piece]]:
    """Pieces of both over the same boxes."""
    ours, theirs = list(a.pieces), list(b.pieces)
    for _ in range(_MOST_CUTS):
        boxes = [{(p.start, p.lengths): p for p in pieces} for pieces in (ours, theirs)]
        if boxes[0].keys() == boxes[1].keys():
            return [(piece, boxes[1][box]) for box, piece in boxes[0].items()]
        ends = [
            sorted({e for p in (*ours, *theirs) for e in (p.start[axis], p.start[axis] + p.lengths[axis])})
            for axis in range(len(a.shape))
        ]
        ours, theirs = (_cut(pieces, ends) for pieces in (ours, theirs))
    raise TooManyPieces("no common pieces")


def _cut(pieces: Sequence[Piece], ends: Sequence[Sequence[int]]) -> list[Piece]:
    for axis, at in enumerate(ends):
        pieces = [part for p in pieces for x, y in pairwise(at) for part in p.between(axis, x, y)]
        if len(pieces) > MOST_PIECES:
            raise TooManyPieces(f"more than {MOST_PIECES} pieces")
    return list(pieces)


def _place(piece: Piece) -> Piece:
    """Where a piece comes from, in one form for equal maps."""
    return replace(piece, digits=tuple(map(normal, piece.digits)), values=(), constant=0.0)


_PROBE = np.concatenate([[0.0, 1.0], np.random.default_rng(31).standard_normal(62)]).astype(np.float32)


def _same_values(a: Piece, b: Piece) -> bool:
    """Whether both do the same to numbers: exactly to 0 and 1, up to the last bits to others."""
    if a.values == b.values and a.constant == b.constant:
        return True
    one, other = (_done(piece) for piece in (a, b))
    return bool(np.array_equal(one[:2], other[:2]) and np.allclose(one, other, rtol=1e-6, atol=1e-6))


def _done(piece: Piece) -> np.ndarray:
    array = _PROBE if piece.source else np.full_like(_PROBE, piece.constant)
    with np.errstate(all="ignore"):
        for op in piece.values:
            (array,) = op.apply([array])
    return array


def _ops(piece: Piece) -> str:
    return ", ".join(map(str, piece.values)) or "as it is"
