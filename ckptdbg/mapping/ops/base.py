"""What every op is: a frozen record with concrete numbers that turns a list of arrays into a list of arrays."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]
C = TypeVar("C", bound="type[Op]")

REGISTRY: dict[str, type[Op]] = {}


class OpError(ValueError):
    """An op that does not fit the arrays it is given. Whoever knows the entry adds file and line."""


def register(cls: C) -> C:
    """Make an op known to mapping files under its ``kind``."""
    REGISTRY[cls.kind] = cls
    return cls


@dataclass(frozen=True)
class Op:
    """One step of an entry. ``apply`` never changes its inputs and keeps their dtype."""

    kind: ClassVar[str]
    """The key in the mapping file."""
    main: ClassVar[str]
    """The field that the value beside that key fills; the other fields are keys of their own."""
    words: ClassVar[frozenset[str]] = frozenset()
    """Fields that hold text as it stands; all others are expressions."""
    reals: ClassVar[frozenset[str]] = frozenset()
    """Fields that may hold a fraction; other expressions must be whole numbers."""
    lists: ClassVar[frozenset[str]] = frozenset()
    """Fields that hold a list; all others hold one value."""
    either: ClassVar[frozenset[str]] = frozenset()
    """Fields that may hold a list or one value."""
    required: ClassVar[frozenset[str]] = frozenset()
    elementwise: ClassVar[bool] = False
    """Whether only values change, never places or shapes."""

    where: str = field(default="", kw_only=True, compare=False)
    """file:line"""
    written: str = field(default="", kw_only=True, compare=False)
    """As it stands in the mapping file, on one line; empty for an op made in Python."""

    @classmethod
    def keys(cls, fields: Mapping[str, Any]) -> set[str]:
        """The fields that a mapping file may give, where it gives these; ``OpError`` where one makes no sense."""
        return {item.name for item in dataclasses.fields(cls)} - {"where", "written"}

    @classmethod
    def build(cls, values: Mapping[str, Any], targets: int) -> Op:
        """The op from a mapping file's fields, in an entry with so many targets."""
        return cls(**values)

    def apply(self, arrays: Sequence[Array], rounding: bool = True) -> list[Array]:
        """The arrays after this op. Without ``rounding`` an op that only rounds does nothing."""
        raise NotImplementedError

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shapes after this op; ``OpError`` where it does not fit."""
        raise NotImplementedError

    def inverse(self, shapes: Sequence[Shape]) -> tuple[Op, ...]:
        """The ops that undo this one, given the shapes before it; ``OpError`` where there are none."""
        raise NotImplementedError

    def dropped(self, shapes: Sequence[Shape]) -> str:
        """What cannot be had back after this op, in words; empty where nothing is lost."""
        return ""

    def data(self) -> dict[str, Any]:
        """The op as it would stand in a mapping file, numbers filled in."""
        skip = {"where", "written", self.main}
        data: dict[str, Any] = {self.kind: _yaml(getattr(self, self.main))}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name not in skip and value != item.default:
                data[item.name] = _yaml(value)
        return data

    def __str__(self) -> str:
        return self.written or one_line(self.data())


@dataclass(frozen=True)
class Each(Op):
    """An op on one array; of several arrays each is treated alike."""

    def one(self, array: Array) -> Array:
        """One array after this op."""
        raise NotImplementedError

    def apply(self, arrays: Sequence[Array], rounding: bool = True) -> list[Array]:
        return [self.one(array) for array in arrays]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [self.shape(shape) for shape in shapes]

    def shape(self, shape: Shape) -> Shape:
        """The shape of one array after this op: by default by trying on an array that takes no memory."""
        try:
            return self.one(hollow(shape)).shape
        except OpError:
            raise
        except (ValueError, IndexError, RuntimeError) as cause:  # EinopsError is a RuntimeError
            raise OpError(str(cause).strip().splitlines()[-1].strip()) from cause

    def inverse(self, shapes: Sequence[Shape]) -> tuple[Op, ...]:
        undone = {self.undo(shape) for shape in shapes}
        if len(undone) > 1:
            raise OpError(f"cannot be undone for arrays of different shapes {list(shapes)}: put it after concat")
        return undone.pop()

    def undo(self, shape: Shape) -> tuple[Op, ...]:
        """The inverse for one array that had this shape."""
        raise NotImplementedError


@dataclass(frozen=True)
class Elementwise(Each):
    """An op that changes values only."""

    elementwise: ClassVar[bool] = True

    def shape(self, shape: Shape) -> Shape:
        return shape

    def inverse(self, shapes: Sequence[Shape]) -> tuple[Op, ...]:
        return self.undo(shapes[0])


def hollow(shape: Shape) -> Array:
    """An array of any size in one byte of memory."""
    return np.broadcast_to(np.zeros((), np.int8), shape)


def positive(axis: int, rank: int) -> int:
    """The axis counted from the front; ``OpError`` where there is none."""
    if not -rank <= axis < rank:
        raise OpError(f"has no axis {axis}: {rank} axes")
    return axis % rank


def one_line(data: Any) -> str:
    """An op as a person would write it in YAML, on one line, without the dash."""
    if not isinstance(data, dict):
        return str(data)
    keys = [f"{key}: {_flow(value, inside=len(data) > 1)}" for key, value in data.items()]
    return keys[0] if len(keys) == 1 else f"{{{', '.join(keys)}}}"


def _flow(value: Any, inside: bool) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_flow(item, True) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_flow(item, True)}' for key, item in value.items())}}}"
    if isinstance(value, str) and ("->" in value or (inside and any(c in value for c in ",{}[]:#"))):
        return json.dumps(value)
    return str(value)


def _yaml(value: Any) -> Any:
    return [_yaml(item) for item in value] if isinstance(value, tuple) else value
