"""Ops that join and part arrays, and those that add or leave out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np

from ckptdbg.mapping.ops.base import Array, Each, Op, OpError, Shape, positive, register


@register
@dataclass(frozen=True)
class Concat(Op):
    """Several arrays as one, end to end along ``axis``."""

    kind: ClassVar[str] = "concat"
    main: ClassVar[str] = "axis"
    required: ClassVar[frozenset[str]] = frozenset({"axis"})

    axis: int = 0

    def apply(self, arrays: Sequence[Array], rounding: bool = True) -> list[Array]:
        return [np.concatenate(arrays, self.axis)]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        axis = positive(self.axis, len(shapes[0]))
        rest = {(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in shapes}
        if len(rest) > 1:
            raise OpError(f"needs arrays that differ on axis {self.axis} only, got {list(shapes)}")
        return [(*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])]

    def inverse(self, shapes: Sequence[Shape]) -> tuple[Op, ...]:
        return (Split(self.axis, tuple(shape[self.axis] for shape in shapes)),)


@register
@dataclass(frozen=True)
class Split(Op):
    """One array as several along ``axis``, of the given sizes or ``parts`` equal ones (default: one per target)."""

    kind: ClassVar[str] = "split"
    main: ClassVar[str] = "axis"
    lists: ClassVar[frozenset[str]] = frozenset({"sizes"})
    required: ClassVar[frozenset[str]] = frozenset({"axis"})

    axis: int = 0
    sizes: tuple[int, ...] = ()
    parts: int = 0

    @classmethod
    def build(cls, values: Mapping[str, Any], targets: int) -> Op:
        return cls(**values) if values.get("sizes") else cls(**{"parts": targets, **values})

    def apply(self, arrays: Sequence[Array], rounding: bool = True) -> list[Array]:
        array = _only(arrays, "split")
        ends = list(accumulate(self._sizes(array.shape)))
        return np.split(array, ends[:-1], self.axis)

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        shape = _only(shapes, "split")
        axis = positive(self.axis, len(shape))
        return [(*shape[:axis], size, *shape[axis + 1 :]) for size in self._sizes(shape)]

    def inverse(self, shapes: Sequence[Shape]) -> tuple[Op, ...]:
        return (Concat(self.axis),)

    def _sizes(self, shape: Shape) -> tuple[int, ...]:
        size = shape[positive(self.axis, len(shape))]
        if self.sizes:
            if sum(self.sizes) != size or min(self.sizes) < 0:
                raise OpError(f"has sizes {list(self.sizes)}, together {sum(self.sizes)}, for an axis of {size}")
            return self.sizes
        if self.parts < 1 or size % self.parts:
            raise OpError(f"cannot make {self.parts} equal parts of an axis of {size}: give sizes")
        return (size // self.parts,) * self.parts


@register
@dataclass(frozen=True)
class Stack(Op):
    """Several arrays of one shape as one, along a new axis."""

    kind: ClassVar[str] = "stack"
    main: ClassVar[str] = "axis"
    required: ClassVar[frozenset[str]] = frozenset({"axis"})

    axis: int = 0

    def apply(self, arrays: Sequence[Array], rounding: bool = True) -> list[Array]:
        return [np.stack(arrays, self.axis)]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        if len(set(shapes)) > 1:
            raise OpError(f"needs arrays of one shape, got {list(shapes)}")
        axis = positive(self.axis, len(shapes[0]) + 1)
        return [(*shapes[0][:axis], len(shapes), *shapes[0][axis:])]

    def inverse(self, shapes: Sequence[Shape]) -> tuple[Op, ...]:
        return (Unstack(self.axis),)


@register
@dataclass(frozen=True)
class Unstack(Op):
    """One array as several, one per index of ``axis``."""

    kind: ClassVar[str] = "unstack"
    main: ClassVar[str] = "axis"
    required: ClassVar[frozenset[str]] = frozenset({"axis"})

    axis: int = 0

    def apply(self, arrays: Sequence[Array], rounding: bool = True) -> list[Array]:
        return list(np.moveaxis(_only(arrays, "unstack"), self.axis, 0))

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        shape = _only(shapes, "unstack")
        axis = positive(self.axis, len(shape))
        return [(*shape[:axis], *shape[axis + 1 :])] * shape[axis]

    def inverse(self, shapes: Sequence[Shape]) -> tuple[Op, ...]:
        return (Stack(self.axis),)


@register
@dataclass(frozen=True)
class Pad(Each):
    """Rows added with one value: to a whole shape at the ends, or to ``size`` on one axis, ``before`` of them in front.

    ``pad: [v, m]``, or ``pad: v`` with ``axis``.
    """

    kind: ClassVar[str] = "pad"
    main: ClassVar[str] = "size"
    either: ClassVar[frozenset[str]] = frozenset({"size"})
    reals: ClassVar[frozenset[str]] = frozenset({"value"})
    required: ClassVar[frozenset[str]] = frozenset({"size"})

    size: int | tuple[int, ...] = 0
    axis: int | None = None
    value: float = 0
    before: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.size, int) == (self.axis is None):
            raise OpError("takes a whole shape, or one size and its axis")

    def _widths(self, shape: Shape) -> list[tuple[int, int]]:
        if isinstance(self.size, tuple):
            if len(self.size) != len(shape):
                raise OpError(f"to {list(self.size)} has another number of axes than {shape}")
            widths = [(self.before, to - size - self.before) for to, size in zip(self.size, shape, strict=True)]
        else:
            widths, axis = [(0, 0)] * len(shape), positive(self.axis or 0, len(shape))
            widths[axis] = (self.before, self.size - shape[axis] - self.before)
        if any(min(width) < 0 for width in widths):
            raise OpError(f"to {self.size} is smaller than {shape}: use slice to cut")
        return widths

    def one(self, array: Array) -> Array:
        return np.pad(array, self._widths(array.shape), constant_values=self.value)

    def shape(self, shape: Shape) -> Shape:
        return tuple(a + size + b for size, (a, b) in zip(shape, self._widths(shape), strict=True))

    def undo(self, shape: Shape) -> tuple[Op, ...]:
        cuts = ((axis, a, a + shape[axis]) for axis, (a, b) in enumerate(self._widths(shape)) if a or b)
        return tuple(Slice(*cut) for cut in cuts)

    def dropped(self, shapes: Sequence[Shape]) -> str:
        lost = [
            f"{a + b} of {size + a + b} on axis {axis}"
            for axis, ((a, b), size) in enumerate(zip(self._widths(shapes[0]), shapes[0], strict=True))
            if a or b
        ]
        return f"the reverse drops the padding: {', '.join(lost)}" if lost else ""


@register
@dataclass(frozen=True)
class Slice(Each):
    """Indices ``start`` to ``stop`` (not included) of one axis."""

    kind: ClassVar[str] = "slice"
    main: ClassVar[str] = "axis"
    required: ClassVar[frozenset[str]] = frozenset({"axis"})

    axis: int = 0
    start: int = 0
    stop: int | None = None

    def _range(self, shape: Shape) -> tuple[int, int, int]:
        axis = positive(self.axis, len(shape))
        start, stop, _ = slice(self.start, self.stop).indices(shape[axis])
        if start >= stop or (self.stop or 0) > shape[axis]:
            raise OpError(f"has no {self.start}:{self.stop} on an axis of {shape[axis]}")
        return axis, start, stop

    def one(self, array: Array) -> Array:
        axis, start, stop = self._range(array.shape)
        return array[(slice(None),) * axis + (slice(start, stop),)]

    def undo(self, shape: Shape) -> tuple[Op, ...]:
        axis, start, _ = self._range(shape)
        return (Pad(shape[axis], axis, before=start),)

    def dropped(self, shapes: Sequence[Shape]) -> str:
        axis, start, stop = self._range(shapes[0])
        lost = shapes[0][axis] - (stop - start)
        return f"drops {lost} of {shapes[0][axis]} on axis {axis}; the reverse fills them with 0" if lost else ""


@register
@dataclass(frozen=True)
class Take(Each):
    """The listed indices of one axis, in this order: a permutation of rows that no pattern describes."""

    kind: ClassVar[str] = "take"
    main: ClassVar[str] = "axis"
    lists: ClassVar[frozenset[str]] = frozenset({"indices"})
    required: ClassVar[frozenset[str]] = frozenset({"axis", "indices"})

    axis: int = 0
    indices: tuple[int, ...] = ()

    def one(self, array: Array) -> Array:
        size = array.shape[positive(self.axis, array.ndim)]
        outside = [i for i in self.indices if not 0 <= i < size]
        if outside:
            raise OpError(f"has no index {outside[0]} on an axis of {size}")
        return np.take(array, self.indices, self.axis)

    def undo(self, shape: Shape) -> tuple[Op, ...]:
        if sorted(self.indices) != list(range(shape[positive(self.axis, len(shape))])):
            raise OpError("cannot be undone: its indices leave some out or repeat some")
        return (Take(self.axis, tuple(int(i) for i in np.argsort(self.indices))),)


def _only(items: Sequence, name: str):
    if len(items) != 1:
        raise OpError(f"{name} takes one array, got {len(items)}: concat or rearrange them first")
    return items[0]
