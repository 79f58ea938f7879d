"""There and back: what has no way back, what is lost on it, and what it says nothing about."""

from __future__ import annotations

import math
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.errors import MappingError
from ckptdbg.mapping.check.flow import flows
from ckptdbg.mapping.check.records import Remark
from ckptdbg.mapping.check.subject import Subject
from ckptdbg.mapping.entry import BoundEntry
from ckptdbg.mapping.ops import Op, OpError

# Of larger tensors single bytes go round: fewer values, and still far too many to fall into place by chance.
_WIDE = 2**22
# An inverse factor is off by half a unit in the last place, and so is each product with it.
_CLOSE = 4 * np.finfo(np.float64).eps


def round_trip(subject: Subject) -> Iterator[Remark]:
    """Entries without a way back, what others lose, one that does not come back to where it was, and what a round trip
    leaves open."""
    returning = []
    for bound in subject.examples:
        try:
            back = bound.reversed()
        except MappingError as cause:
            yield _no_return(bound, cause)
            continue
        returning.append(bound)
        yield from _lost(bound)
        wrong = _moved(bound, back) or _changed(bound)
        if wrong:
            advice = "its inverse is wrong: please report this mapping, it should not happen"
            yield Remark(
                level="error", topic="round-trip", where=bound.where, entry=bound.name, found=wrong, advice=advice
            )
    yield from _rounded(subject, returning)
    yield from _ties(subject)
    yield from _open(subject, returning)


def _no_return(bound: BoundEntry, cause: MappingError) -> Remark:
    found = cause.problem.removeprefix(f"entry {bound.name} ")
    advice = "converting works; `convert --reverse` and a round trip do not"
    return Remark(
        level="note",
        topic="round-trip",
        where=cause.where or bound.where,
        entry=bound.name,
        found=found,
        advice=advice,
    )


def _lost(bound: BoundEntry) -> Iterator[Remark]:
    for op, shapes in bound.before_each():
        if text := op.dropped(shapes):
            yield Remark(
                level="note",
                topic="round-trip",
                where=op.where or bound.where,
                entry=bound.name,
                found=f"{op}: {text}",
                advice="be sure that nothing reads what is lost",
            )


def _moved(bound: BoundEntry, back: BoundEntry) -> str:
    """Random whole numbers sent there and back through the ops that move elements: equal to the last bit, or where they
    are not."""
    rng = np.random.default_rng(3)
    sent = []
    for spec in bound.source_specs:
        size = math.prod(spec.shape)
        sent.append(
            rng.integers(1, 2**31 - 1 if size < _WIDE else 2**7, spec.shape, np.int32 if size < _WIDE else np.int8)
        )
    returned = back.moved(bound.moved(sent))
    for name, before, after in zip(bound.sources, sent, returned, strict=True):
        kept = after != 0  # what was dropped on the way comes back as zeros
        if before.shape != after.shape or (before[kept] != after[kept]).any():
            return f"{name} does not come back as it was"
    return ""


def _changed(bound: BoundEntry) -> str:
    """Some numbers sent through the ops that change values, and back."""
    values = [np.linspace(-3, 3, 7)]
    ops = [op for op, _ in bound.before_each() if op.elementwise and not op.dropped([(7,)])]
    for op in ops:
        back: list[Op] = []
        try:
            back = list(op.inverse([(7,)] * (1 + max(getattr(op, "arrays", (0,))))))
        except OpError as cause:
            return f"{op}: {cause}"
        there = getattr(op, "inner", op).apply(values)
        for undo in back[:1]:
            again = getattr(undo, "inner", undo).apply(there)
            if not np.allclose(again[0], values[0], rtol=_CLOSE, atol=_CLOSE * np.abs(there[0]).max()):
                return f"{op} is not undone by {undo}"
    return ""


def _rounded(subject: Subject, returning: list[BoundEntry]) -> Iterator[Remark]:
    """Targets kept in fewer bits than their sources."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for bound in returning:
        kept, given = bound.target_specs[0].dtype, bound.source_specs[0].dtype
        if _coarseness(kept) > _coarseness(given):
            kinds.setdefault((given, kept), []).append(bound.name)
    for (given, kept), names in kinds.items():
        found = f"{given} is kept as {kept} ({', '.join(names)}): the way back has the rounded values"
        yield Remark(level="note", topic="round-trip", where=subject.line("entries"), found=found)


def _coarseness(dtype: str) -> float:
    kind = as_dtype(dtype)
    return 0.0 if kind.kind in "iub" else float(ml_dtypes.finfo(kind).eps)


def _ties(subject: Subject) -> Iterator[Remark]:
    for name, users in subject.bound.entries_of_source.items():
        names = list(dict.fromkeys(entry.name for entry in users))
        if len(names) > 1:
            found = f"{name} is used by entries {', '.join(names)}: a tie, or each takes a part"
            advice = "on the way back what they make must agree"
            yield Remark(
                level="note", topic="round-trip", where=users[-1].where, entry=names[-1], found=found, advice=advice
            )


def _open(subject: Subject, returning: list[BoundEntry]) -> Iterator[Remark]:
    """What passes a round trip, right or wrong: whatever can be undone."""
    if not returning:
        return
    free = {bound.name: _freedoms(bound) for bound in returning}
    kinds = dict.fromkeys(kind for kinds in free.values() for kind in kinds)
    told = [f"{kind}: {', '.join(name for name, kinds in free.items() if kind in kinds)}" for kind in kinds]
    if told:
        yield Remark(
            level="note",
            topic="round-trip",
            where=subject.line("entries"),
            found=f"a round trip passes whatever these do, right or wrong ({'; '.join(told)})",
            advice="every one of these can be undone, so coming back proves nothing of them: compare runs both models",
        )


def _freedoms(bound: BoundEntry) -> list[str]:
    """What of an entry could be otherwise and would come back all the same."""
    flow = next(iter(flows(bound) or ()), None)
    matrix = flow is not None and len(flow.along) > 1
    found = ["order of rows and axes"] if matrix or any(not op.elementwise for op in bound.ops) else []
    found += ["factors and shifts"] if any(op.elementwise and op.kind != "cast" for op in bound.ops) else []
    found += ["which tensor goes where"] if len(bound.sources) > 1 or len(bound.targets) > 1 else []
    return found
