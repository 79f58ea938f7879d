"""Vectors of one size of which some are shifted and others are not: ``1 + w`` belongs to all norms of a model or to
none."""

from __future__ import annotations

from collections.abc import Iterator

from ckptdbg.mapping.check.records import Remark
from ckptdbg.mapping.check.subject import LISTED, Subject
from ckptdbg.mapping.entry import BoundEntry
from ckptdbg.mapping.ops import Add


def uneven_norms(subject: Subject) -> Iterator[Remark]:
    """The fewer of those that add a number and those that do not, and every sum of shifts that is not one or zero."""
    vectors = [b for b in subject.examples if all(len(spec.shape) == 1 for spec in b.source_specs) and _is_norm(b)]
    shifted = [b for b in vectors if _shift(b)]
    plain = [b for b in vectors if not _shift(b)]
    if shifted and plain:
        few, many = (shifted, plain) if len(shifted) <= len(plain) else (plain, shifted)
        names = ", ".join(b.name for b in many[:LISTED]) + (f" and {len(many) - LISTED} more" if many[LISTED:] else "")
        for bound in few:
            mine = f"adds {_shift(bound):g}" if _shift(bound) else "adds nothing"
            theirs = f"add {_shift(many[0]):g}" if _shift(many[0]) else "add nothing"
            found = f"{mine} where others {theirs}: {names}"
            advice = "a model keeps all its norm scales around 1 or all around 0: make them alike, or know why not"
            yield Remark(level="note", topic="norms", where=_place(bound), entry=bound.name, found=found, advice=advice)
    for bound in shifted:
        if abs(_shift(bound)) not in (0, 1):
            found = f"adds {_shift(bound):g} to a norm scale"
            advice = "norms are kept as w or as 1 + w: add 1 or -1, once"
            yield Remark(
                level="error", topic="norms", where=_place(bound), entry=bound.name, found=found, advice=advice
            )


def _is_norm(bound: BoundEntry) -> bool:
    """A vector whose name on either side says so; a bias is none."""
    names = f"{bound.name} {bound.sources[0]} {bound.targets[0]}".lower()
    return ("norm" in names or "ln_" in names) and "bias" not in names


def _shift(bound: BoundEntry) -> float:
    return float(sum(op.value for op in bound.ops if isinstance(op, Add)))


def _place(bound: BoundEntry) -> str:
    return next((op.where for op in bound.ops if isinstance(op, Add) and op.where), bound.where)
