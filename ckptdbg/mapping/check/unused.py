"""Ops that change nothing and variables that nobody reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ckptdbg.mapping.check.flow import index_along, places
from ckptdbg.mapping.check.records import Remark
from ckptdbg.mapping.check.subject import Subject
from ckptdbg.mapping.entry import BoundEntry
from ckptdbg.mapping.expressions import Expression
from ckptdbg.mapping.ops import Add, Cast, Divide, Op, OpError, Scale, Shape
from ckptdbg.mapping.parse import Entry


def idle_ops(subject: Subject) -> Iterator[Remark]:
    """Ops that leave every element where and what it is, in all layers; and chains that end where they began."""
    for name, instances in _by_name(subject.fitting).items():
        ops = list(zip(*(bound.before_each() for bound in instances), strict=True))
        idle = [op for (op, _), *_ in ops if all(_idle(o, shapes) for o, shapes in ops[_index(ops, op)])]
        bound = instances[0]
        for op in idle:
            found = f"{op} changes nothing here"
            advice = "leave it out, or see whether its sizes are what was meant"
            yield Remark(
                level="note", topic="idle", where=op.where or bound.where, entry=name, found=found, advice=advice
            )
        if not idle and len(bound.ops) > 1 and all(_chain_idle(b) for b in instances):
            found = f"its {len(bound.ops)} ops undo each other: the tensor comes out as it was"
            yield Remark(
                level="note", topic="idle", where=bound.where, entry=name, found=found, advice="leave them out"
            )


def _index(ops: Sequence[Any], op: Op) -> int:
    return next(i for i, ((other, _), *_) in enumerate(ops) if other is op)


def _by_name(instances: Iterable[BoundEntry]) -> dict[str, list[BoundEntry]]:
    found: dict[str, list[BoundEntry]] = {}
    for bound in instances:
        found.setdefault(bound.name, []).append(bound)
    return found


def _idle(op: Op, shapes: Sequence[Shape]) -> bool:
    inner = getattr(op, "inner", op)
    if isinstance(inner, Scale | Divide):
        return float(inner.by) == 1
    if isinstance(inner, Add):
        return float(inner.value) == 0
    return not isinstance(inner, Cast) and not op.elementwise and _moves_nothing([op], shapes)


def _chain_idle(bound: BoundEntry) -> bool:
    steps = bound.before_each()
    return not any(op.elementwise for op, _ in steps) and _moves_nothing([op for op, _ in steps], steps[0][1])


def _moves_nothing(ops: Sequence[Op], shapes: Sequence[Shape]) -> bool:
    """Whether every element is where it was, as far as some places tell. Only asked of shapes that stay."""
    after = list(shapes)
    try:
        for op in ops:
            after = op.shapes(after)
    except OpError:
        return False
    if after != list(shapes):
        return False
    for axis in range(max(map(len, shapes), default=0)):
        labels = [index_along(s, axis) if axis < len(s) else np.broadcast_to(np.int32(0), s) for s in shapes]
        results: list[Any] = list(labels)
        for op in ops:
            results = op.apply(results)
        for label, result in zip(labels, results, strict=True):
            if any(result[place] != label[place] for place in places(label.shape)):
                return False
    return True


def unused_variables(subject: Subject) -> Iterator[Remark]:
    """Variables that no expression of the mapping names."""
    variables = subject.mapping.variables
    used = {name for entry in subject.mapping.entries for name in _names(entry)}
    used |= {name for variable in variables for e in variable.alternatives for name in e.names if name != variable.name}
    for variable in variables:
        if variable.name not in used:
            found, advice = f"variable {variable.name} is used by nothing", "leave it out, or find the op that lacks it"
            yield Remark(level="note", topic="variables", where=variable.where, found=found, advice=advice)


def _names(entry: Entry) -> Iterator[str]:
    for template in (*entry.sources, *entry.targets):
        yield from template.names
    for span in entry.ranges:
        yield from _in((span.ends, span.items))
    for stack in entry.stacks:
        yield from stack.axis.names
    for op in entry.ops:
        yield from _in((tuple(op.fields.values()), op.of))


def _in(value: Any) -> Iterator[str]:
    """Names in expressions within tuples."""
    if isinstance(value, Expression):
        yield from value.names
    elif isinstance(value, tuple):
        for item in value:
            yield from _in(item)
