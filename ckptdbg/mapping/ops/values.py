"""Ops that change values and leave every element in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ckptdbg.checkpoint.dtypes import as_dtype
from ckptdbg.mapping.ops.base import Array, Elementwise, Op, OpError, Shape, register


@register
@dataclass(frozen=True)
class Scale(Elementwise):
    """Times one number. With ``dtype`` the number is first rounded to it, as in code that keeps its constant so; with
    ``float64`` the product is computed in it too."""

    kind: ClassVar[str] = "scale"
    main: ClassVar[str] = "by"
    words: ClassVar[frozenset[str]] = frozenset({"dtype"})
    reals: ClassVar[frozenset[str]] = frozenset({"by"})
    required: ClassVar[frozenset[str]] = frozenset({"by"})

    by: float = 1.0
    dtype: str = ""

    def __post_init__(self) -> None:
        if self.dtype:
            dtype_named(self.dtype)

    @property
    def factor(self) -> float:
        """The number that is multiplied with."""
        return float(np.asarray(self.by).astype(dtype_named(self.dtype))) if self.dtype else float(self.by)

    def one(self, array: Array) -> Array:
        if self.dtype == "float64":
            return (array.astype(np.float64) * self.factor).astype(array.dtype)
        return array * self.factor

    def undo(self, shape: Shape) -> tuple[Op, ...]:
        if self.factor == 0:
            raise OpError("by 0 cannot be undone")
        return (Scale(1 / self.factor),)


@register
@dataclass(frozen=True)
class Divide(Elementwise):
    """Divided by one number: not the same last bit as ``scale`` by its inverse."""

    kind: ClassVar[str] = "divide"
    main: ClassVar[str] = "by"
    reals: ClassVar[frozenset[str]] = frozenset({"by"})
    required: ClassVar[frozenset[str]] = frozenset({"by"})

    by: float = 1.0

    def __post_init__(self) -> None:
        if self.by == 0:
            raise OpError("by 0")

    def one(self, array: Array) -> Array:
        return array / float(self.by)

    def undo(self, shape: Shape) -> tuple[Op, ...]:
        return (Scale(float(self.by)),)


@register
@dataclass(frozen=True)
class Add(Elementwise):
    """Plus one number (a norm stored as ``w - 1``)."""

    kind: ClassVar[str] = "add"
    main: ClassVar[str] = "value"
    reals: ClassVar[frozenset[str]] = frozenset({"value"})
    required: ClassVar[frozenset[str]] = frozenset({"value"})

    value: float = 0.0

    def one(self, array: Array) -> Array:
        return array + float(self.value)

    def undo(self, shape: Shape) -> tuple[Op, ...]:
        return (Add(-self.value),)


@register
@dataclass(frozen=True)
class Cast(Elementwise):
    """Rounded to a dtype's precision; the next op computes on in full precision."""

    kind: ClassVar[str] = "cast"
    main: ClassVar[str] = "dtype"
    words: ClassVar[frozenset[str]] = frozenset({"dtype"})
    required: ClassVar[frozenset[str]] = frozenset({"dtype"})

    dtype: str = ""

    def __post_init__(self) -> None:
        dtype_named(self.dtype)

    def apply(self, arrays: Sequence[Array], rounding: bool = True) -> list[Array]:
        return [self.one(array) for array in arrays] if rounding else list(arrays)

    def one(self, array: Array) -> Array:
        return array.astype(dtype_named(self.dtype)).astype(array.dtype)

    def undo(self, shape: Shape) -> tuple[Op, ...]:
        return ()

    def dropped(self, shapes: Sequence[Shape]) -> str:
        return f"rounds to {self.dtype}; the reverse keeps the rounded values"


def dtype_named(name: str) -> np.dtype:
    """The NumPy dtype of a name; ``OpError`` where there is none."""
    try:
        return as_dtype(name)
    except TypeError as cause:
        raise OpError(f"knows no dtype {name!r}") from cause
