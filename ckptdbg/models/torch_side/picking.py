"""One slice of a recorded tensor along one axis, made without the tensor: the recording goes on with the steps that
make the slice of what goes in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ckptdbg.models.torch_side.recording import Recording, Ref, Step

aten = torch.ops.aten
_ONE_TENSOR = {"clone", "_to_copy"}
_RESHAPES = {"view", "_unsafe_view"}


def pick(recording: Recording, ref: Ref, axis: int, index: int) -> Ref:
    """Slice ``index`` of a tensor along ``axis``, without that axis. Steps are added to the recording."""
    while (passed := _passed(recording, ref, axis, index)) is not None:  # long chains of writes: no recursion
        ref = passed
    step = recording.steps[ref.step]
    name = "" if step.op is None else str(step.op).split(".")[1]
    if name == "stack":
        return _stacked(recording, step, axis, index)
    if name in ("permute", "transpose"):
        return _permuted(recording, step, axis, index)
    if name in _ONE_TENSOR or (step.op is not None and torch.Tag.pointwise in step.op.tags and len(step.refs) == 1):
        (inner,) = step.refs
        if recording.shape(inner) == step.shapes[0]:
            picked = pick(recording, inner, axis, index)
            return _with(recording, step, inner, picked)
    if name in _RESHAPES and (found := _same_axis(recording.shape(step.args[0]), step.shapes[0], axis)) is not None:
        picked = pick(recording, step.args[0], found, index)
        return _add(recording, aten.reshape.default, (picked, list(_without(step.shapes[0], axis))), ref, axis)
    return _add(recording, aten.select.int, (ref, axis, index), ref, axis)


def _passed(recording: Recording, ref: Ref, axis: int, index: int) -> Ref | None:
    """A tensor that has the same slice, where a step only wrote elsewhere."""
    step = recording.steps[ref.step]
    name = "" if step.op is None else str(step.op).split(".")[1]
    if name != "select_scatter" or step.args[2] % len(step.shapes[0]) != axis:
        return None
    written = step.args[3] % step.shapes[0][axis]
    return step.args[0] if written != index else None


def _stacked(recording: Recording, step: Step, axis: int, index: int) -> Ref:
    parts, dim = step.args[0], (step.args[1] if len(step.args) > 1 else 0) % len(step.shapes[0])
    if dim == axis:
        return parts[index]
    picked = [pick(recording, part, axis - (axis > dim), index) for part in parts]
    shape, dtype = _without(step.shapes[0], axis), step.dtypes[0]
    return recording.add(Step(aten.stack.default, (picked, dim - (dim > axis)), {}, (shape,), (dtype,)))


def _permuted(recording: Recording, step: Step, axis: int, index: int) -> Ref:
    order = list(range(len(step.shapes[0])))
    if "permute" in str(step.op):
        order = [d % len(order) for d in step.args[1]]
    else:
        a, b = (d % len(order) for d in step.args[1:3])
        order[a], order[b] = order[b], order[a]
    picked = pick(recording, step.args[0], order[axis], index)
    rest = [d - (d > order[axis]) for i, d in enumerate(order) if i != axis]
    shape, dtype = _without(step.shapes[0], axis), step.dtypes[0]
    return recording.add(Step(aten.permute.default, (picked, rest), {}, (shape,), (dtype,)))


def _with(recording: Recording, step: Step, old: Ref, new: Ref) -> Ref:
    """The step on another tensor."""
    args = tuple(new if a == old else a for a in step.args)
    return recording.add(replace(step, args=args, shapes=(recording.shape(new),)))


def _add(recording: Recording, op: Any, args: tuple[Any, ...], like: Ref, axis: int) -> Ref:
    shape = _without(recording.shape(like), axis)
    return recording.add(Step(op, args, {}, (shape,), (recording.dtype(like),)))


def _same_axis(old: Sequence[int], new: Sequence[int], axis: int) -> int | None:
    """The axis of ``old`` that is ``axis`` of ``new``, after a reshape between them."""
    before = math.prod(new[:axis])
    for i, size in enumerate(old):
        if size == new[axis] and math.prod(old[:i]) == before:
            return i
    return None


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])
