"""Ops that move, cut and join axes; no element is lost or changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import einops
import numpy as np

from ckptdbg.mapping.ops.base import Array, Each, Op, OpError, Shape, hollow, positive, register
from ckptdbg.mapping.ops.pieces import Slice, Unstack


@register
@dataclass(frozen=True)
class Rearrange(Each):
    """An einops pattern with axis sizes. Of several arrays the pattern's first axis counts them."""

    kind: ClassVar[str] = "rearrange"
    main: ClassVar[str] = "pattern"
    words: ClassVar[frozenset[str]] = frozenset({"pattern"})
    required: ClassVar[frozenset[str]] = frozenset({"pattern"})

    pattern: str = ""
    sizes: Mapping[str, int] | tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(dict(self.sizes).items()))  # hashable, and in the order written
        if self.pattern.count("->") != 1:
            raise OpError(f"not an einops pattern: {self.pattern!r}")

    def one(self, array: Array) -> Array:
        return einops.rearrange(array, self.pattern, **dict(self.sizes))

    def apply(self, arrays: Sequence[Array], rounding: bool = True) -> list[Array]:
        return [self.one(arrays[0] if len(arrays) == 1 else np.stack(arrays))]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        if len(set(shapes)) > 1:
            raise OpError(f"needs arrays of one shape to treat them as one axis, got {list(shapes)}")
        return [self.shape(shapes[0] if len(shapes) == 1 else (len(shapes), *shapes[0]))]

    def inverse(self, shapes: Sequence[Shape]) -> tuple[Op, ...]:
        before, after = (side.strip() for side in self.pattern.split("->"))
        back = Rearrange(f"{after} -> {before}", {**self._all_sizes(shapes), **dict(self.sizes)})
        return (back,) if len(shapes) == 1 else (back, Unstack(0))

    def _all_sizes(self, shapes: Sequence[Shape]) -> dict[str, int]:
        """Sizes of named axes that the pattern's left side tells and its right side, read alone, might not."""
        shape = shapes[0] if len(shapes) == 1 else (len(shapes), *shapes[0])
        return {k: v for k, v in einops.parse_shape(hollow(shape), _outer(self.pattern)).items() if k.isidentifier()}

    def data(self) -> dict[str, Any]:
        return {self.kind: self.pattern, **dict(self.sizes)}


def _outer(pattern: str) -> str:
    """The left side with every group as ``_``: what ``einops.parse_shape`` understands."""
    left, depth, names = pattern.split("->")[0], 0, []
    for token in left.replace("(", " ( ").replace(")", " ) ").split():
        if token == "(":
            names.append("_")
        elif token != ")" and depth == 0:
            names.append(token if token.isidentifier() or token == "..." else "_")
        depth += (token == "(") - (token == ")")
    return " ".join(names)


@register
@dataclass(frozen=True)
class Transpose(Each):
    """A permutation of the axes as in NumPy; without axes the transpose of a matrix."""

    kind: ClassVar[str] = "transpose"
    main: ClassVar[str] = "axes"

    axes: tuple[int, ...] = ()

    def one(self, array: Array) -> Array:
        if not self.axes and array.ndim != 2:  # reversing all axes of an expert stack is a known fault
            raise OpError(f"without axes is for matrices; of shape {array.shape} name the axes, such as [0, 2, 1]")
        return np.transpose(array, self.axes or None)

    def undo(self, shape: Shape) -> tuple[Op, ...]:
        axes = [positive(axis, len(shape)) for axis in self.axes or (1, 0)]
        return (Transpose(tuple(int(axis) for axis in np.argsort(axes))),)


@register
@dataclass(frozen=True)
class Reshape(Each):
    """Another shape for the same elements in the same order; one size may be -1."""

    kind: ClassVar[str] = "reshape"
    main: ClassVar[str] = "shape_to"
    required: ClassVar[frozenset[str]] = frozenset({"shape_to"})

    shape_to: tuple[int, ...] = ()

    def one(self, array: Array) -> Array:
        return np.reshape(array, self.shape_to)

    def undo(self, shape: Shape) -> tuple[Op, ...]:
        return (Reshape(shape),)


@register
@dataclass(frozen=True)
class Squeeze(Each):
    """One axis of size 1 less."""

    kind: ClassVar[str] = "squeeze"
    main: ClassVar[str] = "axis"
    required: ClassVar[frozenset[str]] = frozenset({"axis"})

    axis: int = 0

    def one(self, array: Array) -> Array:
        return np.squeeze(array, self.axis)

    def undo(self, shape: Shape) -> tuple[Op, ...]:
        return (Expand(positive(self.axis, len(shape))),)


@register
@dataclass(frozen=True)
class Expand(Each):
    """One axis more, at ``axis`` of the result; the elements are repeated ``size`` times along it."""

    kind: ClassVar[str] = "expand"
    main: ClassVar[str] = "axis"
    required: ClassVar[frozenset[str]] = frozenset({"axis"})

    axis: int = 0
    size: int = 1

    def one(self, array: Array) -> Array:
        array = np.expand_dims(array, self.axis)
        axis = positive(self.axis, array.ndim)
        return np.broadcast_to(array, (*array.shape[:axis], self.size, *array.shape[axis + 1 :]))

    def undo(self, shape: Shape) -> tuple[Op, ...]:
        axis = positive(self.axis, len(shape) + 1)
        return (*((Slice(axis, 0, 1),) if self.size > 1 else ()), Squeeze(axis))

    def dropped(self, shapes: Sequence[Shape]) -> str:
        if self.size == 1:
            return ""
        return f"the reverse reads one of {self.size} copies on axis {self.axis} ({math.prod(shapes[0])} elements each)"
