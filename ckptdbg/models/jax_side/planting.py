"""Planted values, as the evaluator takes them: by site, stacked over groups and scan iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ckptdbg.errors import CkptdbgError
from ckptdbg.models.jax_side.numerics import double
from ckptdbg.models.jax_side.program import dtype_of
from ckptdbg.models.jax_side.sites import AnchorSite, ChoiceSite
from ckptdbg.models.jax_side.walk import Slot, Walk
from ckptdbg.models.records import Array, Plant

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


def blank(walk: Walk) -> Ports:
    """Every port of every anchor, in float64, with nothing planted: one program serves all sets of plants."""
    ports: Ports = {}
    for key in {slot.key for slot in walk.anchor_slots}:
        site = walk.taint.sites[key]
        assert isinstance(site, AnchorSite)
        for port in ("out",) if site.input is None else ("in", "out"):
            ports.setdefault(key, {}).update(_blank(walk, key, port, promoted=True))
    return ports


def _blank(walk: Walk, key: int, port: str, promoted: bool) -> dict[str, Array]:
    site = walk.taint.sites[key]
    assert isinstance(site, AnchorSite)
    fold = site.input if port == "in" else site.output
    atom = site.op.outs[0] if port == "out" else site.op.ins[site.data]
    dtype = dtype_of(atom)
    assert fold is not None
    assert dtype is not None
    shape = _lengths(walk, key) + fold.folded
    return {port: np.zeros(shape, double(dtype) if promoted else dtype), f"{port}_mask": np.zeros(shape, bool)}


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
        there |= _blank(walk, slot.key, port, promoted)
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
