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
    name = _name(step)
    if name == "select_scatter" and step.args[2] % len(step.shapes[0]) == axis:
        return step.args[1]  # the slice that this step writes
    if name == "stack":
        return _stacked(recording, step, axis, index)
    if name in ("permute", "transpose"):
        return _permuted(recording, step, axis, index)
    if _one_tensor(recording, step):
        return _with(recording, step, step.refs[0], pick(recording, step.refs[0], axis, index))
    if name in _RESHAPES and (found := _same_axis(recording.shape(step.args[0]), step.shapes[0], axis)) is not None:
        picked = pick(recording, step.args[0], found, index)
        return _add(recording, aten.reshape.default, (picked, list(_without(step.shapes[0], axis))), ref, axis)
    return _add(recording, aten.select.int, (ref, axis, index), ref, axis)


def stacked_axis(recording: Recording, ref: Ref) -> int | None:
    """An axis of a tensor along which its slices were put together, each from tensors of its own; None without."""
    step = recording.steps[ref.step]
    name, ndim = _name(step), len(step.shapes[0])
    if name == "stack":
        return step.args[1] % ndim if len(step.args) > 1 else 0
    if name == "select_scatter":
        return _written_axis(recording, ref)
    if name in ("permute", "transpose"):
        inner = stacked_axis(recording, step.args[0])
        return None if inner is None else _order(step).index(inner)
    if name in _RESHAPES:
        inner, old = stacked_axis(recording, step.args[0]), recording.shape(step.args[0])
        return next((a for a in range(ndim) if inner is not None and _same_axis(old, step.shapes[0], a) == inner), None)
    if _one_tensor(recording, step):
        return stacked_axis(recording, step.refs[0])
    return None


def _written_axis(recording: Recording, ref: Ref) -> int | None:
    """The axis along which every slice of an array that was made first is written by itself."""
    step = recording.steps[ref.step]
    axis, written = step.args[2] % len(step.shapes[0]), set[int]()
    while _name(step) == "select_scatter" and step.args[2] % len(step.shapes[0]) == axis:
        written.add(step.args[3] % step.shapes[0][axis])
        step = recording.steps[step.args[0].step]
    return axis if len(written) == step.shapes[0][axis] else None


def _name(step: Step) -> str:
    return "" if step.op is None else str(step.op).split(".")[1]


def _one_tensor(recording: Recording, step: Step) -> bool:
    """Whether the step does the same to every element of one tensor."""
    pointwise = step.op is not None and (_name(step) in _ONE_TENSOR or torch.Tag.pointwise in step.op.tags)
    return pointwise and len(step.refs) == 1 and recording.shape(step.refs[0]) == step.shapes[0]


def _passed(recording: Recording, ref: Ref, axis: int, index: int) -> Ref | None:
    """A tensor that has the same slice, where a step only wrote elsewhere."""
    step = recording.steps[ref.step]
    if _name(step) != "select_scatter" or step.args[2] % len(step.shapes[0]) != axis:
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
    order = _order(step)
    picked = pick(recording, step.args[0], order[axis], index)
    rest = [d - (d > order[axis]) for i, d in enumerate(order) if i != axis]
    shape, dtype = _without(step.shapes[0], axis), step.dtypes[0]
    return recording.add(Step(aten.permute.default, (picked, rest), {}, (shape,), (dtype,)))


def _order(step: Step) -> list[int]:
    """Which axis of what goes in each axis of a permuted tensor is."""
    order = list(range(len(step.shapes[0])))
    if _name(step) == "permute":
        return [d % len(order) for d in step.args[1]]
    a, b = (d % len(order) for d in step.args[1:3])
    order[a], order[b] = order[b], order[a]
    return order


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
