"""From the arrays of a run to the records: NumPy on both sides, one anchor at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ckptdbg.models.jax_side.blocks import BlockSite
from ckptdbg.models.jax_side.program import Block
from ckptdbg.models.jax_side.sites import AnchorSite
from ckptdbg.models.jax_side.walk import Slot, Walk
from ckptdbg.models.records import Array, Choose, Operands, Record, Trace


def without_unused_inputs(root: Block, parameters: int, names: Sequence[str]) -> tuple[Block, list[str]]:
    """The program without the inputs that it does not read, and the names of those it does."""
    read = {atom for op in root.every_op() for atom in op.ins} | {
        atom for op in root.every_op() for body in op.bodies for atom in body.outs
    }
    kept = [(var, name) for var, name in zip(root.ins[parameters:], names, strict=True)
            if var in read or var in root.outs]  # fmt: skip
    ins = (*root.ins[:parameters], *(var for var, _ in kept))
    return Block(ins, root.ops, root.outs), [name for _, name in kept]


def operands(walk: Walk, captured: Mapping[int, Mapping[str, Array]]) -> Operands:
    """The effective operands of each anchor and each meeting."""
    anchors = tuple(captured[s.key]["operand"][s.iteration][s.part] for s in walk.anchor_slots)
    meetings = tuple(
        captured[s.key][str(s.part)][s.iteration].reshape(meeting.shape)
        for s, meeting in zip(walk.meeting_slots, walk.meetings, strict=True)
    )
    return Operands(anchors, meetings)


def trace(
    walk: Walk,
    blocks: Sequence[BlockSite],
    output: Array,
    captured: Mapping[int, Mapping[str, Array]],
    tokens: tuple[int, ...],
) -> Trace:
    """The records of one run."""
    records = tuple(_record(walk, slot, captured[slot.key]) for slot in walk.anchor_slots)
    choices = tuple(_choose(slot, captured[slot.key]) for slot in walk.choice_slots)
    by_token = output.ndim > 2 and output.shape[: len(tokens)] == tokens
    flat = (
        output.reshape(int(np.prod(tokens)), -1)
        if by_token
        else output.reshape(-1, output.shape[-1] if output.ndim else 1)
    )
    seen = (np.asarray(captured[b.key]["block"])[b.iteration] for b in blocks)
    streams = tuple(values.reshape(-1, values.shape[-1]) for values in seen)
    return Trace(records, flat, output.shape, streams, choices, _nonfinite(walk, records, flat))


def _record(walk: Walk, slot: Slot, seen: Mapping[str, Array]) -> Record:
    ports = at_slot(walk, slot, seen)
    return Record(ports["rows"].astype(np.int64), ports.get("in"), ports["out"])


def at_slot(walk: Walk, slot: Slot, seen: Mapping[str, Array]) -> dict[str, Array]:
    """The rows of one anchor among what its site captured, by port."""
    site = walk.taint.sites[slot.key]
    assert isinstance(site, AnchorSite)
    if site.ragged is None:
        part, of = slot.part, slice(None)
    else:
        ends = np.cumsum(seen["sizes"][slot.iteration])
        part, of = 0, slice(int(ends[slot.part - 1]) if slot.part else 0, int(ends[slot.part]))
    return {port: seen[port][slot.iteration][part][of] for port in ("rows", "in", "out") if port in seen}


def _choose(slot: Slot, seen: Mapping[str, Array]) -> Choose:
    found = {port: array[slot.iteration] for port, array in seen.items()}
    return Choose(found["rows"].astype(np.int64), found["indices"].astype(np.int64), found["margin"].astype(np.float64))


def _nonfinite(walk: Walk, records: Sequence[Record], output: Array) -> str | None:
    for anchor, record in zip(walk.anchors, records, strict=True):
        for port, value in (("in", record.input), ("out", record.output)):
            if value is not None and not np.isfinite(value).all():
                name = ", ".join(anchor.parameters)
                place = f" iteration {'.'.join(map(str, anchor.iteration))}" if anchor.iteration else ""
                return f"{port} of {anchor.op} with {name}{place} {anchor.where}".strip()
    return None if np.isfinite(output).all() else "the model's output"
