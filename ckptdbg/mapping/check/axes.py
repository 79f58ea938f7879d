"""Axes that come out mixed, and matrices whose transposition no shape can check."""

from __future__ import annotations

from collections.abc import Iterator

from ckptdbg.mapping.check.flow import Flow, flows
from ckptdbg.mapping.check.records import Remark
from ckptdbg.mapping.check.subject import Subject
from ckptdbg.mapping.entry import BoundEntry
from ckptdbg.mapping.ops import Reshape


def mixed_axes(subject: Subject) -> Iterator[Remark]:
    """A source axis that is spread over several axes of the result, one of which holds another source axis as well:
    what a reshape does where a transposition belongs."""
    for bound in subject.examples:
        for flow in flows(bound) or ():
            mixed = _mixed(flow)
            if mixed is None:
                continue
            axis, other, shared = mixed
            reshaped = next((op for op in bound.ops if isinstance(op, Reshape)), None)
            yield Remark(
                level="error" if reshaped else "note",
                topic="axes",
                where=(reshaped.where if reshaped else "") or bound.where,
                entry=bound.name,
                found=f"axes {axis} and {other} of {bound.sources[flow.source]} {flow.shape} come out mixed on axis "
                f"{shared} of the result",
                advice="rows and columns are torn apart: write rearrange or transpose where axes change places"
                if reshaped
                else "right only where the target contracts over both together",
            )
            break


def _mixed(flow: Flow) -> tuple[int, int, int] | None:
    """A source axis that is spread, another one that shares an axis of the result with it, and that axis."""
    for axis, along in flow.along.items():
        for other, others in flow.along.items():
            shared = along & others
            if axis != other and shared and len({t for _, t in along}) > 1:
                return axis, other, min(t for _, t in shared)
    return None


def square_matrices(subject: Subject) -> Iterator[Remark]:
    """Entries of square matrices, with what the others of the mapping do: shapes fit both ways."""
    turned = {bound.name: _turned(bound) for bound in subject.examples}
    usual = [turned[b.name] for b in subject.examples if not _square(b) and turned[b.name] is not None]
    for bound in subject.examples:
        mine = turned[bound.name]
        if not _square(bound) or mine is None:
            continue
        alike = sum(turn == mine for turn in usual)
        others = f"of the {len(usual)} entries of other matrices {alike} {'is' if alike == 1 else 'are'} so too"
        yield Remark(
            level="note",
            topic="square",
            where=bound.where,
            entry=bound.name,
            found=f"{bound.sources[0]} {bound.source_specs[0].shape} is square and is {'' if mine else 'not '}"
            f"transposed; {others if usual else 'there is no other matrix'}",
            advice="no shape can tell whether that is right: compare runs both models",
        )


def _square(bound: BoundEntry) -> bool:
    """Whether every source is a matrix that its transpose fits the place of."""
    shapes = {spec.shape for spec in bound.source_specs}
    return all(len(shape) == 2 and shape[0] == shape[1] > 1 for shape in shapes)


def _turned(bound: BoundEntry) -> bool | None:
    """Whether the second axis of the source matrix comes before the first; None where neither is first."""
    flow = next(iter(flows(bound) or ()), None)
    if flow is None or set(flow.along) != {0, 1} or len(flow.shape) != 2:
        return None
    first, second = (min((t for _, t in flow.along[axis]), default=0) for axis in (0, 1))
    return None if first == second else second < first
