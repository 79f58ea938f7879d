"""Ops that move, cut and join axes; no element is lost or changed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import einops
import numpy as np

from ckptdbg.mapping.ops.base import Array, Each, Op, OpError, Shape, positive, register
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
        self.keys({"pattern": self.pattern})

    @classmethod
    def keys(cls, fields: Mapping[str, Any]) -> set[str]:
        pattern = fields["pattern"]
        if pattern.count("->") != 1:
            raise OpError(f"wants an einops pattern such as 'a b -> b a', found {pattern!r}")
        return {"pattern", *re.findall(r"[A-Za-z_]\w*", pattern)}  # sizes are given by the names of their axes

    @classmethod
    def build(cls, values: Mapping[str, Any], targets: int) -> Op:
        return cls(values["pattern"], {name: size for name, size in values.items() if name != "pattern"})

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
        sizes = self._solved(shapes[0] if len(shapes) == 1 else (len(shapes), *shapes[0]))
        needed = {name: sizes[name] for group in _groups(after) if len(group) > 1 for name in group if name in sizes}
        back = Rearrange(f"{after} -> {before}", needed)
        return (back,) if len(shapes) == 1 else (back, Unstack(0))

    def _solved(self, shape: Shape) -> dict[str, int]:
        """The size of every axis named on the left side."""
        groups, sizes = _groups(self.pattern.split("->")[0]), dict(self.sizes)
        if ["..."] in groups:  # stands for as many axes as are left
            at = groups.index(["..."])
            rest = len(shape) - len(groups) + 1
            groups, shape = groups[:at] + groups[at + 1 :], shape[:at] + shape[at + rest :]
        for group, size in zip(groups, shape, strict=True):
            known = math.prod(sizes.get(name, 1) for name in group)
            sizes.update({name: size // known for name in group if name not in sizes and name.isidentifier()})
        return sizes

    def data(self) -> dict[str, Any]:
        return {self.kind: self.pattern, **dict(self.sizes)}


def _groups(side: str) -> list[list[str]]:
    """One list of names per axis: ``"(h d) m"`` is ``[["h", "d"], ["m"]]``."""
    return [(grouped or single).split() for grouped, single in re.findall(r"\(([^()]*)\)|([^\s()]+)", side)]


@register
@dataclass(frozen=True)
class Transpose(Each):
    """A permutation of the axes as in NumPy; without axes the transpose of a matrix."""

    kind: ClassVar[str] = "transpose"
    main: ClassVar[str] = "axes"
    lists: ClassVar[frozenset[str]] = frozenset({"axes"})

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
    main: ClassVar[str] = "to"
    lists: ClassVar[frozenset[str]] = frozenset({"to"})
    required: ClassVar[frozenset[str]] = frozenset({"to"})

    to: tuple[int, ...] = ()

    def one(self, array: Array) -> Array:
        return np.reshape(array, self.to)

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
        return f"the reverse reads one of {self.size} copies on axis {self.axis}"
