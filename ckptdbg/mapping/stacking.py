"""Axes of a tensor that run over a placeholder: scanned layers, stacked experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ckptdbg.mapping.ops import Array, OpError, Shape


@dataclass(frozen=True)
class StackAxis:
    """One axis of a stacked tensor, over the values of one placeholder; ``side`` says whose tensors are stacked."""

    over: str
    size: int
    axis: int
    side: Literal["source", "target"]

    def __str__(self) -> str:
        verb = "stack" if self.side == "target" else "unstack"
        return f"{verb}: {{over: {self.over}, axis: {self.axis}}}"


def stack_arrays(arrays: Sequence[Array], stacks: Sequence[StackAxis]) -> Array:
    """One array of many, in the order of the stacks, outermost first; axes are those of the result."""
    if not stacks:
        return arrays[0]
    array = np.stack(arrays).reshape(*(stack.size for stack in stacks), *arrays[0].shape)
    return np.moveaxis(array, range(len(stacks)), [stack.axis for stack in stacks])


def unstack_array(array: Array, stacks: Sequence[StackAxis]) -> list[Array]:
    """The inverse of ``stack_arrays``."""
    if not stacks:
        return [array]
    array = np.moveaxis(array, [stack.axis for stack in stacks], range(len(stacks)))
    return list(array.reshape(-1, *array.shape[len(stacks) :]))


def stack_shape(shape: Shape, stacks: Sequence[StackAxis]) -> Shape:
    """The shape after ``stack_arrays``; ``OpError`` where an axis is not there or taken twice."""
    rank = len(shape) + len(stacks)
    sizes: dict[int, int] = {}
    for stack in stacks:
        if not -rank <= stack.axis < rank or stack.axis % rank in sizes:
            raise OpError(f"{stack} has no axis {stack.axis} of its own: the result has {rank} axes")
        sizes[stack.axis % rank] = stack.size
    rest = iter(shape)
    return tuple(sizes[axis] if axis in sizes else next(rest) for axis in range(rank))


def unstack_shape(shape: Shape, stacks: Sequence[StackAxis]) -> Shape:
    """The shape of each array after ``unstack_array``; ``OpError`` where an axis has another size."""
    axes: set[int] = set()
    for stack in stacks:
        if not -len(shape) <= stack.axis < len(shape) or shape[stack.axis] != stack.size:
            raise OpError(f"{stack} wants an axis of {stack.size}: the tensor has shape {shape}")
        axes.add(stack.axis % len(shape))
    if len(axes) < len(stacks):
        raise OpError(f"{stacks[-1]} shares its axis with another: the tensor has shape {shape}")
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)
