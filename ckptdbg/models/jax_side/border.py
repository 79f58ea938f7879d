"""Between the arrays of a compiled run and the records: NumPy on both sides, one anchor at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ckptdbg.errors import CkptdbgError
from ckptdbg.models.jax_side.blocks import BlockSite
from ckptdbg.models.jax_side.numerics import double
from ckptdbg.models.jax_side.program import Block, dtype_of
from ckptdbg.models.jax_side.sites import AnchorSite, ChoiceSite
from ckptdbg.models.jax_side.walk import Slot, Walk
from ckptdbg.models.records import Array, Choose, Operands, Plant, Record, Trace


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


Ports = dict[int, dict[str, Array]]


def replacements(walk: Walk, plants: Mapping[int, Plant], choices: Sequence[Array] | None, promoted: bool) -> Ports:
    """What the evaluator puts in place of its own values: by site, stacked over groups and scan iterations.

    Raises CkptdbgError for a plant of the wrong shape, or for an anchor that does not exist.
    """
    ports: Ports = {}
    ragged: dict[tuple[int, tuple[int, ...], str], dict[int, tuple[Array, Array | None]]] = {}
    for index, plant in plants.items():
        if not 0 <= index < len(walk.anchors):
            raise CkptdbgError(
                "a plant for an anchor that does not exist", found=index, expected=f"below {len(walk.anchors)}"
            )
        slot = walk.anchor_slots[index]
        for port, value, mask in (("in", plant.input, plant.input_mask), ("out", plant.output, plant.output_mask)):
            if value is None:
                continue
            site = walk.taint.sites[slot.key]
            assert isinstance(site, AnchorSite)
            if site.ragged is not None:
                ragged.setdefault((slot.key, slot.iteration, port), {})[slot.part] = value, mask
            else:
                _put(walk, site, slot, port, value, mask, ports, promoted)
    for (key, iteration, port), groups in ragged.items():
        _put_ragged(walk, Slot(key, iteration, 0), port, groups, ports, promoted)
    if choices is not None:
        _pin(walk, choices, ports)
    return ports


def _lengths(walk: Walk, key: int) -> tuple[int, ...]:
    """The lengths of the scans around a site."""
    seen = [s.iteration for s in [*walk.anchor_slots, *walk.choice_slots] if s.key == key]
    return tuple(max(i) + 1 for i in zip(*seen, strict=True))


def _put(
    walk: Walk,
    site: AnchorSite,
    slot: Slot,
    port: str,
    value: Array,
    mask: Array | None,
    ports: Ports,
    promoted: bool,
) -> None:
    fold = site.input if port == "in" else site.output
    if fold is None:
        raise CkptdbgError("a lookup has no `in` to plant", where=site.op.name, hint="plant its `out`")
    if value.shape != fold.folded[1:]:
        raise CkptdbgError(
            f"a planted `{port}` of the wrong shape",
            where=", ".join(walk.anchors[walk.anchor_slots.index(slot)].parameters),
            found=value.shape,
            expected=fold.folded[1:],
        )
    there = ports.setdefault(slot.key, {})
    if port not in there:
        shape = _lengths(walk, slot.key) + fold.folded
        atom = site.op.outs[0] if port == "out" else site.op.ins[site.data]
        dtype = dtype_of(atom)
        assert dtype is not None
        there[port] = np.zeros(shape, double(dtype) if promoted else dtype)
        there[f"{port}_mask"] = np.zeros(shape, bool)
    there[port][slot.iteration][slot.part] = value
    there[f"{port}_mask"][slot.iteration][slot.part] = True if mask is None else mask


def _put_ragged(
    walk: Walk,
    slot: Slot,
    port: str,
    groups: Mapping[int, tuple[Array, Array | None]],
    ports: Ports,
    promoted: bool,
) -> None:
    """The groups of a grouped matmul lie one after the other, each as long as its planted value."""
    site = walk.taint.sites[slot.key]
    assert isinstance(site, AnchorSite)
    fold = site.input if port == "in" else site.output
    assert fold is not None
    missing = [group for group in range(site.groups) if group not in groups]
    if missing:
        raise CkptdbgError(
            f"`{port}` is planted in some groups of a grouped matmul only",
            where=site.op.name,
            found=f"none for group {missing[0]}",
            hint="plant all of them, with masks for what shall stay",
        )
    parts = [groups[group] for group in range(site.groups)]
    value = np.concatenate([part for part, _ in parts])
    mask = np.concatenate([np.ones(part.shape, bool) if mask is None else mask for part, mask in parts])
    short = fold.folded[1] - len(value)  # rows after the last group belong to none
    value, mask = (np.pad(array, ((0, max(short, 0)), (0, 0))) for array in (value, mask))
    _put(walk, site, slot, port, value, mask, ports, promoted)


def _pin(walk: Walk, choices: Sequence[Array], ports: Ports) -> None:
    if len(choices) != len(walk.choices):
        raise CkptdbgError("pinned choices do not fit the model", found=len(choices), expected=len(walk.choices))
    for slot, indices in zip(walk.choice_slots, choices, strict=True):
        site = walk.taint.sites[slot.key]
        assert isinstance(site, ChoiceSite)
        shape = site.op.ins[0].aval.shape
        expected = (int(np.prod(shape)) // site.options, site.chosen)
        if indices.shape != expected:
            raise CkptdbgError("pinned indices of the wrong shape", found=indices.shape, expected=expected)
        there = ports.setdefault(slot.key, {})
        if "indices" not in there:
            there["indices"] = np.zeros(_lengths(walk, slot.key) + expected, np.int32)
        there["indices"][slot.iteration] = indices
